"""AlexNet as of 2012, and other networks called AlexNet, each described as data.

References:
    paper    A. Krizhevsky, I. Sutskever, G. Hinton: ImageNet Classification with Deep Convolutional Neural Networks,
             NeurIPS 2012.
    source   The authors' code, released by the Computer History Museum in 2025
             (github.com/computerhistory/AlexNet-Source-Code): layers-145.cfg and layer-params-145.cfg.
    caffe    BVLC's models/bvlc_alexnet and models/bvlc_reference_caffenet (github.com/BVLC/caffe).

The default, ``classic``, differs from the paper in four ways: conv2, conv4 and conv5 see all channels (one tower);
dropout is applied to the inputs of the two hidden fully connected layers, not to their outputs, and is scaled in
training, not at test; conv1 is padded by 2; α is divided by the window's size.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from torch import Tensor, nn

from alexnet.data.normalization import Normalization, is_number
from alexnet.errors import FieldError, check_choice
from alexnet.lrn import ResponseNorm, WithinMapNorm
from alexnet.recipes import OLD_WIDTHS

__all__ = ["INITS", "VARIANTS", "AlexNet_2012", "Init", "ModelInfo", "Scale", "Variant"]


WEIGHTS = "model.safetensors"
NETWORK_ARGUMENTS = ("num_classes", "variant", "width_mult", "dropout")  # the arguments that must match the weights
HUB_OPTIONS = {"revision", "cache_dir", "force_download", "local_files_only", "token"}  # options of huggingface_hub's


@dataclass(frozen=True)
class Variant:
    """One description of the network."""

    name: str
    source: str
    """Where this description comes from."""
    init: str
    """Its initialisation, a name in ``INITS``."""
    image_sizes: tuple[int, ...] = (224, 227)
    """Sides of the input in pixels that lead to 256×6×6; the first is the default."""
    widths: tuple[int, ...] = (96, 256, 384, 384, 256, 4096, 4096)
    """Outputs of conv1 to conv5, fc6 and fc7."""
    conv1_padding: int | None = 2
    """Padding on all sides of conv1's input; None: 3 pixels at the right and at the bottom, so that 224 gives 55."""
    groups: int = 1
    """Groups of conv2, conv4 and conv5: 2 are the paper's two towers."""
    layer1: tuple[str, ...] = ("conv", "relu", "norm", "pool")
    layer2: tuple[str, ...] = ("conv", "relu", "norm", "pool")
    """Order of operations, left to right; ``within`` is the released code's second normalisation, ``WithinMapNorm``."""
    lrn_alpha: float = 1e-4
    """α of response normalisation, before its division by n."""
    lrn_k: float = 2.0
    """k of response normalisation."""
    lrn_towers: int = 1
    """2: response normalisation stays within each of the two towers."""
    dropout_on: str = "outputs"
    """Dropout on the ``inputs`` or the ``outputs`` of fc6 and fc7."""
    dropout: float = 0.5
    """Probability; 0 leaves the layers out."""
    dropout_scaled_at: str = "training"
    """Activations are divided by 1 − p in ``training``, or multiplied by 1 − p at ``test`` (the paper, 4.2)."""
    pool: int = 3
    """Side of the pooling windows; their stride is 2, so windows of 3 overlap."""
    without: tuple[str, ...] = ()
    """Layers that are left out, with their ReLUs: conv3, conv4 or both."""


CLASSIC = Variant(
    name="classic",
    source="the configuration most often asked for: one tower, 224×224, padding 2",
    init="paper",
    dropout_on="inputs",
)

VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        CLASSIC,
        Variant(
            name="paper",
            source="the paper, sections 3 to 5; 224 → 55 and norms by tower as in the code; dropout scaled in training",
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
        # classic with one thing changed
        replace(CLASSIC, name="pool-2x2", source="no overlap: the paper, 3.4", pool=2, image_sizes=(224,)),
        replace(CLASSIC, name="no-dropout", source="classic without dropout: the paper, 4.2", dropout=0.0),
        replace(CLASSIC, name="no-conv3", source="classic without conv3: the paper, 7", without=("conv3",)),
        replace(CLASSIC, name="no-conv4", source="classic without conv4: the paper, 7", without=("conv4",)),
    )
}


@dataclass(frozen=True)
class Init:
    """Normal weights and constant biases. ``std=None`` is He's √(2 / fan-in)."""

    source: str
    std: float | None = 0.01
    std_of: Mapping[str, float] = field(default_factory=dict)
    """Layers with another standard deviation."""
    bias: float = 0.0
    """Bias of conv2, conv4, conv5, fc6 and fc7; the other biases are 0."""


# The paper, section 5: their ReLUs start with positive inputs.
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")
CAFFE_STDS = {"fc6": 0.005, "fc7": 0.005}

INITS: Mapping[str, Init] = {
    "paper": Init("the paper, section 5", bias=1.0),
    "zero-bias": Init("the paper's weights, zero biases"),
    "source": Init("layers-145.cfg", std_of={"conv3": 0.03, "conv4": 0.03, "conv5": 0.03}, bias=1.0),
    "caffe": Init("models/bvlc_alexnet/train_val.prototxt", std_of=CAFFE_STDS, bias=0.1),
    "caffenet": Init("models/bvlc_reference_caffenet/train_val.prototxt", std_of=CAFFE_STDS, bias=1.0),
    "he": Init("He et al. 2015, arXiv:1502.01852, equation 10", std=None),
}


@dataclass(frozen=True)
class ModelInfo:
    """What you need to use trained weights: the network, its classes and its input.

    Files of weights that a run writes hold it. ``width_mult`` and ``dropout`` are as in ``AlexNet_2012``.

    Raises:
        ValueError: a value that cannot be used; the message names the field.
    """

    variant: str
    classes: tuple[str, ...]
    """Class names, in the order of the logits."""
    normalization: Normalization
    """How an image becomes the network's input."""
    data: str
    """Display name of the data set it was trained on."""
    record: dict[str, str | int | float] = field(default_factory=dict)
    """Results of the training run by name, for people; empty if they are not known."""
    width_mult: float = 1.0
    dropout: float | None = None

    def __post_init__(self) -> None:
        _check_network(self.variant, self.width_mult, self.dropout)
        classes, record = self.classes, self.record
        if not (isinstance(classes, tuple) and classes and all(isinstance(name, str) for name in classes)):
            raise FieldError("classes", "a list of names", classes)
        if not isinstance(self.data, str):
            raise FieldError("data", "a string", self.data)
        if not (isinstance(record, dict) and all(isinstance(value, str | int | float) for value in record.values())):
            raise FieldError("record", "numbers and strings by name", record)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, where: object = "model info") -> Self:
        """Read what ``to_json`` wrote, in this version or in 0.1.0.

        Raises:
            ValueError: anything else, in one line that begins with ``where``. Unknown fields are refused too, because
                they may change what the network's input is.
        """
        try:
            found = _with_tuples(json.loads(text or "null"))
            if "widths" in found:  # 0.1.0
                found["width_mult"] = OLD_WIDTHS[found.pop("widths")]
            found["normalization"] = Normalization(**_with_tuples(found["normalization"]))
            return cls(**found)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{where}: malformed model info ({error})") from error


def _with_tuples(value: Any) -> dict[str, Any]:
    """A copy of a JSON object, with the tuples that JSON writes as lists."""
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}


def _check_network(variant: str, width_mult: float, dropout: float | None) -> None:
    check_choice("variant", variant, VARIANTS)
    if not (is_number(width_mult) and 0 < width_mult <= 16):
        raise FieldError("width_mult", "more than 0 and at most 16", width_mult)
    if dropout is not None and not (is_number(dropout) and 0 <= dropout < 1):
        raise FieldError("dropout", "at least 0 and less than 1, or None for the variant's own", dropout)


CARD_TEMPLATE = """---
{{ card_data }}
---

# AlexNet (2012), variant `{{ model.variant.name }}`, {{ model.num_classes }} classes

{% if model.info -%}
{% set norm = model.info.normalization -%}
Trained on {{ model.info.data }}. Input: RGB, \
{{ "shorter side resized to" if norm.resize == "short-side" else "warped to" }} 256 pixels, a crop, \
`(x / 255 − mean) / std` with \
{{ "the mean image in the weights' metadata" if norm.mean_image else "mean %.4g, %.4g, %.4g"|format(*norm.mean) }} and \
std {{ "%.4g, %.4g, %.4g"|format(*norm.std) }}.
{%- else -%}
The training of these weights is not recorded: normalise the input as it was in their training.
{%- endif %}

```python
from alexnet import AlexNet_2012

model = AlexNet_2012.from_pretrained("THIS_REPOSITORY")  # in evaluation mode
model.info                                               # classes, normalisation, data set
```
{% if results %}
{{ results }}
{% elif model.info and model.info.record %}
## Results

| | |
|---|---:|
{% for name, value in model.info.record.items() -%}
| {{ name }} | {{ "%.4g"|format(value) if value is float else value }} |
{% endfor %}
{%- endif %}
"""


class AlexNet_2012(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="alexnet-2012",
    license="mit",
    pipeline_tag="image-classification",
    tags=["alexnet", "image-classification"],
    model_card_template=CARD_TEMPLATE,
):
    """AlexNet (2012): five convolutions, response normalisation and three fully connected layers.

    Args:
        num_classes: number of logits.
        variant: a name in ``VARIANTS``. The default is the classic configuration with one tower.
        init: a name in ``INITS``. Default: the one that belongs to the variant.
        width_mult: multiplies the number of maps and hidden units, at most 16.
        dropout: probability in [0, 1). Default: the variant's own, 0.5.
        widths: the name of ``width_mult`` in version 0.1.0: ``full`` or ``quarter``.

    Input: floating-point tensor ``[N, 3, 224, 224]`` (227 for the Caffe variants). The paper's initialisation and
    constants suit raw pixels, that is values in 0..255 minus their mean. Output: logits ``[N, num_classes]``.

    ``features`` ends at ``[N, 256, 6, 6]``; ``classifier`` takes it flattened, ``[N, 9216]``. ``variant`` is the
    ``Variant`` with the actual widths and dropout. ``info`` is the ``ModelInfo`` of trained weights, or None; a network
    whose last layer is replaced has none. ``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` are
    huggingface_hub's.

    Raises:
        ValueError: an argument that is not allowed; an input of another shape or of integers.
    """

    def __init__(
        self,
        num_classes: int = 10,
        variant: str = "classic",
        init: str | None = None,
        width_mult: float = 1.0,
        dropout: float | None = None,
        widths: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(num_classes, bool) or not hasattr(num_classes, "__index__") or not 1 <= num_classes < 2**31:
            raise FieldError("num_classes", "a whole number from 1 to 2147483647", num_classes)
        if widths is not None:
            width_mult = OLD_WIDTHS[check_choice("widths", widths, OLD_WIDTHS)]
        _check_network(variant, width_mult, dropout)
        full = VARIANTS[variant]
        self.variant = replace(
            full,
            widths=tuple(max(1, int(width * width_mult / full.groups)) * full.groups for width in full.widths),
            dropout=full.dropout if dropout is None else dropout,
        )
        self.width_mult = width_mult
        self.features = _features(self.variant)
        self.classifier = _classifier(self.variant, num_classes)
        self.initialize(init or self.variant.init)

    __jit_unused_properties__ = ("num_classes", "info")

    def _head(self) -> Any:
        """``fc8``, or the last layer of what replaced it or the classifier; None if that has no ``out_features``."""
        head = getattr(self.classifier, "fc8", self.classifier)
        return next((layer for layer in reversed(list(head.modules())) if hasattr(layer, "out_features")), None)

    @property
    def num_classes(self) -> int:
        """The number of outputs, also after ``fc8`` was replaced. AttributeError without a layer with out_features."""
        return int(self._head().out_features)

    @property
    def info(self) -> ModelInfo | None:
        """What trained weights need beside them. It is stored on ``fc8``, so that replacing ``fc8`` removes it."""
        return getattr(self._head(), "info", None)

    @info.setter
    def info(self, info: ModelInfo | None) -> None:
        if self._head() is None:
            raise ValueError("info needs a classifier that ends in a layer with out_features")
        if info and info.num_classes != self.num_classes:
            raise ValueError(f"info must have {self.num_classes} classes, as the network has, got {info.num_classes}")
        self._head().info = info

    @torch.no_grad()
    def initialize(self, init: str) -> None:
        """Draw all weights from torch's global random state, as ``INITS[init]`` says."""
        rule = INITS[check_choice("init", init, INITS)]
        for name, layer in self.weight_layers():
            if layer.weight.is_meta:  # has no values; drawing them would import torch's compiler, which takes seconds
                continue
            std = rule.std_of.get(name, rule.std)
            if std is None:
                std = math.sqrt(2 / layer.weight[0].numel())
            elif name != "conv1":  # which always has three input channels
                std *= math.sqrt(1 / self.width_mult)  # a narrower network needs larger weights for the same signal
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, rule.bias if name in BIASED else 0.0)

    def weight_layers(self) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
        """The layers with weights, conv1 to fc8, with their names."""
        for name, layer in (*self.features.named_children(), *self.classifier.named_children()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                yield name, layer

    def forward(self, images: Tensor) -> Tensor:
        """``[N, 3, 224, 224]`` floating-point images to ``[N, num_classes]`` logits."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self._check(images)
        x = self.features(images)  # [N, 256, 6, 6]
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]

    def _check(self, images: Tensor) -> None:
        if isinstance(images, torch.fx.Proxy):
            return  # its shape is not known
        sizes = self.variant.image_sizes
        if tuple(images.shape[1:]) not in [(3, size, size) for size in sizes]:
            expected = " or ".join(f"[N, 3, {size}, {size}]" for size in sizes)
            raise ValueError(f"images must be {expected} for variant {self.variant.name}, got {list(images.shape)}")
        if not images.is_floating_point():
            raise ValueError(
                f"images must be floating point (0..255 minus the mean, or standardised), got {images.dtype}"
            )

    # --- trained weights

    def changed_layer(self) -> str | None:
        """The first layer that differs from a new network with the same arguments, or None."""
        if self._head() is None:
            return "classifier"
        with torch.device("meta"):
            built = AlexNet_2012(**self._arguments())
        pairs = zip_longest(_described(self), _described(built))  # a layer may be missing or added
        return next(((own or other)[0] for own, other in pairs if own != other), None)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Any], info: ModelInfo) -> Self:
        """A network with ``weights``, a state dict, in evaluation mode. The tensors are not copied.

        Raises:
            ValueError: the weights do not fit ``info``.
        """
        arguments = {name: getattr(info, name) for name in NETWORK_ARGUMENTS}
        model = cls._with_weights(weights, **arguments)
        model.info = info
        return model

    @classmethod
    def _with_weights(cls, weights: Mapping[str, Any], strict: bool = True, **arguments: Any) -> Self:
        with torch.device("meta" if strict else "cpu"):  # without strict, missing weights stay initialised
            model = cls(**arguments)
        try:
            model.load_state_dict(weights, strict=strict, assign=True)
        except (RuntimeError, TypeError, AttributeError) as error:
            network = f"variant {model.variant.name} with {model.num_classes} classes, width_mult {model.width_mult}"
            raise ValueError(f"the weights do not fit {network}; `alexnet convert` reads weights of others") from error
        return model.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """A trained network, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder that ``save_pretrained`` wrote, a repository of the Hugging Face
                Hub, or what ``load_model`` takes, such as ``cifar10-small``, which comes with this package.
            options: as in huggingface_hub's mixin; ``strict`` is True by default. A file that describes its network
                accepts no other arguments of the network.

        Raises:
            FileNotFoundError: nothing there to load.
            ValueError: the files are damaged, or the weights do not fit.
        """
        from alexnet.checkpoint import CONFIG, load_model, read_config

        name = str(pretrained_model_name_or_path)
        if (widths := options.pop("widths", None)) is not None:
            options["width_mult"] = OLD_WIDTHS[check_choice("widths", widths, OLD_WIDTHS)]
        if (Path(name) / WEIGHTS).is_file() or ("/" in name and not Path(name).exists()):
            if (Path(name) / CONFIG).is_file():
                read_config(Path(name))  # huggingface_hub does not name a damaged file
            model = super().from_pretrained(name, **options)
        else:
            known = {*NETWORK_ARGUMENTS, *HUB_OPTIONS, "init", "config", "map_location", "strict"}
            if unknown := options.keys() - known:
                raise TypeError(f"from_pretrained() got unexpected arguments: {', '.join(sorted(unknown))}")
            model = load_model(name)  # type: ignore[assignment]
            model.requires_grad_().to(options.get("map_location", "cpu"))
        for argument, value in model._arguments().items():
            if options.get(argument) not in (None, value):
                raise FieldError(argument, f"{value}, because {name} describes its own network", options[argument])
        return model

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        config: dict[str, Any] | None = None,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
        **options: Any,
    ) -> Self:
        from alexnet.checkpoint import read_safetensors

        where = {name: options.pop(name) for name in HUB_OPTIONS & options.keys()}
        file = Path(model_id) / WEIGHTS
        if not Path(model_id).is_dir():
            file = Path(hf_hub_download(model_id, WEIGHTS, **where))
        weights, metadata = read_safetensors(file, map_location)
        text = metadata.get("card") or json.dumps((config or {}).get("card"))  # 0.1.0 had it in config.json
        info = None if text == "null" else ModelInfo.from_json(text, file)
        own = {name: getattr(info, name) for name in NETWORK_ARGUMENTS} if info else {}
        try:
            model = cls._with_weights(weights, strict, **options | own)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        model.info = info
        return model

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, *, config: dict[str, Any] | None = None, **options: Any
    ) -> str | None:
        """Write a folder for ``from_pretrained``; arguments as in huggingface_hub's mixin.

        Raises:
            ValueError: a layer was changed, so that ``from_pretrained`` would build another network.
        """
        if type(self) is AlexNet_2012 and (changed := self.changed_layer()):
            reason = f"from which from_pretrained builds it again, but {changed} differs"
            raise ValueError(f"the network must have the layers of variant {self.variant.name}, {reason}")
        return super().save_pretrained(save_directory, config=config or self._arguments(), **options)

    def _arguments(self) -> dict[str, Any]:
        """The arguments that must match the weights."""
        own = (self.num_classes, self.variant.name, self.width_mult, self.variant.dropout)
        return dict(zip(NETWORK_ARGUMENTS, own, strict=True))

    def _save_pretrained(self, save_directory: Path) -> None:
        from alexnet.checkpoint import save_weights

        if self.info:
            save_weights(save_directory / WEIGHTS, self.state_dict(), self.info)
        else:
            super()._save_pretrained(save_directory)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The README of the hub's page. ``results`` is Markdown that replaces the run's record at its end."""
        return super().generate_model_card(*args, model=self, **kwargs)


class Scale(nn.Module):
    """x · factor.

    Behind dropout, which divides by 1 − p in training, a factor of 1 − p gives the dropout of 2012: no scaling in
    training, and 1 − p in evaluation (the released code's src/layer.cu, 1133).
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"


def _described(model: AlexNet_2012) -> list[tuple[str, str]]:
    """The names and the texts of the layers, with the names of their tensors, which pruning changes.

    What changes no value in evaluation is left out: a dropout's probability, and whether a ReLU works in place.
    """
    others = ((name, layer) for name, layer in model.named_children() if name not in ("features", "classifier"))
    layers = (*model.features.named_children(), *model.classifier.named_children(), *others)
    return [
        (name, f"{type(layer) if type(layer) in (nn.Dropout, nn.ReLU) else layer} {sorted(layer.state_dict())}")
        for name, layer in layers
    ]


def _features(v: Variant) -> nn.Sequential:
    def layer(number: int, order: tuple[str, ...], conv: nn.Conv2d) -> list[tuple[str, nn.Module]]:
        kinds: dict[str, nn.Module] = {
            "conv": conv,
            "relu": nn.ReLU(),
            "norm": ResponseNorm(v.lrn_alpha, v.lrn_k, v.lrn_towers),
            "within": WithinMapNorm(),
            "pool": nn.MaxPool2d(kernel_size=v.pool, stride=2),
        }
        return [(f"{kind}{number}", kinds[kind]) for kind in order]

    plain = ("conv", "relu")
    maps1, maps2, maps3, maps4, maps5 = v.widths[:5]  # 96, 256, 384, 384, 256
    layers: list[tuple[str, nn.Module]] = []
    if v.conv1_padding is None:
        layers.append(("pad1", nn.ZeroPad2d((0, 3, 0, 3))))  # 3×224×224 → 3×227×227
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
    return _sequential(layers)


def _classifier(v: Variant, num_classes: int) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = []
    *_, maps5, hidden6, hidden7 = v.widths  # 256, 4096, 4096
    for number, width, outputs in ((6, maps5 * 6 * 6, hidden6), (7, hidden6, hidden7)):
        dropout: list[tuple[str, nn.Module]] = [(f"drop{number}", nn.Dropout(v.dropout))] if v.dropout else []
        if dropout and v.dropout_scaled_at == "test":
            dropout.append((f"scale{number}", Scale(1 - v.dropout)))
        layer = [(f"fc{number}", nn.Linear(width, outputs)), (f"relu{number}", nn.ReLU())]
        layers += [*dropout, *layer] if v.dropout_on == "inputs" else [*layer, *dropout]
    layers.append(("fc8", nn.Linear(hidden7, num_classes)))
    return _sequential(layers)


def _sequential(layers: list[tuple[str, nn.Module]]) -> nn.Sequential:
    part = nn.Sequential(OrderedDict(layers))
    # torch.jit.script treats two parts with the same layers in another order as one, unless a constant differs.
    part.__constants__ = ["order"]  # type: ignore[assignment]
    part.order = " ".join(name for name, _ in layers)  # type: ignore[assignment]
    return part
