"""Training: one loop, from a recipe to a run folder.

>>> from alexnet import recipes, train
>>> result = train.run(recipes.classic(epochs=1), data="digits", out="runs/x")

``run`` reads from top to bottom: set up, the functions that the loop calls, resume, the loop. A resumed run is bit for
bit the run that was not interrupted: the checkpoint has the weights, the optimizer, the random states, the place in the
schedule and the epoch, and the running sums; the order and the crops of an epoch depend only on the seed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import gather_object
from torch import Tensor, nn

from alexnet import checkpoint, system
from alexnet.checkpoint import BEST, CONFIG, LAST, METRICS, is_scheduled
from alexnet.curves import CURVES, Curves, draw_curves
from alexnet.data import datasets, loaders
from alexnet.data.datasets import Dataset, ImageError
from alexnet.data.loaders import Shard, eval_batch_size
from alexnet.data.normalization import make_normalization
from alexnet.errors import FieldError, one_line
from alexnet.evaluate import Metrics, TestTimeAugmentation, measure
from alexnet.lrn import lrn_backend
from alexnet.model import AlexNet_2012, ModelInfo
from alexnet.muon import SGDMuon
from alexnet.recipes import Recipe, Runtime, runtime_for
from alexnet.system import autocast, out_of_memory, signals
from alexnet.tracking import Callback, MetricsFile, ProgressBar, RunInfo, State, check_tracker, make_tracker, profiled

__all__ = [
    "Callback", "DataParallel", "Result", "RunInfo", "TrainState", "TrainingError", "learning_rate", "run",
    "stuck_hint",
]  # fmt: skip

MUON_LAYERS = ("conv2", "conv3", "conv4", "conv5")
MUON_MOMENTUM, MUON_DECAY = 0.9, 0.01


class TrainingError(RuntimeError):
    """The run cannot continue; the message says why and what to try."""


@dataclass(frozen=True)
class Result:
    """The outcome of a run."""

    folder: Path
    final: dict[str, float]
    """The last full row, which is the run's result; empty if the run was stopped at a later step."""
    best: dict[str, float]
    """``val_acc`` and ``step`` of the best validation. It was picked on those images, so it is not a result."""
    stopped_by: int | None = None
    """The number of the signal that ended the run early, if one did."""


@dataclass
class TrainState:
    """Where a run is. With weights, optimizer, running sums and random states, it is all that resuming needs."""

    step: int = 0
    logged: int = 0
    """The last step with a logged row."""
    best_acc: float = -1.0
    best_step: int = 0
    seconds: float = 0.0
    """Duration of the steps since the last full row."""
    waited: float = 0.0
    """The part of it that was spent waiting for data."""
    validating: float = 0.0
    """Seconds of validation since the last full row."""
    saving: float = 0.0
    """Seconds of saving since the last full row."""
    row: dict[str, float] = field(default_factory=dict)
    """The last full row."""
    plateau_acc: float = -1.0
    """The best validation at an epoch's end."""
    stale: int = 0
    """Epochs without improvement."""
    drops: int = 0
    """Number of times that the plateau schedule has divided the learning rate by 10; other schedules ignore it."""

    @property
    def final(self) -> dict[str, float]:
        """The full row of the present step; empty if there is none."""
        return self.row if self.row.get("step") == self.step else {}

    def update_plateau(self, val_acc: float, patience: int) -> None:
        """Divide the learning rate by 10, at most three times, after ``patience`` epochs without improvement."""
        self.stale = 0 if val_acc > self.plateau_acc else self.stale + 1
        self.plateau_acc = max(val_acc, self.plateau_acc)
        if self.stale >= patience and self.drops < 3:
            self.drops, self.stale = self.drops + 1, 0


class DataParallel:
    """How several processes share a run: each takes a part of every batch, and their gradients are averaged.

    ``tools.two_towers.TwoTowers`` overrides all of it, and splits the network instead.
    """

    kind: Literal["data", "towers"] = "data"

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    def shard(self) -> Shard:
        """The part of each batch, and of the images to validate on, that this process takes."""
        return Shard(self.accelerator.process_index, self.accelerator.num_processes)

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model to train, on this process's device; it shares its parameters with ``model``."""
        return self.accelerator.prepare_model(model)  # type: ignore[no-any-return]

    def grad_norm(self, norm: Tensor) -> Tensor:
        """The norm of the whole gradient, from that of this process's parameters."""
        return norm

    def full_state(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """The state dict of the whole network or optimizer, from this process's; called by all processes."""
        return state

    def own_state(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """This process's part of the state dict of the whole network or optimizer."""
        return state


def run(
    recipe: Recipe,
    data: str | Dataset | None = None,
    out: str | Path | None = None,
    *,
    runtime: Runtime | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    model: nn.Module | None = None,
    open_loader: Callable[..., loaders.Loader] = loaders.open_loader,
    parallel: DataParallel | None = None,
) -> Result:
    """Train as ``recipe`` says and write a run folder.

    It sets torch's global random seed, and for the whole process glibc's malloc options and, if the network is
    compiled, torch.compile's recompile limit.

    Args:
        recipe: from ``alexnet.recipes``.
        data: cifar10, digits, a folder, hf:NAME or what ``datasets.load`` returned; by default the recipe's own.
        out: the run folder; by default ``runs/`` and the recipe's name. It must not exist, unless ``resume``.
        runtime: device, precision, tracker and the like; by default the recipe's own.
        resume: continue the run in ``out`` from its last checkpoint, or from the start if it has none.
        callbacks: are given each logged row, on the main process; one that returns True from ``row`` ends the run.
        model: trains this network, which maps ``[B, 3, S, S]`` to logits, in place of the recipe's: an
            ``AlexNet_2012``, for example a trained one with a new ``fc8``, or another. The former's variant, width and
            dropout replace those of the recipe, and it ends with the last weights and their ``info``. The latter must
            have ``input_size``, which is S, 224 to 256, and may have ``param_groups(recipe)``, the optimizer's groups;
            without it all parameters form one group. A group may have ``lr_steps``, pairs of a first epoch, from 0
            on, and a learning rate, in place of the recipe's schedule; its own ``lr`` is not used. All layers are put
            into training mode; to keep the statistics of a normalisation, override its ``train``.
        open_loader: has the arguments of ``data.loaders.open_loader``. With several processes, its batches must have
            ``recipe.batch_size`` images in all, the last one of an epoch what is left.
        parallel: ``tools.two_towers.TwoTowers()`` for ``Runtime(parallel="towers")``; by default ``DataParallel``.

    Raises:
        ValueError: the recipe does not fit the machine, the data or the run to resume (``FieldError`` has the field);
            ``model`` has other classes than the data, or no weights to train.
        TrainingError: the loss or the gradient became NaN or infinite.
        OSError: the data could not be downloaded, the disk is full, or another process of the run has ended.
    """
    if data is not None:
        recipe = dataclasses.replace(recipe, data=data.spec if isinstance(data, Dataset) else data)
    if isinstance(model, AlexNet_2012):
        name: Any = model.variant.name
        recipe = dataclasses.replace(recipe, variant=name, width_mult=model.width_mult, dropout=model.variant.dropout)
    runtime = runtime or runtime_for(recipe.name)
    folder = Path(out) if out else Path("runs") / recipe.name
    towers = parallel is not None and parallel.kind == "towers"
    if towers:
        runtime = dataclasses.replace(runtime, parallel="towers")
    elif runtime.parallel == "towers":
        raise FieldError("parallel", "data, unless train.run is called with parallel=TwoTowers()", "towers")
    if recipe.muon_lr and towers:  # each process would orthogonalise half of a matrix
        raise FieldError("muon_lr", "0 if parallel is towers", recipe.muon_lr)
    system.keep_freed_memory()
    device = system.pick_device(runtime.device)
    if os.environ.get("RANK", "0") == "0":
        check_tracker(runtime.tracker)
        checkpoint.check_run_dir(folder, recipe, resume=resume)
    before = checkpoint.read_config(folder) if resume and (folder / CONFIG).is_file() else None

    # --- data
    dataset = data if isinstance(data, Dataset) else datasets.load(recipe.data, runtime.data_dir)
    dataset = dataset.prepare(recipe)
    data_facts = _describe_data(recipe, dataset)
    test_changed = _check_same_images(before, data_facts) if before else False
    norm = make_normalization(recipe.input_scale, dataset.train)

    # --- processes and device
    accelerator = _start_accelerator(device)
    device, is_main, world = accelerator.device, accelerator.is_main_process, accelerator.num_processes
    parallel = parallel or DataParallel(accelerator)
    shard: Shard = parallel.shard()
    same_precision = before.get("precision") if before and runtime.precision == "auto" else None
    precision: str = same_precision or system.pick_precision(runtime.precision, device)

    def all_reduce(own: Tensor) -> Tensor:
        """The sum over shards."""
        return own if shard.world == 1 else accelerator.reduce(own)  # type: ignore[no-any-return]

    def all_gather(own: Tensor) -> Tensor:
        """``own`` of each shard, on the CPU: ``[shards, *]``."""
        return own.cpu()[None] if shard.world == 1 else torch.stack(gather_object([own.cpu()]))

    def any_process(*flags: bool) -> list[bool]:
        """For each flag, whether any process has it set; all processes call this together."""
        if world == 1:
            return list(flags)
        total: Tensor = accelerator.reduce(torch.tensor(flags, dtype=torch.float32, device=device))
        return (total > 0).tolist()  # type: ignore[no-any-return]

    if any_process(precision == "fp32")[0]:  # each process has measured whether bf16 is faster
        precision = "fp32"

    # --- network and optimizer
    torch.manual_seed(recipe.seed)
    given, num_classes = model is not None, len(dataset.classes)
    if before and before.get("given_model") and not given:  # which of its weights are trained is not known
        raise ValueError(f"{folder}: the run was given a network; to resume it, call train.run with model= again")
    if model is None:
        model = AlexNet_2012(num_classes, recipe.variant, recipe.init, recipe.width_mult, recipe.dropout)
    net = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = _check_trainable(net, recipe, dataset)
    width, dropout = recipe.width_mult, recipe.dropout
    info = ModelInfo(recipe.variant, dataset.classes, norm, dataset.name, width_mult=width, dropout=dropout)
    loader = open_loader(dataset, recipe, runtime, norm, size, device, shard)
    if isinstance(net, AlexNet_2012):
        net.info = info
    steps_per_epoch = loader.steps_per_epoch
    val_every = min(recipe.val_every, steps_per_epoch)
    total_steps = recipe.epochs * steps_per_epoch
    last_step = min(total_steps, runtime.max_steps or total_steps)

    dropouts = [(layer, layer.p) for layer in net.modules() if isinstance(layer, nn.Dropout)]
    wants_compile = device.type == "cuda" and runtime.parallel == "data" if runtime.compile is None else runtime.compile
    ramps = recipe.dropout_ramp and bool(dropouts)  # would recompile at every step
    compiled = wants_compile and not ramps and system.can_compile(device)
    run_net = net
    if compiled:
        torch.compiler.config.recompile_limit = 64  # once for each batch size of each run in this process
        run_net = torch.compile(net, dynamic=False)
    train_net = parallel.prepare(run_net)  # net shares its parameters
    average = copy.deepcopy(net).requires_grad_(False) if recipe.ema else None
    if average is not None and compiled:
        average.compile(dynamic=False)
    eval_net = run_net if average is None else average
    optimizer = make_optimizer(net, recipe, device, precision)
    torch.manual_seed(recipe.seed + shard.rank)  # dropout differs between processes

    state, sums = TrainState(), RunningSums(device)
    best_weights: dict[str, Tensor] | None = None  # of the best validation, until they are on disk
    stopping = False
    splits = {"val": dataset.val, "test": dataset.test} if dataset.test else {"val": dataset.val}
    shard_images = {  # of this process; decoded once
        name: images.subset(range(shard.rank, len(images), shard.world)) for name, images in splits.items()
    }

    def evaluate(split: str, tta: str, stopped: Callable[[], int | None]) -> dict[str, Any] | None:
        """Metrics of all processes over a split; None if a signal came meanwhile."""
        count = len(splits[split])
        batches: Iterator[loaders.Batch | None] = loader.eval(shard_images[split], tta)
        if shard.world > 1:
            num_batches = -(-count // (shard.world * eval_batch_size(device)))  # of the largest shard
            batches = itertools.islice(itertools.chain(batches, itertools.repeat(None)), num_batches)
            for buffer in eval_net.buffers():  # those that are saved; DDP shares them before the next step only
                dist.broadcast(buffer, 0)
        tta_model = eval_net if tta == "center" else TestTimeAugmentation(eval_net, size, mirror=dataset.flip)
        metrics = Metrics(num_classes, device)
        with autocast(device, precision):
            complete = measure(tta_model, batches, metrics, lambda: any_process(stopped() is not None)[0])
        if not complete:
            return None
        metrics.reduce(all_reduce)
        return metrics.result(expected=count)

    def loss_share(labels: Tensor) -> float:
        """The weight of this process's mean loss. DDP averages over processes, which may have unequal shares."""
        if shard.world == 1:
            return 1.0
        seen = state.step % steps_per_epoch * recipe.batch_size  # images of the epoch
        return len(labels) * shard.world / min(recipe.batch_size, len(dataset.train) - seen)

    def check_finite() -> None:
        """TrainingError if the loss or the gradient of a step was NaN or infinite. Waits for the device."""
        began = time.perf_counter()
        bad_step = int(sums.bad_step)
        state.seconds += time.perf_counter() - began
        if bad_step:
            raise _diverged("the loss or its gradient", bad_step, state, sums, recipe)

    def log_row(stopped: Callable[[], int | None]) -> bool:
        """Validate and log a row. False if a signal stopped the validation."""
        nonlocal stopping
        check_finite()
        began = time.perf_counter()
        val, test = evaluate("val", "center", stopped), None
        if val and not math.isfinite(val["loss"]):  # the step's loss was computed before its update
            raise _diverged("the validation loss", state.step, state, sums, recipe)
        run_test = dataset.test is not None and state.step == total_steps
        if val and run_test:
            test = evaluate("test", recipe.tta, stopped)
        if val is None or (run_test and test is None):
            return False
        state.validating += time.perf_counter() - began
        row = make_row(val, test)
        if is_scheduled(state.step, val_every, steps_per_epoch, total_steps) and val["top1"] > state.best_acc:
            keep_best(val["top1"])
        state.logged = state.step
        if is_main:
            metrics_file.add(row)
        ends = [callback.row(dict(row)) for callback in active]  # of the main process; each gets the row
        train_net.train()  # a callback may have evaluated the network
        stopping |= any_process(any(ends))[0]
        bar.row(row)
        return True

    def make_row(val: Mapping[str, Any], test: Mapping[str, Any] | None) -> dict[str, float]:
        """The row of this step. A full one ends what ``sums`` and the clocks of ``state`` add up."""
        step = state.step
        row: dict[str, float] = {"step": step, "epoch": step / steps_per_epoch}
        is_full = step % val_every == 0 or step == last_step
        if is_full:
            row |= sums.result(all_reduce)
            count = row.pop("images")
            row |= {
                "val_loss": val["loss"],
                "val_acc": val["top1"],
                "lr": optimizer.param_groups[0]["lr"],
                "images_per_sec": count / state.seconds,
                "data_wait_pct": 100 * state.waited / state.seconds,
                "seconds": state.seconds,
                "wait_seconds": state.waited,
                "val_seconds": state.validating,
                "save_seconds": state.saving,
            }
            if step % val_every == 0:  # at max_steps, the sums are kept for the resumed run
                sums.reset()
                state.seconds = state.waited = state.validating = state.saving = 0.0
        if step % steps_per_epoch == 0:
            row["epoch_val_acc"] = val["top1"]
            state.update_plateau(val["top1"], recipe.patience)
        if test:
            row |= {"test_loss": test["loss"], "test_acc": test["top1"]}
        if is_full:
            state.row = row
        return row

    def keep_best(val_acc: float) -> None:
        """Keep the weights of the best validation, until they are saved. All processes call it together."""
        nonlocal best_weights
        state.best_acc, state.best_step = val_acc, state.step
        weights = parallel.full_state((net if average is None else average).state_dict())
        if is_main:
            best_weights = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}

    def save() -> None:
        """Write last.ckpt, and best.safetensors if there is a new best. All processes call it together."""
        nonlocal best_weights
        check_finite()
        began = time.perf_counter()
        snapshot = {
            "model": dict(parallel.full_state(net.state_dict())),
            "optimizer": dict(parallel.full_state(optimizer.state_dict())),
            "running": {"sums": all_gather(sums.sums), "grad_norm": sums.grad_norm},
            "random": {name: all_gather(own) for name, own in _random_states(device).items()},
        }
        if average is not None:
            snapshot["average"] = dict(parallel.full_state(average.state_dict()))
        if is_main:
            metrics_file.sync()  # so that no checkpoint on the disk is newer than the rows it counts
            if best_weights is not None:
                record = {"step": state.best_step, "best val_acc on the way, %": state.best_acc}
                checkpoint.save_weights(folder / BEST, best_weights, describe_weights(record))
                best_weights = None
            snapshot["progress"] = dataclasses.asdict(state)
            metrics = ("val_acc", "val_loss", "test_acc", "test_loss")
            record = {"step": state.step}
            for name in metrics:
                if name in state.final:
                    record[f"{name}, %" if name.endswith("acc") else name] = state.final[name]
            checkpoint.save_checkpoint(folder / LAST, snapshot, describe_weights(record))
        state.saving += time.perf_counter() - began

    def describe_weights(record: Mapping[str, float]) -> ModelInfo:
        machine = system.describe(device)
        origin: dict[str, str | int | float] = {
            "recipe": recipe.name, "seed": recipe.seed, "steps of the whole schedule": total_steps, **record,
            "validation images": dataset.val_split, "device": machine.get("gpu", machine["cpu"]),
        }  # fmt: skip
        return dataclasses.replace(info, record=origin)

    def restore() -> None:
        """Load everything from last.ckpt. ValueError if it does not fit."""
        nonlocal state
        path = folder / LAST
        saved = checkpoint.load_checkpoint(path)
        try:
            saved["progress"].pop("warned", None)  # of 0.1.0
            state = TrainState(**saved["progress"])
            net.load_state_dict(parallel.own_state(saved["model"]))
            optimizer.load_state_dict(dict(parallel.own_state(saved["optimizer"])))
            if average is not None:
                average.load_state_dict(parallel.own_state(saved["average"]))
            sums.restore(saved["running"], shard)
            _restore_random(saved["random"], device, shard, recipe.seed + state.step)
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
            if out_of_memory(error):
                raise
            reason = f"lacks {error.args[0]}" if isinstance(error, KeyError) else one_line(error)
            raise ValueError(
                f"{path}: cannot be resumed from ({reason}); its weights can still be loaded with load_model"
            ) from error

    def result(stopped_by: int | None) -> Result:
        best = {"val_acc": state.best_acc, "step": state.best_step} if state.best_step else {}
        return Result(folder, state.final, best, stopped_by)

    with contextlib.ExitStack() as stack:
        stack.enter_context(_lost_process(world))
        if is_main:
            stack.enter_context(checkpoint.lock_run_dir(folder))
            if not resume:  # another run may have used the folder since the first check
                checkpoint.check_unused(folder)
            for name in (CONFIG, METRICS, LAST, BEST, CURVES):  # half written by a run that was killed
                (folder / f"{name}.tmp").unlink(missing_ok=True)
        bar = ProgressBar(quiet=runtime.quiet or not is_main)
        stack.callback(bar.close)
        notes = ["warning: the test images have changed since the run was started"] if test_changed else []
        for note in (*dataset.notes, *notes):
            bar.line(note)

        # --- resume
        if resume and _all_or_none(any_process, (folder / LAST).is_file(), folder):
            restore()
        if state.step > last_step:
            raise FieldError("max_steps", f"at least {state.step}, the step of the run in {folder}", runtime.max_steps)
        if state.logged == last_step:
            stopped_early = f"reached max_steps ({state.step} of {total_steps} steps); raise max_steps to continue it"
            ended = f"is complete ({state.step} steps)" if last_step == total_steps else stopped_early
            bar.line(f"nothing to do: the run in {folder} {ended}")
            if is_main:  # it may have been killed between its last checkpoint and the picture
                draw_curves(folder, num_classes)
            return result(None)
        part = {
            "step": state.step, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "device": device.type,
            "precision": precision, "loader": loader.kind, "compiled": compiled, "lrn": lrn_backend(device),
            "processes": world, "threads": torch.get_num_threads() if device.type == "cpu" else None,
            "hardware": system.describe(device), "versions": system.versions(), "commit": system.git_commit(),
        }  # fmt: skip
        config = {
            "recipe": dataclasses.asdict(recipe), "runtime": dataclasses.asdict(runtime), "seed": recipe.seed,
            "data": data_facts,
            "classes": list(dataset.classes), "given_model": given,
            "normalization": {"mean": norm.mean, "std": norm.std, "mean_image": bool(norm.mean_image)},
            "total_steps": total_steps, "steps_per_epoch": steps_per_epoch, "val_every": val_every,
            **{name: value for name, value in part.items() if name != "step"},
            "parts": [part],
        }  # fmt: skip
        if before:
            config, changes = continue_config(before, config)
            if changes:
                bar.line(f"resuming with {changes}; results will not be bit-identical")
        if is_main:
            checkpoint.write_config(folder, config)

        # --- callbacks
        active: list[Callback] = []
        started: list[Callback] = []
        outcome: State = "failed"
        summary: dict[str, float] = {}
        if is_main:
            metrics_file = MetricsFile(folder, state.logged if resume else None)
            stack.callback(metrics_file.close)
            if metrics_file.last_step < state.logged:
                missing = f"steps {metrics_file.last_step + 1} to {state.logged}"
                bar.line(f"warning: {METRICS} lacks the rows of {missing}, which the checkpoint has")
            active = [make_tracker(runtime.tracker), StuckWarning(), Curves(), *callbacks]
            run_info = RunInfo(
                recipe, runtime, folder, config, net, dataset, num_classes, total_steps, steps_per_epoch,
                metrics_file.count, state.logged if resume else None, bar.line,
            )  # fmt: skip

            def end_callbacks() -> None:
                with contextlib.ExitStack() as ends:  # calls the last one first, and all of them if one raises
                    for callback in reversed(started):
                        ends.callback(callback.end, summary, outcome)

            stack.callback(end_callbacks)
            for callback in active:
                callback.start(run_info)
                started.append(callback)
        bar.line(_headline(recipe, dataset, part, folder, last_step, total_steps))
        if runtime.compile and not compiled:
            bar.line(f"not compiled: {'dropout_ramp is on' if ramps else 'torch.compile does not work here'}")
        bar.start(last_step, state.step)

        # --- the loop
        batches = _batches_from(loader, state.step)
        saved_at = time.monotonic()
        agree_every = 1 if device.type == "cpu" or world == 1 else 16  # communication waits for the GPU
        try:
            with (
                signals() as stopped,
                profiled(runtime.profile if is_main else 0, folder, device, bar.line) as after_step,
            ):
                train_net.train()
                while True:
                    scheduled = is_scheduled(state.step, val_every, steps_per_epoch, total_steps)
                    if state.step > state.logged and (scheduled or state.step == last_step) and not log_row(stopped):
                        break  # a signal came; the resumed run starts with this row
                    if state.step == last_step or stopping:
                        break

                    # one step
                    began = time.perf_counter()
                    images, labels = next(batches)  # [B, 3, S, S] float32, [B] int64: this process's shard
                    state.waited += time.perf_counter() - began
                    for group in optimizer.param_groups:
                        group["lr"] = group_lr(recipe, group, state.step, steps_per_epoch, state.drops)
                    if recipe.dropout_ramp:
                        for layer, p in dropouts:
                            layer.p = p * state.step / total_steps
                    with autocast(device, precision):
                        logits = train_net(images)
                    if logits.shape[1] != num_classes:
                        raise ValueError(f"model must have {num_classes} outputs, one per class, got {logits.shape[1]}")
                    loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
                    (loss * loss_share(labels)).backward()  # type: ignore[no-untyped-call]
                    grad_norm = clip_gradient(net, recipe.clip_norm or math.inf, parallel.grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                    state.step += 1
                    if average is not None:
                        update_average(average, net, ema_decay(recipe.ema, state.step))
                    sums.add(loss.detach(), logits.detach(), labels, grad_norm, state.step)
                    state.seconds += time.perf_counter() - began
                    after_step()

                    # show progress; save by the clock
                    if bar.is_due():
                        check_finite()
                        now = sums.result(lambda own: own * shard.world)
                        bar.show(state.step, now["train_loss"], now["train_acc"], now["images"] / state.seconds)
                    if state.step % agree_every == 0:
                        began = time.perf_counter()
                        save_is_due = time.monotonic() - saved_at >= 60 * runtime.save_every
                        has_signal, saving = any_process(stopped() is not None, save_is_due)
                        state.seconds += time.perf_counter() - began  # communication waits for the GPU
                        stopping |= has_signal
                        if saving:
                            save()
                            saved_at = time.monotonic()
                save()
                number = max(gather_object([stopped() or 0])) if world > 1 else stopped()
            done = result(None if state.logged == last_step else number or None)
            outcome = "stopped" if done.stopped_by else "finished"
            summary = done.final | {f"best_{name}": value for name, value in done.best.items()}
        except ImageError:  # the weights are sound
            if world == 1:
                save()
            raise
        except TrainingError as error:
            if is_main:  # until the run is resumed
                checkpoint.write_config(folder, config | {"diverged": str(error)})
            raise
        finally:
            for layer, p in dropouts:
                layer.p = p  # restore the dropout of a network that was given
        return done


# --- the parts of a step


def learning_rate(
    recipe: Recipe, step: int, steps_per_epoch: int, drops: int = 0, *, layer: str = "", bias: bool = False
) -> float:
    """The learning rate of step ``step``, counted from 0.

    Args:
        drops: how often the plateau schedule has divided it by 10.
        layer: a layer that the schedule treats differently.
        bias: of biases, not of weights.
    """
    warmup, total = round(recipe.warmup * steps_per_epoch), recipe.epochs * steps_per_epoch
    peak = recipe.lr * recipe.bias_lr if bias else recipe.lr
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if recipe.schedule == "plateau":
        return peak * 0.1**drops
    if recipe.schedule == "source":
        rate = source_lr(step, total, recipe.lr, layer)
        return peak if bias and rate > 0 else rate  # the biases' rate is constant until their layer stops
    return peak * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def source_lr(step: int, total: int, lr: float, layer: str = "") -> float:
    """The weights' learning rate in the run of the released code, with its 91 epochs scaled to ``total`` steps.

    It was divided by 10 at epochs 25, 51 and 79; in ``conv1`` also at 67, and there it was 0 from 72 on
    (layers/layer-params-145.cfg, lines 169 to 181). The code counts epochs from 1, so each may be one pass less.
    """
    epoch = 91 * step / total
    if layer == "conv1" and epoch >= 72:
        return 0.0
    drops = [25, 51, 67, 79] if layer == "conv1" else [25, 51, 79]
    return lr * 0.1 ** sum(epoch >= drop for drop in drops)


def group_lr(recipe: Recipe, group: Mapping[str, Any], step: int, steps_per_epoch: int, drops: int) -> float:
    """The learning rate of one parameter group of ``make_optimizer``."""
    if "lr_steps" in group:  # of a network with its own schedule
        rates: list[float] = [lr for first, lr in group["lr_steps"] if step >= first * steps_per_epoch]
        return rates[-1]
    layer, bias = group.get("layer", ""), group.get("bias", False)
    rate = learning_rate(recipe, step, steps_per_epoch, drops, layer=layer, bias=bias)
    return rate * recipe.muon_lr / recipe.lr if group.get("muon") else rate


def make_optimizer(net: Any, recipe: Recipe, device: torch.device, precision: str = "fp32") -> SGDMuon:
    """The recipe's optimizer, fused if torch has it. ``precision`` is that of Muon's matrix products."""
    groups = net.param_groups(recipe) if hasattr(net, "param_groups") else list(_param_groups(net, recipe))
    optimizer = SGDMuon(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )
    for group in optimizer.param_groups:
        epochs = [first for first, _ in group.get("lr_steps", [(0, 0)])]
        if epochs[:1] != [0] or epochs != sorted(epochs):
            raise ValueError(f"lr_steps must begin with epoch 0, and its epochs must not fall, got {epochs}")
    return optimizer


def _param_groups(net: nn.Module, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Weights, biases, and conv1's or Muon's own groups; one group if all are treated alike, or for another network."""
    uniform = recipe.decay_biases and recipe.bias_lr == 1 and recipe.schedule != "source" and not recipe.muon_lr
    if uniform or not isinstance(net, AlexNet_2012):
        yield {"params": list(net.parameters())}
        return
    own = MUON_LAYERS if recipe.muon_lr else ("conv1",) if recipe.schedule == "source" else ()
    muon = {"muon": True, "momentum": MUON_MOMENTUM, "weight_decay": MUON_DECAY if recipe.weight_decay else 0.0}
    bias_decay = {} if recipe.decay_biases else {"weight_decay": 0.0}
    for is_own in (False, True) if own else (False,):
        layers = [layer for name, layer in net.weight_layers() if (name in own) == is_own]
        special: dict[str, Any] = {} if not is_own else muon if recipe.muon_lr else {"layer": "conv1"}
        yield {"params": [layer.weight for layer in layers], "bias": False, **special}
        biases = {"params": [layer.bias for layer in layers], "bias": True, "layer": special.get("layer", "")}
        yield biases | bias_decay


def clip_gradient(net: nn.Module, max_norm: float, whole_norm: Callable[[Tensor], Tensor]) -> Tensor:
    """Scale the gradient to ``max_norm`` if it is longer. Returns its norm before that, float32.

    On a CPU, torch 2.15 adds the squares of a tensor one after another in float32, which makes the norm of 58 million
    random numbers 0.18% too small. So the norms of rows are taken first, as fast and correct to 1e-6.
    """
    parameters = [p for p in net.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if all(each.is_cpu for each in gradients):
        gradients = [torch.linalg.vector_norm(each.flatten(1), dim=1) if each.ndim > 1 else each for each in gradients]
    norm = whole_norm(nn.utils.get_total_norm(gradients))
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def ema_decay(decay: float, step: int) -> float:
    """The decay of the moving average at ``step``: shorter at first, so that the initial weights are soon forgotten."""
    return min(decay, step / (9 + step))


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the average towards the weights: ``average = decay · average + (1 − decay) · weights``. Copy the buffers."""
    for mean, weight in zip(average.parameters(), net.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)
    for own, buffer in zip(average.buffers(), net.buffers(), strict=True):
        own.copy_(buffer)


class RunningSums:
    """Training loss and accuracy since the last full row, on the device, and the first step that went wrong."""

    def __init__(self, device: torch.device) -> None:
        # loss · images, correct predictions, images
        self.sums = torch.zeros(3, device=device, dtype=system.sum_dtype(device))
        self.grad_norm = torch.zeros((), device=device)
        self.bad_step = torch.zeros((), device=device, dtype=torch.int64)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, grad_norm: Tensor, step: int) -> None:
        """Add one step: its mean loss, ``logits`` ``[B, classes]``, and the gradient's norm before clipping."""
        images = len(labels)
        correct = (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss.to(self.sums.dtype) * images, correct, torch.full_like(correct, images)])
        self.grad_norm = grad_norm
        is_bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        self.bad_step = torch.where((self.bad_step == 0) & is_bad, step, self.bad_step)

    def result(self, all_reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """``train_loss`` (nats), ``train_acc`` (percent), ``grad_norm`` of the last step, and the number of images."""
        loss, correct, images = all_reduce(self.sums).tolist()
        return {
            "train_loss": loss / images,
            "train_acc": 100 * correct / images,
            "grad_norm": float(self.grad_norm),
            "images": images,
        }

    def reset(self) -> None:
        self.sums.zero_()

    def restore(self, saved: Mapping[str, Tensor], shard: Shard) -> None:
        """This process's sums. If the number of processes has changed, the first one takes all of them."""
        sums = saved["sums"].view(-1, 3)
        self.sums.copy_(sums[shard.rank] if len(sums) == shard.world else sums.sum(0) * (shard.rank == 0))
        self.grad_norm = saved["grad_norm"].to(self.sums.device)


# --- what surrounds the loop


class StuckWarning(Callback):
    """Warns once, from step 200 on, if the training loss is at chance level, and names the likely cause."""

    def start(self, run: RunInfo) -> None:
        self.run, self.warned = run, run.config["given_model"]  # the hint is about a recipe's own start

    def row(self, row: dict[str, float]) -> None:
        chance = math.log(self.run.num_classes)
        if self.warned or row["step"] < 200 or row.get("train_loss", 0.0) < chance - 0.05:
            return
        self.warned = True
        self.run.say(
            f"warning: after {row['step']:.0f} steps the loss is {row['train_loss']:.3f}, no better than guessing "
            f"(ln {self.run.num_classes} = {chance:.3f}). Likely cause: {stuck_hint(self.run.recipe)}"
        )


def stuck_hint(recipe: Recipe) -> str:
    """The likely cause of a loss that stays at ln(classes), and which field to change."""
    pair = f"init {recipe.init} with input_scale {recipe.input_scale}"
    small_weights, raw = recipe.init not in ("source", "he"), recipe.input_scale != "imagenet"
    if recipe.variant != "classic" and small_weights and raw:
        return f"{pair} in variant {recipe.variant}, whose towers see half of the maps. Try init source"
    if (recipe.init == "he") != raw:
        return f"not {pair}, which usually starts well. Check the labels, or try another lr"
    if recipe.init == "he":
        return f"{pair}: weights this large need standardised input. Try input_scale imagenet, or init paper"
    return f"{pair}: weights this small are made for raw pixels. Try input_scale raw, or init he"


def _describe_data(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What ``config.json`` says about the data."""
    largest = {
        name: 100 * float(np.bincount(images.labels).max()) / len(images)
        for name, images in (("val", dataset.val), ("test", dataset.test))
        if images
    }
    return {
        "spec": recipe.data, "name": dataset.name, **dataset.fingerprints(), "train": len(dataset.train),
        "val": len(dataset.val), "val_split": dataset.val_split, "test": len(dataset.test or ()),
        "largest_class_pct": largest,
    }  # fmt: skip


def _check_same_images(before: Mapping[str, Any], described: Mapping[str, Any]) -> bool:
    """FieldError if these are not the images that the run was started with. Whether its test images differ."""
    old = before.get("data", {})
    by_split = "train_fingerprint" in old  # not in 0.1.0
    for name in ("train", "val", *(("train_fingerprint", "val_fingerprint") if by_split else ("fingerprint",))):
        if name in old and old[name] != described[name]:
            requirement = f"the images that the run was started with ({name} {old[name]}, not {described[name]})"
            raise FieldError("data", requirement, described["spec"])
    return by_split and bool(old.get("test_fingerprint") != described.get("test_fingerprint"))


def _start_accelerator(device: torch.device) -> Accelerator:
    """Accelerate on ``device``. ``FieldError`` if this process already uses it on another device."""
    chosen = AcceleratorState() if is_initialized() and not dist.is_initialized() else None  # for the whole process
    if chosen and (chosen.device.type, chosen.mixed_precision) != (device.type, "no"):
        AcceleratorState._reset_state(reset_partial_state=True)  # there is no public way to choose again
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no", dynamo_backend="no")
    if accelerator.device.type != device.type:
        raise FieldError("device", f"{accelerator.device.type}, which Accelerate already uses here", device.type)
    return accelerator


def _check_trainable(net: nn.Module, recipe: Recipe, dataset: Dataset) -> int:
    """The side of the network's input. ``ValueError`` if the network cannot be trained on this data set."""
    size: Any = getattr(net, "input_size", None)
    if isinstance(net, AlexNet_2012):
        size = net.variant.image_sizes[0]
        if changed := net.changed_layer():
            raise ValueError(
                f"model must have the layers of variant {recipe.variant}, from which load_model builds it again, but "
                f"{changed} differs; wrap it in nn.Sequential, with the attribute input_size, to train it all the same"
            )
        if net.num_classes != len(dataset.classes):
            count = len(dataset.classes)
            raise ValueError(f"model must have {count} classes, as {dataset.name} has, but has {net.num_classes}")
    if size is None:
        raise ValueError("model must have the attribute input_size, the side of its input")
    if not any(weight.requires_grad for weight in net.parameters()):
        raise ValueError("model must have weights that require gradients; call model.requires_grad_()")
    return int(size)


def continue_config(before: Mapping[str, Any], now: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """``config.json`` of a resumed run, and what has changed since its last part, in words.

    Commit, hardware and versions stay those of the start, and ``parts`` gets one more entry.
    """
    part = now["parts"][0]
    parts = before.get("parts") or [{"step": 0, **{name: before.get(name) for name in part if name != "step"}}]
    last = {name: before.get(name) for name in ("precision", "loader")} | parts[-1]  # 0.1.0 kept these two outside
    old, new = ({**each, "torch": (each.get("versions") or {}).get("torch")} for each in (last, part))
    compared = ("device", "precision", "loader", "processes", "compiled", "lrn", "threads", "torch")
    changes = [f"{name} {new[name]} (was {old[name]})" for name in compared if old.get(name) not in (None, new[name])]
    kept = {name: before[name] for name in part if name in before}
    return now | kept | {"parts": [*parts, part]}, ", ".join(changes)


def _headline(
    recipe: Recipe, dataset: datasets.Dataset, part: Mapping[str, Any], folder: Path, last_step: int, total_steps: int
) -> str:
    images = f"{len(dataset.train):,} training and {len(dataset.val):,} validation images"
    if dataset.test:
        images += f"; {len(dataset.test):,} test images, evaluated at the end"
    compiled = ", compiled" if part["compiled"] else ""
    how = f"{part['device']}, {part['precision']}, loader {part['loader']}{compiled}"
    return (
        f"{recipe.name}: {dataset.name} ({dataset.val_split}), {images}\n"
        f"{how}; steps {part['step']} to {last_step} of {total_steps}; {folder}"
    )


def _diverged(what: str, step: int, state: TrainState, sums: RunningSums, recipe: Recipe) -> TrainingError:
    last = "no row was logged before"
    if state.row:
        last = f"at step {state.row['step']} train_loss was {state.row['train_loss']:.3f}"
    return TrainingError(
        f"{what} became NaN or infinite at step {step}; {last}, and the last gradient norm is "
        f"{float(sums.grad_norm):.3g}. Try an lr below {recipe.lr:g}, clip_norm 1 or precision fp32"
    )


def _batches_from(loader: loaders.Loader, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Training batches from ``step`` on, one epoch after another."""
    epoch, place = divmod(step, loader.steps_per_epoch)
    while True:
        yield from loader.train(epoch, place)
        epoch, place = epoch + 1, 0


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def _restore_random(saved: Mapping[str, Tensor], device: torch.device, shard: Shard, seed: int) -> None:
    """This process's random states. If the number of processes has changed, only the first one restores its own."""
    states = {name: each.view(-1, each.shape[-1]) for name, each in saved.items()}
    if len(states["cpu"]) != shard.world and shard.rank > 0:
        torch.manual_seed(seed + shard.rank)
        return
    own = {name: each[shard.rank].clone() for name, each in states.items()}  # torch ignores where a view starts
    torch.set_rng_state(own["cpu"])
    if "cuda" in own and device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], device)
    if "mps" in own and device.type == "mps":
        torch.mps.set_rng_state(own["mps"])


def _all_or_none(any_process: Callable[..., list[bool]], here: bool, folder: Path) -> bool:
    """Whether the checkpoint is there. ValueError if only some processes see it."""
    seen, missed = any_process(here, not here)
    if seen and missed:
        raise ValueError(f"{folder}: some processes see its {LAST} and others do not; use a folder that all share")
    return here


@contextlib.contextmanager
def _lost_process(world: int) -> Iterator[None]:
    """Turn an error of torch.distributed into a ConnectionError of one line. gloo raises plain RuntimeErrors."""
    try:
        yield
    except RuntimeError as error:
        if world == 1 or not (isinstance(error, dist.DistError) or type(error) is RuntimeError) or out_of_memory(error):
            raise
        raise ConnectionError(
            f"this process or another one of the run failed ({one_line(error)}); resume continues from the last "
            "checkpoint, with any number of processes"
        ) from error
