"""What a run records while it trains: ``metrics.jsonl``, a tracker (wandb or TensorBoard) and a progress bar.

Every row goes to ``metrics.jsonl`` first. That file is the record that resuming, curves and reports read; a tracker
shows the same rows, and losing it never loses a row. So an error of a tracker is printed once and training continues,
while an error of the file itself, such as a full disk, is raised.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from alexnet.checkpoint import METRICS, read_rows, write_atomically
from alexnet.errors import FieldError, one_line
from alexnet.recipes import Recipe, Runtime

if TYPE_CHECKING:
    import torch
    from torch import nn

    from alexnet.data.datasets import Dataset

__all__ = [
    "Callback", "MetricsFile", "ProgressBar", "RunInfo", "check_tracker", "duration", "make_tracker", "profiled",
    "wandb_mode",
]  # fmt: skip

PROJECT = "alexnet-2012"
WANDB_INIT_TIMEOUT_S = 20.0
WANDB_FINISH_TIMEOUT_S = 30.0
LINE_EVERY_S, BAR_EVERY_S = 30.0, 1.0
TRACE, PROFILE_WARMUP = "trace.json", 2

Row = dict[str, float]
State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class RunInfo:
    """What a callback is given when a run starts or is resumed."""

    recipe: Recipe
    runtime: Runtime
    folder: Path
    config: dict[str, Any]
    """The content of ``config.json``."""
    model: nn.Module
    dataset: Dataset
    num_classes: int
    total_steps: int
    steps_per_epoch: int
    rows: int
    """Rows that ``metrics.jsonl`` already has; 0 unless the run is resumed."""
    resume_step: int | None
    """The step of the last of them, 0 if there is none; None unless the run is resumed."""
    say: Callable[[str], None]
    """Prints a line without disturbing the progress bar."""


class Callback:
    """Follows a run on its main process. Override what is needed."""

    def start(self, run: RunInfo) -> None:
        """The run is about to train."""

    def row(self, row: Row) -> bool | None:
        """A row was logged; it is in ``metrics.jsonl`` already. True ends the run after it."""
        return None

    def end(self, summary: Row, state: State) -> None:
        """The run has ended. ``summary`` is the final row with ``best_val_acc`` and ``best_step``."""


class MetricsFile:
    """The rows of a run, one JSON object a line.

    Args:
        folder: the run folder. Rows after ``resume_step`` are dropped, all of them if it is None.

    Raises:
        ValueError: a line of the file is not a row.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        kept = [] if resume_step is None else [row for row in read_rows(folder) if row["step"] <= resume_step]
        self.count, self.last_step = len(kept), kept[-1]["step"] if kept else 0
        text = "".join(json.dumps(row) + "\n" for row in kept)
        path = folder / METRICS
        write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))
        self._stream = path.open("a", encoding="utf-8", newline="\n")

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row and flush it. NaN and infinities become null, since JSON does not have them."""
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._stream.write(json.dumps(finite) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        """Wait until all rows are on the disk, so that no checkpoint is newer than the rows it counts."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


def check_tracker(name: str) -> None:
    """Raise ``FieldError`` if the package of a tracker is not installed. The package is not imported."""
    if name != "none" and find_spec(name) is None:
        package = "wandb" if name == "wandb" else f"'alexnet-2012[{name}]'"
        raise FieldError("tracker", "installed", name, f" (pip install {package})")


def make_tracker(name: str) -> Callback:
    """The tracker ``wandb``, ``tensorboard`` or ``none``. Its errors are printed once and never stop a run."""
    return _Guarded(name, {"wandb": Wandb, "tensorboard": TensorBoard, "none": Callback}[name]())


class _Guarded(Callback):
    def __init__(self, name: str, tracker: Callback) -> None:
        self.name, self.tracker, self.failed = name, tracker, False
        self.say: Callable[[str], None] = lambda line: None

    def start(self, run: RunInfo) -> None:
        self.say = run.say
        with self._guard():
            self.tracker.start(run)

    def row(self, row: Row) -> None:
        if not self.failed:
            with self._guard():
                self.tracker.row(row)

    def end(self, summary: Row, state: State) -> None:
        with self._guard():  # a tracker that failed is closed too: it keeps what it has
            self.tracker.end(summary, state)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self.failed:
                self.say(f"{self.name}: {one_line(error)}; training continues, and {METRICS} has every row")
            self.failed = True


class Wandb(Callback):
    """A wandb run; offline if wandb is not logged in or does not answer.

    The x axis is ``step``. wandb's own counter, ``_step``, is the row's place in ``metrics.jsonl``, so that the server
    recognises rows that a resumed run sends again.
    """

    run: Any = None

    def start(self, run: RunInfo) -> None:
        mode, reason = wandb_mode()
        if mode == "disabled":
            return
        import wandb

        self.place = run.rows
        options = _wandb_options(run)
        if mode != "offline":
            try:
                self.run = wandb.init(mode=mode, **options)
                run.say(f"wandb: {self.run.url}")
            except Exception as error:
                reason = f"no answer ({one_line(error)})"
                if wandb.run is None:  # the service still holds the id of the run that failed
                    wandb.teardown()
        if self.run is None:
            self.run = wandb.init(mode="offline", **options)
            folder = shlex.quote((run.folder / "wandb").as_posix())
            send = "wandb login && wandb sync" if reason == "not logged in" else "wandb sync"
            run.say(f"wandb: {reason}; recording offline. Upload: {send} {folder}. View: wandb leet {folder}")
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def row(self, row: Row) -> None:
        if self.run:
            self.run.log(dict(row), step=self.place, commit=True)
            self.place += 1

    def end(self, summary: Row, state: State) -> None:
        if self.run:
            try:
                self.run.summary.update({**summary, "state": state})
            finally:
                self.run.finish(exit_code={"finished": 0, "stopped": 130, "failed": 1}[state])


def wandb_mode() -> tuple[Literal["online", "shared", "offline", "disabled"], str]:
    """The mode that a wandb run would have here, and the reason in a few words. Prompts nobody, uses no network.

    ``WANDB_MODE`` and wandb's settings files come first, then whether there are credentials. wandb prints nothing in
    this process from then on.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        return "disabled", "WANDB_MODE=disabled"
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    mode = os.environ.get("WANDB_MODE") or settings.mode  # wandb reads its environment once; it may have changed
    if mode == "disabled":
        return "disabled", "wandb is set to disabled"
    if mode in ("offline", "dryrun"):
        return "offline", "wandb is set to offline"
    try:
        # wandb.login() gives no answer while another run is active in this process; but then that run knows
        logged_in = not wandb.run.offline if wandb.run else wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        return "offline", one_line(error).rstrip(".")
    if not logged_in:
        return "offline", "not logged in"
    return "shared" if mode == "shared" else "online", "logged in"


def _wandb_options(run: RunInfo) -> dict[str, Any]:
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        save_code=False,
        finish_timeout=WANDB_FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
    )
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings.init_timeout = WANDB_INIT_TIMEOUT_S
    configured = wandb.setup(wandb.Settings(silent=True)).settings
    return {
        "id": _wandb_id(run),
        "resume": "allow",
        "reinit": "create_new",  # a run of the caller's own is left alone
        "project": os.environ.get("WANDB_PROJECT") or configured.project or PROJECT,
        "entity": os.environ.get("WANDB_ENTITY") or configured.entity,
        "name": os.environ.get("WANDB_NAME") or run.folder.resolve().name,
        "dir": str(run.folder.absolute()),
        "config": run.config,
        "allow_val_change": True,  # a resumed run's config has one more part
        "settings": settings,
    }


def _wandb_id(run: RunInfo) -> str:
    """The id of the wandb run, kept in the folder so that a resumed run continues the same one."""
    path = run.folder / "wandb" / "id"
    if run.resume_step is not None and path.exists() and (kept := path.read_text(encoding="utf-8").strip()):
        return kept
    name = os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name + "\n", encoding="utf-8")
    return name


class TensorBoard(Callback):
    """TensorBoard's event files, in ``tensorboard/`` of the run folder."""

    def start(self, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place, step = run.folder / "tensorboard", run.resume_step
        self.step = step or 0
        self.writer = SummaryWriter(log_dir=str(place), purge_step=None if step is None else step + 1)
        self.writer.add_text("config", f"```json\n{json.dumps(run.config, indent=2, default=str)}\n```", self.step)
        run.say(f"tensorboard: view it with: tensorboard --logdir {shlex.quote(place.as_posix())}")

    def row(self, row: Row) -> None:
        self.step = int(row["step"])
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, self.step)
        self.writer.flush()

    def end(self, summary: Row, state: State) -> None:
        for name, value in summary.items():
            self.writer.add_scalar(f"summary/{name}", value, self.step)
        self.writer.close()


class ProgressBar:
    """Progress on standard error: a bar on a terminal, a line every half minute elsewhere, nothing if ``quiet``."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bar: Any = None

    def start(self, total: int, done: int) -> None:
        """Begin at step ``done`` of ``total``."""
        self.total, self.first_step = total, done
        self.started = self.shown = time.monotonic()
        # standard error may be None, closed, or a log object without isatty
        is_terminal = not getattr(sys.stderr, "closed", False) and getattr(sys.stderr, "isatty", bool)()
        if is_terminal and not self.quiet:
            self.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, smoothing=0.05)

    def is_due(self) -> bool:
        """Whether to call ``show``. Reading the loss makes the device finish its queue, so it is read rarely."""
        return time.monotonic() - self.shown >= (BAR_EVERY_S if self.bar is not None else LINE_EVERY_S)

    def show(self, step: int, loss: float, accuracy: float, images_per_sec: float) -> None:
        self.shown = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.3f}, acc {accuracy:.1f}%, {images_per_sec:.0f} images/s")
            self.bar.update(step - self.bar.n)
            return
        left = (self.shown - self.started) / max(1, step - self.first_step) * (self.total - step)
        progress = f"step {step}/{self.total}  loss {loss:.3f}  acc {accuracy:.1f}%  {images_per_sec:.0f} images/s"
        self.line(f"{progress}  {duration(left)} left")

    def row(self, row: Mapping[str, float]) -> None:
        """Print a logged row."""
        formats = {
            "step": "{:.0f}", "epoch": "{:.2f}", "train_loss": "{:.3f}", "train_acc": "{:.1f}%", "val_loss": "{:.3f}",
            "val_acc": "{:.1f}%", "epoch_val_acc": "{:.1f}%", "test_loss": "{:.3f}", "test_acc": "{:.1f}%",
            "images_per_sec": "{:.0f}",
        }  # fmt: skip
        self.line("  ".join(f"{name} {text.format(row[name])}" for name, text in formats.items() if name in row))

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self.quiet or sys.stderr is None or getattr(sys.stderr, "closed", False):
            return
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            sys.stderr.write(text + "\n")
            getattr(sys.stderr, "flush", bool)()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    """Seconds as ``2 h 05 min``, ``3 min 20 s`` or ``12 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


@contextlib.contextmanager
def profiled(
    steps: int, folder: Path, device: torch.device, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Profile ``steps`` steps on ``device``, after two of warm-up; yields a function to call after each step.

    Writes ``trace.json`` into ``folder`` (for chrome://tracing or ui.perfetto.dev) and prints the twenty most expensive
    operations. 0 profiles nothing.
    """
    if not steps:
        yield lambda: None
        return
    from torch import profiler

    def report(profile: Any) -> None:
        if profile.step_num <= PROFILE_WARMUP:
            return
        profile.export_chrome_trace(str(folder / TRACE))
        order = f"self_{'cuda' if device.type == 'cuda' else 'cpu'}_time_total"
        table = profile.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=40)
        say(f"{min(profile.step_num - PROFILE_WARMUP, steps)} steps profiled; trace: {folder / TRACE}\n{table}")

    plan = profiler.schedule(wait=0, warmup=PROFILE_WARMUP, active=steps, repeat=1)
    with profiler.profile(schedule=plan, on_trace_ready=report) as profile:
        yield profile.step
    if profile.step_num <= PROFILE_WARMUP:
        say(f"nothing was profiled: the run ended within the {PROFILE_WARMUP} steps of warm-up")
