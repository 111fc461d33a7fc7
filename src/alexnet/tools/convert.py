"""Convert weights of other programs to a ``.safetensors`` file that ``load_model`` reads.

Accepted: Caffe's ``.caffemodel``, and state dicts of this network under any names, in files of ``torch.save`` or
safetensors. Weights are assigned to layers by their shapes. No code in a file is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.checkpoint import FORMAT, check_out, read_pickled, read_safetensors, save_weights
from alexnet.data.normalization import IMAGENET, RESIZE, Normalization, encode_mean_image
from alexnet.errors import check_choice
from alexnet.lrn import ResponseNorm
from alexnet.model import VARIANTS, AlexNet_2012, ModelInfo
from alexnet.tools.caffe import CaffeLayer, read_binaryproto, read_caffemodel

__all__ = ["convert"]

CAFFE_VARIANTS = ("caffe", "caffenet")
TWO_TOWERS = tuple(name for name, variant in VARIANTS.items() if variant.groups == 2)
# Channel means of Caffe's mean image of ILSVRC-2012 (python/caffe/imagenet/ilsvrc_2012_mean.npy), RGB, 0..255.
ILSVRC_MEAN = (122.67891434, 116.66876762, 104.00698793)
WARPED = "the image warped to 256×256"
TORCHVISION = (
    "this is torchvision's alexnet, the one-tower network of 2014 (One weird trick, arXiv:1404.5997): 64 first filters "
    "and no response normalisation; its weights do not fit AlexNet of 2012, which has 96 first filters"
)
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "checkpoint")  # of a state dict
PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
# What checkpoints often hold beside their weights. Each is replaced by a placeholder, so none of it is built or run.
HARMLESS = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("_core", "core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "argparse.Namespace", "types.SimpleNamespace"),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in PATHS),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "set", "str", "tuple")),
)


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight with its bias."""

    name: str
    weight: Tensor
    bias: Tensor
    keys: tuple[str, ...] = ()
    """Their names in the state dict."""


def convert(source: str | Path, out: str | Path, variant: str | None = None) -> dict[str, Any]:
    """Write the weights of ``source`` to ``out``, with the ``ModelInfo`` that ``load_model`` needs.

    Args:
        source: a ``.caffemodel``, a ``.safetensors``, or a file that ``torch.save`` wrote.
        out: a file name that ends in ``.safetensors``.
        variant: the network that the weights belong to. Default: what the order of a caffemodel's layers implies, and
            ``classic`` for a state dict without groups. A state dict with two towers fits several, so it must be given.

    Returns:
        ``file``, ``variant``, ``num_classes``; ``classes`` and ``normalization``: where they come from, in words;
        ``ignored``: the names of tensors beside the weights that are no part of the network.

    Raises:
        FileNotFoundError: no such source.
        ValueError: a source that is damaged, unsafe or this project's own, or weights that do not fit; the message
            names the layer.
    """
    source, out = Path(source), Path(out)
    check_out(out, ".safetensors")
    if variant is not None:
        check_choice("variant", variant, VARIANTS)
    if source.is_dir():
        raise ValueError(f"{source}: a folder; name the file of weights in it")
    if source.suffix == ".caffemodel":
        weights, info, notes = _from_caffe(source, variant)
    else:
        weights, info, notes = _from_state_dict(source, _read_state_dict(source), variant)
    save_weights(out, weights, info)
    return {"file": str(out), "variant": info.variant, "num_classes": info.num_classes, "ignored": [], **notes}


def _fit(source: Path, layers: Sequence[Layer], variant: str) -> dict[str, Layer]:
    """The layers that are conv1 to fc8 of ``variant``, by these names. ValueError names the first that does not fit."""
    with torch.device("meta"):
        targets = dict(AlexNet_2012(1, variant, width_mult=_width_mult(layers, variant)).weight_layers())
    found: list[Layer] = []
    for name, target in targets.items():
        sides = list(target.weight.shape[name == "fc8" :])  # the number of classes is not known yet
        fits = [layer for layer in layers if list(layer.weight.shape)[-len(sides) :] == sides and layer not in found]
        # several heads may fit; prefer the one in the same module as the layer before
        siblings = [layer for layer in fits if found and _parent(layer) == _parent(found[-1])]
        found += (siblings or fits)[:1]
    convs, linears = ([layer for layer in layers if layer.weight.ndim == ndim] for ndim in (4, 2))
    expected = [sum(target.weight.ndim == ndim for target in targets.values()) for ndim in (4, 2)]
    if len(found) < len(targets):
        found = [*convs, *linears]  # in their order, to name one that does not fit
    if len(convs) != expected[0] or len(found) != len(targets):
        raise ValueError(
            f"{source}: {len(convs)} convolutions and {len(linears)} fully connected layers with biases; "
            f"variant {variant} has {expected[0]} and {expected[1]}"
        )
    for (name, target), layer in zip(targets.items(), found, strict=True):
        outputs = max(1, len(layer.bias)) if name == "fc8" else len(target.weight)
        shapes = [outputs, *target.weight.shape[1:]], [outputs]
        for key, value, shape in zip(("weight", "bias"), (layer.weight, layer.bias), shapes, strict=True):
            if list(value.shape) != shape:
                raise ValueError(f"{source}: {name}: {key} of shape {list(value.shape)}; variant {variant} has {shape}")
            if value.layout != torch.strided or not value.is_floating_point() or value.is_meta:
                raise ValueError(f"{source}: {name}: {key} is sparse, not floating point or without values")
    return dict(zip(targets, found, strict=True))


def _parent(layer: Layer) -> str:
    return layer.name.rpartition(".")[0]


def _width_mult(layers: Sequence[Layer], variant: str) -> float:
    """The smallest factor that gives as many outputs as the layers have. All widths are rounded down."""
    widths, outputs = VARIANTS[variant].widths, dict[int, int]()
    convs = [layer.weight for layer in layers if layer.weight.ndim == 4]
    for weight in convs:
        outputs.setdefault(weight.shape[-1], len(weight))  # of the first with this side: conv1, conv2 and conv3
    inputs = 36 * len(convs[-1]) if convs else 0
    fc6 = [len(layer.weight) for layer in layers if layer.weight.ndim == 2 and layer.weight.shape[1] == inputs]
    found = (outputs.get(11), outputs.get(5), outputs.get(3), *fc6[:1])
    shares = [own / full for own, full in zip(found, (*widths[:3], widths[5]), strict=False) if own]
    return math.ceil(max(shares, default=1.0) * 1e9) / 1e9


def _describe(
    source: Path,
    variant: str,
    found: Mapping[str, Layer],
    normalization: tuple[Normalization, str] | None = None,
    classes: Sequence[str] = (),
) -> tuple[dict[str, Tensor], ModelInfo, dict[str, Any]]:
    """The state dict, its description, and where that comes from; what ``source`` does not say is assumed."""
    weights = {}
    for name, layer in found.items():
        part = "features" if name.startswith("conv") else "classifier"
        weights[f"{part}.{name}.weight"] = layer.weight.float().contiguous()
        weights[f"{part}.{name}.bias"] = layer.bias.float().contiguous()
    if normalization is None and variant in CAFFE_VARIANTS:
        text = f"assumed: {WARPED}, 0..255 minus Caffe's channel means of ILSVRC-2012"
        normalization = _caffe_input(ILSVRC_MEAN), text
    norm, norm_from = normalization or (IMAGENET, "assumed: (x/255 − mean)/std with ImageNet's mean and std")
    numbers = (str(index) for index in range(len(found["fc8"].bias)))
    width_mult = _width_mult(list(found.values()), variant)
    data = f"unknown data ({source.name})"
    info = ModelInfo(variant, tuple(classes or numbers), norm, data, width_mult=width_mult)
    classes_from = "the names of ILSVRC-2012, in Caffe's order" if classes else "numbered; the file has no names"
    return weights, info, {"classes": classes_from, "normalization": norm_from}


# --- Caffe


def _from_caffe(source: Path, variant: str | None) -> tuple[dict[str, Tensor], ModelInfo, dict[str, Any]]:
    caffe_layers = read_caffemodel(source)
    variant = _caffe_variant(source, caffe_layers, variant)
    _check_constants(source, caffe_layers, variant)
    layers: list[Layer] = []
    for layer in caffe_layers:
        if layer.type not in ("Convolution", "InnerProduct"):
            continue
        if len(layer.blobs) != 2:
            raise ValueError(f"{source}: {layer.name}: must have two blobs, weight and bias, got {len(layer.blobs)}")
        weight, bias = layer.blobs
        if layer.type == "Convolution" and weight.ndim != 4:
            raise ValueError(f"{source}: {layer.name}: weight must have four sides, got {list(weight.shape)}")
        if layer.type == "InnerProduct":
            while weight.ndim > 2 and len(weight) == 1:
                weight = weight[0]  # older files have four sides, the first two of 1
        elif not layers:
            weight = weight[:, ::-1]  # conv1 sees BGR in Caffe, RGB here
        layers.append(Layer(layer.name, torch.from_numpy(weight.copy()), torch.from_numpy(bias.reshape(-1).copy())))
    found = _fit(source, layers, variant)
    classes: Sequence[str] = ()
    if len(found["fc8"].bias) == 1000:
        from torchvision.models import AlexNet_Weights

        classes = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]  # both sort the classes by their WordNet numbers
    return _describe(source, variant, found, _mean_beside(source), classes)


def _caffe_variant(source: Path, layers: Sequence[CaffeLayer], variant: str | None) -> str:
    """``caffe`` normalises before it pools, ``caffenet`` after: the order of the layers in the file says which."""
    order = [layer.type for layer in layers if layer.type in ("LRN", "Pooling")]
    if "LRN" not in order or "Pooling" not in order:
        if variant is None:
            raise ValueError(f"{source}: has no LRN and Pooling layers; variant must be given: caffe or caffenet")
        return variant
    implied = "caffe" if order.index("LRN") < order.index("Pooling") else "caffenet"
    if variant in CAFFE_VARIANTS and variant != implied:
        raise ValueError(f"variant must be {implied}, because of the order of layers in {source}, got {variant}")
    return variant or implied


def _check_constants(source: Path, layers: Sequence[CaffeLayer], variant: str) -> None:
    """ValueError if the file states another constant of a layer, such as k or a stride, than the variant has."""
    with torch.device("meta"):
        modules = list(AlexNet_2012(1, variant).modules())
    expected: dict[str, list[dict[str, Any]]] = {"Convolution": [], "LRN": [], "Pooling": [], "InnerProduct": []}
    for module in modules:
        match module:
            case nn.Conv2d(padding=pad, stride=stride):
                expected["Convolution"].append({"pad": int(pad[0]), "stride": stride[0], "dilation": 1})
            case ResponseNorm(size=size, alpha=alpha, beta=beta, k=k):
                constants = {"local_size": size, "alpha": alpha, "beta": beta, "k": k, "norm_region": 0}
                expected["LRN"].append(constants)
            case nn.MaxPool2d(kernel_size=side, stride=stride):
                expected["Pooling"].append({"pool": 0, "kernel_size": side, "stride": stride})
            case nn.Linear():
                expected["InnerProduct"].append({"transpose": False})
    for kind, ours in expected.items():
        for layer, constants in zip((layer for layer in layers if layer.type == kind), ours, strict=False):
            for name, value in constants.items():
                stated = np.ravel(layer.constants.get(name, value))
                if not np.allclose(stated, value, rtol=1e-6, atol=0):
                    raise ValueError(
                        f"{source}: {layer.name}: {name} is {stated[0]:g}; variant {variant} has {value:g}"
                    )


def _mean_beside(source: Path) -> tuple[Normalization, str] | None:
    """The input that the mean image in the same folder describes, if there is one."""
    files = sorted(source.parent.glob("*.binaryproto"))
    if not files:
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{source}: several mean images in its folder ({names}); keep the one that belongs to it")
    mean = read_binaryproto(files[0])[::-1].transpose(1, 2, 0).astype(float)  # [height, width, RGB]
    if mean.shape[:2] == (RESIZE, RESIZE):
        return _caffe_input(mean.mean((0, 1)), encode_mean_image(mean)), f"{WARPED}, 0..255 minus {files[0].name}"
    size = "×".join(map(str, mean.shape[:2]))
    text = f"{WARPED}, 0..255 minus the channel means of {files[0].name}, because its size is {size}, not 256×256"
    return _caffe_input(mean.mean((0, 1))), text


def _caffe_input(mean: Sequence[float], mean_image: str = "") -> Normalization:
    """0..255 minus ``mean``, RGB, or minus a mean image; both sides warped to 256 (tools/convert_imageset.cpp)."""
    red, green, blue = (float(value) / 255 for value in mean)
    return Normalization((red, green, blue), (1 / 255,) * 3, mean_image, "warp")


# --- state dicts


def _from_state_dict(
    source: Path, state: Mapping[str, Tensor], variant: str | None
) -> tuple[dict[str, Tensor], ModelInfo, dict[str, Any]]:
    layers = _layers(state)
    conv1, conv2 = (
        next((layer.weight.shape for layer in layers if layer.weight.shape[2:] == (side, side)), (0, 0))
        for side in (11, 5)
    )
    if conv1 == (64, 3, 11, 11) and conv2[0] == 192:
        raise ValueError(f"{source}: {TORCHVISION}")
    if variant is None and conv1[0] == 2 * conv2[1] > 0:
        raise ValueError(f"{source}: weights of two towers; variant must be given: {' or '.join(TWO_TOWERS)}")
    variant = variant or "classic"
    found = _fit(source, layers, variant)
    num_classes = len(found["fc8"].bias)
    paired = {key for layer in layers for key in layer.keys}
    for name in state.keys() - paired:
        of_loss = name.endswith("weight") and state[name].shape == (num_classes,)  # one weight per class
        if name.endswith(("weight", "bias", "running_mean", "running_var")) and not of_loss:
            raise ValueError(f"{source}: {name}: each layer of AlexNet must be a weight with its bias")
    for layer in layers:
        if layer.weight.shape[1] == num_classes and layer not in found.values():
            raise ValueError(f"{source}: {layer.name}: a layer after fc8, which AlexNet does not have")
    used = {key for layer in found.values() for key in layer.keys}
    weights, info, notes = _describe(source, variant, found)
    return weights, info, {**notes, "ignored": [name for name in state if name not in used]}


def _read_state_dict(source: Path) -> dict[str, Tensor]:
    """All tensors of the file by name."""
    own = f"{source}: written by this project, so it needs no conversion; load_model reads it"
    if source.suffix == ".safetensors":
        tensors, metadata = read_safetensors(source)
        if FORMAT in (metadata.get("alexnet"), metadata.get("format")):
            raise ValueError(own)
        return {name: tensors[name] for name in sorted(tensors, key=_natural)}  # the format keeps no order
    state = _read_checkpoint(source)
    if isinstance(state, dict) and state.get("format") == FORMAT:
        raise ValueError(own)
    for _ in range(4):  # one within another; a dict may also hold itself
        inner = [state[key] for key in WRAPPERS if key in state] if isinstance(state, dict) else []
        state = next((value for value in inner if isinstance(value, dict)), state)
    tensors = _tensors(state)
    if not _has_matrix(tensors) and isinstance(state, dict):  # they are under another key
        found = {str(key): each for key, value in state.items() if _has_matrix(each := _tensors(value))}
        if len(found) > 1:
            raise ValueError(f"{source}: holds several state dicts ({', '.join(found)}); save one of them alone")
        tensors = next(iter(found.values()), tensors)
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise ValueError(f"{source}: holds no state dict, which has tensors under names")
    return tensors


def _tensors(state: Any) -> dict[Any, Tensor]:
    return {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}


def _has_matrix(tensors: Mapping[Any, Tensor]) -> bool:
    return any(each.ndim > 1 for each in tensors.values())


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``10`` after ``9``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _layers(state: Mapping[str, Tensor]) -> list[Layer]:
    """The weights that have a bias beside them, under whatever names, in the order of the file."""
    by_stem: dict[str, list[str]] = {}
    for name in state:
        by_stem.setdefault(re.sub(r"[^._]*$", "", name), []).append(name)
    layers = []
    for stem, names in by_stem.items():
        weights, biases = ([name for name in names if state[name].ndim in ndims] for ndims in ((2, 4), (1,)))
        if len(weights) == len(biases) == 1:
            keys = weights[0], biases[0]
            layers.append(Layer(stem.rstrip("._"), state[keys[0]], state[keys[1]], keys))
    return layers


class _Placeholder:
    """Replaces an object that is not a weight, and stores nothing of it."""

    def __init__(self, *args: Any) -> None:
        pass

    __setstate__ = __init__


def _placeholder_dict(*args: Any) -> dict[Any, Any]:
    return {}


PLACEHOLDERS = ((_placeholder_dict, "collections.defaultdict"), *((_Placeholder, name) for name in HARMLESS))


def _read_checkpoint(source: Path) -> Any:
    """What ``torch.save`` wrote, without its ``HARMLESS`` objects. ValueError names what else is in it."""
    try:
        return read_pickled(source, safe_globals=PLACEHOLDERS)
    except ValueError:
        try:
            with torch.serialization.safe_globals(list(PLACEHOLDERS)):
                unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(source))
        except Exception:  # damaged, or older than torch 1.6: errors of any class
            unsafe = []
        if not unsafe:
            raise
    raise ValueError(
        f"{source}: refused, because loading it could run code: {', '.join(unsafe)}; save the weights alone, in the "
        "program that wrote it: torch.save(model.state_dict(), path)"
    )
