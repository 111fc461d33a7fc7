"""What weights need beside them to be used: the network, its classes and the input it expects."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

__all__ = ["ModelCard", "Normalization"]


@dataclass(frozen=True)
class Normalization:
    """``(x / 255 − mean) / std`` per channel, RGB. With ``std`` 1/255 the values are 0..255 minus the mean."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class ModelCard:
    """What stands in the metadata of every file of weights that this project writes."""

    variant: str
    classes: tuple[str, ...]
    normalization: Normalization
    data: str
    """Display name of the data set it was trained on."""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        fields = json.loads(text)
        norm = fields.pop("normalization")
        return cls(
            variant=fields["variant"],
            classes=tuple(fields["classes"]),
            normalization=Normalization(tuple(norm["mean"]), tuple(norm["std"])),
            data=fields["data"],
        )
