"""Read Caffe's binary files: the layers of a ``.caffemodel`` and the mean image of a ``.binaryproto``.

Both are protocol buffers. Only the fields that hold weights are read, straight from the wire format, so neither Caffe
nor protobuf is needed, and no code runs. Field numbers are those of BVLC's src/caffe/proto/caffe.proto; the wire format
is described at protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet.checkpoint import check_file

__all__ = ["CaffeLayer", "read_binaryproto", "read_caffemodel"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
V1_LAYERS, LAYERS = 2, 100  # fields of NetParameter
# V1LayerParameter.LayerType; the newer format stores these names
V1_TYPES = {4: "Convolution", 6: "Dropout", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax"}


@dataclass(frozen=True)
class CaffeLayer:
    """A layer of the network. Its blobs are the weight, ``[out, in / groups, height, width]`` or ``[out, in]``, and the
    bias.
    """

    name: str
    type: str
    blobs: tuple[np.ndarray, ...]


def read_caffemodel(path: Path) -> list[CaffeLayer]:
    """The layers in the order of the file, in either of Caffe's formats (``layers`` of V1, ``layer`` since 2015).

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, not a Caffe model, or in Caffe's first format (V0).
    """
    data = _read(path)
    try:
        layers = [
            _layer(value, number == V1_LAYERS)
            for number, value in _fields(data)
            if number in (V1_LAYERS, LAYERS) and isinstance(value, memoryview)
        ]
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: truncated or not a Caffe model ({error})") from error
    if not any(layer.blobs for layer in layers):
        raise ValueError(f"{path}: not a Caffe model, because no layer in it has weights")
    return layers


def read_binaryproto(path: Path) -> np.ndarray:
    """The mean image: float32 ``[3, height, width]``, BGR, 0..255.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, or not a mean image.
    """
    data = _read(path)
    try:
        mean = _blob(data)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: truncated or not a Caffe mean image ({error})") from error
    if mean.ndim not in (3, 4) or mean.size == 0 or mean.shape[-3] != 3 or mean.size != math.prod(mean.shape[-3:]):
        raise ValueError(f"{path}: must be a mean image of three channels, got the shape {list(mean.shape)}")
    if not np.isfinite(mean).all():
        raise ValueError(f"{path}: the mean image has values that are not finite")
    return mean.reshape(mean.shape[-3:])


def _read(path: Path) -> memoryview:
    check_file(path)
    return memoryview(path.read_bytes())


def _layer(data: memoryview, v1: bool) -> CaffeLayer:
    """V1LayerParameter or LayerParameter."""
    name_field, type_field, blobs_field = (4, 5, 6) if v1 else (1, 2, 7)
    name, kind, blobs = "", "", []
    for number, value in _fields(data):
        if v1 and number == 1 and isinstance(value, memoryview):
            raise ValueError("Caffe's first format, V0; convert it with Caffe's upgrade_net_proto_binary")
        if number == type_field:
            kind = V1_TYPES.get(value, "") if isinstance(value, int) else str(value, "utf-8")
        elif number == name_field and isinstance(value, memoryview):
            name = str(value, "utf-8")
        elif number == blobs_field and isinstance(value, memoryview):
            blobs.append(_blob(value))
    return CaffeLayer(name, kind, tuple(blobs))


def _blob(data: memoryview) -> np.ndarray:
    """BlobProto: float or double values, and ``shape`` or the four sides of older files."""
    parts: list[np.ndarray] = []
    sides = {1: 0, 2: 0, 3: 0, 4: 0}
    shape: list[int] | None = None
    for number, value in _fields(data):
        if number in (5, 8) and isinstance(value, memoryview):  # data, double_data
            parts.append(np.frombuffer(value, "<f4" if number == 5 else "<f8"))
        elif number == 7 and isinstance(value, memoryview):
            shape = [side for field, part in _fields(value) if field == 1 for side in _integers(part)]
        elif number in sides and isinstance(value, int):
            sides[number] = value
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite
        values = np.concatenate(parts or [np.empty(0)]).astype(np.float32, copy=False)
    shape = list(sides.values()) if shape is None else shape
    if math.prod(shape) != values.size:
        raise ValueError(f"a blob of shape {shape} with {values.size} values")
    return values.reshape(shape)


def _integers(value: int | memoryview) -> Iterator[int]:
    """A repeated integer field: one value, or several packed in bytes."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: their number, and an integer or the bytes of anything else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in (FIXED32, FIXED64):  # a number that is not packed
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if number == 0 or at + size > len(data):
            raise ValueError(f"field {number} of {size} bytes, {len(data) - at} left")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The integer at ``at``, seven bits a byte, low bits first; and where the next field begins."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("an integer of more than ten bytes")
