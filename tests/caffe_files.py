"""Write Caffe's files, for tests: protobuf's wire format, https://protobuf.dev/programming-guides/encoding."""

import numpy as np
import torch

from alexnet.model import AlexNet_2012

KINDS = {"conv": "Convolution", "relu": "ReLU", "norm": "LRN", "pool": "Pooling", "fc": "InnerProduct",
         "drop": "Dropout"}  # fmt: skip
V1_TYPES = {"Convolution": 4, "Dropout": 6, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18}


def make_network(variant="classic", num_classes=10, width_mult=1 / 16):
    """A network whose logits depend on the image, on every weight and on every bias."""
    torch.manual_seed(0)
    model = AlexNet_2012(num_classes, variant, init="he", width_mult=width_mult).eval().requires_grad_(False)
    for _, layer in model.weight_layers():
        layer.bias.normal_()
    return model


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def integer(field, value):
    return varint(field << 3) + varint(value)


def real(field, value):
    return varint(field << 3 | 5) + np.float32(value).tobytes()


def chunk(field, payload):
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def blob(array, style="shape"):
    """BlobProto as Caffe writes it now (``shape``), as it did (``sides``), and in two other valid ways."""
    array = np.ascontiguousarray(array, "<f4")
    sides = (1,) * (4 - array.ndim) + array.shape
    if style == "sides":
        return b"".join(integer(i + 1, side) for i, side in enumerate(sides)) + chunk(5, array.tobytes())
    if style == "unpacked":
        values = b"".join(varint(5 << 3 | 5) + value.tobytes() for value in array.reshape(-1))
        return values + chunk(7, b"".join(integer(1, side) for side in array.shape))
    shape = chunk(7, chunk(1, b"".join(varint(side) for side in array.shape)))
    if style == "double":
        return shape + chunk(8, array.astype("<f8").tobytes())
    return shape + chunk(5, array.tobytes())


def caffemodel(layers, v1=False, style="shape"):
    """NetParameter of (name, type, blobs, more fields of the layer) in either format."""
    net = [chunk(1, b"AlexNet")]
    for name, kind, blobs, *more in layers:
        if v1:
            head = chunk(2, b"bottom") + chunk(3, b"top") + chunk(4, name.encode()) + integer(5, V1_TYPES[kind])
            net.append(chunk(2, head + b"".join([*(chunk(6, blob(b, style)) for b in blobs), *more])))
        else:
            head = chunk(1, name.encode()) + chunk(2, kind.encode()) + chunk(3, b"bottom") + integer(10, 1)
            net.append(chunk(100, head + b"".join([*(chunk(7, blob(b, style)) for b in blobs), *more])))
    return b"".join(net)


def caffe_layers(model):
    """The network as Caffe lists it; its first layer sees BGR."""
    weights = dict(model.weight_layers())
    layers = []
    for name, _ in (*model.features.named_children(), *model.classifier.named_children()):
        if name in ("pad1", "within2", "scale6", "scale7"):
            continue
        blobs = []
        if name in weights:
            blobs = [weights[name].weight.numpy(), weights[name].bias.numpy()]
            if name == "conv1":
                blobs[0] = blobs[0][:, ::-1]
        layers.append((name, KINDS[name.rstrip("12345678")], blobs))
    return layers
