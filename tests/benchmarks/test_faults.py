"""A little of what `make faults` does at length, and that it sees what is wrong."""

import random
import shutil

import pytest

from breaking import checkpoints, inputs, kills, runs


def test_mutated_files_can_be_had_again_and_differ() -> None:
    data = bytes(range(256)) * 8
    first, again = (inputs.mutated(random.Random(3), data) for _ in range(2))
    assert first == again != data


def test_an_answer_of_another_kind_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inputs.answered(["train", "--lr", "x"]) == (2, "")
    monkeypatch.setattr(inputs, "main", lambda argv: 1)
    assert inputs.answered(["train"]) == (1, "exit code 1: ")
    monkeypatch.setattr(inputs, "main", lambda argv: [][0])
    assert inputs.answered(["train"]) == (None, "IndexError: list index out of range")


@pytest.mark.slow
def test_a_little_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "CHUNK", 3)
    monkeypatch.setattr(kills, "WHOLE_CHUNK", 3)
    monkeypatch.setattr(checkpoints, "CHUNK", 30)
    monkeypatch.setattr(checkpoints, "CUTS", 30)
    whole = kills.of_the_whole_network(0)
    for found in (kills.at_random(1), whole, checkpoints.flipped(0), checkpoints.cut(0), inputs.bad_inputs(0, 34)):
        assert found["trials"] >= 3
        assert found["wrong"] == []


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_a_kill_and_an_error_at_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    real = runs.Trial.calls_on_files
    monkeypatch.setattr(runs.Trial, "calls_on_files", lambda trial: real(trial)[7:8])
    kind = next(iter(runs.KINDS))
    for found in (kills.killed_at_each_call(kind), kills.failed_at_each_call(kind, "ENOSPC")):
        assert (found["trials"], found["wrong"]) == (1, [])
