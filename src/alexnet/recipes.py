"""Named recipes: everything that decides a training run, as frozen, typed data.

Each field is a flag of ``alexnet train``, with its help beside it. Each recipe function gives a ``Recipe``
with its own defaults; any field can be overridden: ``recipes.classic(epochs=1, seed=3)``.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

__all__ = [
    "GROUPS", "RECIPES", "VIEWS", "Recipe", "classic", "command", "field_metadata", "field_types", "imagenet", "known",
    "meant", "modern", "paper", "quickstart", "reference", "source",
]  # fmt: skip


def meant(name: str, allowed: Collection[str]) -> str:
    """``" (did you mean X?)"`` where one of ``allowed`` is near ``name``, else nothing."""
    near = difflib.get_close_matches(str(name), allowed, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def known(what: str, name: str, allowed: Collection[str]) -> str:
    """``name``, if it is one of ``allowed``; else ValueError, in one line that says what is."""
    if name not in allowed:
        raise ValueError(f"{what} {name}: allowed is one of {', '.join(allowed)}{meant(name, allowed)}")
    return name


GROUPS = ("data", "network", "training", "run")


def _field(group: str, default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"group": group, "help": help})


_data, _network, _training, _run = (functools.partial(_field, group) for group in GROUPS)


@dataclass(frozen=True)
class Recipe:
    """One training run. Invalid or contradictory values raise ``ValueError``, in one line that names the flag."""

    name: str = "classic"
    """The recipe these values came from."""

    data: str = _data("cifar10", "The images: cifar10, digits, a folder, or hf:NAME.")
    data_dir: str = _data("data", "Where downloaded data sets are kept.")
    images: int | None = _data(None, "Learn from about so many training images, of each class its share; none: all.")
    holdout: int = _data(
        0,
        "Training images, about so many, kept apart to validate on; the test set is then opened once, at the end. 0: "
        "validate on the test set. Data with both a val and a test split are used as they are.",
    )
    input_scale: Literal["raw", "mean-image", "imagenet"] = _data(
        "raw",
        "raw: 0..255 minus the data set's channel means; mean-image: minus its mean image; imagenet: standardised.",
    )
    crop: Literal["random-resized", "random"] = _data(
        "random-resized",
        "Of a training image at 256: random-resized takes 0.8 to 1 of its area and resizes it; random cuts it out.",
    )
    flip: bool = _data(True, "Mirror half of the training images, and take mirrors for views; never done to digits.")
    color_noise: Literal["none", "std", "eigenvalue"] = _data(
        "none",
        "Shift colours along their principal components, by 0.1 · N(0, 1) of each one's std or eigenvalue; std also "
        "divides the image by 1.1, as the released code does.",
    )
    color_noise_until: float = _data(1.0, "Share of the epochs that have colour noise, the first ones.")

    variant: Literal[
        "classic", "paper", "source", "caffe", "caffenet", "pool-2x2", "no-dropout", "no-conv3", "no-conv4"
    ] = _network("classic", "Which AlexNet of 2012; the last four are classic less one thing.")
    widths: Literal["full", "quarter"] = _network("full", "quarter: a fourth of maps and hidden units, for a laptop.")
    init: Literal["paper", "zero-bias", "source", "caffe", "caffenet", "he"] = _network(
        "paper",
        "How weights start: N(0, 0.01) with the paper's biases of 1 or zero-bias; as in the released code (source), in "
        "Caffe's AlexNet or CaffeNet; or he, for standardised input.",
    )

    epochs: int = _training(13, "Passes over the training images.")
    max_steps: int | None = _training(None, "Stop after this many steps; the rate keeps the schedule of --epochs.")
    batch_size: int = _training(128, "Images a step, over all processes together.")
    lr: float = _training(0.01, "Learning rate at its highest.")
    muon_lr: float = _training(
        0.0,
        "Learning rate of Muon (orthogonalised momentum) on conv2 to conv5; the other layers keep SGD. 0: SGD everywhere.",
    )
    bias_lr: float = _training(1.0, "Learning rate of the biases, as a multiple of that of the weights.")
    schedule: Literal["cosine", "plateau", "source"] = _training(
        "cosine",
        "cosine: to 0 over the whole run, step by step; plateau: divided by 10 where validation stops improving; "
        "source: as the released code's run, divided by 10 after 27, 56 and 87% of it, the biases' rate constant.",
    )
    warmup: float = _training(0.0, "Epochs in which the learning rate rises to its highest.")
    patience: int = _training(5, "Epochs without a better val_acc after which the schedule plateau lowers the rate.")
    momentum: float = _training(0.9, "Momentum of SGD.")
    nesterov: bool = _training(False, "Nesterov's form of the momentum.")
    weight_decay: float = _training(5e-4, "L2 penalty on all weights, inside SGD.")
    decay_biases: bool = _training(True, "The same penalty on the biases.")
    clip_norm: float = _training(1.0, "Scale the gradient down to this norm where it is longer; 0: never.")
    dropout_ramp: bool = _training(False, "Raise dropout from 0 at the first step to its full value at the last.")
    label_smoothing: float = _training(0.0, "Share of each label spread over all classes; train_loss includes it.")
    ema: float = _training(
        0.0,
        "Decay, a step, of a moving average of the weights, which is then validated and kept in their place; 0: none.",
    )

    val_every: int = _run(100, "Steps between two passes over the validation images and two logged rows.")
    test_views: Literal["center", "flip", "ten-crop"] = _run(
        "center", "Views of an image whose answers are averaged when the test set is opened at the end."
    )
    save_every: float = _run(5.0, "Minutes between two checkpoints; one is written at the end in any case.")
    tracker: Literal["wandb", "trackio", "tensorboard", "none"] = _run("wandb", "Where rows go besides metrics.jsonl.")
    seed: int = _run(0, "Decides the weights, the order, the crops and dropout.")
    device: Literal["auto", "cpu", "cuda", "mps"] = _run("auto", "Where to compute; auto takes the best one present.")
    precision: Literal["auto", "fp32", "bf16"] = _run(
        "auto",
        "Arithmetic of the network; its weights stay in float32. auto: bf16 where the hardware gains.",
    )
    loader: Literal["auto", "resident", "workers"] = _run(
        "auto",
        "resident: the data set in memory, transformed in batches on the device; workers: torchvision in processes.",
    )
    parallel: Literal["data", "columns"] = _run(
        "data",
        "Of several processes each takes a part of every batch (data), or of two each one tower's half (columns).",
    )
    compile: bool | None = _run(None, "torch.compile the network; by default on CUDA alone.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_type(field.name)
        for name in ("holdout", "weight_decay", "clip_norm", "muon_lr"):
            self._check(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("images", "epochs", "max_steps", "batch_size", "patience", "val_every"):
            value = getattr(self, name)
            self._check(name, value is None or value >= 1, "1 or more")
        self._check("lr", 0 < self.lr < math.inf, "a positive number")
        self._check("bias_lr", 0 < self.bias_lr < math.inf, "a positive number")
        self._check("color_noise_until", 0 < self.color_noise_until <= 1, "above 0, to 1")
        self._check("warmup", 0 <= self.warmup < self.epochs, f"0 to below --epochs {self.epochs}")
        for name in ("momentum", "label_smoothing", "ema"):
            self._check(name, 0 <= getattr(self, name) < 1, "0 to below 1")
        self._check("nesterov", not self.nesterov or self.momentum > 0, "no, at --momentum 0")
        self._check("compile", not (self.compile and self.parallel == "columns"), "no, at --parallel columns")
        self._check("save_every", 0 <= self.save_every < math.inf, "0 or more minutes")
        self._check("seed", 0 <= self.seed < 2**31, "0 to 2147483647")

    def _check(self, name: str, ok: bool, allowed: str) -> None:
        if not ok:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: allowed is {allowed}")

    def _check_type(self, name: str) -> None:
        value, hint = getattr(self, name), field_types()[name]
        if choices := choices_of(hint):
            known(f"--{name.replace('_', '-')}", value, choices)
            return
        kinds = get_args(hint) or (hint,)
        numbers = (int,) if float in kinds else ()
        right = isinstance(value, kinds + numbers) and (bool in kinds or not isinstance(value, bool))
        self._check(name, right, " or ".join(k.__name__ for k in kinds if k is not type(None)))


def choices_of(hint: Any) -> tuple[str, ...]:
    """The strings a ``Literal`` allows; empty for any other type."""
    values = get_args(hint)
    return values if values and all(isinstance(value, str) for value in values) else ()


@functools.cache
def field_types() -> Mapping[str, Any]:
    """The type of each field of ``Recipe``, by name."""
    return get_type_hints(Recipe)


VIEWS = choices_of(field_types()["test_views"])


def field_metadata(name: str) -> Mapping[str, str]:
    """``group``, one of ``GROUPS``, and ``help`` of a field: how its flag is told."""
    return Recipe.__dataclass_fields__[name].metadata


def classic(**changes: Any) -> Recipe:
    """The network and training asked for most often, on the input that its initialisation was made for.

    alexnet train classic. The validation images are the test set, as in the published run. What to expect: 72.8% of
    them right (one seed, a lossy copy of CIFAR-10: RESULTS.md).
    """
    return _make(Recipe(), changes)


def reference(**changes: Any) -> Recipe:
    """The one published run of this configuration: ImageNet scaling and zero biases.

    alexnet train reference. The chart in github.com/ajheshbasnet/ClassicCNNs ends at a val_acc of about 56.3%. What to
    expect: 55.0%, measured as for ``classic``.
    """
    return _make(Recipe(name="reference", input_scale="imagenet", init="zero-bias"), changes)


def paper(**changes: Any) -> Recipe:
    """The paper's network, input and training (its sections 2 to 5), with epochs for CIFAR-10.

    alexnet train paper. Two towers, the mean image, random crops, colour noise, a rate divided by 10 three times, ten
    crops of the test images, which are opened once. docs/training.md says where text and released code differ, and why
    the initialisation is the code's and the gradient is clipped.
    """
    base = Recipe(
        name="paper", variant="paper", init="source", input_scale="mean-image", crop="random", color_noise="eigenvalue",
        epochs=60, schedule="plateau", holdout=5000, test_views="ten-crop",
    )  # fmt: skip
    return _make(base, changes)


def imagenet(**changes: Any) -> Recipe:
    """The paper's own job: ImageNet's 1,000 classes in 90 epochs, trained as ``paper`` does.

    alexnet train imagenet --data FOLDER --out runs/imagenet, with FOLDER/train/CLASS/*.JPEG and FOLDER/val/CLASS/*.JPEG
    (or the hub's Parquet layout), then alexnet evaluate runs/imagenet --data FOLDER --views ten-crop: of the validation
    images, which training opens once, the percent right, top-1 and top-5. The paper has errors of 40.7% and 18.2%, the
    released code's notes .40664 and .18210. 50,000 training images are held out to lower the rate by.

    Not run yet: whether it needs ``paper``'s clipping and conv3 to conv5 of N(0, 0.03), as CIFAR-10 does, is not known.
    Computed: 4.14 GFLOP an image, 458 PFLOP in all. At 40% of an H100's 989 TFLOP/s that is 19 minutes, so decoding
    decides: 111 million photographs at 440 a second and core are 18 hours of the loader's four.
    """
    size = {"epochs": 90, "holdout": 50_000, "val_every": 5000}
    return _make(dataclasses.replace(paper(**size), name="imagenet", data="data/imagenet"), changes)


def source(**changes: Any) -> Recipe:
    """The network, input and training of the code released in 2025, as far as they apply to small images.

    alexnet train source. layers/layers-145.cfg: the network, initW, initB. layers/layer-params-145.cfg: epsW 0.01 (line
    169), lowered at epochs 25, 51, 79 (169, 174, 180), in conv1 at 67, 72 (177, 179), of 91 (181); epsB 0.02 (19), in
    conv1 0 at the end (3); momW, momB 0.9, wc 0.0005 (4 to 6), of weights alone (src/layer.cu, 565); colour noise until
    epoch 67 (178). convdata.py: mean image (39), crops and mirrors (253 to 259), ten views (240 to 247), noise by
    standard deviations (41, 113) and division by 1.1 (205). convnet.py: batches of 128 (177).

    What to expect: no whole run has been made. In 70 steps on CIFAR-10 (JPEG q75 copy, bf16 on two cores) the loss rose
    to 3.45 and fell to 1.79, unclipped; docs/training.md has what that depends on.
    """
    base = Recipe(
        name="source", variant="source", init="source", input_scale="mean-image", crop="random", color_noise="std",
        color_noise_until=67 / 91, epochs=91, schedule="source", bias_lr=2.0, decay_biases=False, clip_norm=0.0,
        holdout=5000, test_views="ten-crop",
    )  # fmt: skip
    return _make(base, changes)


def modern(**changes: Any) -> Recipe:
    """The layers of ``classic``, trained in 13 epochs with what has been learned since 2012.

    alexnet train modern. Holds 5,000 training images out, opens the test set once. What to expect: 84.7% of it right.
    """
    base = Recipe(
        name="modern", input_scale="imagenet", init="he", crop="random", batch_size=64, lr=0.08, warmup=1.0,
        nesterov=True, label_smoothing=0.1, ema=0.999, holdout=5000, test_views="flip",
    )  # fmt: skip
    return _make(base, changes)


def quickstart(**changes: Any) -> Recipe:
    """``classic`` on scikit-learn's handwritten digits: nothing to download.

    alexnet train quickstart. 1,438 training images, 45 steps an epoch.
    """
    base = Recipe(name="quickstart", data="digits", batch_size=32, lr=0.02, epochs=5, val_every=45, tracker="none")
    return _make(base, changes)


def _make(base: Recipe, changes: dict[str, Any]) -> Recipe:
    for name in changes:
        known(f"recipe {base.name}: field", name, [field for field in field_types() if field != "name"])
    return dataclasses.replace(base, **changes)


RECIPES: Mapping[str, Callable[..., Recipe]] = {
    make.__name__: make for make in (classic, reference, paper, source, imagenet, modern, quickstart)
}


def command(recipe: Recipe, data: str | None = None) -> str:
    """The command line that trains ``recipe``. ``data``: to be written in the place of where its images lie."""
    base = RECIPES[recipe.name]()
    words = ["alexnet", "train", recipe.name]
    for name in field_types():
        value = getattr(recipe, name)
        if name == "name" or value == getattr(base, name) or (data and name == "data_dir"):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", data if name == "data" and data else "none" if value is None else str(value)]
    return shlex.join(words)
