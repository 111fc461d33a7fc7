"""Signals as wishes, and what a lost process looks like to the others."""

import os
import signal

import pytest

from alexnet.run import processes


def test_a_signal_passed_on_is_the_same_wish_and_a_later_one_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    with processes.signals() as stopped:
        assert stopped() is None
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 0.9
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped() == signal.SIGTERM
        now[0] += 0.2
        for number in (signal.SIGINT, signal.SIGTERM):
            with pytest.raises(KeyboardInterrupt) as interrupt:
                os.kill(os.getpid(), number)
            assert interrupt.value.args == (number,)


def test_of_two_blocks_both_have_what_either_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    with processes.signals() as outer:
        with processes.signals() as inner:
            assert inner() is None
        os.kill(os.getpid(), signal.SIGTERM)
        with processes.signals() as late:
            assert late() == outer() == signal.SIGTERM
    with processes.signals() as fresh:
        assert fresh() is None


def test_a_lost_process_is_one_line_and_a_bug_is_a_bug() -> None:
    lost = RuntimeError("[../gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer")
    with pytest.raises(ConnectionError, match="another process of this run has ended"), processes.others_present():
        raise lost
    with pytest.raises(RuntimeError, match="a bug"), processes.others_present():
        raise RuntimeError("a bug")
