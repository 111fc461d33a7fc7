"""A finished run as the measures see it: its rows, and its last weights put to the test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from alexnet.data.splits import Dataset, Images
from alexnet.recipes import Recipe
from alexnet.reproduce.convnet import small
from alexnet.reproduce.experiment import Arm, Small, Split
from alexnet.run.tracking import read_rows
from alexnet.use.evaluate import evaluate
from alexnet.weights.checkpoint import load_model

__all__ = ["CURVE", "Finished"]

CURVE = ("epoch", "train_loss", "train_acc", "val_loss", "val_acc")

JUDGED = 5000  # of the training images, at most


@dataclass
class Finished:
    """An ``Outcome``."""

    folder: Path
    settings: Small | Recipe
    arm: Arm
    dataset: Dataset
    device: torch.device
    blind: bool = False
    """In a sweep: nothing may be chosen on the test images."""
    judged: dict[Split, Mapping[str, float]] = field(default_factory=dict)

    @cached_property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        return read_rows(self.folder)

    def judge(self, split: Split) -> Mapping[str, float]:
        if self.blind:
            raise ValueError("a learning rate is chosen on the training rows alone")
        if self.rows[-1].get("train_loss") is None:  # its weights are no numbers
            return {"loss": math.nan, "top1": math.nan}
        if split not in self.judged:
            self.judged[split] = self._judge(self.dataset.val if split == "test" else self._trained_on())
        return self.judged[split]

    def _judge(self, images: Images) -> Mapping[str, float]:
        if isinstance(self.settings, Small):
            return small.judge(self.folder, self.settings, self.dataset, images, self.arm.views, self.device)
        model = load_model(self.folder)
        seen = replace(self.dataset, val=images)
        return evaluate(model, seen, self.arm.views, device=self.device.type, precision=self.settings.precision)

    def _trained_on(self) -> Images:
        settings = self.settings
        if isinstance(settings, Small):
            images = small.training_images(self.dataset, settings.images, settings.stages[-1].part)
        else:
            images = self.dataset.as_in(settings.holdout, settings.images).train
        return images.subset(range(0, len(images), -(-len(images) // JUDGED)))

    @property
    def training_error(self) -> float:
        """The last training error in percent; 100 where the loss was lost."""
        last = self.rows[-1]
        return 100.0 if last.get("train_loss") is None else round(100 - last["train_acc"], 3)

    def curve(self) -> list[list[float | None]]:
        """Of each row ``CURVE``: losses in nats, accuracies as errors in percent, None where the row has none."""

        def shown(row: Mapping[str, Any], key: str) -> float | None:
            value = row.get(key)
            return None if value is None else round(100 - value if key.endswith("acc") else value, 3)

        return [[shown(row, key) for key in CURVE] for row in self.rows]
