"""Training of the four-layer networks: one loop, from a ``Small`` and a seed to a run folder.

The folder holds what other runs' do: config.json, metrics.jsonl with a row an epoch, last.ckpt. A run killed at any
moment goes on from its last checkpoint as if nothing had happened.

Two departures from cuda-convnet, beside the order of the images: PyTorch keeps the learning rate outside of the
momentum, which differs only just after the rate changes; and the products run in whichever precision is faster.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from alexnet import hardware
from alexnet.data.splits import Dataset, Images, hold_out
from alexnet.files import git_commit, write_atomically
from alexnet.reproduce.convnet import pixels
from alexnet.reproduce.convnet.network import ConvNet
from alexnet.reproduce.convnet.pixels import BATCH, PixelData
from alexnet.reproduce.experiment import Small, Stage
from alexnet.run import tracking
from alexnet.run.display import Display
from alexnet.run.metrics import Metrics, Running
from alexnet.run.runfolder import CONFIG, write_config
from alexnet.weights.checkpoint import LAST

__all__ = ["check", "judge", "train", "training_images"]

MOMENTUM = 0.9
SAVE_EVERY = 30.0  # seconds; at an epoch's end


@dataclass
class _Progress:
    epoch: int = 0
    step: int = 0
    ended: bool = False
    """By the last epoch, by the training error asked for, or by a loss that is no longer a number."""


@dataclass
class _Run:
    settings: Small
    seed: int
    dataset: Dataset
    folder: Path
    device: torch.device
    precision: str
    net: ConvNet
    optimizer: torch.optim.SGD
    progress: _Progress

    def save(self) -> None:
        state = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": dataclasses.asdict(self.progress),
        }
        write_atomically(self.folder / LAST, lambda file: torch.save(state, file))

    def restore(self) -> None:
        state = torch.load(self.folder / LAST, map_location=self.device, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = _Progress(**state["progress"])


def check(settings: Small, dataset: Dataset) -> None:
    """ValueError, before any training, where there is no such network or it cannot take these images."""
    pixels.check(dataset)
    with torch.device("meta"):
        _net(settings, dataset)


def train(
    settings: Small,
    seed: int,
    dataset: Dataset,
    folder: Path,
    device: torch.device,
    *,
    stopped: Callable[[], int | None] = lambda: None,
    quiet: bool = False,
) -> bool:
    """Train, or go on with the run in ``folder``. Returns False where ``stopped`` ended it early.

    Args:
        dataset: of small square images; ``check`` says whether it is.

    Raises:
        OSError: the disk is full.
    """
    run = _open(settings, seed, dataset, folder, device)
    if run.progress.ended:
        return True
    stages = [stage for stage in settings.stages for _ in range(stage.epochs)]
    data: dict[float, PixelData] = {}
    tracker = tracking.start("none", folder, {}, resume_step=run.progress.step)
    display = Display(quiet=quiet)
    try:
        saved = time.monotonic()
        while not run.progress.ended:
            stage = stages[run.progress.epoch]
            if stage.part not in data:
                display.close()  # the bar of the stage before
                data = {stage.part: _pixels(run, training_images(dataset, settings.images, stage.part))}
                display.start(_steps_left(run, stages, len(data[stage.part])), run.progress.step)
            row = _epoch(run, stage.rate, data[stage.part], display, stopped)
            if row is None:
                return False
            tracker.log(row)
            lost = not math.isfinite(row["train_loss"])
            reached = settings.stop_at is not None and 100 - row["train_acc"] <= settings.stop_at
            run.progress.ended = lost or reached or run.progress.epoch == len(stages)
            if run.progress.ended or time.monotonic() - saved >= SAVE_EVERY:
                run.save()
                saved = time.monotonic()
    finally:
        display.close()
        tracker.finish({})
    return True


def judge(
    folder: Path, settings: Small, dataset: Dataset, images: Images, views: str, device: torch.device
) -> dict[str, float]:
    """``loss`` (nats) and ``top1`` (percent) on ``images`` of the last weights of the run in ``folder``."""
    run = _open(settings, 0, dataset, folder, device)
    data, metrics = _pixels(run, images), Metrics(len(dataset.classes), device)
    run.net.eval()
    with torch.inference_mode(), hardware.autocast(device, run.precision):
        for whole, labels in data.whole():
            answers = [F.log_softmax(run.net(view).float(), dim=1) for view in data.views(whole, views)]
            metrics.add(torch.logsumexp(torch.stack(answers), dim=0) - math.log(len(answers)), labels)
    found = metrics.result(expected=len(images))
    return {"loss": found["loss"], "top1": found["top1"]}


def _net(settings: Small, dataset: Dataset) -> ConvNet:
    return ConvNet(settings.network, len(dataset.classes), settings.crop, settings.neuron, settings.init, settings.bias)


def _open(settings: Small, seed: int, dataset: Dataset, folder: Path, device: torch.device) -> _Run:
    hardware.keep_freed_memory()
    torch.manual_seed(seed)
    net = _net(settings, dataset)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = net.parameter_groups(settings.rate, settings.decay)
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, fused=device.type in ("cpu", "cuda"))
    precision = hardware.pick_precision("auto", device)
    run = _Run(settings, seed, dataset, folder, device, precision, net, optimizer, _Progress())
    if (folder / LAST).is_file():
        run.restore()
    elif not (folder / CONFIG).is_file():
        write_config(folder, _config(run))
    return run


def _epoch(
    run: _Run, rate: float, data: PixelData, display: Display, stopped: Callable[[], int | None]
) -> dict[str, Any] | None:
    """One pass over the training images, and its row. None where a signal ended it; nothing of it is kept then."""
    running, began, progress = Running(run.device), time.perf_counter(), run.progress
    nothing = torch.zeros((), device=run.device)
    for weights in run.optimizer.param_groups[::2]:  # the published schedule leaves the biases' rate as it is
        weights["lr"] = run.settings.rate * rate
    run.net.train()
    for step, (images, labels) in enumerate(data.epoch(run.seed, progress.epoch), progress.step + 1):
        with hardware.autocast(run.device, run.precision):
            logits = run.net(images).float()
        loss = F.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        run.optimizer.zero_grad()
        running.add(loss.detach(), logits.detach(), labels, nothing, step)
        if stopped():
            return None
        if display.due():
            display.show(step, running.read(lambda own: own), time.perf_counter() - began)
    progress.epoch, progress.step = progress.epoch + 1, step
    found = running.read(lambda own: own)  # waits for the device
    speed = found["images"] / (time.perf_counter() - began)
    kept = {name: found[name] for name in ("train_loss", "train_acc")}
    return {"step": step, "epoch": progress.epoch, **kept, "lr": run.settings.rate * rate, "images_per_sec": speed}


def training_images(dataset: Dataset, most: int | None, part: float = 1.0) -> Images:
    """``most`` of the training images, or all where there are fewer, and of these a part; of each class its share."""
    images = dataset.train
    if most and most < len(images):
        images = dataset.with_fewer(most).train
    return images if part == 1 else hold_out(images, 1 / (1 - part))[0]


def _pixels(run: _Run, images: Images) -> PixelData:
    scaled = run.settings.init == "today"
    return PixelData(images, run.dataset, run.settings.crop, run.device, scaled=scaled)


def _steps_left(run: _Run, stages: Sequence[Stage], images: int) -> int:
    return run.progress.step + (len(stages) - run.progress.epoch) * -(-images // BATCH)


def _config(run: _Run) -> dict[str, Any]:
    return {
        "settings": dataclasses.asdict(run.settings),
        "seed": run.seed,
        "data": {
            "name": run.dataset.name,
            "fingerprint": run.dataset.fingerprint(),
            "train": len(run.dataset.train),
            "val": len(run.dataset.val),
            "val_split": run.dataset.val_split,
        },
        "classes": list(run.dataset.classes),
        "device": run.device.type,
        "precision": run.precision,
        "hardware": hardware.describe(run.device),
        "versions": hardware.versions(),
        "commit": git_commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
