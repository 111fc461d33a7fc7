"""What weights need beside them to be used: the network, its classes and the input it expects."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from alexnet.data.normalization import Normalization

__all__ = ["ModelCard"]

ADDED = {"record", "widths", "mean_image", "resize"}  # since 0.1.0 began: a card without them means their defaults


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
    def from_json(cls, text: Any, where: object = "card") -> ModelCard:
        """The card that ``to_json`` wrote, in this version or an older one.

        Raises:
            ValueError: anything else, in one line that begins with ``where`` and says what is wrong. Fields that this
                version does not know are refused too: they may change what the network's input is.
        """
        try:
            try:
                found = json.loads(text)
            except (ValueError, TypeError, RecursionError):
                raise ValueError("not valid JSON") from None
            return cls._from_object(found)
        except ValueError as error:
            raise ValueError(f"{where}: malformed card: {error}") from error

    @classmethod
    def _from_object(cls, value: Any) -> ModelCard:
        found = _fields("the card", value, cls)
        norm = _fields("normalization", found["normalization"], Normalization)
        for name in ("mean", "std"):
            _demand(isinstance(norm[name], list), f"{name}: three finite numbers are wanted")
            norm[name] = tuple(norm[name])
        classes, record = found["classes"], found.get("record", {})
        for name in ("variant", "widths"):
            named = found.get(name, "full")
            _demand(isinstance(named, str) and named.replace("-", "_").isidentifier(), f"{name}: a name is wanted")
        _demand(isinstance(found["data"], str), "data: a text is wanted")
        strings = isinstance(classes, list) and len(classes) > 0 and all(isinstance(name, str) for name in classes)
        _demand(strings, "classes: a list of names is wanted")
        scalars = isinstance(record, dict) and all(isinstance(value, str | int | float) for value in record.values())
        _demand(scalars, "record: numbers and texts by name are wanted")
        return cls(**{**found, "classes": tuple(classes), "normalization": Normalization(**norm)})


def _fields(what: str, value: Any, kind: type) -> dict[str, Any]:
    """``value``, if it is an object with the fields of ``kind``."""
    _demand(isinstance(value, dict), f"{what}: an object is wanted")
    names = [field.name for field in fields(kind)]
    missing = [name for name in names if name not in value and name not in ADDED]
    _demand(not missing, f"{what} lacks {', '.join(missing)}")
    unknown = [repr(name) for name in value if name not in names]
    _demand(not unknown, f"{what} has {', '.join(unknown)}, which this version does not know")
    return dict(value)


def _demand(ok: bool, reason: str) -> None:
    if not ok:
        raise ValueError(reason)
