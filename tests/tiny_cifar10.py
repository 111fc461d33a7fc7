"""A CIFAR-10 of a few rows, in the formats of the real one, for the tests that find and download it."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from pictures import png, write_parquet

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ROWS = 20  # a batch; every class twice


def labels(batch: int) -> np.ndarray:
    return (np.arange(ROWS) + batch) % 10


def pixels(batch: int) -> np.ndarray:
    """uint8 [ROWS, 32, 32, 3]."""
    return np.random.default_rng(batch).integers(0, 256, (ROWS, 32, 32, 3), dtype=np.uint8)


def batches() -> dict[str, bytes]:
    """The files of `cifar-10-batches-py`: five training batches, the test batch (number 6), the class names."""
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    files: dict[str, object] = {
        name: {"data": pixels(n).transpose(0, 3, 1, 2).reshape(ROWS, -1), "labels": labels(n).tolist()}
        for n, name in enumerate(names, 1)
    }
    files["batches.meta"] = {"label_names": CLASSES}
    return {name: pickle.dumps(content, protocol=2) for name, content in files.items()}


def use_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's table state these files instead of the real ones."""
    from torchvision.datasets import CIFAR10

    md5 = {name: hashlib.md5(content).hexdigest() for name, content in batches().items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{n}", md5[f"data_batch_{n}"]] for n in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})


def write_batches(data_dir: Path) -> Path:
    folder = data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, content in batches().items():
        (folder / name).write_bytes(content)
    return folder


def parquet(split: str) -> bytes:
    """One file of the hub's copy: PNG images and labels, with the hub's schema."""
    numbers = range(1, 6) if split == "train" else [6]
    rows = [{"bytes": png(array), "path": None} for n in numbers for array in pixels(n)]
    features = {"img": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    file = io.BytesIO()
    write_parquet(file, np.concatenate([labels(n) for n in numbers]), features, rows=rows)
    return file.getvalue()
