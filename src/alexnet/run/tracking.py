"""A run's record: ``metrics.jsonl`` in its folder, and behind it wandb, trackio, TensorBoard or nothing.

Every row goes to the file first. It is the record that resuming, the curves and the results read; a tracker is a
view of the same rows, and losing it never costs a row. So whatever a tracker raises is told once and training goes
on, while an error of the file itself (a full disk) is raised to the caller.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alexnet.files import write_atomically
from alexnet.run.trackers import Nothing, Say, State, TensorBoard, Tracker, Trackio, check_name, one_line, start_wandb

__all__ = ["Tracking", "check_name", "read_rows", "start"]

METRICS = "metrics.jsonl"


class Tracking:
    """One run's record; made by :func:`start`."""

    def __init__(self, path: Path, name: str, open_tracker: Callable[[], Tracker], say: Say) -> None:
        self._stream = path.open("a", encoding="utf-8", newline="\n")
        self._name = name
        self._say = say
        self._failed = False
        self._finished = False
        self._tracker: Tracker = Nothing()
        with self._guard():
            self._tracker = open_tracker()

    def log(self, row: dict[str, float | int]) -> None:
        """Records one row: a line of ``metrics.jsonl``, flushed before this returns, then the tracker.

        NaN and infinities become ``null`` in the file, for JSON has no such numbers; the tracker gets them as they are.

        Raises:
            OSError: the line could not be written (a full disk); nothing a tracker does is raised.
        """
        line = json.dumps({key: value if math.isfinite(value) else None for key, value in row.items()})
        self._stream.write(line + "\n")
        self._stream.flush()
        if not self._failed:
            with self._guard():
                self._tracker.log(row)

    def finish(self, summary: dict[str, float], state: State = "finished") -> None:
        """Closes the record. ``summary`` holds the final and best figures; a second call does nothing.

        Raises:
            OSError: a line that could not be written still cannot be; the tracker is closed all the same.
        """
        if self._finished:
            return
        self._finished = True
        try:
            self._stream.close()  # on a full disk this fails as the last line did, which it writes once more
        finally:
            # A tracker that failed before is closed all the same: it keeps what it has.
            with self._guard():
                self._tracker.finish(summary, state)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turns what a tracker raises into one line, the first time."""
        try:
            yield
        except Exception as error:
            if not self._failed:
                self._say(f"{self._name}: {one_line(error)}; training goes on, and {METRICS} has every row")
            self._failed = True


def start(
    name: str | None, folder: Path, config: dict[str, Any], *, resume_step: int | None = None, say: Say = print
) -> Tracking:
    """Opens a run's record in ``folder``, with the tracker ``name`` (one of :data:`TRACKERS`) behind it.

    Without ``resume_step`` the record starts empty. With it, the rows whose ``step`` is greater, which were written
    between the last checkpoint and a kill, are dropped (in one rename), and new rows follow: an interrupted and
    resumed run has the rows of an uninterrupted one. Rows that the tracker has already been sent are sent again;
    they carry the same step and the same values.

    Args:
        name: None records nothing, not even the file: for every process of a run but the first.
        config: the whole recipe and what goes with it, JSON values; shown as the run's configuration.
        say: receives the one line that tells where to look, and the one that tells of a failing tracker.

    Raises:
        ValueError: an unknown tracker, or one whose package is not installed.
        OSError: ``metrics.jsonl`` cannot be written.
    """
    if name is None:
        return Tracking(Path(os.devnull), "none", Nothing, say)
    folder = Path(folder)
    check_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    first = _cut_back(folder / METRICS, resume_step)
    resume = resume_step is not None
    open_tracker: dict[str, Callable[[], Tracker]] = {
        "wandb": lambda: start_wandb(folder, config, resume=resume, first=first, say=say),
        "trackio": lambda: Trackio(folder, config, resume=resume, say=say),
        "tensorboard": lambda: TensorBoard(folder, config, resume_step=resume_step, say=say),
        "none": Nothing,
    }
    return Tracking(folder / METRICS, name, open_tracker[name], say)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``folder/metrics.jsonl``, oldest first; what was NaN or infinite is None.

    A last line without its line end, cut short by a kill, is dropped.

    Raises:
        FileNotFoundError: the folder has no ``metrics.jsonl``.
        ValueError: any other line is not a row; the message has the file and the line's number.
    """
    return [row for _, row in _read_lines(Path(folder) / METRICS)]


def _read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Each line of the file as it stands, and what it says."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        ended = number < len(lines)
        if not line and not ended:
            break
        try:
            row = json.loads(line)
            if not _is_row(row):
                raise ValueError
        except (ValueError, RecursionError):
            if not ended:
                break
            told = "not a row of alexnet, which has a step and numbers"
            raise ValueError(f"{path}, line {number}: {told}: {line[:60]!r}") from None
        rows.append((line, row))
    return rows


def _is_row(value: Any) -> bool:
    """Whether a line's JSON is an object of numbers, null for those not finite, with a whole ``step``."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("step"), int)
        and all(type(each) in (int, float, type(None)) for each in value.values())
    )


def _cut_back(path: Path, resume_step: int | None) -> int:
    """Drops the rows after ``resume_step`` (all of them where it is None) and returns how many are left."""
    kept: list[str] = []
    if resume_step is not None and path.exists():
        kept = [line for line, row in _read_lines(path) if row["step"] <= resume_step]
    text = "".join(line + "\n" for line in kept)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))
    return len(kept)
