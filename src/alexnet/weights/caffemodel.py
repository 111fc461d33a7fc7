"""Read Caffe's binary files: a ``.caffemodel``'s layers with their weights, and a ``.binaryproto``'s mean image.

Both are protocol buffers. Only the few fields that hold weights are read, straight from the wire format, so neither
Caffe nor protobuf is needed. Field numbers are those of BVLC's src/caffe/proto/caffe.proto; the wire format is
described at protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["CaffeLayer", "read_binaryproto", "read_caffemodel"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
FLOATS = {FIXED32: "<f4", FIXED64: "<f8"}

Value = int | memoryview | np.ndarray  # a varint, bytes or a message, and floats

# V1LayerParameter.LayerType; the newer format writes these names out
V1_TYPES = {4: "Convolution", 6: "Dropout", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax"}


@dataclass(frozen=True)
class CaffeLayer:
    """One layer of the network: its blobs are weights ``[out, in / groups, height, width]`` or ``[out, in]``, bias."""

    name: str
    type: str
    blobs: tuple[np.ndarray, ...]


def read_caffemodel(path: Path) -> list[CaffeLayer]:
    """The layers in the order of the file, in either of Caffe's formats (``layers`` of V1, ``layer`` since 2015).

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, or not a Caffe model.
    """
    layers = []
    try:
        for number, value in _fields(_read(path)):
            if isinstance(value, memoryview) and number in (2, 100):
                layers.append(_layer(value, old=number == 2))
    except _WireError as error:
        raise ValueError(f"{path}: cut short or not a Caffe model ({error})") from error
    if not any(layer.blobs for layer in layers):
        raise ValueError(f"{path}: not a Caffe model: no layer in it has weights")
    return layers


def read_binaryproto(path: Path) -> np.ndarray:
    """The mean image: float32 ``[3, height, width]``, BGR, 0..255. ValueError where the file is anything else."""
    try:
        mean = _blob(_read(path))
    except _WireError as error:
        raise ValueError(f"{path}: cut short or not a Caffe mean image ({error})") from error
    if mean.ndim not in (3, 4) or mean.size == 0 or mean.shape[-3] != 3 or mean.size != math.prod(mean.shape[-3:]):
        raise ValueError(f"{path}: not a mean image of three channels, but {list(mean.shape)}")
    return mean.reshape(mean.shape[-3:])


class _WireError(Exception):
    """The bytes are not the message that was expected."""


def _read(path: Path) -> memoryview:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return memoryview(path.read_bytes())


def _layer(data: memoryview, old: bool) -> CaffeLayer:
    name_field, type_field, blobs_field = (4, 5, 6) if old else (1, 2, 7)
    name, kind, blobs = "", "", []
    for number, value in _fields(data):
        if isinstance(value, memoryview):
            if old and number == 1:
                raise _WireError("Caffe's first format, V0; Caffe's upgrade_net_proto_binary makes a newer one of it")
            if number == name_field:
                name = _text(value)
            elif number == type_field:
                kind = _text(value)
            elif number == blobs_field:
                blobs.append(_blob(value))
        elif isinstance(value, int) and number == type_field:
            kind = V1_TYPES.get(value, f"type {value}")
    return CaffeLayer(name, kind, tuple(blobs))


def _blob(data: memoryview) -> np.ndarray:
    """BlobProto: values, packed or not, float or double, with ``shape`` or the four sides of older files."""
    parts: list[np.ndarray] = []
    shape: list[int] | None = None
    sides = {1: 0, 2: 0, 3: 0, 4: 0}
    for number, value in _fields(data):
        if number in (5, 8) and not isinstance(value, int):  # data, double_data
            kind = np.dtype("<f4" if number == 5 else "<f8")
            if isinstance(value, memoryview) and len(value) % kind.itemsize:
                raise _WireError("a blob whose length is no whole number of values")
            parts.append(np.frombuffer(value, kind) if isinstance(value, memoryview) else value)
        elif number == 7 and isinstance(value, memoryview):
            shape = [side for field, sides_ in _fields(value) if field == 1 for side in _numbers(sides_)]
        elif number in sides and isinstance(value, int):
            sides[number] = value
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite
        values = np.concatenate(parts or [np.empty(0)]).astype(np.float32, copy=False)
    if shape is None:
        shape = list(sides.values())
    if math.prod(shape) != values.size:
        raise _WireError(f"a blob of shape {shape} with {values.size} values")
    return values.reshape(shape)


def _numbers(value: Value) -> list[int]:
    """The integers of a repeated field, packed or one at a time."""
    if isinstance(value, int):
        return [value]
    if not isinstance(value, memoryview):
        raise _WireError("a side that is no integer")
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """(field number, value) of a message. A run of one unpacked float field comes as a single array."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise _WireError(f"field number 0 at byte {start}")
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif wire == BYTES:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise _WireError(f"{size} bytes announced, {len(data) - at} there")
            yield number, data[at : at + size]
            at += size
        elif wire in FLOATS:
            floats, at = _run(data, start, at - start, FLOATS[wire])
            yield number, floats
        else:
            raise _WireError(f"wire type {wire} at byte {start}")


def _run(data: memoryview, start: int, tag_bytes: int, kind: str) -> tuple[np.ndarray, int]:
    """All values of one field that follow each other, each behind its tag, and where the next field begins."""
    record = np.dtype([("tag", np.void, tag_bytes), ("value", kind)])
    rows = np.frombuffer(data[start:], record, count=(len(data) - start) // record.itemsize)
    if not len(rows):
        raise _WireError("a number is cut off")
    other = np.flatnonzero(rows["tag"] != rows["tag"][0])
    rows = rows[: other[0]] if len(other) else rows
    return rows["value"], start + len(rows) * record.itemsize


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, low bits first, from ``at`` on; and where the next field begins."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _WireError("the file ends within a number")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise _WireError("a number longer than ten bytes")


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise _WireError("a name that is not text") from error
