"""The paper's four-layer networks for CIFAR-10, and their batches, from the files of cuda-convnet.

References:
    paper   Krizhevsky, Sutskever, Hinton (NeurIPS 2012): section 3.3 (13% test error without response normalisation,
            11% with it) and figure 1.
    code    cuda-convnet, example-layers/ (github.com/mbrukman/cuda-convnet is an export): ``layers-conv-local-13pct``
            and ``-11pct`` with their ``layer-params-``, which are section 3.3's by error and by norm; ``layers-19pct``.
            convdata.py, CroppedCIFARDataProvider: crops and views. No source gives the network of figure 1: ``13pct``
            and ``19pct`` are guesses.

Weights are drawn from N(0, std), biases start at 0. Pools have stride 2, extend over the right and lower border, and
count real pixels alone. Weights have the learning rate of the schedule, biases twice the initial one throughout.

Differences from cuda-convnet: the images are shuffled in each epoch, while it formed its batches once; all of them are
trained on from the start, while it kept a fifth for its first stage's validation; the learning rate is outside the
momentum, as in PyTorch, which matters only just after the rate changes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet import train
from alexnet.checkpoint import read_rows
from alexnet.data.datasets import Dataset, Images
from alexnet.data.loaders import Batch, epoch_order
from alexnet.data.normalization import SMALL_SIDE, small_array, statistics
from alexnet.errors import FieldError, check_choice
from alexnet.evaluate import Metrics, TestTimeAugmentation, measure
from alexnet.lrn import ResponseNorm
from alexnet.recipes import Recipe, Runtime
from alexnet.system import autocast, pick_device, pick_precision
from alexnet.tools.reproduce.experiments import Small
from alexnet.tracking import Callback

__all__ = [
    "NETWORKS", "LocallyConnected", "SmallLoader", "SmallNetwork", "check", "evaluate_small", "recipe_of",
    "train_small",
]  # fmt: skip

SIDE = 32  # images of another side are resized
BATCH = 128


@dataclass(frozen=True)
class Weights:
    """A layer with weights: 5×5 convolution (conv), 3×3 locally connected (local) or fully connected (fc)."""

    name: str
    outputs: int
    std: float
    """Of the initial weights."""
    decay: float
    """Weight decay. Biases have none."""


Layers = tuple[Weights | str, ...]

# The files have the neuron before the max pool. For a function that never decreases, the order does not change the
# values, and a quarter of the work remains.
THIRTEEN: Layers = (
    Weights("conv1", 64, std=1e-4, decay=0), "max3", "neuron",
    Weights("conv2", 64, std=0.01, decay=0), "max3", "neuron",
    Weights("local3", 32, std=0.04, decay=0.004), "neuron",
    Weights("local4", 32, std=0.04, decay=0.004), "neuron",
    Weights("fc10", 10, std=0.01, decay=0.004),
)  # fmt: skip
ELEVEN: Layers = (
    Weights("conv1", 64, std=1e-4, decay=0), "max3", "neuron", "norm",
    Weights("conv2", 64, std=0.01, decay=0), "neuron", "norm", "max3",
    Weights("local3", 64, std=0.04, decay=0.004), "neuron",
    Weights("local4", 32, std=0.04, decay=0.004), "neuron",
    Weights("fc10", 10, std=0.01, decay=0.01),
)  # fmt: skip
NINETEEN: Layers = (
    Weights("conv1", 32, std=1e-4, decay=0.004), "max3", "neuron",  # here the file itself has this order
    Weights("conv2", 32, std=0.01, decay=0.004), "neuron", "avg3",
    Weights("conv3", 64, std=0.01, decay=0.004), "neuron", "avg3",
    Weights("fc10", 10, std=0.01, decay=3),
)  # fmt: skip

NETWORKS: Mapping[str, Layers] = {
    "13pct": THIRTEEN,
    "11pct": ELEVEN,
    "19pct": NINETEEN,
    "11pct-no-norm": tuple(layer for layer in ELEVEN if layer != "norm"),
    # From maps of an even side, windows of 2 and of 3 give maps of the same size.
    "13pct-pool-2x2": tuple("max2" if layer == "max3" else layer for layer in THIRTEEN),
}


class LocallyConnected(nn.Module):
    """A 3×3 convolution with its own weights and biases at each position: ``[N, C, S, S]`` to ``[N, maps, S, S]``.

    ``weight`` is ``[S², 9C, maps]``, its middle axis in the order row, column, channel; ``bias`` is ``[S², 1, maps]``.
    """

    def __init__(self, channels: int, maps: int, side: int) -> None:
        super().__init__()
        self.maps, self.side = maps, side
        self.weight = nn.Parameter(torch.zeros(side * side, 9 * channels, maps))
        self.bias = nn.Parameter(torch.zeros(side * side, 1, maps))

    def forward(self, x: Tensor) -> Tensor:
        s, n = self.side, len(x)
        x = F.pad(x, (1, 1, 1, 1)).permute(2, 3, 0, 1)  # [S + 2, S + 2, N, C]: positions first, for the batched product
        patches = torch.cat([x[i : i + s, j : j + s] for i in range(3) for j in range(3)], dim=-1).view(s * s, n, -1)
        out = torch.baddbmm(self.bias.to(patches.dtype), patches, self.weight.to(patches.dtype))  # [S², N, maps]
        return out.view(s, s, n, self.maps).permute(2, 3, 0, 1)


class SmallNetwork(nn.Sequential):
    """A network of ``NETWORKS``: images ``[N, 3, crop, crop]`` of 0..255 to ``[N, classes]`` logits.

    Of larger images it takes the centre. It subtracts the centre of the data set's mean image, wherever the crop was,
    and with the initialisation ``today`` also divides by the standard deviation of each channel. Raises as ``check``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Small, dataset: Dataset) -> None:
        check(settings, dataset)
        super().__init__()
        self.settings, self.input_size = settings, settings.crop
        found, edge = statistics(dataset.train), (SIDE - settings.crop) // 2
        mean, std = (torch.from_numpy(each).float() for each in (found.mean_image, found.std))
        mean = _resize(mean.permute(2, 0, 1)[None])[0]  # [3, 32, 32]
        self.register_buffer("mean", mean[:, edge : SIDE - edge, edge : SIDE - edge])
        self.register_buffer("std", std[:, None, None] if settings.init == "today" else torch.ones(()))
        channels, side = 3, int(settings.crop)
        for number, layer in enumerate(NETWORKS[settings.network]):
            match layer:
                case Weights(name) if name.startswith("fc"):
                    self.add_module("flatten", nn.Flatten())
                    self.add_module(name, nn.Linear(channels * side * side, len(dataset.classes)))
                case Weights(name, maps):
                    local = name.startswith("local")
                    new = LocallyConnected(channels, maps, side) if local else nn.Conv2d(channels, maps, 5, padding=2)
                    self.add_module(name, new)
                    channels = maps
                case "neuron":
                    relu = settings.neuron == "relu"
                    self.add_module(f"neuron{number}", nn.ReLU(inplace=True) if relu else nn.Tanh())
                case "norm":
                    self.add_module(f"norm{number}", ResponseNorm(alpha=1e-3, k=1.0, size=9))
                case str():
                    pool, size = nn.MaxPool2d if layer[:3] == "max" else nn.AvgPool2d, int(layer[3])
                    self.add_module(f"pool{number}", pool(size, stride=2, ceil_mode=True))
                    side = math.ceil((side - size) / 2) + 1
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        edge, end = (images.shape[-1] - self.input_size) // 2, (images.shape[-1] + self.input_size) // 2
        centre = images[..., edge:end, edge:end]
        return super().forward((centre - self.mean) / self.std)  # type: ignore[no-any-return, no-untyped-call]

    def weight_layers(self) -> Iterator[tuple[Weights, Any]]:
        """The layers with weights, and what their file says of them."""
        for layer in NETWORKS[self.settings.network]:
            if isinstance(layer, Weights):
                yield layer, getattr(self, layer.name)

    @torch.no_grad()
    def _initialize(self) -> None:
        """2012: the layer files'; today: He et al. 2015 for ReLU, Glorot and Bengio 2010 for tanh."""
        layers = list(self.weight_layers())
        for number, (layer, module) in enumerate(layers):
            std, weight = layer.std, module.weight
            if self.settings.init == "today":
                if isinstance(module, LocallyConnected):
                    fan_in, fan_out = weight.shape[1], 9 * weight.shape[2]
                else:
                    fan_in, fan_out = weight[0].numel(), len(weight) * weight[0, 0].numel()
                std = math.sqrt(2 / (fan_in if self.settings.neuron == "relu" else fan_in + fan_out))
            nn.init.normal_(weight, std=std)
            nn.init.constant_(module.bias, self.settings.bias if 0 < number < len(layers) - 1 else 0.0)

    def param_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """For SGD: the weights of each layer with their decay and the rates of the schedule, and its biases."""
        stages, groups = self.settings.stages, list[dict[str, Any]]()
        starts = itertools.accumulate((stage.epochs for stage in stages), initial=0)
        rates = [(epoch, recipe.lr * stage.rate) for epoch, stage in zip(starts, stages, strict=False)]
        for layer, module in self.weight_layers():
            decay = layer.decay * self.settings.decay
            groups.append({"params": [module.weight], "weight_decay": decay, "lr_steps": rates})
            groups.append({"params": [module.bias], "weight_decay": 0.0, "lr_steps": [(0, recipe.lr * recipe.bias_lr)]})
        return groups


def _resize(images: Tensor) -> Tensor:
    """``[N, 3, S, S]`` floating point to ``[N, 3, 32, 32]``."""
    if images.shape[-1] == SIDE:
        return images
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)


class SmallLoader:
    """The images of a data set in memory, as a ``data.loaders.Loader`` for a ``SmallNetwork``.

    Training images are cut at every offset alike and mirrored with probability one half, as cuda-convnet did. Images of
    another side than 32 are resized.
    """

    kind = "resident"

    def __init__(self, dataset: Dataset, settings: Small, seed: int, device: torch.device) -> None:
        self.crop, self.seed, self.device = settings.crop, seed, device
        self.mirror = dataset.flip and settings.crop < SIDE
        self.pixels, self.labels = _load(dataset.train, device)
        self.steps_per_epoch = -(-len(self.labels) // BATCH)

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number ``start`` on: float32 ``[B, 3, crop, crop]`` of 0..255, and labels."""
        count, crop = len(self.labels), self.crop
        order = epoch_order(count, self.seed, epoch).to(self.device)
        # other random numbers than those of the order
        random = torch.Generator().manual_seed((1 << 32) + self.seed * 100_003 + epoch)
        offsets = torch.randint(SIDE - crop + 1, (2, count), generator=random).to(self.device)
        flips = (torch.rand(count, generator=random) < (0.5 if self.mirror else 0)).to(self.device)
        window = torch.arange(crop, device=self.device)
        for first in range(start * BATCH, count, BATCH):
            index, part = order[first : first + BATCH], slice(first, first + BATCH)
            rows = offsets[0, part, None] + window  # [B, crop]
            columns = offsets[1, part, None] + torch.where(flips[part, None], window.flip(0), window)
            images = self.pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]
            yield images.permute(0, 3, 1, 2).float(), self.labels[index]

    def eval(self, images: Images, tta: str) -> Iterator[Batch]:
        """As ``eval_batches``."""
        return eval_batches(images, self.device)


def _load(images: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """uint8 ``[N, 32, 32, 3]`` and int64 ``[N]``, on the device."""
    array = images.array()
    assert array is not None  # `check` has looked
    pixels = torch.from_numpy(array)
    if pixels.shape[1] != SIDE:
        pixels = _resize(pixels.permute(0, 3, 1, 2).float()).round().byte().permute(0, 2, 3, 1).contiguous()
    return pixels.to(device), torch.from_numpy(images.labels).to(device)


def eval_batches(images: Images, device: torch.device) -> Iterator[Batch]:
    """All images in order, uncut: float32 ``[B, 3, 32, 32]`` of 0..255, and labels."""
    pixels, labels = _load(images, device)
    for part in (slice(first, first + 4 * BATCH) for first in range(0, len(labels), 4 * BATCH)):
        yield pixels[part].permute(0, 3, 1, 2).float(), labels[part]


# --- training and evaluation


def check(settings: Small, dataset: Dataset) -> None:
    """``FieldError`` for an unknown network, neuron or init, or images that are not small squares of one size."""
    check_choice("network", settings.network, NETWORKS)
    check_choice("neuron", settings.neuron, ("relu", "tanh"))
    check_choice("init", settings.init, ("2012", "today"))
    if small_array(dataset.train) is None or small_array(dataset.val) is None:
        raise FieldError("data", f"square images of one size, at most {SMALL_SIDE} pixels", dataset.spec)


def recipe_of(settings: Small, dataset: Dataset, seed: int) -> Recipe:
    """The recipe of ``train.run`` for ``settings``: a row for each epoch, no clipping."""
    count = len(dataset.with_fewer(settings.images).train) if settings.images else len(dataset.train)
    return Recipe(
        name=settings.network,
        data=dataset.spec,
        images=settings.images,
        input_scale="mean-image",
        augment=("random_crop", "flip") if settings.crop < SIDE else (),
        epochs=settings.epochs,
        batch_size=BATCH,
        lr=settings.rate,
        bias_lr=2.0,
        schedule="plateau",  # constant, but for the stages
        patience=settings.epochs,
        weight_decay=0.0,  # each layer has its own
        clip_norm=0.0,
        val_every=-(-count // BATCH),
        seed=seed,
    )


class _StopAt(Callback):
    """Stops a run at a training error in percent."""

    def __init__(self, error: float | None) -> None:
        self.error = error

    def row(self, row: Mapping[str, Any]) -> bool:
        return self.error is not None and row.get("train_acc") is not None and 100 - row["train_acc"] <= self.error


def train_small(settings: Small, dataset: Dataset, seed: int, runtime: Runtime, folder: Path) -> SmallNetwork:
    """Train a network in ``folder``, resume it, or load it if it is complete. A signal stops it early.

    The run validates on a hundred training images: a sweep must not see the test images, and they would take longer
    than an epoch of few images.
    """
    stop = _StopAt(settings.stop_at)
    rows = read_rows(folder)
    torch.manual_seed(seed)
    model = SmallNetwork(settings, dataset)
    train.run(
        recipe_of(settings, dataset, seed),
        replace(dataset, val=dataset.train.subset(range(min(100, len(dataset.train)))), val_split="train"),
        folder,
        runtime=replace(runtime, max_steps=rows[-1]["step"] if rows and stop.row(rows[-1]) else None),
        resume=True,
        callbacks=[stop],
        model=model,
        open_loader=lambda data, recipe, _runtime, _norm, _size, device, _shard: SmallLoader(
            data, settings, recipe.seed, device
        ),
    )
    return model


def evaluate_small(model: SmallNetwork, dataset: Dataset, images: Images, tta: str, device: str) -> dict[str, float]:
    """``loss`` (nats) and ``top1`` (percent) on ``images``, with one view of each, or ten."""
    place, crop = pick_device(device), model.settings.crop
    views = TestTimeAugmentation(model, crop, mirror=dataset.flip and crop < SIDE) if tta == "ten-crop" else model
    metrics = Metrics(len(dataset.classes), place)
    with autocast(place, pick_precision("auto", place)):
        measure(views.to(place), eval_batches(images, place), metrics)
    found = metrics.result(expected=len(images))
    return {"loss": found["loss"], "top1": found["top1"]}
