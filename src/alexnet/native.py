"""C++ for this machine's processor: compiled at its first use, which takes a second, and kept in the user's cache.

Without a compiler, or if its output cannot be loaded, ``load`` returns None and the caller uses PyTorch instead. The
threads are those of the OpenMP library that torch has loaded: two such libraries would compete for the cores.
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

from alexnet.system import cache_folder, cpp_compiler

__all__ = ["load"]

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
COMPILE_TIMEOUT_S = 60.0


@functools.cache
def load(source: Path) -> ctypes.CDLL | None:
    """Compile a C++ file for this machine and load it; None if that is not possible."""
    compiler = cpp_compiler()
    if compiler is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # Machines may share a home directory: the macros name the compiler's version and this processor's features.
        macros = _run(compiler, *FLAGS, "-E", "-dM", "-x", "c++", os.devnull)
        digest = hashlib.sha256(source.read_bytes() + macros + repr(FLAGS).encode()).hexdigest()[:16]
        path = cache_folder() / f"{source.stem}-{digest}.so"
        if not path.is_file():
            _compile(compiler, source, path)
        return ctypes.CDLL(str(path))
    return None


def _compile(compiler: str, source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # several processes may compile at once
        whole, part = Path(folder) / path.name, Path(folder) / "part.o"
        _run(compiler, *FLAGS, "-c", str(source), "-o", str(part))
        _run(compiler, "-shared", str(part), "-o", str(whole))  # not linked with OpenMP: torch has loaded it
        whole.replace(path)


def _run(*words: str) -> bytes:
    return subprocess.run(words, capture_output=True, check=True, timeout=COMPILE_TIMEOUT_S).stdout
