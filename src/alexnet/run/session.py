"""What a run works with: data, network, optimiser and progress, opened from a recipe, saved and restored whole."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
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
from alexnet.parallel import columns
from alexnet.recipes import Recipe
from alexnet.run.metrics import Running
from alexnet.run.processes import Accord
from alexnet.run.progress import Progress
from alexnet.run.schedule import sgd
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint, save_weights
from alexnet.weights.tensorfiles import first_line

__all__ = ["Session", "open_session"]


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
    shard: loaders.Shard
    """Of each batch and of the images to judge by; both of two columns take them all."""
    net: AlexNet_2012
    """The network itself; ``model`` is the same as Accelerate prepared it: autocast, several processes."""
    model: nn.Module
    average: AlexNet_2012 | None
    """The moving average of the weights, where the recipe has one."""
    eval_model: nn.Module
    """What validation uses, prepared like ``model``: the average, else ``model`` itself."""
    optimizer: Any
    compiled: bool | None
    """None: it was to be, and what torch.compile needs was not found."""
    running: Running
    progress: Progress
    unsaved_best: dict[str, Tensor] | None = None
    """Copy of the weights with the best validation so far, until they are on disk."""
    shards: dict[int, Images] = field(default_factory=dict)
    """What ``shard_of`` gave, by the ``id`` of what it was asked for."""

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

    def batches_from_here(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches of one epoch after another, from the run's step on."""
        epoch, place = divmod(self.progress.step, self.batches.steps_per_epoch)
        while True:
            yield from self.batches.train(epoch, place)
            epoch, place = epoch + 1, 0

    def shard_of(self, images: Images) -> Images:
        """The images that this process judges by, of ``images``; the same each time, so that they are decoded once."""
        return self.shards.setdefault(id(images), images.subset(range(self.shard.rank, len(images), self.shard.world)))

    def all_reduce(self, own: Tensor) -> Tensor:
        """The sum of what the processes counted, each in its shard."""
        return own if self.shard.world == 1 else self.accelerator.reduce(own)  # type: ignore[no-any-return]

    def read_local(self) -> dict[str, float]:
        """The running figures as if the other shards were like this one: nobody is asked. Waits for the device."""
        return self.running.read(lambda own: own * self.shard.world)

    def all_gather(self, own: Tensor) -> Tensor:
        """``own`` of each process, by rank, on the CPU: ``[world, *]``; two columns, which have the same, once."""
        return own.cpu()[None] if self.shard.world == 1 else self.accord.gather(own.cpu())

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

    def loss_weight(self, own: int) -> float:
        """What the mean loss over ``own`` images counts for, so that the mean over processes is the batch's."""
        place, size = self.progress.step % self.batches.steps_per_epoch, self.recipe.batch_size
        batch: int = min(size, len(self.dataset.train) - place * size)
        return own * self.shard.world / batch

    def _whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of the whole network or optimiser, which all processes ask for together, from this process's."""
        return columns.gather(state, self.net.pair) if isinstance(self.net, columns.Column) else state

    def _own(self, state: dict[str, Any]) -> dict[str, Any]:
        """What this process holds of the whole network's or optimiser's state."""
        return columns.halve(state, self.net.pair) if isinstance(self.net, columns.Column) else state

    def keep_if_best(self, val_acc: float) -> None:
        """Hold a copy of the weights where ``val_acc`` is the highest so far."""
        if val_acc <= self.progress.best_acc:
            return
        self.progress.best_acc, self.progress.best_step = val_acc, self.progress.step
        weights = self._whole(self.kept.state_dict())
        if self.accelerator.is_main_process:  # the one that writes
            self.unsaved_best = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}

    def save(self) -> None:
        """Write last.ckpt, and best.safetensors if there is a new best. All processes call it together."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.device.type == "mps":
            random["mps"] = torch.mps.get_rng_state()
        state = {
            "model": self._whole(self.net.state_dict()),
            "optimizer": self._whole(self.optimizer.state_dict()),
            "running": self.running.state_dict(self.all_gather),
            "random": {name: self.all_gather(own) for name, own in random.items()},
        }
        if self.average is not None:
            state["average"] = self._whole(self.average.state_dict())
        if not self.accelerator.is_main_process:
            return
        if self.unsaved_best is not None:
            best = {"step": self.progress.best_step, "best val_acc on the way, %": self.progress.best_acc}
            save_weights(self.folder / BEST, self.unsaved_best, self._card_with(best))
            self.unsaved_best = None
        state["progress"] = dataclasses.asdict(self.progress)
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

    def has_checkpoint(self) -> bool:
        """Whether there is a last.ckpt to go on from. All processes ask together; ValueError where only some see it."""
        here = (self.folder / LAST).is_file()
        seen, missed = self.accord.now(here, not here)
        if seen and missed:
            raise ValueError(
                f"--out {self.folder}: some processes see its {LAST} and others do not; name a folder that all "
                "machines share"
            )
        return here

    def restore(self) -> None:
        """Take up everything from last.ckpt. ValueError where it is broken."""
        path = self.folder / LAST
        state = load_checkpoint(path)
        try:
            self.progress = Progress.of(state["progress"])
            self.net.load_state_dict(self._own(state["model"]))
            self.optimizer.load_state_dict(self._own(state["optimizer"]))
            if self.average is not None:
                self.average.load_state_dict(self._own(state["average"]))
            self._restore_own(state["running"], state["random"])
        except KeyError as error:
            raise ValueError(f"--resume: {path} lacks {error.args[0]}") from error
        except (ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
            if hardware.out_of_memory(error):
                raise
            raise ValueError(f"--resume: {path} is of use for its weights alone: {first_line(error)}") from error

    def _restore_own(self, running: dict[str, Tensor], random: dict[str, Tensor]) -> None:
        """This process's sums and random state. Where their number changed, the first takes all sums and its state.

        Older checkpoints hold one of each, without the first dimension: the sums of all, and the first one's state.
        """
        rank, world = self.shard.rank, self.shard.world
        sums = running["sums"].view(-1, 3)
        random = {name: each.view(-1, each.shape[-1]) for name, each in random.items()}
        if len(sums) != world:
            sums = nn.functional.pad(sums.sum(0, keepdim=True), (0, 0, 0, world - 1))
        self.running.load_state_dict(running | {"sums": sums[rank]})
        if len(random["cpu"]) != world and rank > 0:
            torch.manual_seed(self.recipe.seed + rank + self.progress.step)
            return
        own = {name: each[rank].clone() for name, each in random.items()}  # torch reads a view from its storage's start
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)
        if "mps" in own and self.device.type == "mps":
            torch.mps.set_rng_state(own["mps"])


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
    as_columns = recipe.parallel == "columns"
    shard = loaders.Shard() if as_columns else loaders.Shard(accelerator.process_index, accelerator.num_processes)
    batches = loaders.open_batches(dataset, recipe, norm, net.variant.image_sizes[0], device, shard)
    if as_columns:
        net = columns.split(net, columns.Pair(accelerator.process_index))
    compiled: bool | None = device.type == "cuda" and not as_columns if recipe.compile is None else recipe.compile
    if compiled and (compiled := hardware.can_compile(device) or None):
        torch._dynamo.config.recompile_limit = 64  # of all runs in a process; beyond it torch goes on uncompiled
        net.compile(dynamic=False)  # once for each size of batch: whole, the epoch's last, validation's
    average = copy.deepcopy(net).requires_grad_(False) if recipe.ema else None
    if average is not None and compiled:
        average.compile(dynamic=False)
    model = accelerator.prepare_model(net, evaluation_mode=as_columns)  # two columns have no gradient in common
    optimizer = accelerator.prepare_optimizer(sgd(net, recipe, device))
    eval_model = model if average is None else accelerator.prepare_model(average, evaluation_mode=True)
    torch.manual_seed(recipe.seed + shard.rank)  # dropout differs between processes
    return Session(
        recipe=recipe,
        folder=folder,
        dataset=dataset,
        card=ModelCard(recipe.variant, dataset.classes, norm, dataset.name, widths=recipe.widths),
        batches=batches,
        accelerator=accelerator,
        accord=Accord(accelerator.num_processes),
        shard=shard,
        net=net,
        model=model,
        average=average,
        eval_model=eval_model,
        optimizer=optimizer,
        compiled=compiled,
        running=Running(device),
        progress=Progress(),
    )
