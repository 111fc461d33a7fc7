"""A little of what `make faults` does at length, and that it notices what is wrong."""

import random
import shutil

import pytest

import faults
from alexnet import cli
from faults import FOLDER, Moment


def test_an_unexpected_answer_is_wrong(monkeypatch):
    assert faults.answer(["train", "--lr", "x"]) == (2, "")
    monkeypatch.setattr(faults, "alexnet", lambda words: 1)
    assert faults.answer(["train"])[1]
    monkeypatch.setattr(faults, "alexnet", lambda words: [][0])
    assert "IndexError" in faults.answer(["train"])[1]


@pytest.mark.parametrize("line", faults.LINES)
def test_each_line_is_right_before_it_is_changed(line):
    assert cli.parse(line.split())


def test_a_power_cut_keeps_what_was_synced_and_may_lose_the_rest():
    moments = [
        Moment({0: b"old"}, {"a": 0}, synced=0),
        Moment({0: b"old"}, {"a": 0}, synced=FOLDER),
        Moment({0: b"old", 1: b""}, {"a": 0, "a.tmp": 1}),
        Moment({0: b"old", 1: b"new"}, {"a": 0, "a.tmp": 1}, synced=1),
        Moment({0: b"old", 1: b"new"}, {"a": 0, "a.tmp": 1}),
        Moment({1: b"new"}, {"a": 1}, synced=FOLDER),
        Moment({1: b"new"}, {"a": 1}),
    ]

    def states(count):
        """What ``a`` may hold after a cut at moment ``count``."""
        found = [faults.after_cut(random.Random(seed), moments[:count]) for seed in range(200)]
        return {contents[names["a"]] for names, contents in found}

    assert states(4) == {b"old"}
    assert states(6) == {b"old", b"new"}  # the rename may not have reached the disk
    assert states(7) == {b"new"}
    unsynced = [Moment({0: b""}, {"a": 0}, synced=FOLDER), Moment({0: b"new"}, {"a": 0}), Moment({0: b"new"}, {"a": 0})]
    found = [faults.after_cut(random.Random(seed), unsynced) for seed in range(200)]
    assert {b"", b"new", b"n", b"n\0\0"} <= {contents[0] for _, contents in found}


@pytest.mark.slow
@pytest.mark.parametrize("part", faults.PARTS)
def test_a_little_of_each_part(part):
    if part == "at each call" and not shutil.which("strace"):
        pytest.skip("needs strace")
    found = faults.PARTS[part][0](0, 34 if part == "bad inputs" else 3)
    assert found["trials"] >= 3
    assert found["wrong"] == []
