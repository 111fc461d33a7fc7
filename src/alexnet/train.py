"""Training: one loop, from a recipe to a run folder.

    from alexnet import recipes, train
    result = train.run(recipes.classic(epochs=1), data="digits", out="runs/x")

An interrupted run goes on from its last checkpoint as if nothing had happened: weights, optimiser, random states, the
place in the schedule and in the epoch, and the running sums are in it; the order and the crops of an epoch follow from
the seed alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet import hardware, plots, tracking
from alexnet.checkpoint import BEST, LAST, ModelCard, load_checkpoint, save_checkpoint, save_weights
from alexnet.data import pipeline, sources
from alexnet.display import Display
from alexnet.evaluate import Metrics, Running, evaluate
from alexnet.model import AlexNet_2012
from alexnet.recipes import Recipe
from alexnet.runfolder import claim, describe_run

__all__ = ["Result", "TrainingError", "cosine", "run"]


class TrainingError(RuntimeError):
    """The run cannot go on; the message says why and what to try."""


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    folder: Path
    final: dict[str, float]
    """The last logged row: the run's result."""
    best: dict[str, float]
    """``val_acc`` and ``step`` of the best validation. Picked on the validation images, so not a result."""
    stopped_by: int | None = None
    """The signal that ended the run early, if one did."""


@dataclass
class Progress:
    """Where a run is. With the weights, the optimiser and the random states, all that resuming needs."""

    step: int = 0
    logged: int = 0
    """The last step with a logged row."""
    best_acc: float = -1.0
    best_step: int = 0
    warned: bool = False
    seconds: float = 0.0
    """Spent on steps since the last full row, validation left out; and waiting for data within them."""
    waited: float = 0.0
    row: dict[str, float] = field(default_factory=dict)
    """The last full row."""


def cosine(step: int, total: int, lr: float) -> float:
    """Learning rate of step ``step``, from 0, of ``total``: cosine annealing to 0, as PyTorch's scheduler gives it."""
    return lr * (1 + math.cos(math.pi * step / total)) / 2


def run(
    recipe: Recipe, data: str | None = None, out: str | Path | None = None, *, resume: bool = False, quiet: bool = False
) -> Result:
    """Train as ``recipe`` says and leave a run folder.

    Args:
        recipe: from ``alexnet.recipes``.
        data: cifar10, digits, a folder or hf:NAME; by default the recipe's own.
        out: the run folder; by default ``runs/`` and the recipe's name. It must not hold a run, unless ``resume``.
        resume: continue the run in ``out`` from its last checkpoint, or from the start if it has none.
        quiet: print nothing.

    Raises:
        ValueError: the recipe does not fit the machine, the data or the run to be resumed.
        TrainingError: the loss became NaN or infinite.
        OSError: the data cannot be had, or the disk is full.
    """
    if data is not None:
        recipe = dataclasses.replace(recipe, data=data)

    # --- the machine and the data
    hardware.keep_freed_memory()
    device = hardware.pick_device(recipe.device)
    precision = hardware.pick_precision(recipe.precision, device)
    source = sources.load(recipe.data, recipe.data_dir)
    folder = claim(Path(out) if out else Path("runs") / recipe.name, recipe, resume=resume)
    accelerator = _accelerator(device, precision)
    device, main = accelerator.device, accelerator.is_main_process

    # --- the network
    torch.manual_seed(recipe.seed)
    net = AlexNet_2012(len(source.classes), recipe.variant, recipe.init)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    norm = pipeline.normalization(recipe.input_scale, source.train)
    card = ModelCard(recipe.variant, source.classes, norm, source.name)
    share = pipeline.Share(accelerator.process_index, accelerator.num_processes)
    batches = pipeline.open_batches(source, recipe, norm, net.variant.image_sizes[0], device, share)
    compiled = _compile(net, recipe, device)
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    model, optimizer = accelerator.prepare(net, optimizer)
    torch.manual_seed(recipe.seed + share.rank)  # dropout differs between processes

    # --- where the run stands
    progress, running = Progress(), Running(device)
    if resume and (folder / LAST).is_file():
        progress = _restore(folder / LAST, net, optimizer, running)
    total = recipe.epochs * batches.steps_per_epoch
    last_step = min(total, recipe.max_steps or total)
    unsaved_best: dict[str, Tensor] | None = None
    display = Display(last_step, progress.step, quiet=quiet or not main)
    kinds = {"precision": precision, "loader": batches.kind, "compiled": compiled, "processes": share.world}
    config = describe_run(folder if main else None, recipe, source, norm, device, kinds)
    tracker = tracking.start(
        recipe.tracker if main else "none",
        folder,
        config,
        resume_step=progress.step if resume else None,
        say=display.line,
    )
    display.line(
        f"{recipe.name}: {source.name}, {len(source.train):,} training and {len(source.val):,} validation images\n"
        f"{device.type}, {precision}, {batches.kind} data{', compiled' if compiled else ''}; "
        f"steps {progress.step} to {last_step} of {total}; {folder}"
    )

    def save() -> None:
        nonlocal unsaved_best
        _check_finite(running, progress, recipe)
        if not main:
            return
        if unsaved_best is not None:
            notes = {"step": str(progress.best_step), "val_acc": f"{progress.best_acc:.4f}"}
            save_weights(folder / BEST, unsaved_best, card, **notes)
            unsaved_best = None
        state = {
            "model": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": dataclasses.asdict(progress),
            "running": running.state_dict(),
            "random": _random_states(device),
        }
        save_checkpoint(folder / LAST, state, card)

    saved_at = time.monotonic()
    feed = _stream(batches, progress.step)
    model.train()
    with _signals() as stopped, contextlib.closing(display):
        while True:
            step = progress.step

            # --- every so many steps, and at an epoch's end: validate and log a row
            full, epoch_end = step % recipe.val_every == 0 or step == last_step, step % batches.steps_per_epoch == 0
            if step > progress.logged and (full or epoch_end):
                _check_finite(running, progress, recipe)
                metrics = Metrics(len(source.classes), device)
                if not evaluate(model, batches.val(), metrics, interrupted=stopped):
                    break  # resuming starts with this row
                metrics.reduce(accelerator.reduce)
                scores = metrics.result(expected=len(source.val))
                row: dict[str, float] = {"step": step, "epoch": step / batches.steps_per_epoch}
                if full:
                    running.reduce(accelerator.reduce)
                    row |= running.means() | {"val_loss": scores["loss"], "val_acc": scores["top1"]}
                if epoch_end:
                    row["epoch_val_acc"] = scores["top1"]
                if full:
                    row |= {
                        "lr": cosine(step - 1, total, recipe.lr),
                        "images_per_sec": running.count / progress.seconds,
                        "data_wait_pct": 100 * progress.waited / progress.seconds,
                    }
                    progress.row, progress.seconds, progress.waited = row, 0.0, 0.0
                    running.reset()
                    _warn_of_plateau(progress, recipe, len(source.classes), display.line)
                if scores["top1"] > progress.best_acc:
                    progress.best_acc, progress.best_step = scores["top1"], step
                    unsaved_best = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
                progress.logged = step
                tracker.log(row)
                display.row(row)
            if step == last_step or stopped():
                break

            # --- one step
            began = time.perf_counter()
            images, labels = next(feed)
            progress.waited += time.perf_counter() - began
            for group in optimizer.param_groups:
                group["lr"] = cosine(step, total, recipe.lr)
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            accelerator.backward(loss)
            grad_norm = accelerator.clip_grad_norm_(net.parameters(), recipe.clip_norm or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            progress.step = step + 1
            running.add(loss.detach(), logits.detach(), labels, grad_norm, progress.step)
            progress.seconds += time.perf_counter() - began

            # --- tell, and save by the clock
            if display.due():
                _check_finite(running, progress, recipe)
                means = running.means()
                display.show(progress.step, means["train_loss"], means["train_acc"], running.count / progress.seconds)
            if time.monotonic() - saved_at >= 60 * recipe.save_every:
                save()
                saved_at = time.monotonic()
        save()

    best = {"val_acc": progress.best_acc, "step": progress.best_step}
    final = progress.row if progress.row.get("step") == progress.step else {}
    tracker.finish(
        final | {f"best_{name}": value for name, value in best.items()}, "stopped" if stopped() else "finished"
    )
    if main:
        plots.curves(folder)
    return Result(folder, final, best, stopped())


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    # Accelerate keeps its choices for the whole process; a second run in it may choose otherwise.
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")


def _compile(net: nn.Module, recipe: Recipe, device: torch.device) -> bool:
    wanted = device.type == "cuda" if recipe.compile is None else recipe.compile
    if wanted and not hardware.can_compile(device):
        print("torch.compile: no C++ compiler found; running without it")
        return False
    if wanted:
        net.compile()
    return wanted


def _stream(batches: pipeline.Batches, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch after another, from step ``step`` on."""
    epoch, place = divmod(step, batches.steps_per_epoch)
    while True:
        yield from batches.train(epoch, place)
        epoch, place = epoch + 1, 0


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore(path: Path, net: nn.Module, optimizer: Any, running: Running) -> Progress:
    state = load_checkpoint(path)
    net.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    running.load_state_dict(state["running"])
    torch.set_rng_state(state["random"]["cpu"])
    if "cuda" in state["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random"]["cuda"])
    return Progress(**state["progress"])


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], int | None]]:
    """Turn the first SIGINT or SIGTERM into a wish to stop, which the loop reads between steps; gives that reader."""
    caught: list[int] = []

    def note(number: int, _frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    handled = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, note) for number in handled}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_finite(running: Running, progress: Progress, recipe: Recipe) -> None:
    """TrainingError where a step's loss was NaN or infinite. Waits for the device."""
    if not (step := int(running.bad_step)):
        return
    row = progress.row
    last = f"at step {row['step']} train_loss was {row['train_loss']:.3f}" if row else "no row was logged before"
    raise TrainingError(
        f"the loss became NaN or infinite at step {step}; {last}, grad_norm {float(running.grad_norm):.3g} at the last step. "
        f"Try a lower --lr (it was {recipe.lr:g}), --clip-norm 1, --precision fp32, or --init he with --input-scale imagenet"
    )


def _warn_of_plateau(progress: Progress, recipe: Recipe, classes: int, say: Callable[[str], None]) -> None:
    """Say once, from step 200 on, that the loss has not left the plateau of guessing, and why that may be."""
    if progress.warned or progress.step < 200 or progress.row["train_loss"] < math.log(classes) - 0.05:
        return
    progress.warned = True
    say(
        f"warning: after {progress.step} steps the loss is {progress.row['train_loss']:.3f}, no better than guessing "
        f"(ln {classes} = {math.log(classes):.3f}). Likely cause: {recipe.init!r} initialisation on {recipe.input_scale!r} "
        "input; N(0, 0.01) weights are made for raw pixels. Remedies: --input-scale raw, or --init he"
    )
