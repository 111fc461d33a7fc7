"""Count the layers of a network, and tabulate the differences between the networks called AlexNet.

Multiply-adds are those of the convolutions and fully connected layers for one image, as in the literature; ReLU,
pooling and normalisation are left out. One multiply-add is two floating-point operations.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from alexnet.errors import FieldError
from alexnet.model import INITS, VARIANTS, AlexNet_2012, Init

__all__ = ["NETWORKS", "format_summary", "format_variants", "summarize", "variants_table"]

TORCHVISION = "torchvision"
NETWORKS = ("classic", "paper", "source", "caffe", "caffenet", TORCHVISION)
"""The columns of ``variants_table``."""
COUNTED = "counted from the modules"
SOURCES = {
    "parameters, 1000 classes": COUNTED,
    "parameters, 10 classes": COUNTED,
    "multiply-adds, 1000 classes": COUNTED,
    "filters": "paper 3.5; torchvision: cuda-convnet2, layers-imagenet-1gpu.cfg (arXiv:1404.5997 has 384 in conv4)",
    "conv1 padding": "layers-145.cfg: padding=0, output rounded up; Caffe: no pad; torchvision/models/alexnet.py",
    "groups of conv2, 4, 5": "paper 3.2 and figure 2; Caffe: group: 2; classic: this project",
    "layer 1": "paper 3.5; layers-145.cfg; Caffe: train_val.prototxt",
    "layer 2": "paper 3.5; layers-145.cfg [cnorm2a]; Caffe: train_val.prototxt",
    "dropout on": "paper 4.2; layers-145.cfg [hs1a]; Caffe: drop6, drop7",
    "input side": "paper 3.5 says 224, its 55×55 maps need 227; Caffe: crop_size 227; torchvision: min_size",
    "norm: α over n = 5": (
        "paper 3.3: α not divided; layer-params-145.cfg: scale, divided by size; Caffe: alpha, divided"
    ),
    "norm: k": "paper 3.3; layer-params-145.cfg: minDiv; Caffe: default k",
    "norm sees": "paper 3.3: all kernels; layers-145.cfg: rnorm1a, rnorm1b; Caffe: one LRN layer over both groups",
    "weights": "paper 5; layers-145.cfg: initW; Caffe: weight_filler; torch.nn",
    "biases of conv2, 4, 5, fc6, 7": "paper 5; layers-145.cfg: initB; Caffe: bias_filler; torch.nn",
}
"""The rows of ``variants_table``, and where their values come from. Torchvision's are from its and PyTorch's code."""


def summarize(variant: str = "classic", num_classes: int = 10, width_mult: float = 1.0) -> dict[str, Any]:
    """Count the parameters and multiply-adds of a network, layer by layer.

    Args:
        variant: a name in ``VARIANTS``, or ``torchvision`` for ``torchvision.models.alexnet``.
        width_mult: multiplies the number of channels and hidden units; 1 for torchvision.

    Returns:
        ``variant``, ``num_classes``, ``parameters``, ``multiply_adds`` and ``layers``. Each layer, in the order of the
        forward pass, has ``name``, ``type``, ``output`` (its shape without the batch), ``parameters`` and
        ``multiply_adds``.

    Raises:
        ValueError: an unknown variant, or an argument out of range.
    """
    model, size = _build(variant, num_classes, width_mult)
    layers: list[dict[str, Any]] = []

    def record(name: str, module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        per_output = module.weight[0].numel() if isinstance(module, nn.Conv2d | nn.Linear) else 0
        layers.append(
            {
                "name": name,
                "type": type(module).__name__,
                "output": list(output.shape[1:]),
                "parameters": sum(p.numel() for p in module.parameters()),
                "multiply_adds": output.numel() * per_output,
            }
        )

    for path, module in model.named_modules():
        if not list(module.children()):
            name = path if variant == TORCHVISION else path.rpartition(".")[2]
            module.register_forward_hook(functools.partial(record, name))
    with torch.no_grad():
        model(torch.empty(1, 3, size, size, device="meta"))
    return {
        "variant": variant,
        "num_classes": num_classes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": sum(layer["multiply_adds"] for layer in layers),
        "layers": layers,
    }


def _build(variant: str, num_classes: int, width_mult: float = 1.0) -> tuple[nn.Module, int]:
    """Return the network on the meta device, which allocates no memory, and the side of its input in pixels."""
    with torch.device("meta"):
        if variant == TORCHVISION:
            if width_mult != 1:
                raise FieldError("width_mult", "1 for torchvision", width_mult)
            AlexNet_2012(num_classes)  # refuses a number that is not allowed
            return torchvision.models.alexnet(num_classes=num_classes).eval(), 224
        model = AlexNet_2012(num_classes, variant, width_mult=width_mult)
    return model.eval(), model.variant.image_sizes[0]


def format_summary(summary: Mapping[str, Any]) -> str:
    """Format the result of ``summarize`` as a table, with a line of totals."""
    rows = [("layer", "type", "output", "parameters", "multiply-adds")]
    for layer in summary["layers"]:
        counts = (f"{layer[key]:,}" if layer[key] else "" for key in ("parameters", "multiply_adds"))
        rows.append((layer["name"], layer["type"], "×".join(map(str, layer["output"])), *counts))
    rows.append(("total", "", "", f"{summary['parameters']:,}", f"{summary['multiply_adds']:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{row[i]:{'<' if i < 3 else '>'}{widths[i]}}" for i in range(5)).rstrip() for row in rows]
    rule = "-" * len(lines[-1])
    title = f"AlexNet (2012), variant {summary['variant']}, {summary['num_classes']} classes"
    return "\n".join([title, "", lines[0], rule, *lines[1:-1], rule, lines[-1]])


def variants_table() -> list[dict[str, Any]]:
    """Return what differs between the networks in ``NETWORKS``.

    Each row has ``what``, ``values`` (a text for each of ``NETWORKS``) and ``source``, where the values come from.
    """
    columns = {name: _column(name) for name in NETWORKS}
    return [
        {"what": what, "values": {name: column[what] for name, column in columns.items()}, "source": source}
        for what, source in SOURCES.items()
    ]


def _column(name: str) -> dict[str, str]:
    """A network's texts for the rows of ``variants_table``."""
    small, large = summarize(name, 10), summarize(name, 1000)
    counted = {
        "parameters, 1000 classes": f"{large['parameters']:,}",
        "parameters, 10 classes": f"{small['parameters']:,}",
        "multiply-adds, 1000 classes": f"{large['multiply_adds'] / 1e6:,.0f} M",
    }
    if name == TORCHVISION:
        filters = [str(layer["output"][0]) for layer in small["layers"] if layer["type"] == "Conv2d"]
        return counted | {
            "filters": "-".join(filters),
            "conv1 padding": "2",
            "groups of conv2, 4, 5": "1",
            **dict.fromkeys(("layer 1", "layer 2"), "conv, relu, pool"),
            "dropout on": "inputs of fc6, fc7",
            "input side": "63 or more",
            **dict.fromkeys(("norm: α over n = 5", "norm: k", "norm sees"), "no norm"),
            **dict.fromkeys(("weights", "biases of conv2, 4, 5, fc6, 7"), "U(±1/√fan-in)"),
        }
    variant, init = VARIANTS[name], INITS[VARIANTS[name].init]
    return counted | {
        "filters": "-".join(map(str, variant.widths[:5])),
        "groups of conv2, 4, 5": str(variant.groups),
        "layer 1": ", ".join(variant.layer1),
        "layer 2": ", ".join(variant.layer2).replace("within", "norm in map"),
        "dropout on": f"{variant.dropout_on} of fc6, fc7"
        + ", which are halved at test" * (variant.dropout_scaled_at == "test"),
        "conv1 padding": "224: 3 right, below" if variant.conv1_padding is None else str(variant.conv1_padding),
        "input side": " or ".join(map(str, variant.image_sizes)),
        "norm: α over n = 5": f"{variant.lrn_alpha / 5:.5f}".rstrip("0"),
        "norm: k": f"{variant.lrn_k:g}",
        "norm sees": "its own tower" if variant.lrn_towers > 1 else "all channels",
        "weights": _weights(init),
        "biases of conv2, 4, 5, fc6, 7": f"{init.bias:g}",
    }


def _weights(init: Init) -> str:
    by_std: dict[float, list[str]] = {}
    for layer, std in init.std_of.items():
        by_std.setdefault(std, []).append(layer)
    others = "".join(f"; {', '.join(layers)}: {std:g}" for std, layers in by_std.items())
    return f"N(0, {init.std:g})" + others


def format_variants(rows: list[dict[str, Any]], *, markdown: bool = False) -> str:
    """Format ``variants_table``: each value with its networks, or a Markdown table with a column for each network."""
    if markdown:
        lines = ["| | " + " | ".join(f"`{name}`" for name in NETWORKS) + " |", "|---" * (len(NETWORKS) + 1) + "|"]
        lines += [f"| {row['what']} | " + " | ".join(row["values"].values()) + " |" for row in rows]
        sources = [f"- {row['what']}: {row['source']}." for row in rows if row["source"] != COUNTED]
        return "\n".join([*lines, "", *sources])
    lines = []
    for row in rows:
        by_value: dict[str, list[str]] = {}
        for name, value in row["values"].items():
            by_value.setdefault(value, []).append(name)
        lines.append(row["what"])
        lines += [f"    {value:38} {', '.join(names)}" for value, names in by_value.items()]
        lines += [f"    source: {row['source']}", ""]
    return "\n".join(lines).rstrip()
