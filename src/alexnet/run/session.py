"""What a run works with: data, network, optimiser and progress, opened from a recipe, saved and restored whole."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from alexnet import hardware
from alexnet.data import datasets, loaders
from alexnet.data.splits import Images
from alexnet.data.statistics import normalization
from alexnet.model import AlexNet_2012
from alexnet.recipes import Recipe
from alexnet.run.metrics import Running
from alexnet.run.processes import Accord
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint, save_weights

__all__ = ["Progress", "Session", "open_session"]


@dataclass
class Progress:
    """Where a run is. With the weights, optimiser, running sums and random states, all that resuming needs."""

    step: int = 0
    logged: int = 0
    """The last step with a logged row."""
    best_acc: float = -1.0
    best_step: int = 0
    warned: bool = False
    seconds: float = 0.0
    """Spent on steps since the last full row; ``waited``: for data, within them."""
    waited: float = 0.0
    validating: float = 0.0
    saving: float = 0.0
    """Seconds spent on these two since the last full row."""
    row: dict[str, float] = field(default_factory=dict)
    """The last full row."""
    plateau_acc: float = -1.0
    """The best validation at an epoch's end, and the epochs since then."""
    stale: int = 0
    drops: int = 0
    """How often the schedule ``plateau`` has divided the learning rate."""

    def times(self, images: float) -> dict[str, float]:
        """What a row says of time, ``images`` having been trained on since the last full row."""
        return {
            "images_per_sec": images / self.seconds,
            "data_wait_pct": 100 * self.waited / self.seconds,
            "val_seconds": self.validating,
            "save_seconds": self.saving,
        }

    def reset_times(self) -> None:
        self.seconds = self.waited = self.validating = self.saving = 0.0

    def note_epoch(self, val_acc: float, patience: int) -> None:
        """Divide the learning rate, three times at most, where ``patience`` epochs brought nothing better."""
        self.stale = 0 if val_acc > self.plateau_acc else self.stale + 1
        self.plateau_acc = max(val_acc, self.plateau_acc)
        if self.stale >= patience and self.drops < 3:
            self.drops, self.stale = self.drops + 1, 0


@dataclass
class Session:
    """The parts of one run, on one device of one process."""

    recipe: Recipe
    folder: Path
    dataset: datasets.Dataset
    card: ModelCard
    batches: loaders.Batches
    accelerator: Accelerator
    accord: Accord
    net: AlexNet_2012
    """The network itself; ``model`` is the same as Accelerate prepared it: autocast, several processes."""
    model: nn.Module
    average: AlexNet_2012 | None
    """The moving average of the weights, where the recipe has one."""
    judged: nn.Module
    """What validation uses, prepared like ``model``: the average, else ``model`` itself."""
    optimizer: Any
    compiled: bool
    running: Running
    progress: Progress
    unsaved_best: dict[str, Tensor] | None = None
    """Copy of the weights with the best validation so far, until they are on disk."""

    @property
    def device(self) -> torch.device:
        return self.accelerator.device  # type: ignore[no-any-return]

    @property
    def total_steps(self) -> int:
        """Of the whole schedule."""
        return self.recipe.epochs * self.batches.steps_per_epoch

    @property
    def last_step(self) -> int:
        """Where this run ends."""
        return min(self.total_steps, self.recipe.max_steps or self.total_steps)

    @property
    def on_schedule(self) -> bool:
        """Whether an uninterrupted run validates at this step: every ``val_every``, at an epoch's end, at its end."""
        step = self.progress.step
        return step % self.recipe.val_every == 0 or step % self.batches.steps_per_epoch == 0 or step == self.total_steps

    @property
    def kept(self) -> AlexNet_2012:
        """The network that is validated and kept: the average, else ``net``."""
        return self.net if self.average is None else self.average

    def share_of(self, images: Images) -> Images:
        """The images that this process judges by, of ``images``."""
        return images.subset(range(self.accelerator.process_index, len(images), self.accelerator.num_processes))

    def close(self) -> None:
        """End the processes that load images. To be called however the run ends."""
        self.batches.close()

    @torch.no_grad()
    def update_average(self) -> None:
        """Draw the average, if there is one, towards the weights of the step just taken.

        Its memory grows with the steps, to 1 / (1 − ema) of them at most, so that it forgets the start.
        """
        if self.average is None:
            return
        step = self.progress.step
        weight = 1 - min(self.recipe.ema, step / (9 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), weight)

    def weight_of(self, own: int) -> float:
        """What the mean loss over ``own`` images counts for, so that the mean over processes is the batch's."""
        place, size = self.progress.step % self.batches.steps_per_epoch, self.recipe.batch_size
        batch: int = min(size, len(self.dataset.train) - place * size)
        world: int = self.accelerator.num_processes
        return own * world / batch

    def keep_if_best(self, val_acc: float) -> None:
        """Hold a copy of the weights where ``val_acc`` is the highest so far."""
        if val_acc <= self.progress.best_acc:
            return
        self.progress.best_acc, self.progress.best_step = val_acc, self.progress.step
        if self.accelerator.is_main_process:  # the one that writes
            self.unsaved_best = {name: value.detach().cpu().clone() for name, value in self.kept.state_dict().items()}

    def save(self) -> None:
        """Write last.ckpt, and best.safetensors if there is a new best. All processes call it together."""
        running = self.running.state_dict(self.accelerator.reduce)
        if not self.accelerator.is_main_process:
            return
        if self.unsaved_best is not None:
            best = {"step": self.progress.best_step, "best val_acc on the way, %": self.progress.best_acc}
            save_weights(self.folder / BEST, self.unsaved_best, self._card_with(best))
            self.unsaved_best = None
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "model": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "running": running,
            "random": random,
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        row = self.progress.row if self.progress.row.get("step") == self.progress.step else {}
        names = {"val_acc": "val_acc, %", "val_loss": "val_loss", "test_acc": "test_acc, %", "test_loss": "test_loss"}
        figures = {told: row[name] for name, told in names.items() if name in row}
        save_checkpoint(self.folder / LAST, state, self._card_with({"step": self.progress.step, **figures}))

    def _card_with(self, figures: Mapping[str, float]) -> ModelCard:
        machine = hardware.describe(self.device)
        record: dict[str, str | int | float] = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "steps of the whole schedule": self.total_steps,
            **figures,
            "validation images": self.dataset.val_split,
            "device": machine.get("gpu", machine["cpu"]),
        }
        return dataclasses.replace(self.card, record=record)

    def restore(self) -> None:
        """Take up everything from last.ckpt. ValueError where it is broken."""
        state = load_checkpoint(self.folder / LAST)
        self.net.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.is_main_process:  # the sums are those of all processes
            self.running.load_state_dict(state["running"])
            torch.set_rng_state(state["random"]["cpu"])
            if "cuda" in state["random"] and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["random"]["cuda"], self.device)
        else:
            torch.manual_seed(self.recipe.seed + self.accelerator.process_index + self.progress.step)


def open_session(recipe: Recipe, folder: Path, dataset: datasets.Dataset, device: torch.device) -> Session:
    """Build the parts of a run, at its beginning. ValueError where the recipe does not fit the data."""
    precision = hardware.pick_precision(recipe.precision, device)
    if not torch.distributed.is_initialized():
        # Accelerate keeps its choices for the whole process; a second run in it may choose otherwise.
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")
    device = accelerator.device

    torch.manual_seed(recipe.seed)
    net = AlexNet_2012(len(dataset.classes), recipe.variant, recipe.init, recipe.widths)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    norm = normalization(recipe.input_scale, dataset.train)
    share = loaders.Share(accelerator.process_index, accelerator.num_processes)
    batches = loaders.open_batches(dataset, recipe, norm, net.variant.image_sizes[0], device, share)
    compiled = device.type == "cuda" if recipe.compile is None else recipe.compile
    if compiled and (compiled := hardware.can_compile(device)):
        net.compile()
    average = copy.deepcopy(net).requires_grad_(False) if recipe.ema else None
    if average is not None and compiled:
        average.compile()
    model, optimizer = accelerator.prepare(net, sgd(net, recipe, device))
    judged = model if average is None else accelerator.prepare_model(average, evaluation_mode=True)
    torch.manual_seed(recipe.seed + share.rank)  # dropout differs between processes
    return Session(
        recipe=recipe,
        folder=folder,
        dataset=dataset,
        card=ModelCard(recipe.variant, dataset.classes, norm, dataset.name, recipe.widths),
        batches=batches,
        accelerator=accelerator,
        accord=Accord(accelerator.num_processes),
        net=net,
        model=model,
        average=average,
        judged=judged,
        optimizer=optimizer,
        compiled=compiled,
        running=Running(device),
        progress=Progress(),
    )


def sgd(net: AlexNet_2012, recipe: Recipe, device: torch.device) -> torch.optim.SGD:
    """The optimiser of a recipe, in one pass over weights, gradients and momentum where torch can."""
    parameters: Any = net.parameters()
    if not recipe.decay_biases:
        biases = [layer.bias for _, layer in net.weight_layers()]
        weights = [layer.weight for _, layer in net.weight_layers()]
        parameters = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
