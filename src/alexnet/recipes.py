"""Named recipes: everything that decides the result of a training run, as frozen dataclasses.

``Recipe`` decides what is computed; ``Runtime`` decides where and how. Two runs are the same run if their recipes are
equal. Each recipe function returns a ``Recipe`` with its own defaults, and any field can be changed:
``recipes.classic(epochs=1, seed=3)``. Each field is also a flag of ``alexnet train``, whose help is here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from alexnet.errors import FieldError, check_choice, suggest

__all__ = [
    "OLD_WIDTHS", "RECIPES", "TTA", "Recipe", "Runtime", "changed_flags", "choices_of", "classic", "command_line",
    "field_types", "flags", "imagenet", "modern", "paper", "quickstart", "recipe_from_config", "reference",
    "runtime_for", "runtime_from_config", "source", "sprint",
]  # fmt: skip


OLD_WIDTHS = {"full": 1.0, "quarter": 0.25}  # width_mult by its name in 0.1.0


def _field(group: str, default: Any, help: str, **options: Any) -> Any:
    return dataclasses.field(default=default, metadata={"group": group, "help": help}, **options)


_data, _network, _training, _run = (
    functools.partial(_field, group) for group in ("data", "network", "training", "run")
)


@dataclass(frozen=True)
class Recipe:
    """What decides the result of a training run. A value that is not allowed raises ``FieldError``."""

    name: str = "classic"
    """The recipe these values came from."""

    # `data` is where the images are; the fingerprint in the run folder says which images they are.
    data: str = _data("cifar10", "Images: cifar10, digits, a folder, or hf:NAME.", compare=False)
    images: int | None = _data(None, "About this many training images, the same share of each class; none: all.")
    holdout: int = _data(
        0,
        "Training images to validate on, if the data have no split for it; the test set is then evaluated once, at the "
        "end. 0: validate on the split that the data have.",
    )
    input_scale: Literal["raw", "mean-image", "imagenet"] = _data(
        "raw", "raw: 0..255 minus the channel means; mean-image: minus the mean image; imagenet: standardised."
    )
    augment: tuple[str, ...] = _data(
        ("random_resized_crop", "flip"),
        "Augmentations: random_resized_crop or random_crop, flip or alternating_flip, pca_color or pca_color_std, "
        "cutout, or others that alexnet.data.augment.augmentation has registered.",
    )
    pca_color_until: float = _data(1.0, "Share of the epochs, from the first, that use pca_color.")

    variant: Literal[
        "classic", "paper", "source", "caffe", "caffenet", "pool-2x2", "no-dropout", "no-conv3", "no-conv4"
    ] = _network("classic", "Network; the last four are classic with one change.")
    width_mult: float = _network(1.0, "Multiplies the number of maps and hidden units; 0.25 suits a laptop.")
    init: Literal["paper", "zero-bias", "source", "caffe", "caffenet", "he"] = _network(
        "paper", "Initial weights: N(0, 0.01) with the paper's biases (paper) or zero-bias; he for standardised input."
    )
    dropout: float | None = _network(None, "Dropout probability of fc6 and fc7; none: the variant's own, 0.5.")

    epochs: int = _training(13, "Passes over the training images.")
    batch_size: int = _training(128, "Global batch size.")
    lr: float = _training(0.01, "Peak learning rate.")
    muon_lr: float = _training(0.0, "Peak learning rate of Muon (momentum 0.9, decay 0.01) for conv2 to conv5; 0: SGD.")
    bias_lr: float = _training(1.0, "Learning rate of biases, as a multiple of that of weights.")
    schedule: Literal["cosine", "plateau", "source"] = _training(
        "cosine",
        "cosine: to 0 over the run; plateau: divided by 10 when validation stops improving; source: divided by 10 "
        "after 27, 56 and 87% of the run, as in the released code.",
    )
    warmup: float = _training(0.0, "Epochs of linear warm-up.")
    patience: int = _training(5, "Epochs without improvement before the plateau schedule lowers the rate.")
    momentum: float = _training(0.9, "Momentum.")
    nesterov: bool = _training(False, "Nesterov momentum.")
    weight_decay: float = _training(5e-4, "Weight decay; 0: none, also for Muon's layers.")
    decay_biases: bool = _training(True, "Apply weight decay to biases.")
    clip_norm: float = _training(1.0, "Clip the gradient to this norm; 0: no clipping.")
    label_smoothing: float = _training(0.0, "Label smoothing; train_loss includes it.")
    dropout_ramp: bool = _training(False, "Raise dropout linearly from 0 at the first step to its full value.")
    ema: float = _training(0.0, "Decay of the moving average of the weights, which is validated and saved; 0: none.")

    val_every: int = _run(100, "Validate and log a row after this many steps; at most an epoch.")
    tta: Literal["center", "flip", "ten-crop"] = _run("center", "Test-time augmentation for the final test set.")
    seed: int = _run(0, "Seed of weights, order, augmentation and dropout.")

    def __post_init__(self) -> None:
        if isinstance(self.augment, list):  # from JSON
            object.__setattr__(self, "augment", tuple(self.augment))
        _check_types(self)
        for name in ("holdout", "weight_decay", "clip_norm", "muon_lr"):
            _check(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("images", "epochs", "batch_size", "patience", "val_every"):
            value = getattr(self, name)
            _check(self, name, value is None or value >= 1, "1 or more")
        for name in ("lr", "bias_lr", "width_mult"):
            _check(self, name, 0 < getattr(self, name) < math.inf, "positive")
        for name in ("momentum", "label_smoothing", "ema"):
            _check(self, name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1")
        _check(self, "dropout", self.dropout is None or 0 <= self.dropout < 1, "none, or at least 0 and less than 1")
        _check(self, "pca_color_until", 0 < self.pca_color_until <= 1, "more than 0 and at most 1")
        _check(self, "warmup", 0 <= self.warmup < self.epochs, f"at least 0 and less than epochs ({self.epochs})")
        _check(self, "nesterov", not self.nesterov or self.momentum > 0, "false if momentum is 0")
        _check(self, "muon_lr", not self.muon_lr or self.schedule != "source", "0 with the schedule source")
        ramp = not self.dropout_ramp or self.variant != "source"
        _check(self, "dropout_ramp", ramp, "false with variant source, whose activations are scaled at test")
        _check(self, "seed", 0 <= self.seed < 2**31, "between 0 and 2147483647")


@dataclass(frozen=True)
class Runtime:
    """Where and how a run is computed. None of it identifies a run, so it may change when a run is resumed."""

    data_dir: str = _data("data", "Where downloaded data sets are kept.")
    loader: Literal["auto", "resident", "workers"] = _data(
        "auto", "resident: images in memory, for small images; workers: decoded from files by threads."
    )
    max_steps: int | None = _run(None, "Stop after this many steps of the schedule.")
    save_every: float = _run(5.0, "Minutes between checkpoints.")
    tracker: Literal["wandb", "tensorboard", "none"] = _run("wandb", "Where rows are sent besides metrics.jsonl.")
    device: Literal["auto", "cpu", "cuda", "mps"] = _run("auto", "Device; auto: the best one available.")
    precision: Literal["auto", "fp32", "bf16"] = _run(
        "auto", "Precision of the forward and backward pass; auto: bf16 if the hardware is faster with it."
    )
    parallel: Literal["data", "towers"] = _run(
        "data", "With several processes: split each batch (data), or split the paper's two towers (towers)."
    )
    compile: bool | None = _run(None, "Use torch.compile; default: on CUDA only.")
    quiet: bool = _run(False, "Print no progress, notes or warnings.")
    profile: int = _run(0, "Profile this many steps and write trace.json; 0: none.")

    def __post_init__(self) -> None:
        _check_types(self)
        _check(self, "max_steps", self.max_steps is None or self.max_steps >= 1, "1 or more")
        _check(self, "profile", self.profile >= 0, "0 or more")
        _check(self, "save_every", 0 <= self.save_every < math.inf, "0 or more")
        _check(self, "compile", not (self.compile and self.parallel == "towers"), "false if parallel is towers")


def choices_of(hint: Any) -> tuple[str, ...]:
    """The strings that a ``Literal`` allows; empty for any other type."""
    return get_args(hint) if get_origin(hint) is Literal else ()


@functools.cache
def field_types(kind: type[Any]) -> Mapping[str, Any]:
    """The type of each field of ``Recipe`` or ``Runtime``, by name."""
    return get_type_hints(kind)


TTA = choices_of(field_types(Recipe)["tta"])


def _check(config: Recipe | Runtime, name: str, ok: bool, requirement: str) -> None:
    if not ok:
        raise FieldError(name, requirement, getattr(config, name))


def _check_types(config: Recipe | Runtime) -> None:
    for name, hint in field_types(type(config)).items():  # type: ignore[arg-type]
        value = getattr(config, name)
        if choices := choices_of(hint):
            check_choice(name, value, choices)
        elif hint == tuple[str, ...]:
            strings = isinstance(value, tuple) and all(isinstance(each, str) for each in value)
            _check(config, name, strings, "a tuple of names")
        else:
            kinds = get_args(hint) or (hint,)
            accepted = (*kinds, int) if float in kinds else kinds
            is_right = isinstance(value, accepted) and (bool in kinds or not isinstance(value, bool))
            names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
            _check(config, name, is_right, f"of type {names}")


def classic(**changes: Any) -> Recipe:
    """The common one-tower network on raw pixels, with the paper's initialisation, in 13 epochs.

    ``alexnet train classic``. It validates on the test set, as the published run does. RESULTS.md has its accuracy.
    """
    return _make(changes)


def reference(**changes: Any) -> Recipe:
    """The one published run of this network: ImageNet normalisation and zero biases.

    ``alexnet train reference``. The chart in github.com/ajheshbasnet/ClassicCNNs ends at a val_acc of about 56.3%.
    """
    return _make(changes, name="reference", input_scale="imagenet", init="zero-bias")


def paper(**changes: Any) -> Recipe:
    """The paper's network, input and training (sections 2 to 5), with a number of epochs for CIFAR-10.

    ``alexnet train paper``. Two towers, the mean image, random crops, colour noise, a rate divided by 10 three times,
    ten crops of each test image. The initialisation is the released code's, and the gradient is clipped:
    docs/fidelity.md says why.
    """
    return _make(
        changes, name="paper", variant="paper", init="source", input_scale="mean-image",
        augment=("random_crop", "flip", "pca_color"), epochs=60, schedule="plateau", holdout=5000, tta="ten-crop",
    )  # fmt: skip


def imagenet(**changes: Any) -> Recipe:
    """The paper's own task: ImageNet's 1,000 classes in 90 epochs, trained as ``paper`` trains.

    ``alexnet train imagenet --data FOLDER``, with FOLDER/train/CLASS/*.JPEG and FOLDER/val/CLASS/*.JPEG. The paper
    reports errors of 40.7% (top-1) and 18.2% (top-5). This recipe has not been run in full.
    """
    own = {"name": "imagenet", "data": "data/imagenet", "epochs": 90, "holdout": 50_000, "val_every": 5000}
    return _make(changes, paper(), **own)


def source(**changes: Any) -> Recipe:
    """The network, input and training of the code released in 2025, as far as they apply to small images.

    ``alexnet train source``. From layers/layers-145.cfg: the network and initial weights. From layer-params-145.cfg:
    epsW 0.01 (line 169), lowered at epochs 25, 51, 79 (169, 174, 180), in conv1 at 67, 72 (177, 179), of 91 (181);
    epsB 0.02 (19); momentum 0.9, decay 0.0005 (4 to 6), of weights only (src/layer.cu, 565); colour noise until epoch
    67 (178). From convdata.py: mean image (39), crops and mirrors (253 to 259), ten views (240 to 247), noise by
    standard deviations (41, 113) and division by 1.1 (205). From convnet.py: batches of 128 (177). This recipe has not
    been run in full.
    """
    return _make(
        changes, name="source", variant="source", init="source", input_scale="mean-image",
        augment=("random_crop", "flip", "pca_color_std"), pca_color_until=67 / 91, epochs=91, schedule="source",
        bias_lr=2.0, decay_biases=False, clip_norm=0.0, holdout=5000, tta="ten-crop",
    )  # fmt: skip


def modern(**changes: Any) -> Recipe:
    """The layers of ``classic``, trained in 13 epochs with what has been learned since 2012.

    ``alexnet train modern``. It holds out 5,000 training images and evaluates the test set once, at the end.
    """
    return _make(
        changes, name="modern", input_scale="imagenet", init="he", augment=("random_crop", "flip"), batch_size=64,
        lr=0.08, muon_lr=0.01, warmup=1.0, nesterov=True, label_smoothing=0.1, dropout_ramp=True, ema=0.999,
        holdout=5000, tta="flip",
    )  # fmt: skip


def sprint(**changes: Any) -> Recipe:
    """``modern`` without dropout and moving average, on 12,000 training images once: minutes on two cores.

    ``alexnet train sprint``. It validates once and evaluates the test set, both at the end.
    """
    return _make(
        changes, modern(), name="sprint", images=12_000, epochs=1, warmup=0.1, dropout=0.0, dropout_ramp=False, ema=0.0,
        val_every=1000, tta="center",
    )  # fmt: skip


def quickstart(**changes: Any) -> Recipe:
    """``classic`` on scikit-learn's handwritten digits: nothing to download, minutes on a laptop.

    ``alexnet train quickstart``. 1,438 training images, 45 steps an epoch.
    """
    return _make(changes, name="quickstart", data="digits", batch_size=32, lr=0.02, epochs=5, val_every=45)


def _make(changes: dict[str, Any], base: Recipe | None = None, **own: Any) -> Recipe:
    """``base``, or ``classic``, with the recipe's ``own`` values and then the caller's ``changes``."""
    _check_names(changes, [name for name in field_types(Recipe) if name != "name"])
    return dataclasses.replace(base or Recipe(), **own | changes)


RECIPES: Mapping[str, Callable[..., Recipe]] = {
    make.__name__: make for make in (classic, reference, paper, source, imagenet, modern, sprint, quickstart)
}


def runtime_for(recipe: str, **changes: Any) -> Runtime:
    """The default ``Runtime`` of a recipe, by its name: ``quickstart`` uses no tracker, the others use wandb."""
    return Runtime(**({"tracker": "none"} if recipe == "quickstart" else {}) | changes)


def recipe_from_config(stored: Mapping[str, Any]) -> Recipe:
    """The ``Recipe`` in a run's ``config.json``, written by this version or by 0.1.0.

    Raises:
        ValueError: it has a field that no version of this project wrote, or a value that is not allowed.
    """
    fields = {name: value for name, value in stored.items() if name not in field_types(Runtime)}
    if "widths" in fields:
        fields["width_mult"] = OLD_WIDTHS[fields.pop("widths")]
    if "crop" in fields:
        noise = {"none": (), "std": ("pca_color_std",), "eigenvalue": ("pca_color",)}[fields.pop("color_noise", "none")]
        crop = {"random": "random_crop", "random-resized": "random_resized_crop"}[fields.pop("crop")]
        fields["augment"] = (crop, *(("flip",) if fields.pop("flip", True) else ()), *noise)
    for old, new in (("color_noise_until", "pca_color_until"), ("test_views", "tta")):
        if old in fields:
            fields[new] = fields.pop(old)
    _check_names(fields, field_types(Recipe))
    return Recipe(**fields)


def _check_names(names: Iterable[str], allowed: Collection[str]) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"a recipe has no field {name}{suggest(name, allowed)}; it has {', '.join(allowed)}")


def runtime_from_config(config: Mapping[str, Any]) -> Runtime:
    """The ``Runtime`` that a run was started with, from its ``config.json``; 0.1.0 stored it in the recipe."""
    stored = config.get("runtime") or config.get("recipe") or {}
    fields = {name: value for name, value in stored.items() if name in field_types(Runtime)}
    if fields.get("tracker") == "trackio":
        fields["tracker"] = "none"
    if fields.get("parallel") == "columns":
        fields["parallel"] = "towers"
    return Runtime(**fields | {"quiet": False, "profile": 0})


def command_line(recipe: Recipe, runtime: Runtime | None = None, data: str | None = None) -> str:
    """The command line that trains ``recipe``. ``data`` is written in place of the recipe's own path."""
    base, base_runtime = RECIPES[recipe.name](), runtime_for(recipe.name)
    if data and recipe.data != base.data:
        recipe = dataclasses.replace(recipe, data=data)
    words = [*changed_flags(recipe, base), *changed_flags(runtime or base_runtime, base_runtime)]
    return shlex.join(["alexnet", "train", recipe.name, *words])


def changed_flags(config: Recipe | Runtime, base: Recipe | Runtime) -> list[str]:
    """The words of a command line that turn ``base`` into ``config``."""
    names = [name for name in field_types(type(config)) if name != "name"]  # type: ignore[arg-type]
    changed = [name for name in names if getattr(config, name) != getattr(base, name)]
    return [word for name in changed for word in flags(name, getattr(config, name))]


def flags(field: str, value: Any) -> list[str]:
    """The words of a command line that give a field this value."""
    flag = field.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, tuple):
        return [f"--{flag}", *value]
    return [f"--{flag}", "none" if value is None else str(value)]
