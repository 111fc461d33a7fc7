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
import itertools
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from alexnet import hardware
from alexnet.data import datasets
from alexnet.data.loaders import eval_batch_size, workers_alive
from alexnet.data.splits import Images
from alexnet.model import ABLATIONS, VARIANTS
from alexnet.parallel import columns
from alexnet.recipes import Recipe
from alexnet.report import plots
from alexnet.run import runfolder, tracking
from alexnet.run.display import Display, profiled
from alexnet.run.doctor import warn_of_plateau
from alexnet.run.metrics import Metrics, measure, with_views
from alexnet.run.processes import others_present, signals
from alexnet.run.schedule import clip_gradient, learning_rate, set_rates
from alexnet.run.session import Session, open_session

__all__ = ["Result", "TrainingError", "run", "train_step"]


class TrainingError(RuntimeError):
    """The run cannot go on; the message says why and what to try."""


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    folder: Path
    final: dict[str, float]
    """The last logged row: the run's result."""
    best: dict[str, float]
    """``val_acc`` and ``step`` of the best validation, once there is one. Picked on those images, so not a result."""
    stopped_by: int | None = None
    """The signal that ended the run early, if one did."""


def run(
    recipe: Recipe,
    data: str | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
    profile: int = 0,
) -> Result:
    """Train as ``recipe`` says and leave a run folder.

    Args:
        recipe: from ``alexnet.recipes``.
        data: cifar10, digits, a folder or hf:NAME; by default the recipe's own.
        out: the run folder; by default ``runs/`` and the recipe's name. It must not hold a run, unless ``resume``.
        resume: continue the run in ``out`` from its last checkpoint, or from the start if it has none.
        quiet: print nothing.
        profile: so many steps, after two, are timed operation by operation: a table, and a trace in the folder.

    Raises:
        ValueError: the recipe does not fit the machine, the data or the run to be resumed, or its tracker's package is
            not installed.
        TrainingError: a loss or a gradient became NaN or infinite.
        OSError: the data cannot be had, the disk is full, or another process of the run has ended.
    """
    if data is not None:
        recipe = dataclasses.replace(recipe, data=data)

    hardware.keep_freed_memory()
    device = hardware.pick_device(recipe.device)
    folder = Path(out) if out else Path("runs") / recipe.name
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one
        tracking.check_name(recipe.tracker)
        runfolder.check_folder(folder, recipe, resume=resume)
    if recipe.parallel == "columns":
        columns.check({**VARIANTS, **ABLATIONS}[recipe.variant], int(os.environ.get("WORLD_SIZE", "1")))
    dataset = datasets.load(recipe.data, recipe.data_dir).as_in(recipe.holdout, recipe.images, flip=recipe.flip)
    if recipe.test_views != "center" and dataset.test is None:
        raise ValueError(f"--test-views {recipe.test_views}: allowed is center, unless there is a --holdout")
    with contextlib.closing(open_session(recipe, folder, dataset, device)) as s:
        main = s.accelerator.is_main_process
        place = runfolder.begin_in(folder, recipe, resume=resume) if main else contextlib.nullcontext()
        display = contextlib.closing(Display(quiet=quiet or not main))
        with others_present(), workers_alive(), place, display as shown:
            if resume and s.has_checkpoint():
                s.restore()
            return _run(s, shown, resume=resume, profile=profile)


def _run(s: Session, display: Display, *, resume: bool, profile: int) -> Result:
    recipe, main = s.recipe, s.accelerator.is_main_process
    if s.progress.step > s.last_step:
        raise ValueError(f"--max-steps {recipe.max_steps}: the run in {s.folder} is at step {s.progress.step} already")
    if s.progress.logged == s.last_step:
        display.line(runfolder.nothing_left(s))
        if main and not (s.folder / plots.CURVES).is_file():  # killed between its last checkpoint and the picture
            plots.curves(s.folder)
        return _result(s, None)
    config = runfolder.describe_run(s)
    if resume:
        config, changes = runfolder.continued(s.folder, config)
        if changes:
            display.line(f"goes on with {changes}: not bit for bit as it would have been")
    if main:
        runfolder.write_config(s.folder, config)
    tracker = tracking.start(
        recipe.tracker if main else None,
        s.folder,
        config,
        resume_step=s.progress.logged if resume else None,
        say=display.line,
    )
    display.line(runfolder.headline(s, config))
    display.start(s.last_step, s.progress.step)
    try:
        with signals() as stopped, profiled(profile if main else 0, s.folder, s.device, display.line) as after_step:
            result = _result(s, _loop(s, tracker, display, stopped, after_step))
    except BaseException:
        tracker.finish({}, "failed")
        raise
    summary = result.final | {f"best_{name}": value for name, value in result.best.items()}
    tracker.finish(summary, "stopped" if result.stopped_by else "finished")
    if main:
        plots.curves(s.folder)
    return result


def _loop(
    s: Session,
    tracker: tracking.Tracking,
    display: Display,
    stopped: Callable[[], int | None],
    after_step: Callable[[], None],
) -> int | None:
    """Train to the last step, or until a signal comes to any of the processes; gives its number."""
    progress, feed = s.progress, s.batches_from_here()
    saved_at, stop = time.monotonic(), False
    s.model.train()
    while True:
        # --- every so many steps, and at an epoch's end: validate and log a row
        if _row_is_due(s) and not _log_row(s, tracker, display, stopped):
            break  # by a signal; resuming starts with this row
        if progress.step == s.last_step or stop:
            break

        # --- one step
        began = time.perf_counter()
        images, labels = next(feed)
        progress.waited += time.perf_counter() - began
        train_step(s, images, labels)
        progress.seconds += time.perf_counter() - began
        after_step()

        # --- show, and save by the clock
        if display.due():
            _check_finite(s)
            display.show(progress.step, s.read_local(), progress.seconds)
        save_is_due = time.monotonic() - saved_at >= 60 * s.recipe.save_every
        stop, save = s.accord.each_step(stopped() is not None, save_is_due)
        if save:
            _save(s)
            saved_at = time.monotonic()
    _save(s)
    return round(s.accord.now(stopped() or 0)[0]) or None


def train_step(s: Session, images: Tensor, labels: Tensor) -> Tensor:
    """One step of SGD on ``images`` ``[B, 3, S, S]`` and ``labels`` ``[B]``, this process's shard of the batch.

    Gives the mean loss, still on the device: nothing is read back from there.
    """
    recipe, progress = s.recipe, s.progress
    set_rates(s.optimizer, recipe, progress.step, s.batches.steps_per_epoch, progress.drops)
    if recipe.dropout_ramp:
        for layer in s.net.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = s.net.variant.dropout * progress.step / s.total_steps
    logits = s.model(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    s.accelerator.backward(loss * s.loss_weight(len(labels)))
    grad_norm = clip_gradient(s.net, recipe.clip_norm or math.inf)
    s.optimizer.step()
    s.optimizer.zero_grad()
    progress.step += 1
    s.update_average()
    s.running.add(loss.detach(), logits.detach(), labels, grad_norm, progress.step)
    return loss.detach()


def _row_is_due(s: Session) -> bool:
    return s.progress.step > s.progress.logged and (s.on_schedule or s.progress.step == s.last_step)


def _log_row(s: Session, tracker: tracking.Tracking, display: Display, stopped: Callable[[], int | None]) -> bool:
    """Validate, and log what training and validation came to. False where a signal cut the validation short."""
    recipe, progress, step = s.recipe, s.progress, s.progress.step
    _check_finite(s)
    began = time.perf_counter()
    scores = _evaluate(s, s.dataset.val, "center", stopped)
    if scores and not math.isfinite(scores["loss"]):  # the step's own loss was that of the weights before it
        raise _diverged(s, "the validation loss", step)
    tested = _test(s, stopped) if scores and step == s.total_steps and s.dataset.test else {}
    if scores is None or tested is None:
        return False
    progress.validating += time.perf_counter() - began
    row: dict[str, float] = {"step": step, "epoch": step / s.batches.steps_per_epoch}
    full = step % recipe.val_every == 0 or step == s.last_step
    if full:
        row |= s.running.read(s.all_reduce)
        seen = row.pop("images")
        row |= {"val_loss": scores["loss"], "val_acc": scores["top1"]}
        row["lr"] = learning_rate(recipe, step - 1, s.batches.steps_per_epoch, progress.drops)
        row |= progress.times(seen)
        if step % recipe.val_every == 0:  # a row at --max-steps leaves the sums to the run's continuation
            s.running.reset()
            progress.reset_times()
    if step % s.batches.steps_per_epoch == 0:
        row["epoch_val_acc"] = scores["top1"]
        progress.note_epoch(scores["top1"], recipe.patience)
    row |= tested
    tracker.log(row)
    display.row(row)
    if s.on_schedule:
        s.keep_if_best(scores["top1"])
    progress.logged = step
    if full:
        progress.row = row
        warn_of_plateau(s, display.line)
    return True


def _save(s: Session) -> None:
    _check_finite(s)
    began = time.perf_counter()
    s.save()
    s.progress.saving += time.perf_counter() - began


def _result(s: Session, stopped_by: int | None) -> Result:
    best = {"val_acc": s.progress.best_acc, "step": s.progress.best_step} if s.progress.best_step else {}
    final = s.progress.row if s.progress.row.get("step") == s.progress.step else {}
    return Result(s.folder, final, best, stopped_by)


def _test(s: Session, stopped: Callable[[], int | None]) -> dict[str, float] | None:
    """The test images, opened for the first time, in the recipe's views; None if a signal cut it short."""
    assert s.dataset.test is not None
    found = _evaluate(s, s.dataset.test, s.recipe.test_views, stopped)
    return found and {"test_loss": found["loss"], "test_acc": found["top1"]}


def _evaluate(s: Session, images: Images, views: str, stopped: Callable[[], int | None]) -> dict[str, Any] | None:
    """The network on all processes' shards of ``images``; None where one of them has been told to stop."""
    metrics = Metrics(s.card.num_classes, s.device)
    norm, flip = s.card.normalization, s.dataset.flip
    model, batches = with_views(s.eval_model, s.net.variant, views, s.shard_of(images), norm, s.device, flip)
    turns = -(-len(images) // (s.shard.world * eval_batch_size(s.device)))  # of the largest shard
    padded = itertools.islice(itertools.chain(batches, itertools.repeat(None)), turns)
    if not measure(model, padded, metrics, lambda: s.accord.now(stopped() is not None)[0] > 0):
        return None
    metrics.reduce(s.all_reduce)
    return metrics.result(expected=len(images))


def _check_finite(s: Session) -> None:
    """TrainingError where a step's loss or gradient was NaN or infinite. Waits for the steps: their time."""
    began = time.perf_counter()
    step = int(s.running.bad_step)
    s.progress.seconds += time.perf_counter() - began
    if step:
        raise _diverged(s, "the loss or its gradient", step)


def _diverged(s: Session, what: str, step: int) -> TrainingError:
    row = s.progress.row
    last = f"at step {row['step']} train_loss was {row['train_loss']:.3f}" if row else "no row was logged before"
    return TrainingError(
        f"{what} became NaN or infinite at step {step}; {last}, and the last gradient's norm is "
        f"{float(s.running.grad_norm):.3g}. "
        f"Try a lower --lr (it was {s.recipe.lr:g}), --clip-norm 1 or --precision fp32"
    )
