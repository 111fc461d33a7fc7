"""What a command hands back, and what several of them need."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.recipes import field_types

__all__ = ["Answer", "FailedError", "bar", "given", "program"]


class FailedError(Exception):
    """The command could not do its work. The message says why."""


@dataclass
class Answer:
    """What a command found: one document for ``--json``, a text for people."""

    document: Any
    text: str
    code: int = 0
    aside: str = ""
    """For standard error: what is no result, but has to be said with ``--json`` too."""
    then: Callable[[], None] | None = None
    """What goes on after all that has been said, until somebody ends it."""


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe's fields that the command line sets."""
    return {name: value for name, value in vars(args).items() if name in field_types()}


def program() -> str:
    """What to type for this command: as it was called, where its name alone would not be found."""
    called = Path(sys.argv[0])
    if shutil.which("alexnet"):
        return "alexnet"
    if called.name == "__main__.py" and called.parent.name == "alexnet":
        return shlex.join([sys.executable, "-m", "alexnet"])
    return shlex.quote(sys.argv[0]) if called.name == "alexnet" else "alexnet"


def bar(batches: Any, count: int, desc: str | None = None) -> Any:
    from tqdm import tqdm

    return tqdm(batches, desc, total=count, unit="batch", leave=False, disable=None)  # None: only on a terminal
