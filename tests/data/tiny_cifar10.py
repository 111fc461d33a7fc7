"""A CIFAR-10 of a few rows, in the formats of the real one, for the tests that find and download it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ROWS = 20  # a batch; every class twice


def labels(batch: int) -> np.ndarray:
    return (np.arange(ROWS) + batch) % 10


def pixels(batch: int) -> np.ndarray:
    """uint8 [ROWS, 32, 32, 3]."""
    return np.random.default_rng(batch).integers(0, 256, (ROWS, 32, 32, 3), dtype=np.uint8)


def _text(value: bytes) -> bytes:
    """A byte string as Python 2 pickled it."""
    return b"T" + len(value).to_bytes(4, "little") + value


def _number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def python2_pickle(content: dict[str, object]) -> bytes:
    """A dictionary of lists and of one array, pickled the way the real batches are: by Python 2 and NumPy of 2009."""
    out = b"\x80\x02}("
    for key, value in content.items():
        out += _text(key.encode())
        if isinstance(value, np.ndarray):
            out += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _number(0) + b"\x85" + _text(b"b")
            out += b"\x87R(" + _number(1) + _number(value.shape[0]) + _number(value.shape[1]) + b"\x86cnumpy\ndtype\n"
            out += _text(b"u1") + _number(0) + _number(1) + b"\x87R(" + _number(3) + _text(b"|") + b"NNN"
            out += _number(-1) + _number(-1) + _number(0) + b"tb\x89" + _text(value.tobytes()) + b"tb"
        else:
            items = [_text(item.encode()) if isinstance(item, str) else _number(int(item)) for item in value]
            out += b"](" + b"".join(items) + b"e"
    return out + b"u."


def batches() -> dict[str, bytes]:
    """The files of `cifar-10-batches-py`: five training batches, the test batch (number 6), the class names."""
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    files = {
        name: python2_pickle({"data": pixels(n).transpose(0, 3, 1, 2).reshape(ROWS, -1), "labels": list(labels(n))})
        for n, name in enumerate(names, 1)
    }
    return {**files, "batches.meta": python2_pickle({"label_names": CLASSES})}


def use_md5_of(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's table state these files instead of the real ones."""
    from torchvision.datasets import CIFAR10

    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{n}", md5[f"data_batch_{n}"]] for n in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})


def write_batches(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    files = batches()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    use_md5_of(files, monkeypatch)
    return folder


def parquet(split: str) -> bytes:
    """One file of the hub's copy: PNG images and labels, with the hub's schema."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    numbers = range(1, 6) if split == "train" else range(6, 7)
    rows, marks = [], []
    for n in numbers:
        for array in pixels(n):
            out = io.BytesIO()
            Image.fromarray(array).save(out, "PNG")
            rows.append({"bytes": out.getvalue(), "path": None})
        marks += labels(n).tolist()
    features = {"img": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    schema = pa.schema(
        [("img", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    out = io.BytesIO()
    pq.write_table(pa.table({"img": rows, "label": marks}, schema=schema), out)
    return out.getvalue()
