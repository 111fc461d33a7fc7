"""Values that JSON can hold, a cache that a user may lack, and whose commit is whose."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from alexnet import files
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


def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        own = ["-c", "user.name=x", "-c", "user.email=x@y", *words]
        return subprocess.run(["git", *own], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    def commit_of(place: Path) -> str | None:
        spec = importlib.util.spec_from_file_location("copied_files", place)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.git_commit()  # type: ignore[no-any-return]

    ours, theirs = tmp_path / "src" / "alexnet" / "files.py", tmp_path / "venv" / "alexnet" / "files.py"
    for place in (ours, theirs):
        place.parent.mkdir(parents=True)
        place.write_bytes(Path(files.__file__).read_bytes())
    assert commit_of(ours) is None
    git("init", "--quiet")
    git("add", "venv")
    git("commit", "--quiet", "-m", "another project's")
    assert (commit_of(theirs), commit_of(ours)) == (None, None)
    page = tmp_path / "README.md"
    page.write_text("one")
    git("add", "src", page.name)
    git("commit", "--quiet", "-m", "this one's")
    page.write_text("two")
    assert commit_of(ours) == git("rev-parse", "--short=12", "HEAD")
    ours.write_text(ours.read_text() + "\n")
    assert commit_of(ours) == git("rev-parse", "--short=12", "HEAD") + "+"
