"""The paper's four-layer networks for CIFAR-10, from their published layer files, as data.

References:
    paper   Krizhevsky, Sutskever, Hinton (NeurIPS 2012): section 3.3 (13% test error without response normalisation,
            11% with it) and figure 1.
    code    cuda-convnet, example-layers/ (github.com/mbrukman/cuda-convnet is an export of it): ``layers-conv-local-``
            ``13pct.cfg`` and ``-11pct.cfg`` with their ``layer-params-``, which are section 3.3's by error and by norm;
            ``layers-19pct.cfg``. The network of figure 1 is not given anywhere: ``13pct`` and ``19pct`` are guesses.

Weights are drawn from N(0, std), biases start at 0. Pools have windows of 3 at stride 2, reach over the right and lower
border, and count real pixels alone.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.lrn import ResponseNorm
from alexnet.recipes import known

__all__ = ["NETWORKS", "ConvNet", "LocallyConnected", "Network"]


@dataclass(frozen=True)
class Weights:
    """A layer with weights: 5×5 convolution, 3×3 locally connected, or fully connected."""

    name: str
    outputs: int | None
    """Maps; None: as many as there are classes."""
    std: float
    """Of its weights at the start."""
    decay: float
    """Its weight decay. Biases have none."""

    @property
    def kind(self) -> str:
        return self.name.rstrip("0123456789")


@dataclass(frozen=True)
class Pool:
    name: str
    kind: Literal["max", "avg"] = "max"
    size: int = 3
    """Side of the windows, at stride 2."""


@dataclass(frozen=True)
class Norm:
    """Response normalisation: size 9, scale 0.001, divided by 9, power 0.75, constant 1."""

    name: str


@dataclass(frozen=True)
class Neuron:
    """The non-linearity: ReLU in the files, tanh in figure 1's other curve."""

    name: str


@dataclass(frozen=True)
class Network:
    """One layer file, read from top to bottom."""

    name: str
    source: str
    layers: tuple[Weights | Pool | Norm | Neuron, ...]

    def without_norms(self, name: str) -> Network:
        kept = tuple(layer for layer in self.layers if not isinstance(layer, Norm))
        return Network(name, f"{self.source}, its norms left out", kept)

    def pooled_by(self, size: int, name: str) -> Network:
        """The same with windows of ``size``. From maps of an even side, windows of 2 and of 3 give the same sizes."""
        layers = tuple(replace(layer, size=size) if isinstance(layer, Pool) else layer for layer in self.layers)
        return Network(name, f"{self.source}, pooling windows of {size}", layers)


# The files have the neuron before the max pool. A neuron that never falls may as well follow it: the same values from
# a quarter of the work.
THIRTEEN = Network(
    "13pct",
    "cuda-convnet, layers-conv-local-13pct.cfg",
    (
        Weights("conv1", 64, std=1e-4, decay=0),
        Pool("pool1"),
        Neuron("neuron1"),
        Weights("conv2", 64, std=0.01, decay=0),
        Pool("pool2"),
        Neuron("neuron2"),
        Weights("local3", 32, std=0.04, decay=0.004),
        Neuron("neuron3"),
        Weights("local4", 32, std=0.04, decay=0.004),
        Neuron("neuron4"),
        Weights("fc10", None, std=0.01, decay=0.004),
    ),
)
ELEVEN = Network(
    "11pct",
    "cuda-convnet, layers-conv-local-11pct.cfg",
    (
        Weights("conv1", 64, std=1e-4, decay=0),
        Pool("pool1"),
        Neuron("neuron1"),
        Norm("rnorm1"),
        Weights("conv2", 64, std=0.01, decay=0),
        Neuron("neuron2"),
        Norm("rnorm2"),
        Pool("pool2"),
        Weights("local3", 64, std=0.04, decay=0.004),
        Neuron("neuron3"),
        Weights("local4", 32, std=0.04, decay=0.004),
        Neuron("neuron4"),
        Weights("fc10", None, std=0.01, decay=0.01),
    ),
)
NINETEEN = Network(
    "19pct",
    "cuda-convnet, layers-19pct.cfg",
    (
        Weights("conv1", 32, std=1e-4, decay=0.004),
        Pool("pool1"),
        Neuron("neuron1"),  # here the file itself has the neuron on the pool
        Weights("conv2", 32, std=0.01, decay=0.004),
        Neuron("neuron2"),
        Pool("pool2", "avg"),
        Weights("conv3", 64, std=0.01, decay=0.004),
        Neuron("neuron3"),
        Pool("pool3", "avg"),
        Weights("fc10", None, std=0.01, decay=3),
    ),
)

NETWORKS: Mapping[str, Network] = {
    network.name: network
    for network in (
        THIRTEEN,
        ELEVEN,
        NINETEEN,
        ELEVEN.without_norms("11pct-no-norm"),
        THIRTEEN.pooled_by(2, "13pct-pool-2x2"),
    )
}


class LocallyConnected(nn.Module):
    """A 3×3 convolution whose weights, and biases, belong to each position: ``[N, C, S, S]`` to ``[N, maps, S, S]``.

    Nine shifted views side by side are the patches; one batched product, a batch entry a position, does the rest.
    ``weight`` is ``[S², 9C, maps]``, its middle axis in the order row, column, channel; ``bias`` is ``[S², 1, maps]``.
    """

    def __init__(self, channels: int, maps: int, side: int) -> None:
        super().__init__()
        self.channels, self.maps, self.side = channels, maps, side
        self.weight = nn.Parameter(torch.zeros(side * side, 9 * channels, maps))
        self.bias = nn.Parameter(torch.zeros(side * side, 1, maps))

    def forward(self, x: Tensor) -> Tensor:
        s = self.side
        rows = F.pad(x, (1, 1, 1, 1)).permute(
            2, 3, 0, 1
        )  # [S + 2, S + 2, N, C]: positions first, then no copy is strided
        shifted = [rows[i : i + s, j : j + s] for i in range(3) for j in range(3)]
        patches = torch.cat(shifted, dim=-1).view(s * s, len(x), -1)  # [S², N, 9C]
        out = torch.baddbmm(self.bias.to(patches.dtype), patches, self.weight.to(patches.dtype))  # [S², N, maps]
        return out.view(s, s, len(x), self.maps).permute(2, 3, 0, 1)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.maps}, side={self.side}"


class ConvNet(nn.Sequential):
    """One of ``NETWORKS``: ``[N, 3, side, side]`` images, 0..255 minus the mean, to ``[N, num_classes]`` logits.

    Args:
        side: of the images; 24 in the files, for they were trained on crops. 32 also divides as it should.
        neuron: ``relu`` or ``tanh``.
        init: ``2012``, the files' normal weights; or ``today``, He's for ReLU and Xavier's for tanh, made for images of
            standard deviation 1.
        bias: of the hidden layers but the first, at the start (the paper, section 5, has 1; the files have 0).

    Raises:
        ValueError: an unknown network, neuron or initialisation.
    """

    def __init__(
        self, network: str, num_classes: int, side: int, neuron: str = "relu", init: str = "2012", bias: float = 0.0
    ) -> None:
        self.network = NETWORKS[known("network", network, NETWORKS)]
        self.neuron = known("neuron", neuron, ("relu", "tanh"))
        super().__init__(OrderedDict(_modules(self.network, num_classes, side, neuron)))
        self._initialize(known("init", init, ("2012", "today")), bias)

    def weight_layers(self) -> Iterable[tuple[Weights, nn.Conv2d | nn.Linear | LocallyConnected]]:
        """The layers with weights, and what their file says of them."""
        for layer in self.network.layers:
            if isinstance(layer, Weights):
                yield layer, getattr(self, layer.name)

    @torch.no_grad()
    def _initialize(self, init: str, bias: float) -> None:
        layers = list(self.weight_layers())
        for number, (told, module) in enumerate(layers):
            std = told.std if init == "2012" else _std_today(module, self.neuron)
            nn.init.normal_(module.weight, std=std)
            assert module.bias is not None  # every layer has one
            nn.init.constant_(module.bias, bias if 0 < number < len(layers) - 1 else 0.0)

    def parameter_groups(self, rate: float, decay: float = 1.0) -> list[dict[str, object]]:
        """For SGD: weights at ``rate`` with their decay times ``decay``, biases at twice the rate without."""
        groups: list[dict[str, object]] = []
        for told, module in self.weight_layers():
            groups.append({"params": [module.weight], "lr": rate, "weight_decay": told.decay * decay})
            groups.append({"params": [module.bias], "lr": 2 * rate, "weight_decay": 0.0})
        return groups


def _modules(network: Network, num_classes: int, side: int, neuron: str) -> Iterable[tuple[str, nn.Module]]:
    channels = 3
    for layer in network.layers:
        match layer:
            case Weights(name, outputs) if layer.kind == "fc":
                yield "flatten", nn.Flatten()
                yield name, nn.Linear(channels * side * side, outputs or num_classes)
            case Weights(name, int(maps)):
                conv = layer.kind == "conv"
                yield name, nn.Conv2d(channels, maps, 5, padding=2) if conv else LocallyConnected(channels, maps, side)
                channels = maps
            case Pool(name, kind, size):
                pool: type[nn.MaxPool2d | nn.AvgPool2d] = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
                yield name, pool(size, stride=2, ceil_mode=True)
                side = math.ceil((side - size) / 2) + 1
            case Norm(name):
                yield name, ResponseNorm(alpha=1e-3, k=1.0, size=9)
            case Neuron(name):
                yield name, nn.ReLU(inplace=True) if neuron == "relu" else nn.Tanh()


def _std_today(module: nn.Conv2d | nn.Linear | LocallyConnected, neuron: str) -> float:
    """He et al. 2015 (√(2 / fan-in)) for ReLU, Glorot and Bengio 2010 (√(2 / (fan-in + fan-out))) for tanh."""
    if isinstance(module, LocallyConnected):
        fan_in, fan_out = module.weight.shape[1], 9 * module.maps
    else:
        fan_in = module.weight[0].numel()
        fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
    return math.sqrt(2 / fan_in) if neuron == "relu" else math.sqrt(2 / (fan_in + fan_out))
