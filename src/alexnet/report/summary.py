"""What a network consists of, layer by layer, and what tells the networks called AlexNet apart: counted, not recalled.

Multiply-adds are those of the convolutions and fully connected layers for one image, as in the literature; ReLU,
pooling and normalisation are left out. One multiply-add is two floating-point operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from alexnet.model import INITS, VARIANTS, AlexNet_2012, Init, Variant

__all__ = ["format_summary", "format_variants", "summarize", "variants_table"]

TORCHVISION = "torchvision"
NETWORKS = (*VARIANTS, TORCHVISION)


def summarize(variant: str = "classic", num_classes: int = 10) -> dict[str, Any]:
    """Count the layers of a variant, or of torchvision's ``alexnet`` under the name ``torchvision``.

    Returns:
        ``variant``, ``num_classes``, ``parameters``, ``multiply_adds`` and ``layers``: for each module in the order
        of computation ``name``, ``type``, ``output`` (its shape without the batch), ``parameters``, ``multiply_adds``.

    Raises:
        ValueError: an unknown variant, or fewer than one class.
    """
    model, size = _on_meta(variant, num_classes)
    layers: list[dict[str, Any]] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            layers.append(
                {
                    "name": name,
                    "type": type(module).__name__,
                    "output": list(output.shape[1:]),
                    "parameters": sum(p.numel() for p in module.parameters()),
                    "multiply_adds": _multiply_adds(module, output),
                }
            )

        return hook

    for path, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(note(path if variant == TORCHVISION else path.rpartition(".")[2]))
    with torch.no_grad():
        model(torch.empty(1, 3, size, size, device="meta"))
    return {
        "variant": variant,
        "num_classes": num_classes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": sum(layer["multiply_adds"] for layer in layers),
        "layers": layers,
    }


def _on_meta(variant: str, num_classes: int) -> tuple[nn.Module, int]:
    """The network without memory for its weights, and the usual side of its input."""
    with torch.device("meta"):
        if variant == TORCHVISION:
            return torchvision.models.alexnet(num_classes=num_classes).eval(), 224
        model = AlexNet_2012(num_classes, variant)
    return model.eval(), model.variant.image_sizes[0]


def _multiply_adds(module: nn.Module, output: Tensor) -> int:
    if isinstance(module, nn.Conv2d):
        return output.numel() * module.weight[0].numel()  # one filter's weights for each value it gives
    if isinstance(module, nn.Linear):
        return module.weight.numel()
    return 0


def format_summary(summary: Mapping[str, Any]) -> str:
    """``summarize``'s result as a table to read, with a line of totals."""
    rows = [("layer", "type", "output", "parameters", "multiply-adds")]
    for layer in summary["layers"]:
        counts = (f"{layer[key]:,}" if layer[key] else "" for key in ("parameters", "multiply_adds"))
        rows.append((layer["name"], layer["type"], "×".join(map(str, layer["output"])), *counts))
    rows.append(("total", "", "", f"{summary['parameters']:,}", f"{summary['multiply_adds']:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(cell.ljust(width) if column < 3 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    rule = "-" * len(lines[0])
    title = f"AlexNet (2012), variant {summary['variant']}, {summary['num_classes']} classes"
    return "\n".join([title, "", lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:-1]), rule, lines[-1]])


def variants_table() -> list[dict[str, Any]]:
    """What differs between the five variants and torchvision's ``alexnet``, one dict a row.

    Keys: ``what``; ``values``, a text for each of ``NETWORKS``; ``source``, where they come from. A row on which all
    networks agree is left out.
    """
    rows = [*_counted_rows(), *_described_rows()]
    return [row for row in rows if len(set(row["values"].values())) > 1]


def _counted_rows() -> list[dict[str, Any]]:
    """Rows read off the modules themselves, torchvision's included."""
    small = {name: summarize(name, 10) for name in NETWORKS}
    large = {name: summarize(name, 1000) for name in NETWORKS}
    models = {name: _on_meta(name, 10)[0] for name in NETWORKS}
    convs = {name: [m for m in models[name].modules() if isinstance(m, nn.Conv2d)] for name in NETWORKS}
    counted = "counted from the modules"

    def row(what: str, value: Callable[[str], str], source: str) -> dict[str, Any]:
        return {"what": what, "values": {name: value(name) for name in NETWORKS}, "source": source}

    return [
        row("parameters, 1000 classes", lambda n: f"{large[n]['parameters']:,}", counted),
        row("parameters, 10 classes", lambda n: f"{small[n]['parameters']:,}", counted),
        row("multiply-adds, 1000 classes", lambda n: f"{large[n]['multiply_adds'] / 1e6:,.0f} M", counted),
        row(
            "filters",
            lambda n: "-".join(str(conv.out_channels) for conv in convs[n]),
            "paper 3.5; torchvision: cuda-convnet2, layers-imagenet-1gpu.cfg (arXiv:1404.5997 has 384 in conv4)",
        ),
        row(
            "conv1 padding",
            lambda n: _padding(n, convs[n][0]),
            "layers-145.cfg: padding=0, output rounded up; Caffe: no pad; torchvision/models/alexnet.py",
        ),
        row(
            "groups of conv2, 4, 5",
            lambda n: str(convs[n][1].groups),
            "paper 3.2 and figure 2; Caffe: group: 2; classic: this project",
        ),
        row("layer 1", lambda n: _order(small[n], 1), "paper 3.5; layers-145.cfg; Caffe: train_val.prototxt"),
        row("layer 2", lambda n: _order(small[n], 2), "paper 3.5; layers-145.cfg [cnorm2a]; Caffe: train_val.prototxt"),
        row("dropout on", lambda n: _dropout(small[n]), "paper 4.2; layers-145.cfg [hs1a]; Caffe: drop6, drop7"),
    ]


def _described_rows() -> list[dict[str, Any]]:
    """Rows from the variants' own data; ``torchvision`` holds what its alexnet.py and PyTorch's layers do instead."""

    def row(what: str, value: Callable[[Variant, Init], str], torchvision: str, source: str) -> dict[str, Any]:
        values = {name: value(variant, INITS[variant.init]) for name, variant in VARIANTS.items()}
        return {"what": what, "values": {**values, TORCHVISION: torchvision}, "source": source}

    return [
        row(
            "input side",
            lambda v, _: " or ".join(map(str, v.image_sizes)),
            "63 or more",
            "paper 3.5 says 224, its 55×55 maps need 227; Caffe: crop_size 227; torchvision: min_size",
        ),
        row(
            "norm: α over n = 5",
            lambda v, _: f"{v.lrn_alpha / 5:.5f}".rstrip("0"),
            "no norm",
            "paper 3.3: α not divided; layer-params-145.cfg: scale, divided by size; Caffe: alpha, divided",
        ),
        row(
            "norm: k",
            lambda v, _: f"{v.lrn_k:g}",
            "no norm",
            "paper 3.3; layer-params-145.cfg: minDiv; Caffe: default k",
        ),
        row(
            "norm sees",
            lambda v, _: "its own tower" if v.lrn_towers > 1 else "all channels",
            "no norm",
            "paper 3.3: all kernels; layers-145.cfg: rnorm1a, rnorm1b; Caffe: one LRN layer over both groups",
        ),
        row(
            "weights",
            lambda _, init: _weights(init),
            "U(±1/√fan-in)",
            "paper 5; layers-145.cfg: initW; Caffe: weight_filler; torch.nn",
        ),
        row(
            "biases of conv2, 4, 5, fc6, 7",
            lambda _, init: f"{init.bias:g}",
            "U(±1/√fan-in)",
            "paper 5; layers-145.cfg: initB; Caffe: bias_filler; torch.nn",
        ),
    ]


def _padding(name: str, conv1: nn.Conv2d) -> str:
    if name in VARIANTS and VARIANTS[name].conv1_padding is None:
        return "224: 3 right, below"
    return str(conv1.padding[0])


STEPS = {
    "Conv2d": "conv",
    "ReLU": "relu",
    "ResponseNorm": "norm",
    "WithinMapNorm": "norm in map",
    "MaxPool2d": "pool",
}


def _order(summary: Mapping[str, Any], number: int) -> str:
    """The steps of the numbered convolutional layer, in the order of computation."""
    steps = [STEPS[layer["type"]] for layer in summary["layers"] if layer["type"] in STEPS]
    starts = [i for i, step in enumerate(steps) if step == "conv"]
    return ", ".join(steps[starts[number - 1] : starts[number]])


def _dropout(summary: Mapping[str, Any]) -> str:
    kinds = [layer["type"] for layer in summary["layers"] if layer["type"] in ("Dropout", "DropoutOf2012", "Linear")]
    where = "inputs of fc6, fc7" if kinds[0] == "Dropout" else "outputs of fc6, fc7"
    return where + (", which are halved at test" if "DropoutOf2012" in kinds else "")


def _weights(init: Init) -> str:
    by_std: dict[float, list[str]] = {}
    for layer, std in init.std_of.items():
        by_std.setdefault(std, []).append(layer)
    others = "".join(f"; {', '.join(layers)}: {std:g}" for std, layers in by_std.items())
    return f"N(0, {init.std:g})" + others


def format_variants(rows: list[dict[str, Any]], *, markdown: bool = False) -> str:
    """``variants_table``'s rows to read: each value with the networks that have it, or, as Markdown, a column for each
    network and the sources below."""
    if markdown:
        lines = ["| | " + " | ".join(f"`{name}`" for name in NETWORKS) + " |", "|---" * (len(NETWORKS) + 1) + "|"]
        lines += [f"| {row['what']} | " + " | ".join(row["values"][name] for name in NETWORKS) + " |" for row in rows]
        return "\n".join([*lines, "", *(f"- {row['what']}: {row['source']}." for row in rows)])
    lines = []
    for row in rows:
        by_value: dict[str, list[str]] = {}
        for name, value in row["values"].items():
            by_value.setdefault(value, []).append(name)
        lines.append(row["what"])
        lines += [f"    {value:38} {', '.join(names)}" for value, names in by_value.items()]
        lines += [f"    source: {row['source']}", ""]
    return "\n".join(lines).rstrip()
