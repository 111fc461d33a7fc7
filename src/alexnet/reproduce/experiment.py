"""What an experiment is, as data: a claim, its arms, what is measured, and the rule of its verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from alexnet.recipes import Recipe
from alexnet.reproduce.verdicts import Comparison

__all__ = ["Arm", "Experiment", "Measure", "Outcome", "Small", "Stage"]

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Stage:
    """A part of a small network's schedule."""

    epochs: int
    rate: float = 1.0
    """Times the run's learning rate."""
    part: float = 1.0
    """Share of the training images."""


@dataclass(frozen=True)
class Small:
    """Training of one of the four-layer networks: batches of 128, momentum 0.9, biases at twice the rate."""

    network: str
    """A name in ``convnet.network.NETWORKS``."""
    neuron: Literal["relu", "tanh"] = "relu"
    init: Literal["2012", "today"] = "2012"
    """2012: the layer file's, on pixels of 0..255; today: He's or Xavier's, on those divided by their deviation."""
    bias: float = 0.0
    """Of the hidden layers but the first, at the start."""
    crop: Literal[24, 32] = 24
    """24: random crops and mirror images; 32: the whole image, as it is."""
    rate: float = 0.001
    """Learning rate of the weights."""
    decay: float = 1.0
    """Times the weight decays of the layer file."""
    stages: tuple[Stage, ...] = (Stage(10),)
    images: int | None = None
    """Of the training images, of each class its share; None: all."""
    stop_at: float | None = None
    """End the run at this training error in percent, taken over an epoch."""

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a training run, repeated over seeds."""

    name: str
    run: Small | Recipe | None = None
    """What the paper did. None: the arm looks at another one's networks, ``of``."""
    short: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``run`` that are changed unless the experiment is run in full."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from, in even steps; none: ``run`` has the rate."""
    of: str = ""
    """The arm whose networks this one judges."""
    views: Literal["center", "ten-crop"] = "center"
    """Of a test image."""

    @property
    def folder(self) -> str:
        """Where its runs lie in the experiment's folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def settings(self, *, full: bool) -> Small | Recipe | None:
        return self.run if full or self.run is None else replace(self.run, **self.short)


class Outcome(Protocol):
    """What a finished run is measured by."""

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Its metrics.jsonl."""

    def judge(self, split: Split) -> Mapping[str, float]:
        """``loss`` (nats) and ``top1`` (percent) of its last weights, in the arm's views: on the test images, or on
        those it was trained on, as they are. NaN where its loss was lost."""


@dataclass(frozen=True)
class Measure:
    """A figure of a run. ``of`` gives None where there is none, such as of an error that was not reached."""

    name: str
    of: Callable[[Outcome], float | None]


@dataclass(frozen=True)
class Experiment:
    """A claim put to the test."""

    name: str
    claim: str
    source: str
    """Where the claim stands, and what its figures are."""
    arms: tuple[Arm, ...]
    measures: tuple[Measure, ...]
    """The first one gives the arms' values in the record."""
    rule: tuple[Comparison, ...]
    """How the verdict comes about; see ``verdicts.judge``."""
    short: str
    """What the default leaves out, for the verdict's sentence."""
    cost: str
    """Time by default and in full, and on what."""
    seeds: int = 3
    choose: Measure | None = None
    """What the best of an arm's rates has least of. It sees the training rows alone, never the test images."""
    chart: Literal["values", "errors", "losses"] = "values"
    """The picture: a dot a run; or training and test errors, or losses, over epochs."""
    file: str = ""
    """The name of the file that it came from; the paper's have none."""

    def __post_init__(self) -> None:
        names, measures = [arm.name for arm in self.arms], [measure.name for measure in self.measures]
        folders = [arm.folder for arm in self.arms]
        if "" in folders or len(set(folders)) < len(folders):
            raise ValueError(f"experiment {self.name}: its arms {names} need names whose folders differ: {folders}")
        for place, arm in enumerate(self.arms):
            earlier = [other.name for other in self.arms[:place] if not other.of]
            if (arm.run is None) != bool(arm.of) or (arm.of and arm.of not in earlier):
                raise ValueError(
                    f"experiment {self.name}: arm {arm.name} needs a run of its own or the name of an arm before it"
                )
            if arm.rates and not (self.choose and isinstance(arm.run, Small)):
                raise ValueError(f"experiment {self.name}: arm {arm.name} has rates, but nothing chooses among them")
        for comparison in self.rule:
            for name in (comparison.better, comparison.worse):
                if name not in names:
                    raise ValueError(f"experiment {self.name}: its rule compares {name}; its arms are {names}")
            if comparison.measure not in measures:
                raise ValueError(
                    f"experiment {self.name}: its rule wants {comparison.measure}; measured are {measures}"
                )

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)
