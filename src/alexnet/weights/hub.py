"""The Hugging Face Hub: what a folder there holds, and how the network is read back from it.

``model.safetensors`` has the weights, ``config.json`` the arguments of ``AlexNet_2012`` and the model's card, and
``README.md`` what a reader wants to know first. huggingface_hub's mixin moves the folder to and fro.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import huggingface_hub
import safetensors.torch
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from alexnet.files import write_atomically
from alexnet.weights.card import ModelCard
from alexnet.weights.tensorfiles import read_safetensors

__all__ = ["CONFIG", "WEIGHTS", "PretrainedMixin", "Saved", "read_config"]

WEIGHTS, CONFIG = "model.safetensors", "config.json"

README = """---
library_name: alexnet-2012
license: mit
pipeline_tag: image-classification
tags: [alexnet, image-classification, model_hub_mixin, pytorch_model_hub_mixin]
---

# AlexNet (2012), variant `{variant}`, {num_classes} classes

{training}

```python
from alexnet import AlexNet_2012

model = AlexNet_2012.from_pretrained("THIS_REPOSITORY")  # in evaluation mode
model.card                                               # classes, normalisation, data set
```
{results}"""


@dataclass(frozen=True)
class Saved:
    """What a ``config.json`` says of the weights beside it."""

    num_classes: int
    variant: str
    card: ModelCard | None

    @classmethod
    def of(cls, config: Any, where: object) -> Saved:
        """ValueError, which begins with ``where``, for anything but what ``save_pretrained`` writes."""
        if not isinstance(config, dict):
            raise ValueError(f"{where}: an object is wanted")
        num_classes, variant, card = (config.get(name) for name in ("num_classes", "variant", "card"))
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or not isinstance(variant, str):
            raise ValueError(f"{where}: num_classes, a number, and variant, a name, are wanted")
        if card is None:
            return cls(num_classes, variant, None)
        found = ModelCard.from_json(json.dumps(card), where)
        if (found.num_classes, found.variant) != (num_classes, variant):
            raise ValueError(
                f"{where}: the card's {found.num_classes} classes and variant {found.variant!r} are not the network's "
                f"{num_classes} and {variant!r}"
            )
        return cls(num_classes, variant, found)


def read_config(weights: Path) -> Saved | None:
    """What stands beside ``weights``; None unless they lie in a folder that ``save_pretrained`` wrote.

    Raises:
        ValueError: the folder's ``config.json`` is malformed.
    """
    path = weights.with_name(CONFIG)
    if weights.name != WEIGHTS or not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON") from error
    if not isinstance(config, dict) or "card" not in config:
        return None  # another program's, or a run's
    return Saved.of(config, path)


class PretrainedMixin(PyTorchModelHubMixin):
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub``, with the model's card carried along.

    Under the README's usage stands the run's record, if the card has one, or the Markdown text that
    ``model_card_kwargs={"results": "…"}`` of the last two gives.
    """

    card: ModelCard | None

    @classmethod
    def from_weights(
        cls, weights: Mapping[str, Any], card: ModelCard | None = None, *, strict: bool = True, **arguments: Any
    ) -> Self:
        """A network with ``weights``, a state dict, which are not copied; in evaluation mode.

        Args:
            card: says ``num_classes`` and ``variant``, where ``arguments`` do not.
            strict: False: weights that are missing are drawn, and ones that are unknown passed over.

        Raises:
            ValueError: the weights do not fit, in one line.
        """
        if card is not None:
            own = {"num_classes": card.num_classes, "variant": card.variant, "widths": card.widths}
            arguments = own | arguments
        with torch.device("meta" if strict else "cpu"):
            model = cls(**arguments)
        assert isinstance(model, nn.Module)
        try:
            model.load_state_dict(weights, strict=strict, assign=True)
        except (RuntimeError, TypeError, AttributeError) as error:
            asked = f"variant {model.variant.name!r} with {model.num_classes} classes"
            raise ValueError(f"the weights do not fit {asked}") from error
        if card is not None and card.variant != model.variant.name:  # as ``arguments`` asked
            card = replace(card, variant=model.variant.name)
        model.card = card
        return model.eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, nn.Module)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        encoded = safetensors.torch.save(weights, {"format": "pt"})
        write_atomically(save_directory / WEIGHTS, lambda file: file.write_bytes(encoded))
        config = {**self._hub_mixin_config, "card": json.loads(self.card.to_json()) if self.card else None}  # type: ignore[dict-item]
        text = json.dumps(config, indent=2) + "\n"
        write_atomically(save_directory / CONFIG, lambda file: file.write_text(text, encoding="utf-8"))

    def generate_model_card(self, *, results: str = "") -> huggingface_hub.ModelCard:  # type: ignore[override]
        """The README of the Hub's page. ``results``: Markdown put at its end, in place of the run's record."""
        config: dict[str, Any] = self._hub_mixin_config  # type: ignore[assignment]
        training = "Weights whose training is not recorded: normalise the input as it was for them."
        if self.card:
            norm = self.card.normalization
            mean = f"the mean image in {CONFIG}" if norm.mean_image else f"mean {_numbers(norm.mean)}"
            sides = "shorter side resized to 256" if norm.resize == "short-side" else "warped to 256×256"
            training = (
                f"Trained on {self.card.data}. Input: RGB, {sides}, a crop, `(x / 255 − mean) / std` "
                f"with {mean} and std {_numbers(norm.std)}."
            )
            if self.card.record and not results:
                rows = [f"| {name} | {_shown(value)} |" for name, value in self.card.record.items()]
                results = "\n".join(["## The run\n", "| | |", "|---|---:|", *rows])
        fields = {name: config[name] for name in ("variant", "num_classes")}
        return huggingface_hub.ModelCard(
            README.format(**fields, training=training, results=f"\n{results}\n" if results else "")
        )

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        config: dict[str, Any] | None = None,
        map_location: str = "cpu",
        strict: bool = True,
        **options: Any,
    ) -> Self:
        """What ``from_pretrained`` calls. FileNotFoundError or ValueError where the folder is not whole."""
        download = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        where = {name: options.pop(name) for name in download if name in options}
        file = Path(model_id) / WEIGHTS
        if not Path(model_id).is_dir():
            file = Path(huggingface_hub.hf_hub_download(model_id, WEIGHTS, **where))
        card = Saved.of(config, f"{model_id}: {CONFIG}").card if config else None
        weights, _ = read_safetensors(file, map_location)
        try:
            return cls.from_weights(weights, card, strict=strict, **options)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _shown(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
