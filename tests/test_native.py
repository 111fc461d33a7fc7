"""C++ compiled at its first use: kept, shared by processes, and optional."""

import threading

import pytest

from alexnet import native
from alexnet.system import cache_folder, cpp_compiler

SOURCE = 'extern "C" int twice(int x) { return 2 * x; }'
needs_compiler = pytest.mark.skipif(cpp_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A C++ file, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "twice.cpp"
    path.write_text(SOURCE)
    return path


def load(source):
    native.load.cache_clear()
    return native.load(source)


@needs_compiler
def test_compiled_once_and_again_after_a_change(source):
    assert load(source).twice(21) == 42
    (kept,) = cache_folder().iterdir()
    before = kept.stat().st_mtime_ns
    assert load(source).twice(4) == 8
    assert kept.stat().st_mtime_ns == before
    source.write_text(SOURCE.replace("2 * x", "3 * x"))
    assert load(source).twice(4) == 12
    assert len(list(cache_folder().iterdir())) == 2  # no temporary files


@needs_compiler
def test_compiled_by_several_threads_at_once(source):
    found = []
    threads = [threading.Thread(target=lambda: found.append(native.load.__wrapped__(source))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [library.twice(3) for library in found] == [6] * 4
    assert len(list(cache_folder().iterdir())) == 1


@pytest.mark.parametrize("trouble", ["no cache folder", "no C++", "no compiler"])
def test_none_if_it_cannot_be_had(source, trouble, monkeypatch):
    if trouble == "no cache folder":
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    elif trouble == "no C++":
        source.write_text("not C++")
    else:
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CXX", raising=False)
    assert load(source) is None
