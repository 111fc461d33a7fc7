"""Files that hold a model: ``last.ckpt`` to resume from, ``.safetensors`` for the weights alone.

Every file is written atomically, and nothing is unpickled that could run code.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from alexnet.files import write_atomically
from alexnet.model import AlexNet_2012
from alexnet.weights.card import ModelCard

__all__ = [
    "BEST",
    "LAST",
    "load_checkpoint",
    "load_model",
    "load_weights",
    "save_checkpoint",
    "save_weights",
]

LAST, BEST = "last.ckpt", "best.safetensors"
FORMAT = "alexnet-2012/1"


def save_checkpoint(path: Path, state: dict[str, Any], card: ModelCard) -> None:
    """Write everything that resuming needs: tensors, numbers, strings, lists and dicts of them."""

    def write(file: Path) -> None:
        try:
            torch.save({"format": FORMAT, "card": card.to_json(), **state}, file)
        except RuntimeError as error:  # torch's writer hides the disk's own error
            raise OSError(f"{path}: cannot write the checkpoint; is the disk full? ({_first_line(error)})") from error

    write_atomically(path, write)


def load_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file that ``save_checkpoint`` wrote, on the CPU; its card is under ``card``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, foreign, or a pickle that would run code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: refused: loading it would run code, or it is not a checkpoint") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: cut short or not a checkpoint ({_first_line(error)})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of this project; `alexnet convert` takes weights from elsewhere")
    state["card"] = ModelCard.from_json(state["card"])
    return state


def save_weights(path: Path, weights: dict[str, Tensor], card: ModelCard) -> None:
    """Write a state dict as safetensors, with ``card`` in its metadata."""
    metadata = {"format": FORMAT, "card": card.to_json()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    # not save_file, which makes files that only their owner can read
    write_atomically(path, lambda file: file.write_bytes(save(tensors, metadata)))


def load_weights(path: Path) -> tuple[dict[str, Tensor], ModelCard]:
    """Read what ``save_weights`` wrote. ValueError where the file is broken or says nothing of its network."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        weights = load_file(path)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path}: cut short or not a safetensors file ({_first_line(error)})") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: says nothing of its network; `alexnet convert` takes weights from elsewhere")
    return weights, ModelCard.from_json(metadata["card"])


def load_model(path: str | Path) -> AlexNet_2012:
    """The model of a run folder, a checkpoint or an exported ``.safetensors``, on the CPU, in evaluation mode.

    A run folder stands for its last weights, or their moving average: what a run's result is about. For those with the
    best validation accuracy, name the file: ``load_model("runs/x/best.safetensors")``. The model's ``card`` holds its
    class names and the normalisation of its input.

    Raises:
        FileNotFoundError: nothing there to load.
        ValueError: a file that is broken, foreign or unsafe.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or run folder")
    if path.is_dir():
        found = [path / name for name in (LAST, BEST) if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path}: holds neither {LAST} nor {BEST}")
        path = found[0]
    if path.suffix == ".safetensors":
        weights, card = load_weights(path)
    else:
        state = load_checkpoint(path, mmap=True)
        weights, card = state.get("average", state["model"]), state["card"]
    with torch.device("meta"):
        model = AlexNet_2012(card.num_classes, card.variant, widths=card.widths)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights do not fit variant {card.variant!r}") from error
    model.card = card
    return model.eval().requires_grad_(False)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
