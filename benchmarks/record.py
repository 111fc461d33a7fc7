"""What every record says of its origin, records that grow run by run, and the parts of pages made from records."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alexnet import hardware
from alexnet.files import git_commit, write_atomically


def origin(device: torch.device) -> dict[str, Any]:
    """The commit, hardware, versions and date of a measurement."""
    return {
        "hardware": hardware.describe(device),
        "versions": hardware.versions(),
        "commit": git_commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


class Growing:
    """A record of several runs, written after each, that a second call goes on with. Each run has its own origin.

    Calls that do different runs can be at work at once: each adds to what the others have written.
    """

    def __init__(self, path: Path, head: dict[str, Any], names: Sequence[str]) -> None:
        """``head`` is what all its runs have in common, ``names`` the keys that tell one run from another.

        ValueError where the file at ``path`` holds runs of another head.
        """
        self.path, self.names = path, names
        self.record: dict[str, Any] = head | {"runs": []}
        if path.exists():
            before = json.loads(path.read_text())
            if different := [key for key in head if before.get(key) != head[key]]:
                raise ValueError(f"--json {path}: its runs have another {', '.join(different)}; name another file")
            self.record = before

    def has(self, **names: Any) -> bool:
        """Whether a run with these names is there."""
        return any(all(run[key] == names[key] for key in self.names) for run in self.record["runs"])

    def add(self, run: dict[str, Any]) -> None:
        """Add a run and write the record, one run a line."""
        if self.path.exists():
            self.record = json.loads(self.path.read_text())
        self.record["runs"].append(run)
        first = json.dumps(self.names[0])
        text = json.dumps(self.record, ensure_ascii=False).replace(f"{{{first}", f"\n  {{{first}") + "\n"
        write_atomically(self.path, lambda file: file.write_text(text, encoding="utf-8"))


def between(text: str, part: str, begin: str, end: str) -> str:
    """``text``, a page, with ``part`` between its markers."""
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{part.strip()}\n\n{end}{rest.split(end)[1]}"


def keep_pages(pages: dict[Path, str], *, check: bool) -> int:
    """Write the pages that are not as they should be; with ``check`` name them in a line each. An exit status."""
    wrong = [path for path, text in pages.items() if path.read_text() != text]
    for path in wrong:
        if check:
            print(f"{path.name}: differs from the records; run `make results`", file=sys.stderr)
        else:
            path.write_text(pages[path])
    return int(check and bool(wrong))
