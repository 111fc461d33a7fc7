"""The Hugging Face Hub: what a folder there holds, and how the network is read back from it.

``model.safetensors`` has the weights, ``config.json`` the arguments of ``AlexNet_2012`` and the model's card, and
``README.md`` what a reader wants to know first. huggingface_hub's mixin moves the folder to and fro.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import huggingface_hub
import safetensors
import safetensors.torch
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from alexnet.weights.card import ModelCard

__all__ = ["PretrainedMixin"]

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


class PretrainedMixin(PyTorchModelHubMixin):
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub``, with the model's card carried along.

    Under the README's usage stands the run's record, if the card has one, or the Markdown text that
    ``model_card_kwargs={"results": "…"}`` of the last two gives.
    """

    card: ModelCard | None

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, nn.Module)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        (save_directory / WEIGHTS).write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
        config = {**self._hub_mixin_config, "card": json.loads(self.card.to_json()) if self.card else None}  # type: ignore[dict-item]
        (save_directory / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")

    def generate_model_card(self, *, results: str = "") -> huggingface_hub.ModelCard:  # type: ignore[override]
        """The README of the Hub's page. ``results``: Markdown put at its end, in place of the run's record."""
        config: dict[str, Any] = self._hub_mixin_config  # type: ignore[assignment]
        training = "Weights whose training is not recorded: normalise the input as it was for them."
        if self.card:
            norm = self.card.normalization
            mean = f"the mean image in {CONFIG}" if norm.mean_image else f"mean {_numbers(norm.mean)}"
            training = (
                f"Trained on {self.card.data}. Input: RGB, `(x / 255 − mean) / std` "
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
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file")
        with torch.device("meta"):
            model = cls(**options)
        assert isinstance(model, nn.Module)
        try:
            model.load_state_dict(safetensors.torch.load_file(file, map_location), strict=strict, assign=True)
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise ValueError(f"{file}: not the weights of {cls.__name__} with {options}") from error
        if config and config.get("card"):
            model.card = ModelCard.from_json(json.dumps(config["card"]))
        return model.eval()


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _shown(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
