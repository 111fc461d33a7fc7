"""Files that are whole or absent, values that JSON can hold, and the commit of the code that wrote them."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["cache_folder", "check_out", "finite", "git_commit", "write_atomically"]


def check_out(path: Path, *endings: str) -> None:
    """ValueError where ``--out`` is no place for a file, or for one of this kind; to be asked before the work."""
    if path.suffix.lower() not in endings:
        raise ValueError(f"--out {path}: allowed is a file whose name ends in {' or '.join(endings)}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"--out {path}: {'a folder; name a file' if path.is_dir() else 'its folder does not exist'}")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in place in one step: killed at any moment, a folder holds
    the old file or the new one, whole. OSError if the disk is full.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        write(beside)
        with beside.open("rb+") as file:  # Windows flushes no file that is open to be read
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Where this project keeps what can be made again; it may not be there yet.

    For a user without a home (HOME unset, no entry in passwd) a place where nothing can be kept: writing there is an
    OSError. Not the folder for temporary files, where others could leave code for ``native`` to load.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet-2012"
    except RuntimeError:
        return Path(os.devnull) / "alexnet-2012"


def finite(value: Any) -> Any:
    """``value`` with None for NaN and infinities, which JSON does not have, and text for paths."""
    if isinstance(value, Mapping):
        return {str(name): finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def git_commit() -> str | None:
    """The commit of the source tree this package runs from, with ``+`` where code differs; None outside a checkout.

    Code is src/ and benchmarks/: a page that is being written, or a record just made, changes nothing in a run. A
    checkout of something else, inside which the package is installed, is not the package's own.
    """
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", "--full-name", Path(__file__).name) != "src/alexnet/files.py":
            return None
        changed = git("diff", "--name-only", "HEAD", "--", ":/src", ":/benchmarks")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
