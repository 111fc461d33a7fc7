"""Small data sets on disk, for the tests that read them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = {"_type": "ClassLabel", "names": ["cat", "dog"]}
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 233289216\n"


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(array: np.ndarray) -> bytes:
    return encoded(Image.fromarray(array))


def write_parquet(path, labels, features=None, image="img", label="label", kind=None, rows=None, **more):
    """A Parquet file (a path or a file object) with one grey PNG a label, or with the rows given."""
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if rows is None:
        rows = [{"bytes": png(np.full((4, 4, 3), i, np.uint8)), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({image: pa.array(rows, STRUCT), label: pa.array(labels, kind or pa.int64()), **more})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def parquet_folder(folder, train=(0, 1, 0), val=(1, 0), features=None, val_name="test", **options) -> str:
    write_parquet(folder / "train-00000-of-00001.parquet", train, features, **options)
    write_parquet(folder / f"{val_name}-00000-of-00001.parquet", val, features, **options)
    return str(folder)


def image_folder(folder: Path, splits: Sequence[str] = ("train", "val"), classes=("cat", "dog"), suffix=".png") -> str:
    """Three images a class and split."""
    for split in splits:
        for number, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (4, 4), (number, i, 9)).save(folder / split / name / f"{i}{suffix}")
    return str(folder)
