"""Weights from elsewhere, made into a ``.safetensors`` that ``load_model`` reads.

Taken: Caffe's ``.caffemodel``, and state_dicts of this network under any names, in ``.pth`` or ``.safetensors`` files.
Each weight is found by its shape, which differs from layer to layer, and anything that does not fit is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.data.normalization import IMAGENET, RESIZE, Normalization, encode_mean_image
from alexnet.model import VARIANTS, AlexNet_2012
from alexnet.weights.caffemodel import CaffeLayer, read_binaryproto, read_caffemodel
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import FORMAT, load_model, save_weights
from alexnet.weights.hub import read_config
from alexnet.weights.tensorfiles import read_pickled, read_safetensors

__all__ = ["convert"]

CAFFE_VARIANTS = ("caffe", "caffenet")
TWO_TOWERS = tuple(name for name, variant in VARIANTS.items() if variant.groups == 2)
# Channel means of Caffe's mean image of ILSVRC-2012 (python/caffe/imagenet/ilsvrc_2012_mean.npy), RGB, 0..255.
ILSVRC_MEAN = (122.67891434, 116.66876762, 104.00698793)
WARPED = "the image warped to 256×256"
TORCHVISION = (
    "this is torchvision's alexnet, after the one-tower network of 2014 (One weird trick, arXiv:1404.5997): 64 first "
    "filters and no response normalisation; its weights do not fit AlexNet of 2012, which has 96 first filters"
)

Layer = tuple[Tensor, Tensor]  # weight, bias


def convert(source: str | Path, out: str | Path, variant: str | None = None) -> dict[str, Any]:
    """Write the weights of ``source`` to ``out``, a ``.safetensors`` with the card that ``load_model`` needs.

    Args:
        source: a ``.caffemodel``, a ``.safetensors``, a file that ``torch.load`` reads (never running its code), or a
            folder that ``load_model`` reads. What has a card of this project keeps it.
        out: the file to write.
        variant: the network the weights belong to. A caffemodel's layers say it themselves, and weights without groups
            are ``classic``; of the two-tower networks the weights cannot tell, so it has to be named.

    Returns:
        ``file``, ``variant``, ``num_classes``, and in words where ``classes`` and ``normalization`` come from.

    Raises:
        FileNotFoundError: no such source.
        ValueError: a file that is broken, foreign or unsafe, or whose weights do not fit, by the layer's name.
    """
    source, out = Path(source), Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: the converted file ends in .safetensors")
    if source.is_dir():
        return _own(source, out, variant)
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    classes, normalization = None, None
    if source.suffix == ".caffemodel":
        layers = read_caffemodel(source)
        variant = _caffe_variant(source, layers, variant)
        found = _from_caffe(source, layers)
        normalization = _mean_beside(source)
    else:
        tensors = _tensors(source)
        if tensors is None:
            return _own(source, out, variant)
        found = _from_state_dict(source, tensors)
        saved = read_config(source)
        variant = variant or (saved.variant if saved else _variant(source, found))
    weights = _fit(source, found, variant)
    num_classes = len(weights["classifier.fc8.bias"])
    if source.suffix == ".caffemodel" and num_classes == 1000:
        classes = _imagenet_classes()
    norm, norm_from = normalization or _assumed(variant)
    names = classes or tuple(str(index) for index in range(num_classes))
    save_weights(out, weights, ModelCard(variant, names, norm, f"unknown data ({source.name})"))
    return {
        "file": str(out),
        "variant": variant,
        "num_classes": num_classes,
        "classes": "the names of ILSVRC-2012, in Caffe's order" if classes else "numbered; the file names none",
        "normalization": norm_from,
    }


def _own(source: Path, out: Path, asked: str | None) -> dict[str, Any]:
    """Weights with a card of this project already: the same weights and card."""
    model = load_model(source)
    card = model.card
    assert card is not None
    if asked not in (None, card.variant):
        raise ValueError(f"--variant {asked}: {source} says that its weights are of variant {card.variant}")
    save_weights(out, model.state_dict(), card)
    told = "as in the file, which is this project's own"
    return {
        "file": str(out),
        "variant": card.variant,
        "num_classes": card.num_classes,
        "classes": told,
        "normalization": told,
    }


def _fit(source: Path, found: list[Layer], variant: str) -> dict[str, Tensor]:
    """The state dict of ``variant`` with the weights found. ValueError names the first layer that does not fit."""
    convs, fulls = ([layer for layer in found if layer[0].ndim == ndim] for ndim in (4, 2))
    if len(convs) != 5 or len(fulls) != 3:
        raise ValueError(
            f"{source}: {len(convs)} convolutions and {len(fulls)} fully connected layers; AlexNet has 5 and 3"
        )
    with torch.device("meta"):
        model = AlexNet_2012(len(fulls[-1][1]), variant)
    weights = {}
    paths = {module: path for path, module in model.named_modules()}
    for (name, layer), (weight, bias) in zip(model.weight_layers(), [*convs, *fulls], strict=True):
        for key, value, wanted in (("weight", weight, layer.weight), ("bias", bias, layer.bias)):
            assert wanted is not None
            if value.shape != wanted.shape:
                raise ValueError(
                    f"{source}: {name}: {key} of shape {list(value.shape)}; variant {variant} has {list(wanted.shape)}"
                )
            if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
                raise ValueError(f"{source}: {name}: {key} is sparse, quantized, complex or without values")
            weights[f"{paths[layer]}.{key}"] = value.float().contiguous()
    return weights


# --- Caffe ------------------------------------------------------------------------------------------------------------


def _from_caffe(source: Path, layers: list[CaffeLayer]) -> list[Layer]:
    found: list[Layer] = []
    for layer in layers:
        if layer.type not in ("Convolution", "InnerProduct"):
            continue
        if len(layer.blobs) != 2:
            raise ValueError(
                f"{source}: {layer.name}: {len(layer.blobs)} blobs; a layer of AlexNet has weights and bias"
            )
        weight, bias = layer.blobs
        if layer.type == "Convolution" and weight.ndim != 4:
            raise ValueError(
                f"{source}: {layer.name}: weight of shape {list(weight.shape)}; a convolution's has four sides"
            )
        if layer.type == "InnerProduct":
            while weight.ndim > 2 and len(weight) == 1:
                weight = weight[0]  # older files have four sides, the first two of 1
        elif not found:
            weight = weight[:, ::-1]  # conv1 sees BGR in Caffe, RGB here
        found.append((torch.from_numpy(weight.copy()), torch.from_numpy(bias.reshape(-1).copy())))
    return found


def _caffe_variant(source: Path, layers: list[CaffeLayer], asked: str | None) -> str:
    """``caffe`` normalises before it pools, ``caffenet`` after: the order of the layers in the file says which."""
    order = [layer.type for layer in layers if layer.type in ("LRN", "Pooling")]
    if "LRN" not in order or "Pooling" not in order:
        if asked is None:
            raise ValueError(f"{source}: holds no LRN and Pooling layers; name the --variant, caffe or caffenet")
        return asked
    told = "caffe" if order.index("LRN") < order.index("Pooling") else "caffenet"
    if asked in CAFFE_VARIANTS and asked != told:
        raise ValueError(f"--variant {asked}: the layers of {source} are in the order of {told}")
    return asked or told


def _mean_beside(source: Path) -> tuple[Normalization, str] | None:
    files = sorted(source.parent.glob("*.binaryproto"))
    if not files:
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{source}: several mean images lie beside it ({names}); leave the one that belongs to it")
    mean = read_binaryproto(files[0])[::-1].transpose(1, 2, 0).astype(float)  # [height, width, RGB]
    if mean.shape[:2] == (RESIZE, RESIZE):
        return _caffe_input(mean.mean((0, 1)), encode_mean_image(mean)), f"{WARPED}, 0..255 minus {files[0].name}"
    sides = "×".join(map(str, mean.shape[:2]))
    told = f"{WARPED}, 0..255 minus the channel means of {files[0].name}, for its {sides} pixels are not 256×256"
    return _caffe_input(mean.mean((0, 1))), told


def _caffe_input(mean: Sequence[float], mean_image: str = "") -> Normalization:
    """0..255 minus ``mean``, RGB, or minus a mean image; both sides warped to 256 (tools/convert_imageset.cpp)."""
    red, green, blue = (float(value) / 255 for value in mean)
    return Normalization((red, green, blue), (1 / 255,) * 3, mean_image, "warp")


def _imagenet_classes() -> tuple[str, ...]:
    from torchvision.models import AlexNet_Weights

    return tuple(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])  # both sort the classes by their WordNet numbers


def _assumed(variant: str) -> tuple[Normalization, str]:
    if variant in CAFFE_VARIANTS:
        return _caffe_input(ILSVRC_MEAN), f"assumed: {WARPED}, 0..255 minus Caffe's channel means of ILSVRC-2012"
    return IMAGENET, "assumed: (x/255 − mean)/std with ImageNet's figures"


# --- state_dicts ------------------------------------------------------------------------------------------------------


def _tensors(source: Path) -> dict[str, Tensor] | None:
    """All tensors of the file by name; None where it is this project's own."""
    if source.suffix == ".safetensors":
        tensors, metadata = read_safetensors(source)
        saved = read_config(source)
        own = metadata.get("format") == FORMAT or (saved is not None and saved.card is not None)
        return None if own else _naturally_sorted(tensors)
    state = read_pickled(source)
    if isinstance(state, dict) and state.get("format") == FORMAT:
        return None
    for _ in range(4):  # one within another; a dict may also hold itself
        if not isinstance(state, dict) or any(isinstance(value, Tensor) for value in state.values()):
            break
        state = next((state[key] for key in ("state_dict", "model_state_dict", "model", "net") if key in state), None)
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{source}: holds no state_dict")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if other := next((type(name).__name__ for name in tensors if not isinstance(name, str)), None):
        raise ValueError(f"{source}: holds no state_dict: the name of a tensor in it is of type {other}, not a text")
    return tensors


def _naturally_sorted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors keeps no order of its own: names by their numbers' values, ``10`` after ``9``."""

    def key(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

    return {name: tensors[name] for name in sorted(tensors, key=key)}


def _from_state_dict(source: Path, tensors: dict[str, Tensor]) -> list[Layer]:
    """Weights with their biases, conv1 to fc8 where the shapes are AlexNet's, else in the order of the file."""
    by_stem: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        by_stem.setdefault(re.sub(r"[^._]*$", "", name), {})[min(tensor.ndim, 2)] = tensor
    for stem, pair in by_stem.items():
        if pair.keys() != {1, 2}:
            raise ValueError(f"{source}: {stem}*: not a weight with its bias, as every layer of AlexNet has")
    layers: list[Layer] = [(pair[2], pair[1]) for pair in by_stem.values()]
    if any(weight.shape == (64, 3, 11, 11) for weight, _ in layers):
        raise ValueError(f"{source}: {TORCHVISION}")
    place = {shape: number % 7 for number, shape in enumerate(_shapes())}
    if len({place.get(tuple(weight.shape)) for weight, _ in layers}) == 8:  # one of each, and fc8 as the unknown one
        layers.sort(key=lambda layer: place.get(tuple(layer[0].shape), math.inf))
    return layers


def _shapes() -> list[tuple[int, ...]]:
    """Shapes of the weights of conv1 to fc7, first without groups and then with, in the order of the layers."""
    shapes = []
    for variant in ("classic", "paper"):
        with torch.device("meta"):
            shapes += [tuple(layer.weight.shape) for _, layer in AlexNet_2012(1, variant).weight_layers()][:7]
    return shapes


def _variant(source: Path, found: list[Layer]) -> str:
    convs = [weight for weight, _ in found if weight.ndim == 4]
    if len(convs) > 1 and convs[1].shape[1] == 48:
        raise ValueError(f"{source}: weights of two towers; name the network, --variant {' or '.join(TWO_TOWERS)}")
    return "classic"
