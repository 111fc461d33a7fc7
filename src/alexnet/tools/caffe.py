"""Read Caffe's binary files: the layers of a ``.caffemodel`` and the mean image of a ``.binaryproto``.

Both are protocol buffers. The protobuf library reads them with a part of BVLC's src/caffe/proto/caffe.proto: the fields
that hold weights, and some constants of layers. Caffe is not needed, and no code in a file runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from alexnet.checkpoint import check_file

__all__ = ["CaffeLayer", "read_binaryproto", "read_caffemodel"]

SCHEMA = {  # of each message: the fields' names, numbers and types; * for repeated
    "BlobShape": {"dim": (1, "int64*")},
    "BlobProto": {
        "num": (1, "int32"), "channels": (2, "int32"), "height": (3, "int32"), "width": (4, "int32"),
        "data": (5, "float*"), "double_data": (8, "double*"), "shape": (7, "BlobShape"),
    },
    "ConvolutionParameter": {"pad": (3, "uint32*"), "stride": (6, "uint32*"), "dilation": (18, "uint32*")},
    "LRNParameter": {
        "local_size": (1, "uint32"), "alpha": (2, "float"), "beta": (3, "float"), "norm_region": (4, "int32"),
        "k": (5, "float"),
    },
    "PoolingParameter": {"pool": (1, "int32"), "kernel_size": (2, "uint32"), "stride": (3, "uint32")},
    "InnerProductParameter": {"transpose": (6, "bool")},
    "V1LayerParameter": {
        "layer": (1, "bytes"), "name": (4, "bytes"), "type": (5, "int32"), "blobs": (6, "BlobProto*"),
        "convolution_param": (10, "ConvolutionParameter"), "inner_product_param": (17, "InnerProductParameter"),
        "lrn_param": (18, "LRNParameter"), "pooling_param": (19, "PoolingParameter"),
    },
    "LayerParameter": {
        "name": (1, "bytes"), "type": (2, "bytes"), "blobs": (7, "BlobProto*"),
        "convolution_param": (106, "ConvolutionParameter"), "inner_product_param": (117, "InnerProductParameter"),
        "lrn_param": (118, "LRNParameter"), "pooling_param": (121, "PoolingParameter"),
    },
    "NetParameter": {"layers": (2, "V1LayerParameter*"), "layer": (100, "LayerParameter*")},
}  # fmt: skip
# V1LayerParameter.LayerType; the newer format stores these names
V1_TYPES = {4: "Convolution", 6: "Dropout", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax"}


@dataclass(frozen=True)
class CaffeLayer:
    """A layer of the network."""

    name: str
    type: str
    blobs: tuple[np.ndarray, ...]
    """The weight, ``[out, in / groups, height, width]`` or ``[out, in]``, and the bias."""
    constants: dict[str, Any]
    """Those of its constants that the file states, by Caffe's names."""


def read_caffemodel(path: Path) -> list[CaffeLayer]:
    """The layers in the order of the file, in either of Caffe's formats (``layers`` of V1, ``layer`` since 2015).

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, not a Caffe model, or in Caffe's first format (V0).
    """
    net = _read(path, "NetParameter", "model")
    if any(layer.HasField("layer") for layer in net.layers):
        raise ValueError(f"{path}: in Caffe's first format, V0; convert it with Caffe's upgrade_net_proto_binary")
    layers = []
    for layer in (*net.layers, *net.layer):
        kind = V1_TYPES.get(layer.type, "") if isinstance(layer.type, int) else layer.type.decode(errors="replace")
        blobs = tuple(_array(blob, path) for blob in layer.blobs)
        stated = [value for field, value in layer.ListFields() if field.name.endswith("_param")]
        constants = {field.name: value for parameter in stated for field, value in parameter.ListFields()}
        layers.append(CaffeLayer(layer.name.decode(errors="replace"), kind, blobs, constants))
    if not any(layer.blobs for layer in layers):
        raise ValueError(f"{path}: not a Caffe model, because no layer in it has weights")
    return layers


def read_binaryproto(path: Path) -> np.ndarray:
    """The mean image: float32 ``[3, height, width]``, BGR, 0..255.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, or not a mean image.
    """
    mean = _array(_read(path, "BlobProto", "mean image"), path)
    if mean.ndim not in (3, 4) or mean.size == 0 or mean.shape[-3] != 3 or mean.size != math.prod(mean.shape[-3:]):
        raise ValueError(f"{path}: must be a mean image of three channels, got the shape {list(mean.shape)}")
    if not np.isfinite(mean).all():
        raise ValueError(f"{path}: the mean image has values that are not finite")
    return mean.reshape(mean.shape[-3:])


def _read(path: Path, message: str, what: str) -> Any:
    check_file(path)
    try:
        return MESSAGES[f"caffe.{message}"].FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path}: truncated or not a Caffe {what} ({error})") from error


def _array(blob: Any, path: Path) -> np.ndarray:
    """The values of a BlobProto as float32, in its ``shape`` or the four sides of older files."""
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite
        values = np.array(blob.double_data or blob.data, dtype=np.float32)
    old = [blob.num, blob.channels, blob.height, blob.width]
    shape = list(blob.shape.dim) if blob.HasField("shape") else old
    if min(shape, default=0) < 0 or math.prod(shape) != values.size:
        raise ValueError(f"{path}: truncated or damaged: a blob of shape {shape} with {values.size} values")
    return values.reshape(shape)


def _messages() -> dict[str, Any]:
    """The classes of the messages in ``SCHEMA``."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe_weights.proto", package="caffe")
    for message, fields in SCHEMA.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = described.field.add(name=name, number=number)
            field.label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            if (kind := kind.rstrip("*")) in SCHEMA:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    found: dict[str, Any] = message_factory.GetMessages([file], pool=descriptor_pool.DescriptorPool())
    return found


MESSAGES = _messages()
