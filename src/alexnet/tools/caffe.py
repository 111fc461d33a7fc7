"""Read Caffe's binary files: the layers of a ``.caffemodel`` and the mean image of a ``.binaryproto``.

Both are protocol buffers. Only the fields that hold weights are used, and neither Caffe nor protobuf is needed. Field
numbers are those of BVLC's src/caffe/proto/caffe.proto; the wire format is described at
protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alexnet.checkpoint import is_lfs_pointer

__all__ = ["CaffeLayer", "read_binaryproto", "read_caffemodel"]

VARINT, BYTES = 0, 2  # wire types
FIXED_SIZES = {1: 8, 5: 4}  # bytes of the other two
# V1LayerParameter.LayerType; the newer format stores these names
V1_TYPES = {4: "Convolution", 6: "Dropout", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax"}

_Content = TypeVar("_Content")


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
    return _read(path, "model", _layers)


def read_binaryproto(path: Path) -> np.ndarray:
    """The mean image: float32 ``[3, height, width]``, BGR, 0..255.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, or not a mean image.
    """
    mean = _read(path, "mean image", _blob)
    if mean.ndim not in (3, 4) or mean.size == 0 or mean.shape[-3] != 3 or mean.size != math.prod(mean.shape[-3:]):
        raise ValueError(f"{path}: must be a mean image of three channels, got the shape {list(mean.shape)}")
    return mean.reshape(mean.shape[-3:])


def _read(path: Path, kind: str, parse: Callable[[memoryview], _Content]) -> _Content:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if is_lfs_pointer(path):
        raise ValueError(f"{path}: a Git LFS pointer, not the file itself; download it with: git lfs pull")
    try:
        return parse(memoryview(path.read_bytes()))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a damaged file can cause any of them
        raise ValueError(f"{path}: truncated or not a Caffe {kind} ({error})") from error


def _layers(data: memoryview) -> list[CaffeLayer]:
    """NetParameter."""
    net = _message(data)
    layers = [_layer(layer, 4, 5, 6) for layer in net.get(2, [])]  # V1LayerParameter
    layers += [_layer(layer, 1, 2, 7) for layer in net.get(100, [])]  # LayerParameter
    if not any(layer.blobs for layer in layers):
        raise ValueError("no layer in it has weights")
    return layers


def _layer(data: memoryview, name: int, type: int, blobs: int) -> CaffeLayer:
    layer = _message(data)
    if 1 in layer and name != 1:
        raise ValueError("Caffe's first format, V0; convert it with Caffe's upgrade_net_proto_binary")
    kind = layer[type][-1] if type in layer else b""
    kind = V1_TYPES.get(kind, "") if isinstance(kind, int) else str(kind, "utf-8")
    text = str(layer[name][-1], "utf-8") if name in layer else ""
    return CaffeLayer(text, kind, tuple(_blob(blob) for blob in layer.get(blobs, [])))


def _blob(data: memoryview) -> np.ndarray:
    """BlobProto: float or double values, and ``shape`` or the four sides of older files."""
    blob = _message(data)
    parts = [np.frombuffer(part, "<f4") for part in blob.get(5, [])]
    parts += [np.frombuffer(part, "<f8") for part in blob.get(8, [])]
    values = np.concatenate(parts or [np.empty(0)]).astype(np.float32, copy=False)
    if 7 in blob:
        sides = _message(blob[7][-1]).get(1, [])
        shape = [side for part in sides for side in ([part] if isinstance(part, int) else _varints(part))]
    else:
        shape = [blob.get(number, [0])[-1] for number in (1, 2, 3, 4)]
    if math.prod(shape) != values.size:
        raise ValueError(f"a blob of shape {shape} with {values.size} values")
    return values.reshape(shape)


def _message(data: memoryview) -> dict[int, list[Any]]:
    """The fields of a message, by number: integers, and the bytes of anything else."""
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, size, wire = None, 0, tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
        elif wire == BYTES:
            size, at = _varint(data, at)
        else:
            size = FIXED_SIZES[wire]
        if at + size > len(data):
            raise ValueError(f"field {tag >> 3} of {size} bytes, {len(data) - at} left")
        fields.setdefault(tag >> 3, []).append(data[at : at + size] if value is None else value)
        at += size
    return fields


def _varints(data: memoryview) -> list[int]:
    """Integers, packed one after the other."""
    numbers, at = [], 0
    while at < len(data):
        number, at = _varint(data, at)
        numbers.append(number)
    return numbers


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
