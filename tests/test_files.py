"""Values that JSON can hold."""

from pathlib import Path

from alexnet.files import finite


def test_what_json_does_not_have_becomes_none_or_text() -> None:
    value = {"a": [float("nan"), 1.5, float("inf")], 3: Path("x"), "t": (1, None), "b": True}
    assert finite(value) == {"a": [None, 1.5, None], "3": "x", "t": [1, None], "b": True}
