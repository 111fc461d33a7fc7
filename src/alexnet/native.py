"""C++ for the processor at hand: compiled when it is first wanted, which takes a second, and kept in the user's cache.

Where no compiler is installed, or what it makes cannot be loaded, there is nothing, and the caller has another way. The
threads are OpenMP's, of the library that torch has loaded already: two of them would fight over the cores.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from alexnet.files import cache_folder
from alexnet.hardware import cpp_compiler

__all__ = ["load"]

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
PATIENCE = 60.0  # seconds


@functools.cache
def load(source: Path) -> ctypes.CDLL | None:
    """The functions of a C++ file, compiled for this machine; None where that cannot be done."""
    compiler = cpp_compiler()
    if compiler is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # The macros tell the compiler's version and what this processor has: a home may be on several machines.
        macros = _run(compiler, *FLAGS, "-E", "-dM", "-x", "c++", os.devnull)
        digest = hashlib.sha256(source.read_bytes() + macros + repr(FLAGS).encode()).hexdigest()[:16]
        path = cache_folder() / f"{source.stem}-{digest}.so"
        if not path.is_file():
            _compile(compiler, source, path)
        return ctypes.CDLL(str(path))
    return None


def _compile(compiler: str, source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as place:  # of its own: several processes may begin at once
        whole, part = Path(place) / path.name, Path(place) / "part.o"
        _run(compiler, *FLAGS, "-c", str(source), "-o", str(part))
        _run(compiler, "-shared", str(part), "-o", str(whole))  # without OpenMP's library: torch's is there
        whole.replace(path)


def _run(*words: str) -> bytes:
    return subprocess.run(words, capture_output=True, check=True, timeout=PATIENCE).stdout
