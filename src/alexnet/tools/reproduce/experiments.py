"""The paper's claims about its own parts as experiments, and what an experiment is.

An experiment is data: a claim, its arms (training runs to compare), what is measured, and the rule of its verdict, all
written down before the first run. To add one, write ``EXPERIMENT = Experiment(...)`` in a file of its own, and run it:
``alexnet reproduce FILE.py``.
"""

from __future__ import annotations

import math
import re
import runpy
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from alexnet.errors import FieldError, check_choice
from alexnet.recipes import Recipe, classic

__all__ = [
    "EXPERIMENTS", "OVERFITTING", "TEST_ERROR", "WIDTH", "Arm", "Comparison", "Experiment", "FinishedRun", "Measure",
    "Settings", "Small", "Stage", "epochs_until", "find", "format_list", "list_experiments", "training_loss",
]  # fmt: skip

WIDTH = 96  # of the text on a terminal


@dataclass(frozen=True)
class Stage:
    """A part of the schedule of a small network."""

    epochs: int
    rate: float = 1.0
    """Factor on the learning rate of the weights. The biases keep theirs."""


@dataclass(frozen=True)
class Small:
    """Training of a small network for CIFAR-10 with batches of 128 and momentum 0.9; see ``small_networks``."""

    network: str
    """A name in ``small_networks.NETWORKS``."""
    neuron: Literal["relu", "tanh"] = "relu"
    init: Literal["2012", "today"] = "2012"
    """2012: the layer file's, for pixels in 0..255; today: He's or Xavier's, for pixels of standard deviation 1."""
    bias: float = 0.0
    """Initial bias of the hidden layers except the first."""
    crop: Literal[24, 32] = 24
    """24: random crops and flips; 32: the whole image."""
    rate: float = 0.001
    """Learning rate of the weights; that of the biases is twice as high."""
    decay: float = 1.0
    """Factor on the weight decays of the layer file."""
    stages: tuple[Stage, ...] = (Stage(10),)
    images: int | None = None
    """Number of training images, the same share of each class; None: all."""
    stop_at: float | None = None
    """Stop once the training error over an epoch is this low, in percent."""

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)


Settings = Small | Recipe


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a training run, repeated over seeds."""

    name: str
    run: Settings
    """What the paper did."""
    short: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``run`` that the default changes, so that a laptop needs half an hour; ``--full`` leaves them."""
    rates: tuple[float, ...] = ()
    """Learning rates of a ``Small`` to choose from: the one with the lowest first measure, which must depend on the
    training rows alone. Empty: ``run`` has the rate."""
    tta: Literal["center", "ten-crop"] = "center"
    """Test-time augmentation. Arms that differ in nothing else share their networks."""
    max_steps: int | None = None
    """Stop a recipe's run after this many steps of its schedule."""

    @property
    def folder(self) -> str:
        """Name of its folder inside the experiment's."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def settings(self, *, full: bool) -> Settings:
        """What the networks are trained with."""
        return self.run if full else replace(self.run, **self.short)


@dataclass(frozen=True)
class FinishedRun:
    """What a measure sees of a run."""

    rows: Sequence[Mapping[str, Any]]
    """Its metrics.jsonl."""
    evaluate: Callable[[Literal["train", "test"]], Mapping[str, float]]
    """``loss`` (nats) and ``top1`` (percent) of its last weights with the arm's test-time augmentation, on the test
    images or on up to 5,000 of its training images, not augmented. NaN if the run diverged."""
    diverged: bool = False


@dataclass(frozen=True)
class Measure:
    """A number that describes a run. ``of`` returns None if there is none, as for an error that was not reached."""

    name: str
    of: Callable[[FinishedRun], float | None]

    def value(self, run: FinishedRun) -> float | None:
        """The number to four decimals; None also if the run diverged."""
        value = None if run.diverged else self.of(run)
        return round(value, 4) if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Comparison:
    """The claim that one arm has a lower value than another; ``record.compare`` tests it."""

    better: str
    worse: str
    measure: str
    least: float
    """The smallest difference, or ratio, that supports the claim."""
    paper: str
    """The paper's number, in words."""
    ratio: bool = False
    """Compare ``worse / better`` instead of ``worse − better``."""
    limit: float | Literal["end"] | None = None
    """What a value that was not reached counts as. ``end``: the epochs of the runs."""
    decides: bool = True
    """Whether it is part of the verdict, or only reported."""


@dataclass(frozen=True)
class Experiment:
    """A claim put to the test. ``ValueError`` if its parts do not fit together."""

    name: str
    claim: str
    source: str
    """Where the claim is made, with the paper's numbers."""
    arms: tuple[Arm, ...]
    measures: tuple[Measure, ...]
    """The first one gives the values of the arms in the record."""
    rule: tuple[Comparison, ...]
    """What decides the verdict; see ``record``."""
    short: str
    """What the default leaves out, for the verdict's sentence."""
    cost: str
    """Duration by default and in full, and on which machine."""
    seeds: int = 3
    chart: Literal["values", "errors", "losses"] = "values"
    """values: a dot for each run; errors, losses: training and test curves over epochs."""
    file: str = ""
    """Name of the file that defines it; empty for the paper's own."""

    def __post_init__(self) -> None:
        folders = [arm.folder for arm in self.arms]
        if "" in folders or len(set(folders)) < len(folders):
            raise ValueError(f"experiment {self.name}: arms must have names with different folders, got {folders}")
        for comparison in self.rule:
            for name in (comparison.better, comparison.worse):
                check_choice(f"experiment {self.name}: rule", name, [arm.name for arm in self.arms])
            check_choice(f"experiment {self.name}: rule", comparison.measure, [each.name for each in self.measures])

    def trained_arm(self, arm: Arm) -> Arm:
        """The first arm with the same runs, whose networks ``arm`` evaluates: usually itself."""
        return next(other for other in self.arms if replace(arm, name=other.name, tta=other.tta) == other)


def find(name: str) -> Experiment:
    """The experiment ``name``, or ``EXPERIMENT`` of the Python file ``name``. ``FieldError`` if there is none."""
    path = Path(name)
    if path.suffix != ".py":
        return EXPERIMENTS[check_choice("experiment", name, EXPERIMENTS)]
    if not path.is_file():
        raise FieldError("experiment", "the name of an experiment or an existing file", name)
    found = runpy.run_path(name).get("EXPERIMENT")
    if not isinstance(found, Experiment):
        raise FieldError("experiment", "a file that defines EXPERIMENT = Experiment(...)", name)
    return replace(found, file=path.name)


def list_experiments() -> list[dict[str, Any]]:
    """The document of ``alexnet reproduce --json`` without a name."""
    return [
        {"experiment": each.name, "arms": [arm.name for arm in each.arms]}
        | {name: getattr(each, name) for name in ("claim", "source", "seeds", "cost")}
        for each in EXPERIMENTS.values()
    ]


def format_list() -> str:
    """Name, claim, source and cost of each experiment."""
    lines = []
    for each in EXPERIMENTS.values():
        for label, text in ((each.name, each.claim), ("", each.source), ("", each.cost)):
            lines.append(textwrap.fill(text, WIDTH, initial_indent=f"{label:10} ", subsequent_indent=" " * 11))
        lines.append("")
    return "\n".join([*lines, "run one: alexnet reproduce NAME"])


# --- Measures ---------------------------------------------------------------------------------------------------------

TEST_ERROR = Measure("test error, %", lambda run: 100 - run.evaluate("test")["top1"])
OVERFITTING = Measure(
    "test loss − training loss, nats", lambda run: run.evaluate("test")["loss"] - run.evaluate("train")["loss"]
)


def epochs_until(error: float, of: str = "train_acc") -> Measure:
    """Epochs until the error in percent, ``train_acc``'s or ``val_acc``'s, is down to ``error``; None if it never is.

    The error is interpolated linearly between rows.
    """

    def measure(run: FinishedRun) -> float | None:
        epoch, above = 0.0, 100.0
        for row in run.rows:
            if row.get(of) is None:
                continue
            now = 100 - row[of]
            if now <= error:
                return float(epoch + (row["epoch"] - epoch) * (above - error) / (above - now))
            epoch, above = row["epoch"], now
        return None

    return Measure(f"epochs until {error:g}% {'training' if of == 'train_acc' else 'test'} error", measure)


def training_loss(name: str, *, first: int = 1) -> Measure:
    """The mean ``train_loss`` of the first ``first`` rows."""

    def measure(run: FinishedRun) -> float | None:
        losses = [row["train_loss"] for row in run.rows if "train_loss" in row][:first]
        return None if None in losses or not losses else sum(losses) / len(losses)

    return Measure(name, measure)


# --- The paper's claims -----------------------------------------------------------------------------------------------

PAPER = "Krizhevsky, Sutskever, Hinton 2012"
QUARTER: dict[str, Any] = {"width_mult": 0.25}
QUARTER_3, QUARTER_2 = QUARTER | {"epochs": 3}, QUARTER | {"epochs": 2}  # 2 for experiments of nine runs
NARROW = "a network with a quarter of the maps, trained for {} of 13 epochs"
# The files begin with 100 and 350 passes over four fifths of the images: as many steps as 80 and 280 over all.
LONG_13 = (Stage(80), Stage(40), Stage(10, 0.1), Stage(10, 0.01))
LONG_11 = (Stage(280), Stage(150), Stage(10, 0.1), Stage(10, 0.01))


def classic_arm(name: str, short: Mapping[str, Any] = QUARTER_3, **changes: Any) -> Arm:
    """The recipe ``classic``, with a row for each epoch of CIFAR-10."""
    return Arm(name, classic(val_every=391, **changes), short)


FIGURE_1 = epochs_until(25)
GUESSES = {"A": "13pct", "B": "19pct"}  # the paper does not say which network figure 1 used
# In the order of the trials: a run ends when it has taken longer than the best so far. The layer files have 0.001.
RATES = {
    ("2012", "relu"): (0.004, 0.002, 0.008),
    ("2012", "tanh"): (0.004, 0.008, 0.016, 0.032, 0.064, 0.128),
    ("today", "relu"): (0.01, 0.005, 0.0025, 0.00125, 0.02),
    ("today", "tanh"): (0.01, 0.02, 0.04, 0.08, 0.16),
}

figure_1 = Experiment(
    name="figure-1",
    claim="A four-layer network with ReLUs reaches 25% training error on CIFAR-10 six times faster than with tanh",
    source=f"{PAPER}, section 3.1 and figure 1; no regularisation, learning rates chosen separately",
    arms=tuple(
        Arm(
            f"{guess}, {init}, {neuron}",
            Small(network, neuron, init, crop=32, decay=0, stages=(Stage(120),), stop_at=25),  # type: ignore[arg-type]
            {"images": 2000},
            rates=rates,
        )
        for guess, network in GUESSES.items()
        for (init, neuron), rates in RATES.items()
    ),
    measures=(FIGURE_1,),
    rule=tuple(
        Comparison(f"{arm}, relu", f"{arm}, tanh", FIGURE_1.name, 3, "six times", ratio=True, limit="end")
        for arm in ("A, 2012", "A, today", "B, 2012", "B, today")
    ),
    short="on 2,000 of the 50,000 training images",
    cost="about 20 minutes on two cores; in full a night",
    chart="errors",
)

SHORT_LRN = {"stages": (Stage(10), Stage(1, 0.1), Stage(1, 0.01))}

lrn = Experiment(
    name="lrn",
    claim="Response normalisation takes a four-layer network from 13% to 11% test error on CIFAR-10",
    source=f"{PAPER}, section 3.3; cuda-convnet, layers-conv-local-13pct.cfg and -11pct.cfg",
    arms=(
        Arm("11pct", Small("11pct", stages=LONG_11), SHORT_LRN, tta="ten-crop"),
        Arm("11pct without its norms", Small("11pct-no-norm", stages=LONG_11), SHORT_LRN, tta="ten-crop"),
        Arm("13pct", Small("13pct", stages=LONG_13), SHORT_LRN, tta="ten-crop"),
    ),
    measures=(TEST_ERROR, OVERFITTING),
    rule=(
        Comparison("11pct", "11pct without its norms", TEST_ERROR.name, 1, "2 points"),
        Comparison("11pct", "13pct", TEST_ERROR.name, 1, "2 points, other things changed too", decides=False),
    ),
    short="12 epochs in place of 140 and 450, with the learning rate lowered twice at the end",
    cost="25 to 45 minutes on two cores; in full 11 hours",
)

overlap = Experiment(
    name="overlap",
    claim="Overlapping pooling (3×3 at stride 2) beats 2×2 at stride 2, and overfits less",
    source=f"{PAPER}, section 3.4: 0.4 points of top-1 error on ImageNet; both end at 6×6 maps",
    arms=(
        classic_arm("classic, 3×3"),
        classic_arm("classic, 2×2", variant="pool-2x2"),
        Arm("four layers, 3×3", Small("13pct", stages=LONG_13), {"stages": (Stage(3),)}),
        Arm("four layers, 2×2", Small("13pct-pool-2x2", stages=LONG_13), {"stages": (Stage(3),)}),
    ),
    measures=(TEST_ERROR, OVERFITTING),
    rule=tuple(
        Comparison(f"{network}, 3×3", f"{network}, 2×2", measure, least, paper)
        for network in ("classic", "four layers")
        for measure, least, paper in (
            (TEST_ERROR.name, 0.2, "0.4 points on ImageNet"),
            (OVERFITTING.name, 0.02, "slightly less overfitting"),
        )
    ),
    short=f"{NARROW.format(3)}; the four-layer one for 3 epochs of 140",
    cost="30 to 70 minutes on two cores; in full 18 hours",
)

CONVERGED = epochs_until(65, of="val_acc")
FEWER = QUARTER | {"epochs": 15, "images": 5000, "val_every": 40}

dropout = Experiment(
    name="dropout",
    claim="Without dropout the network overfits substantially; with it, it takes twice the steps to converge",
    source=f"{PAPER}, section 4.2",
    arms=(classic_arm("with dropout", FEWER), classic_arm("without", FEWER, variant="no-dropout")),
    measures=(OVERFITTING, TEST_ERROR, CONVERGED),
    rule=(
        Comparison("with dropout", "without", OVERFITTING.name, 0.1, "substantial overfitting"),
        Comparison("without", "with dropout", CONVERGED.name, 1.41, "roughly twice the steps", ratio=True, limit="end"),
    ),
    short="a network with a quarter of the maps, on 5,000 training images for 15 epochs",
    cost="25 to 70 minutes on two cores; in full 16 hours",
    chart="losses",
)

SMALL_11 = Arm("four layers, centre", Small("11pct", stages=LONG_11), {"stages": (Stage(4), *SHORT_LRN["stages"][1:])})

ten_crop = Experiment(
    name="ten-crop",
    claim="The mean of the answers to ten views of an image beats the answer to its centre",
    source=f"{PAPER}, sections 4.1 and 6.1: 39.0% top-1 error with the centre, 37.5% with ten views, ILSVRC-2010",
    arms=(
        classic_arm("classic, centre"),
        replace(classic_arm("classic, ten views"), tta="ten-crop"),
        SMALL_11,
        replace(SMALL_11, name="four layers, ten views", tta="ten-crop"),
    ),
    measures=(TEST_ERROR,),
    rule=tuple(
        Comparison(f"{net}, ten views", f"{net}, centre", TEST_ERROR.name, 0.75, "1.5 points on ImageNet")
        for net in ("classic", "four layers")
    ),
    short=f"{NARROW.format(3)}; the four-layer one for 6 epochs of 450",
    cost="20 to 60 minutes on two cores; in full 13 hours",
)

COLOUR = {"std": "pca_color_std", "eigenvalue": "pca_color"}

colour = Experiment(
    name="colour",
    claim="Colour noise along the principal components lowers the error",
    source=f"{PAPER}, section 4.1: by over 1 point; the text scales by eigenvalues, the released code by deviations",
    arms=(
        classic_arm("none", QUARTER_2),
        *(classic_arm(name, QUARTER_2, augment=("random_resized_crop", "flip", COLOUR[name])) for name in COLOUR),
    ),
    measures=(TEST_ERROR, OVERFITTING),
    rule=tuple(Comparison(name, "none", TEST_ERROR.name, 0.5, "over 1 point on ImageNet") for name in COLOUR),
    short=NARROW.format(2),
    cost="30 to 70 minutes on two cores; in full 24 hours",
)

START = training_loss("training loss of the first 200 steps, nats", first=2)
FIRST_STEPS: dict[str, Any] = {"stages": (Stage(1),), "images": 25_600}  # 200 batches of 128

biases = Experiment(
    name="biases",
    claim="Biases that start at 1 behind the first layers accelerate the early stages of learning",
    source=f"{PAPER}, section 5; raw pixels as input",
    arms=(
        Arm("classic, biases 1", classic(val_every=100), QUARTER, max_steps=200),
        Arm("classic, biases 0", classic(val_every=100, init="zero-bias"), QUARTER, max_steps=200),
        Arm("four layers, biases 1", Small("13pct", bias=1.0, **FIRST_STEPS)),
        Arm("four layers, biases 0", Small("13pct", **FIRST_STEPS)),
    ),
    measures=(START,),
    rule=tuple(
        Comparison(f"{net}, biases 1", f"{net}, biases 0", START.name, 0.05, "no figure given", limit=2.303)
        for net in ("classic", "four layers")
    ),
    short="a 224×224 network with a quarter of the maps",
    cost="10 to 50 minutes on two cores; in full an hour",
    seeds=5,
)

depth = Experiment(
    name="depth",
    claim="Removing a middle convolution makes the error about two points higher",
    source=f"{PAPER}, sections 1 and 7: about 2% of top-1 error on ImageNet for any of the middle layers",
    arms=(
        classic_arm("five convolutions", QUARTER_2),
        *(classic_arm(f"less {layer}", QUARTER_2, variant=f"no-{layer}") for layer in ("conv3", "conv4")),
    ),
    measures=(TEST_ERROR, OVERFITTING),
    rule=tuple(
        Comparison("five convolutions", less, TEST_ERROR.name, 1, "about 2 points on ImageNet")
        for less in ("less conv3", "less conv4")
    ),
    short=NARROW.format(2),
    cost="about 25 minutes on two cores; in full 22 hours",
)

EXPERIMENTS: Mapping[str, Experiment] = {
    experiment.name: experiment for experiment in (figure_1, lrn, overlap, dropout, ten_crop, colour, biases, depth)
}
