"""What weights need beside them to be used: the network, its classes and the input it expects."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

__all__ = ["ModelCard", "Normalization"]


@dataclass(frozen=True)
class Normalization:
    """``(x / 255 − mean) / std`` per channel, RGB. With ``std`` 1/255 the values are 0..255 minus the mean."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mean_image: str = field(default="", repr=False)
    """Where not empty, subtracted in place of ``mean``: a float32 array ``[side, side, 3]`` in 0..1, little-endian, in
    base64. It stands for the 256×256 pixels that images are cropped from, and is resized to them bilinearly."""


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
            record=fields.get("record", {}),
        )
