"""What training shows while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

__all__ = ["Display", "profiled"]

TRACE = "trace.json"
WARM_UP = 2  # steps that a profile leaves out

PLAIN_EVERY = 30.0  # seconds between two plain lines
BAR_EVERY = 1.0


class Display:
    """Progress on standard error. ``due()`` says when figures are wanted: reading them costs a device a wait."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self.total, self.started_at = quiet, 0, 0
        self.bar: Any = None

    def start(self, total: int, done: int) -> None:
        """Begin at step ``done`` of ``total``."""
        self.total, self.started_at = total, done
        self.started = self.shown = time.monotonic()
        if not self.quiet and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, smoothing=0.05)

    def due(self) -> bool:
        return time.monotonic() - self.shown >= (BAR_EVERY if self.bar is not None else PLAIN_EVERY)

    def show(self, step: int, train: Mapping[str, float], seconds: float) -> None:
        """Bring the bar to ``step``, or print a line: the running figures ``train``, taken over ``seconds``."""
        loss, accuracy, images_per_sec = train["train_loss"], train["train_acc"], train["images"] / seconds
        self.shown = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.3f}, acc {accuracy:.1f}%, {images_per_sec:.0f} images/s")
            self.bar.update(step - self.bar.n)
        elif not self.quiet:
            left = (self.shown - self.started) / max(1, step - self.started_at) * (self.total - step)
            print(
                f"step {step}/{self.total}  loss {loss:.3f}  acc {accuracy:.1f}%  {images_per_sec:.0f} images/s  "
                f"{duration(left)} left",
                file=sys.stderr,
                flush=True,
            )

    def row(self, row: Mapping[str, float]) -> None:
        """Print a logged row on a line of its own."""
        if row["step"] == self.started_at:  # a resumed run begins with a row that it owes: that is not a step's time
            self.started = time.monotonic()
        parts = [f"step {row['step']:.0f}", f"epoch {row['epoch']:.2f}"]
        for name, unit in (
            ("train_loss", ""),
            ("train_acc", "%"),
            ("val_loss", ""),
            ("val_acc", "%"),
            ("epoch_val_acc", "%"),
            ("test_loss", ""),
            ("test_acc", "%"),
            ("images_per_sec", ""),
        ):
            if name in row:
                digits = {"": 3, "%": 1}[unit] if name != "images_per_sec" else 0
                parts.append(f"{name} {row[name]:.{digits}f}{unit}")
        self.line("  ".join(parts))

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    """Seconds as people say them: ``2 h 05 min``, ``3 min 20 s``, ``12 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"


@contextlib.contextmanager
def profiled(
    steps: int, folder: Path, device: torch.device, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Time ``steps`` steps on ``device``, after two to warm up, operation by operation; gives what follows each.

    Leaves ``trace.json`` in ``folder`` (for chrome://tracing or ui.perfetto.dev) and says the twenty costliest
    operations; or, where the run ends sooner, how many steps it takes. 0: nothing happens.
    """
    if not steps:
        yield lambda: None
        return
    from torch import profiler

    taken = 0

    def tell(profile: Any) -> None:
        seen = min(taken - WARM_UP, steps)
        if seen <= 0:
            return
        profile.export_chrome_trace(str(folder / TRACE))
        order = f"self_{'cuda' if device.type == 'cuda' else 'cpu'}_time_total"
        table = profile.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=40)
        say(f"{seen} step{'s' * (seen > 1)}, operation by operation; the whole trace: {folder / TRACE}\n{table}")

    plan = profiler.schedule(wait=0, warmup=WARM_UP, active=steps, repeat=1)
    with profiler.profile(schedule=plan, on_trace_ready=tell) as profile:

        def after_step() -> None:
            nonlocal taken
            taken += 1
            profile.step()

        yield after_step
    if taken <= WARM_UP:
        say(f"--profile {steps}: nothing to show, the run has ended within the {WARM_UP} steps that warm up")
