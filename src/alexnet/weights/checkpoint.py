"""Files that hold a model: ``last.ckpt`` to resume from, ``.safetensors`` for the weights alone.

Every file is written atomically, and nothing is unpickled that could run code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from alexnet.files import write_atomically
from alexnet.model import AlexNet_2012
from alexnet.weights import hub
from alexnet.weights.card import ModelCard
from alexnet.weights.tensorfiles import first_line, read_pickled, read_safetensors

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
            raise OSError(f"{path}: cannot write the checkpoint; is the disk full? ({first_line(error)})") from error

    write_atomically(path, write)


def load_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file that ``save_checkpoint`` wrote, on the CPU; its card is under ``card``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, foreign, or a pickle that would run code.
    """
    state = read_pickled(path, mmap=mmap)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of this project; `alexnet convert` takes weights from elsewhere")
    state["card"] = ModelCard.from_json(state.get("card"), path)
    return state


def save_weights(path: Path, weights: dict[str, Tensor], card: ModelCard) -> None:
    """Write a state dict as safetensors, with ``card`` in its metadata."""
    metadata = {"format": FORMAT, "card": card.to_json()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    # not save_file, which makes files that only their owner can read
    write_atomically(path, lambda file: file.write_bytes(save(tensors, metadata)))


def load_weights(path: Path) -> tuple[dict[str, Tensor], ModelCard]:
    """Read what ``save_weights`` wrote, or ``save_pretrained`` with a card.

    Raises:
        FileNotFoundError: no such file.
        ValueError: broken, or without a card.
    """
    weights, metadata = read_safetensors(path)
    if metadata.get("format") == FORMAT:
        return weights, ModelCard.from_json(metadata.get("card"), path)
    saved = hub.read_config(path)
    if saved is None:
        raise ValueError(f"{path}: says nothing of its network; `alexnet convert` takes weights from elsewhere")
    if saved.card is None:
        raise ValueError(
            f"{path}: saved without a card, so its input is not known; AlexNet_2012.from_pretrained reads it all the "
            "same, and `alexnet convert` assumes an input"
        )
    return weights, saved.card


def load_model(path: str | Path) -> AlexNet_2012:
    """The model of a run folder, a checkpoint, an exported ``.safetensors`` or a folder that ``save_pretrained`` wrote,
    on the CPU, in evaluation mode.

    A run folder stands for its last weights, or their moving average: what a run's result is about. For those with the
    best validation accuracy, name the file: ``load_model("runs/x/best.safetensors")``. The model's ``card`` holds its
    class names and the normalisation of its input.

    Raises:
        FileNotFoundError: nothing there to load.
        ValueError: a file that is broken, foreign or unsafe, or does not say what its input is.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or run folder")
    if path.is_dir():
        names = (LAST, BEST, hub.WEIGHTS)
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path}: holds neither {', '.join(names[:-1])} nor {names[-1]}")
        path = found[0]
    if path.suffix == ".safetensors":
        weights, card = load_weights(path)
    else:
        state = load_checkpoint(path, mmap=True)
        weights, card = state.get("average", state.get("model", {})), state["card"]
    try:
        model = AlexNet_2012.from_weights(weights, card)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return model.float().requires_grad_(False)
