"""Checkpoints that are cut or have a bit flipped: each is refused in one line, or read as what it was."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from alexnet.weights.checkpoint import load_checkpoint
from breaking.runs import Trial, scratch

CUTS, CHUNK = 1000, 1000


def cut(_: int) -> dict[str, Any]:
    """A checkpoint that ends after each thousandth of its bytes."""
    with scratch() as folder:
        data = _checkpoint(folder)
        wrong = [said for i in range(CUTS) if (said := _damaged(folder, data[: len(data) * i // CUTS])) != "refused"]
    return {"trials": CUTS, "wrong": wrong}


def flipped(chunk: int) -> dict[str, Any]:
    """A checkpoint with one bit flipped: refused, or read as it was."""
    draw, answers = random.Random(chunk), Counter[str]()
    with scratch() as folder:
        data = _checkpoint(folder)
        for _ in range(CHUNK):
            place = draw.randrange(8 * len(data))
            changed = bytearray(data)
            changed[place // 8] ^= 1 << place % 8
            answers[_damaged(folder, bytes(changed))] += 1
    harmless, refused = answers.pop("harmless", 0), answers.pop("refused", 0)
    return {"trials": CHUNK, "refused": refused, "harmless": harmless, "wrong": list(answers.elements())}


def _checkpoint(folder: Path) -> bytes:
    return (Trial(folder, "every part of a recipe").whole / "last.ckpt").read_bytes()


def _damaged(folder: Path, data: bytes) -> str:
    """``refused``, ``harmless`` or what was wrong about reading this as a checkpoint."""
    path, good = folder / "damaged.ckpt", next(folder.glob("whole*")) / "last.ckpt"
    path.write_bytes(data)
    try:
        found = load_checkpoint(path)
    except ValueError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "harmless" if _equal(found, load_checkpoint(good)) else "read as something else"


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(two, list | tuple) and len(one) == len(two) and all(map(_equal, one, two))
    return bool(one == two)
