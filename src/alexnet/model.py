"""AlexNet as of 2012, and the networks that go by its name, each written down as data.

References:
    paper    A. Krizhevsky, I. Sutskever, G. Hinton: ImageNet Classification with Deep Convolutional Neural Networks,
             NeurIPS 2012.
    source   The authors' code, released by the Computer History Museum in 2025
             (github.com/computerhistory/AlexNet-Source-Code): layers-145.cfg and layer-params-145.cfg.
    caffe    BVLC's models/bvlc_alexnet and models/bvlc_reference_caffenet (github.com/BVLC/caffe).

Where the default, ``classic``, departs from the paper: conv2, conv4 and conv5 see all channels (one tower); dropout
sits on the inputs of the two hidden fully connected layers, not on their outputs, and what it leaves is doubled in
training, not halved at test; conv1 is padded by 2; α is divided by the window's size. ``VARIANTS`` holds the others,
``ABLATIONS`` the classic one less one thing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from alexnet.lrn import ResponseNorm, WithinMapNorm
from alexnet.recipes import known
from alexnet.weights.hub import PretrainedMixin

if TYPE_CHECKING:
    from alexnet.weights.card import ModelCard

__all__ = ["ABLATIONS", "INITS", "VARIANTS", "AlexNet_2012", "Init", "Variant"]


@dataclass(frozen=True)
class Variant:
    """One description of the network. The orders of layers 1 and 2 are read left to right."""

    name: str
    source: str
    """Where this description comes from."""
    init: str
    """The initialisation that belongs to it."""
    image_sizes: tuple[int, ...] = (224, 227)
    """Sides of the input in pixels that end at 256×6×6; the first is the usual one."""
    widths: tuple[int, ...] = (96, 256, 384, 384, 256, 4096, 4096)
    """Outputs of conv1 to conv5, fc6 and fc7."""
    conv1_padding: int | None = 2
    """Zeros around the input of conv1; None: as many at the right and bottom as the last stride needs."""
    groups: int = 1
    """Groups of conv2, conv4 and conv5: 2 are the paper's two towers."""
    layer1: tuple[str, ...] = ("conv", "relu", "norm", "pool")
    layer2: tuple[str, ...] = ("conv", "relu", "norm", "pool")
    """``within`` is the released code's second normalisation, over 5×5 pixels of one map."""
    lrn_alpha: float = 1e-4
    """α of response normalisation, before its division by n."""
    lrn_k: float = 2.0
    """k of response normalisation."""
    lrn_towers: int = 1
    """2: response normalisation does not reach across the two towers."""
    dropout_on: str = "outputs"
    """Dropout on the ``inputs`` or the ``outputs`` of fc6 and fc7."""
    dropout: float = 0.5
    """Its probability; 0 leaves the layers out."""
    dropout_scaled_at: str = "training"
    """What makes up for it: division by 1 − p in ``training``, or multiplication by it at ``test`` (the paper, 4.2)."""
    pool: int = 3
    """Side of the pooling windows, whose stride is 2: windows of 3 overlap."""
    without: tuple[str, ...] = ()
    """Left out, with their ReLUs: conv3, conv4 or both."""


VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            name="classic",
            source="the configuration most often asked for: one tower, 224×224, padding 2",
            init="paper",
            dropout_on="inputs",
        ),
        Variant(
            name="paper",
            source="the paper, sections 3 to 5; 224 → 55 and norms within a tower as in the released code",
            init="paper",
            conv1_padding=None,
            groups=2,
            lrn_alpha=5e-4,  # the paper's formula does not divide α by n = 5
            lrn_towers=2,
        ),
        Variant(
            name="source",
            source="the released code, layers-145.cfg and layer-params-145.cfg",
            init="source",
            conv1_padding=None,
            groups=2,
            layer1=("conv", "norm", "pool", "relu"),
            layer2=("conv", "relu", "norm", "within", "pool"),
            lrn_towers=2,
            dropout_scaled_at="test",
        ),
        Variant(
            name="caffe",
            source="BVLC Caffe, models/bvlc_alexnet",
            init="caffe",
            image_sizes=(227,),
            conv1_padding=0,
            groups=2,
            lrn_k=1.0,
        ),
        Variant(
            name="caffenet",
            source="BVLC Caffe, models/bvlc_reference_caffenet",
            init="caffenet",
            image_sizes=(227,),
            conv1_padding=0,
            groups=2,
            layer1=("conv", "relu", "pool", "norm"),
            layer2=("conv", "relu", "pool", "norm"),
            lrn_k=1.0,
        ),
    )
}

CLASSIC = VARIANTS["classic"]
ABLATIONS: Mapping[str, Variant] = {
    "pool-2x2": replace(CLASSIC, name="pool-2x2", source="no overlap: the paper, 3.4", pool=2, image_sizes=(224,)),
    "no-dropout": replace(CLASSIC, name="no-dropout", source="classic without dropout: the paper, 4.2", dropout=0.0),
    "no-conv3": replace(CLASSIC, name="no-conv3", source="classic less a layer: the paper, 7", without=("conv3",)),
    "no-conv4": replace(CLASSIC, name="no-conv4", source="classic less a layer: the paper, 7", without=("conv4",)),
}
NARROWED: Mapping[str, int] = {"full": 1, "quarter": 4}  # what the widths of a variant are divided by


@dataclass(frozen=True)
class Init:
    """Normal weights and constant biases. ``std=None`` is He's √(2 / fan-in)."""

    source: str
    std: float | None = 0.01
    std_of: Mapping[str, float] = field(default_factory=dict)
    """Layers whose weights are drawn with another standard deviation."""
    bias: float = 0.0
    """Of conv2, conv4, conv5, fc6 and fc7; the other biases are 0."""


BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")  # the paper, section 5: these ReLUs start with positive inputs
CAFFES = {"fc6": 0.005, "fc7": 0.005}

INITS: Mapping[str, Init] = {
    "paper": Init("the paper, section 5", bias=1.0),
    "zero-bias": Init("the paper's weights, biases at 0"),
    "source": Init("layers-145.cfg", std_of={"conv3": 0.03, "conv4": 0.03, "conv5": 0.03}, bias=1.0),
    "caffe": Init("models/bvlc_alexnet/train_val.prototxt", std_of=CAFFES, bias=0.1),
    "caffenet": Init("models/bvlc_reference_caffenet/train_val.prototxt", std_of=CAFFES, bias=1.0),
    "he": Init("He et al. 2015, arXiv:1502.01852, equation 10", std=None),
}


class AlexNet_2012(nn.Module, PretrainedMixin):
    """AlexNet (2012): five convolutions, response normalisation, three fully connected layers.

    Args:
        num_classes: length of the output.
        variant: a name in ``VARIANTS`` or ``ABLATIONS``. The default is the classic one-tower configuration.
        init: a name in ``INITS``; by default the one that belongs to the variant.
        widths: ``full``, or ``quarter`` for a fourth of the maps and hidden units.

    Input: ``[N, 3, 224, 224]`` floating point (227 for the Caffe variants). The paper's initialisation and constants
    are made for raw pixels: values in 0..255 minus their mean. Output: ``[N, num_classes]`` logits.

    ``features`` ends at ``[N, 256, 6, 6]``; ``classifier`` takes it flattened to ``[N, 9216]`` (a fourth of these if
    ``quarter``).

    ``card`` says what the weights were trained on and for which input; None for fresh weights. ``from_pretrained``,
    ``save_pretrained`` and ``push_to_hub`` are huggingface_hub's.

    Raises:
        ValueError: an unknown variant or initialisation, fewer than one class, an input of another shape or integers.
    """

    def __init__(
        self, num_classes: int = 10, variant: str = "classic", init: str | None = None, widths: str = "full"
    ) -> None:
        super().__init__()
        self.card: ModelCard | None = None
        if num_classes < 1:
            raise ValueError(f"num_classes: {num_classes}; allowed: 1 or more")
        every = {**VARIANTS, **ABLATIONS}
        whole, part = every[known("variant", variant, every)], NARROWED[known("widths", widths, NARROWED)]
        self.variant = replace(whole, widths=tuple(width // part for width in whole.widths))
        self._gain = math.sqrt(part)  # of the weights behind conv1: fewer inputs then carry as strong a signal
        self.num_classes = num_classes
        self.features = _features(self.variant)
        self.classifier = _classifier(self.variant, num_classes)
        self.initialize(init or self.variant.init)

    @torch.no_grad()
    def initialize(self, init: str) -> None:
        """Draw all weights anew from torch's global random state, as ``INITS[init]`` says."""
        rule = INITS[known("init", init, INITS)]
        for name, layer in self.weight_layers():
            std = rule.std_of.get(name, rule.std)
            fan_in = layer.weight[0].numel()
            gain = 1.0 if name == "conv1" else self._gain
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in) if std is None else std * gain)
            assert layer.bias is not None  # every layer has one
            nn.init.constant_(layer.bias, rule.bias if name in BIASED else 0.0)

    def weight_layers(self) -> Iterable[tuple[str, nn.Conv2d | nn.Linear]]:
        """The eight layers with weights, conv1 to fc8, by name."""
        for name, layer in (*self.features.named_children(), *self.classifier.named_children()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                yield name, layer

    def forward(self, images: Tensor) -> Tensor:
        """``[N, 3, 224, 224]`` floating-point images to ``[N, num_classes]`` logits."""
        self._check(images)
        x = self.features(images)  # [N, 256, 6, 6]
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]

    def _check(self, images: Tensor) -> None:
        sizes = self.variant.image_sizes
        if tuple(images.shape[1:]) not in [(3, size, size) for size in sizes]:
            allowed = " or ".join(f"[N, 3, {size}, {size}]" for size in sizes)
            raise ValueError(f"AlexNet_2012 ({self.variant.name}): expected {allowed}, got {list(images.shape)}")
        if not images.is_floating_point():
            wanted = "floating-point images (0..255 minus the mean, or standardised)"
            raise ValueError(f"AlexNet_2012: expected {wanted}, got {images.dtype}")


class RoundUpPad(nn.Module):
    """Zeros at the right and bottom until ``kernel`` at ``stride`` covers every pixel: 224 becomes 227."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        missing = -(x.shape[-1] - self.kernel) % self.stride
        return nn.functional.pad(x, (0, missing, 0, missing)) if missing else x

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"


class DropoutOf2012(nn.Dropout):
    """Dropout that training does not scale; evaluation multiplies by 1 − p (the released code's src/layer.cu, 1133)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 - self.p)


def _features(v: Variant) -> nn.Sequential:
    def layer(number: int, order: tuple[str, ...], conv: nn.Conv2d) -> Iterable[tuple[str, nn.Module]]:
        for step in order:
            match step:
                case "conv":
                    yield f"conv{number}", conv
                case "relu":
                    yield f"relu{number}", nn.ReLU(inplace=True)
                case "norm":
                    yield f"norm{number}", ResponseNorm(v.lrn_alpha, v.lrn_k, v.lrn_towers)
                case "within":
                    yield f"within{number}", WithinMapNorm()
                case "pool":
                    yield f"pool{number}", nn.MaxPool2d(kernel_size=v.pool, stride=2)

    plain = ("conv", "relu")
    maps1, maps2, maps3, maps4, maps5 = v.widths[:5]  # 96, 256, 384, 384, 256
    layers: list[tuple[str, nn.Module]] = []
    if v.conv1_padding is None:
        layers.append(("pad1", RoundUpPad(kernel=11, stride=4)))  # 3×224×224 → 3×227×227
    conv1 = nn.Conv2d(3, maps1, 11, stride=4, padding=v.conv1_padding or 0)
    layers += layer(1, v.layer1, conv1)  # → 96×55×55 → 96×27×27
    layers += layer(2, v.layer2, nn.Conv2d(maps1, maps2, 5, padding=2, groups=v.groups))  # → 256×27×27 → 256×13×13
    maps = maps2
    for number, width, groups, order in (
        (3, maps3, 1, plain),  # → 384×13×13
        (4, maps4, v.groups, plain),  # → 384×13×13
        (5, maps5, v.groups, (*plain, "pool")),  # → 256×6×6
    ):
        if f"conv{number}" not in v.without:
            layers += layer(number, order, nn.Conv2d(maps, width, 3, padding=1, groups=groups))
            maps = width
    return nn.Sequential(OrderedDict(layers))


def _classifier(v: Variant, num_classes: int) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = []
    *_, maps5, hidden6, hidden7 = v.widths  # 256, 4096, 4096
    kind = DropoutOf2012 if v.dropout_scaled_at == "test" else nn.Dropout
    for number, width, outputs in ((6, maps5 * 6 * 6, hidden6), (7, hidden6, hidden7)):
        dropout = [(f"drop{number}", kind(v.dropout))] if v.dropout else []
        fc, relu = (f"fc{number}", nn.Linear(width, outputs)), (f"relu{number}", nn.ReLU(inplace=True))
        layers += [*dropout, fc, relu] if v.dropout_on == "inputs" else [fc, relu, *dropout]
    layers.append(("fc8", nn.Linear(hidden7, num_classes)))
    return nn.Sequential(OrderedDict(layers))
