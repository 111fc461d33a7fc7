"""What weights need beside them to be used: the network, its classes and the input it expects."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from alexnet.data.normalization import Normalization

__all__ = ["ModelCard"]


@dataclass(frozen=True)
class ModelCard:
    """What stands in the metadata of every file of weights that this project writes."""

    variant: str
    classes: tuple[str, ...]
    normalization: Normalization
    data: str
    """Display name of the data set it was trained on."""
    record: dict[str, str | int | float] = field(default_factory=dict)
    """What the training run came to, by name, for people; empty where it is not known."""
    widths: str = "full"
    """As ``AlexNet_2012`` takes it."""

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
            normalization=Normalization(tuple(norm["mean"]), tuple(norm["std"]), norm.get("mean_image", "")),
            data=fields["data"],
            widths=fields.get("widths", "full"),
            record=fields.get("record", {}),
        )
