"""The rules of the verdicts: each word, at its border; what was not reached; several comparisons together."""

import math

import pytest

from alexnet.reproduce.verdicts import Comparison, compare, judge

ERROR = Comparison("with", "without", "error", least=1, paper="2 points")
SPEED = Comparison("relu", "tanh", "epochs", least=3, paper="six times", ratio=True, limit=60)


def errors(*differences: float) -> dict[str, dict[str, list[float | None]]]:
    return {"with": {"error": [20.0] * len(differences)}, "without": {"error": [20 + d for d in differences]}}


def epochs(relu: list[float | None], tanh: list[float | None]) -> dict[str, dict[str, list[float | None]]]:
    return {"relu": {"epochs": relu}, "tanh": {"epochs": tanh}}


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ((2.0, 2.2, 1.8), "reproduced"),
        ((1.0, 1.0, 1.0), "reproduced"),  # least itself
        ((0.5, 0.6, 0.4), "partly"),
        ((0.1, -0.1, 0.0), "not reproduced"),
        ((-2.0, -2.2, -1.8), "not reproduced"),
        ((0.0, 0.0, 0.0), "not reproduced"),
        ((3.0, -1.0, 2.0), "too few runs"),  # holds both no effect and the claimed one
        ((2.0, 2.2), "too few runs"),
        ((2.0,), "too few runs"),
        ((), "too few runs"),
    ],
)
def test_each_word(differences: tuple[float, ...], word: str) -> None:
    assert compare(ERROR, errors(*differences)).word == word


def test_the_interval_is_students() -> None:
    found = compare(ERROR, errors(1.0, 2.0, 3.0))
    half = 4.302652729911275 * 1.0 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half))


def test_a_ratio_is_compared_seed_by_seed_in_logarithms() -> None:
    found = compare(SPEED, epochs([2, 4, 8], [12, 24, 48]))
    assert (found.word, found.mean) == ("reproduced", pytest.approx(6))
    assert compare(SPEED, epochs([2, 4, 8], [4, 8.1, 16])).word == "partly"
    assert compare(SPEED, epochs([4, 8, 16], [2, 4.1, 8])).word == "not reproduced"


def test_what_was_not_reached_counts_as_the_limit_and_is_told() -> None:
    found = compare(SPEED, epochs([6, 6.1, 6], [None, None, None]))
    assert (found.word, found.mean) == ("reproduced", pytest.approx(10, rel=0.02))
    assert "at least" in found.sentence
    assert "at least" not in compare(SPEED, epochs([6, 6.1, 6], [30, 31, 30])).sentence
    assert compare(SPEED, epochs([None, None, None], [30, 31, 30])).word == "not reproduced"
    neither = compare(SPEED, epochs([None] * 3, [None] * 3))
    assert neither.word == "too few runs"
    assert "neither in 60" in neither.sentence


def test_a_seed_that_says_nothing_is_left_out() -> None:
    few = compare(SPEED, epochs([None, None, 14.0], [None, None, 14.6]))
    assert (few.word, few.mean) == ("too few runs", None)
    assert few.sentence == "tanh / relu, epochs: 1 of 3 seeds have values, and 3 are the fewest to judge by"
    four = compare(SPEED, epochs([None, 6, 6.1, 6], [None, 30, 31, 30]))
    assert four == compare(SPEED, epochs([6, 6.1, 6], [30, 31, 30]))
    assert "at most 0.5" in compare(SPEED, epochs([None, 60, 60], [30, 30, 31])).sentence
    assert "roughly" in compare(SPEED, epochs([None, 6, 6], [30, None, 30])).sentence


def test_a_value_lost_without_a_limit_is_left_out() -> None:
    values = errors(1, 2, 3, 4)
    values["without"]["error"][0] = None
    assert compare(ERROR, values) == compare(ERROR, errors(2, 3, 4))
    values["without"]["error"][1] = None
    assert compare(ERROR, values).word == "too few runs"


def test_no_ratio_is_taken_of_nothing() -> None:
    found = compare(SPEED, epochs([0.0, 1, 1], [2, 2, 2]))
    assert (found.word, found.sentence) == ("too few runs", "tanh / relu, epochs: no ratio can be taken of 0")


def test_several_comparisons() -> None:
    def word(*differences: tuple[float, float, float], decides: tuple[bool, ...] = (True, True)) -> str:
        rule, values = [], {}
        for i, (each, counts) in enumerate(zip(differences, decides, strict=True)):
            rule.append(Comparison(f"a{i}", f"b{i}", "error", least=1, paper="", decides=counts))
            values |= {f"a{i}": {"error": [1.0] * 3}, f"b{i}": {"error": [1 + d for d in each]}}
        return judge(rule, values)[0]

    yes, little, no, unclear = (2.0, 2.1, 2.0), (0.5, 0.5, 0.6), (0.0, 0.1, -0.1), (3.0, -1.0, 2.0)
    assert word(yes, yes) == "reproduced"
    assert word(no, no) == "not reproduced"
    assert word(unclear, unclear) == "too few runs"
    assert word(yes, no) == word(little, no) == word(yes, unclear) == word(little, yes) == "partly"
    assert word(no, unclear) == "too few runs"
    assert word(yes, no, decides=(True, False)) == "reproduced"


def test_the_sentence_has_the_figure_the_interval_and_the_papers() -> None:
    sentence = compare(ERROR, errors(2.0, 2.2, 1.8)).sentence
    assert sentence == "without − with, error: +2.00 (95%: +1.50 to +2.50); the paper: 2 points"
    faster = compare(SPEED, epochs([2, 4, 8], [12, 24, 48.0])).sentence
    assert faster == "tanh / relu, epochs: 6.00 (95%: 6.00 to 6.00); the paper: six times"
