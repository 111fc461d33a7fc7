"""One process among several, and the signals sent to it: when to stop and when to save, decided together."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Accord", "others_present", "signals"]

ASK_EVERY = 1.0  # seconds; torchrun gives its processes 30 between SIGTERM and SIGKILL
SAME = 1.0  # seconds in which a second signal is the first one again


class Accord:
    """What all processes agree on. They must leave the loop, and save, at the same step.

    Wishes travel on the host (gloo), so that no device is waited for, about once a second.
    """

    def __init__(self, world: int) -> None:
        self.group: Any = dist.new_group(backend="gloo") if world > 1 else None
        self.every, self.skip, self.asked = 1, 0, time.monotonic()

    def now(self, *wishes: float) -> list[float]:
        """The greatest of each wish over all processes, which call this together."""
        if self.group is None:
            return list(wishes)
        together = torch.tensor(wishes, dtype=torch.float64)
        dist.all_reduce(together, dist.ReduceOp.MAX, group=self.group)
        return together.tolist()  # type: ignore[no-any-return]

    def gather(self, own: Tensor) -> Tensor:
        """``own``, on the CPU, of each of several processes, which call this together: ``[processes, *]``, by rank."""
        each = [torch.empty_like(own) for _ in range(self.group.size())]
        dist.all_gather(each, own, group=self.group)
        return torch.stack(each)

    def each_step(self, *wishes: bool) -> list[bool]:
        """Each wish that any process has; between two askings nobody is asked and no wish is granted."""
        if self.skip > 0:
            self.skip -= 1
            return [False for _ in wishes]
        now = time.monotonic()
        *granted, seconds = self.now(*wishes, now - self.asked)
        if self.group is not None:  # the seconds are the slowest process's, so all skip as many steps
            self.every = max(1, min(1000, round(self.every * ASK_EVERY / max(seconds, 1e-3))))
            self.skip = self.every - 1
        self.asked = now
        return [wish > 0 for wish in granted]


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], int | None]]:
    """Turn the first SIGINT or SIGTERM into a wish to stop, read between steps; gives the reader: its number, or None.

    A second one interrupts at once, by KeyboardInterrupt with its number, unless it comes within a second: a job
    scheduler signals every process, and then torchrun passes on what it got. Outside the main thread, where Python
    hands out no signals, nothing is caught. Of two blocks, one in the other, both have what either caught.
    """
    caught: list[tuple[int, float]] = getattr(signal.getsignal(signal.SIGINT), "caught", [])

    def note(number: int, _frame: object) -> None:
        now = time.monotonic()
        if caught and now - caught[0][1] > SAME:
            raise KeyboardInterrupt(number)
        caught.append((number, now))

    note.caught = caught  # type: ignore[attr-defined]
    handled = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, note) for number in handled}
    try:
        yield lambda: caught[0][0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def others_present() -> Iterator[None]:
    """Turn what a lost process looks like from here into a ConnectionError of one line."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistBackendError) and "gloo" not in str(error):  # of which gloo's are plain
            raise
        raise ConnectionError(
            "another process of this run has ended or cannot be reached; `--resume` goes on from the last checkpoint, "
            "with as many processes as there are"
        ) from error
