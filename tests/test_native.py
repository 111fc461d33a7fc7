"""C++ compiled on the spot: kept, shared by processes, and done without where it cannot be had."""

import ctypes
import threading
from pathlib import Path

import pytest

from alexnet import native
from alexnet.files import cache_folder
from alexnet.hardware import cpp_compiler

SOURCE = 'extern "C" int twice(int x) { return 2 * x; }'
needs_compiler = pytest.mark.skipif(cpp_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A C++ file, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "twice.cpp"
    path.write_text(SOURCE)
    native.load.cache_clear()
    return path


def load(source: Path) -> ctypes.CDLL | None:
    native.load.cache_clear()
    return native.load(source)


@needs_compiler
def test_compiled_once_and_anew_where_the_text_changes(source: Path) -> None:
    assert load(source).twice(21) == 42
    (kept,) = cache_folder().iterdir()
    before = kept.stat().st_mtime_ns
    assert load(source).twice(4) == 8
    assert kept.stat().st_mtime_ns == before
    source.write_text(SOURCE.replace("2 * x", "3 * x"))
    assert load(source).twice(4) == 12
    assert len(list(cache_folder().iterdir())) == 2  # and nothing of what is only needed on the way


@needs_compiler
def test_several_at_once(source: Path) -> None:
    compiler = cpp_compiler()
    threads = [
        threading.Thread(target=native._compile, args=(compiler, source, cache_folder() / "one.so")) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ctypes.CDLL(str(cache_folder() / "one.so")).twice(3) == 6
    assert [path.name for path in cache_folder().iterdir()] == ["one.so"]


def test_done_without(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")  # a home that cannot be written
    assert load(source) is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source.write_text("no C++")
    assert load(source) is None
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert load(source) is None
