"""Values that JSON can hold, and a cache that a user may lack."""

from pathlib import Path

import pytest

from alexnet.files import cache_folder, finite


def test_what_json_does_not_have_becomes_none_or_text() -> None:
    value = {"a": [float("nan"), 1.5, float("inf")], 3: Path("x"), "t": (1, None), "b": True}
    assert finite(value) == {"a": [None, 1.5, None], "3": "x", "t": [1, None], "b": True}


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(OSError, match="alexnet-2012"):
        cache_folder().mkdir(parents=True, exist_ok=True)
    assert not (cache_folder() / "anything").is_file()
