"""A trained model for other programs: ONNX, safetensors, torch.export's .pt2, TorchScript.

Each file is read back by the program it is meant for and its answers are compared with the model's before it gets its
name: what fails the comparison is deleted. Batches of any size; images normalised as the model's card says, which the
ONNX and safetensors files carry in their metadata.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.files import write_atomically
from alexnet.lrn import ResponseNorm, WithinMapNorm
from alexnet.model import AlexNet_2012, DropoutOf2012, RoundUpPad
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import load_model, load_weights, save_weights

__all__ = ["FORMATS", "export"]

OPSET = 17  # the oldest that runtimes in use all read; LRN is unchanged since 13
BATCHES = ((1, 60.0), (3, 60.0), (2, 1.0))  # images and their spread: raw pixels and standardised ones
TOLERANCE = 1e-4  # of the largest logit; float32 sums in another order differ by about 1e-6
NEEDS_ONNX = "export to onnx needs the packages onnx and onnxruntime: pip install 'alexnet-2012[export]'"

Run = Callable[[Tensor], Tensor]


def export(source: str | Path, format: str, out: str | Path) -> dict[str, Any]:
    """Write the model of ``source`` (a run folder, a checkpoint or a ``.safetensors``) to ``out`` in another format.

    Returns:
        ``file``, ``format``, ``bytes``; ``checked_with``: the program that ran the file; ``checked``: the largest
        difference of a logit over the largest logit, on three batches; ``opset`` for ONNX.

    Raises:
        FileNotFoundError: no such source or folder.
        ValueError: an unknown format, a wrong ending of ``out``, a source that is no model, a package that is missing,
            a file that does not compute what the model computes.
    """
    if format not in FORMATS:
        raise ValueError(f"--format {format}: allowed is one of {', '.join(FORMATS)}")
    suffix, write = FORMATS[format]
    out = Path(out)
    if out.suffix != suffix:
        raise ValueError(f"--out {out}: a file of format {format} ends in {suffix}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: no such folder as {out.parent}")
    model = load_model(source).float()
    card = model.card
    assert card is not None  # load_model sets it
    result: dict[str, Any] = {"file": str(out), "format": format}

    def write_and_check(file: Path) -> None:
        run, notes = write(model, card, file)
        result.update(notes, checked=_difference(model, run), bytes=file.stat().st_size)

    write_atomically(out, write_and_check)
    return result


def _difference(model: AlexNet_2012, run: Run) -> float:
    """Largest difference of a logit over the largest logit, on a few batches of noise."""
    generator = torch.Generator().manual_seed(0)
    side = model.variant.image_sizes[0]
    differences = []
    for count, spread in BATCHES:
        images = torch.randn(count, 3, side, side, generator=generator) * spread
        with torch.no_grad():
            expected, got = model(images), run(images)
        if got.shape != expected.shape:
            raise ValueError(f"the exported file gives {list(got.shape)} where the model gives {list(expected.shape)}")
        differences.append(float((got - expected).abs().max() / expected.abs().max()))
    for worst in differences:
        if not worst <= TOLERANCE:  # NaN fails too
            raise ValueError(f"the exported file differs from the model by {worst:.1e} of the largest logit; not kept")
    return max(differences)


# --- safetensors ------------------------------------------------------------------------------------------------------


def _safetensors(model: AlexNet_2012, card: ModelCard, file: Path) -> tuple[Run, dict[str, Any]]:
    save_weights(file, model.state_dict(), card)
    return AlexNet_2012.from_weights(*load_weights(file)), {"checked_with": "alexnet.load_model"}


# --- torch.export and TorchScript -------------------------------------------------------------------------------------


def _pt2(model: AlexNet_2012, card: ModelCard, file: Path) -> tuple[Run, dict[str, Any]]:
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (_example(model),), dynamic_shapes=({0: batch},))
    with file.open("wb") as stream:
        torch.export.save(program, stream, extra_files={"card.json": card.to_json()})  # type: ignore[arg-type]
    with file.open("rb") as stream:
        again = torch.export.load(stream).module()  # type: ignore[arg-type]
    return again, {"checked_with": f"torch.export {torch.__version__}"}


def _torchscript(model: AlexNet_2012, card: ModelCard, file: Path) -> tuple[Run, dict[str, Any]]:
    layers = [*model.features, nn.Flatten(1), *model.classifier]
    plain = nn.Sequential(*(_TorchNorm(layer) if isinstance(layer, ResponseNorm) else layer for layer in layers))
    jit: Any = torch.jit  # untyped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and still what many programs load
        jit.save(jit.trace(plain.eval(), _example(model)), file, _extra_files={"card.json": card.to_json()})
        again = jit.load(file)
    return again, {"checked_with": f"torch.jit {torch.__version__}"}


class _TorchNorm(nn.Module):
    """Response normalisation by PyTorch's own function, which a trace records for any batch size."""

    def __init__(self, norm: ResponseNorm) -> None:
        super().__init__()
        self.towers = norm.towers
        self.norm = nn.LocalResponseNorm(norm.size, norm.alpha, norm.beta, norm.k)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.norm(tower) for tower in x.chunk(self.towers, 1)], 1)


def _example(model: AlexNet_2012) -> Tensor:
    side = model.variant.image_sizes[0]
    return torch.zeros(2, 3, side, side)  # two: torch.export takes a batch of one for a constant


# --- ONNX -------------------------------------------------------------------------------------------------------------


def _onnx(model: AlexNet_2012, card: ModelCard, file: Path) -> tuple[Run, dict[str, Any]]:
    try:
        import onnx
        import onnxruntime  # to check the file: onnx's own evaluator gets LRN wrong (1.23 sums over the wrong channels)
    except ModuleNotFoundError as error:
        raise ValueError(NEEDS_ONNX) from error
    graph = _Graph()
    x = "images"
    for path, layer in model.named_modules():
        if not list(layer.children()):
            if path == "classifier." + next(iter(model.classifier._modules)):
                x = graph.add("Flatten", [x], "flatten", axis=1)
            x = graph.layer(path, layer, x)
    side = model.variant.image_sizes[0]
    proto = graph.model(x, side, card)
    onnx.checker.check_model(proto)
    file.write_bytes(proto.SerializeToString())
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    notes = {"opset": OPSET, "checked_with": f"onnxruntime {onnxruntime.__version__}"}
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), notes


class _Graph:
    """An ONNX graph under construction: one node an operation, named after the layer, weights named as in PyTorch."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, operator: str, inputs: list[str], name: str, outputs: int = 1, **attributes: Any) -> str:
        import onnx.helper

        names = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(onnx.helper.make_node(operator, inputs, names, name=name, **attributes))
        return names[0]

    def constant(self, name: str, value: Tensor) -> str:
        import onnx.numpy_helper

        self.weights.append(onnx.numpy_helper.from_array(value.detach().contiguous().numpy(), name))
        return name

    def layer(self, path: str, layer: nn.Module, x: str) -> str:
        """Append what computes ``layer`` from ``x``; returns the name of its output."""
        name = path.rpartition(".")[2]
        match layer:
            case nn.Conv2d() | nn.Linear():
                weights = [self.constant(f"{path}.{key}", value) for key, value in layer.named_parameters()]
                if isinstance(layer, nn.Linear):
                    return self.add("Gemm", [x, *weights], name, transB=1)
                sides: dict[str, Any] = {
                    "strides": layer.stride,
                    "pads": [*layer.padding, *layer.padding],
                    "group": layer.groups,
                }
                return self.add("Conv", [x, *weights], name, kernel_shape=layer.kernel_size, **sides)
            case nn.ReLU():
                return self.add("Relu", [x], name)
            case nn.MaxPool2d(kernel_size=size, stride=stride):
                return self.add("MaxPool", [x], name, kernel_shape=[size, size], strides=[stride, stride])
            case DropoutOf2012(p=p):
                return self.add("Mul", [x, self.constant(f"{name}.keep", torch.tensor(1 - p))], name)
            case nn.Dropout():
                return x  # does nothing at inference
            case RoundUpPad(kernel=kernel, stride=stride):
                missing = -(224 - kernel) % stride  # the exported input is 224, the variant's usual side
                pads = self.constant(f"{name}.pads", torch.tensor([0, 0, 0, 0, 0, 0, missing, missing]))
                return self.add("Pad", [x, pads], name)
            case ResponseNorm():
                return self.response_norm(name, layer, x)
            case WithinMapNorm():
                return self.within_map_norm(name, layer, x)
        raise AssertionError(f"no ONNX for {type(layer).__name__}")

    def response_norm(self, name: str, norm: ResponseNorm, x: str) -> str:
        constants: dict[str, Any] = {"size": norm.size, "alpha": norm.alpha, "beta": norm.beta, "bias": norm.k}
        if norm.towers == 1:
            return self.add("LRN", [x], name, **constants)
        self.add("Split", [x], f"{name}.in", outputs=norm.towers, axis=1)  # opset 13 to 17: equal parts
        towers = [self.add("LRN", [f"{name}.in.{i}"], f"{name}.tower{i}", **constants) for i in range(norm.towers)]
        return self.add("Concat", towers, name, axis=1)

    def within_map_norm(self, name: str, norm: WithinMapNorm, x: str) -> str:
        reach = [norm.size // 2] * 4
        square = self.add("Mul", [x, x], f"{name}.square")
        window: dict[str, Any] = {
            "kernel_shape": [norm.size] * 2,
            "strides": [1, 1],
            "pads": reach,
            "count_include_pad": 1,
        }
        mean = self.add("AveragePool", [square], f"{name}.mean", **window)
        scale = self.constant(f"{name}.scale", torch.tensor(norm.scale))
        one, power = (
            self.constant(f"{name}.one", torch.tensor(1.0)),
            self.constant(f"{name}.power", torch.tensor(-norm.beta)),
        )
        scaled = self.add("Mul", [mean, scale], f"{name}.scaled")
        below = self.add("Add", [scaled, one], f"{name}.denominator")
        return self.add("Mul", [x, self.add("Pow", [below, power], f"{name}.factor")], name)

    def model(self, logits: str, side: int, card: ModelCard) -> Any:
        import onnx
        from onnx import helper

        number = onnx.TensorProto.FLOAT
        self.add("Identity", [logits], "logits")
        graph = helper.make_graph(
            self.nodes,
            f"AlexNet (2012), {card.variant}",
            [helper.make_tensor_value_info("images", number, ["batch", 3, side, side])],
            [helper.make_tensor_value_info("logits", number, ["batch", card.num_classes])],
            self.weights,
        )
        opset = [helper.make_opsetid("", OPSET)]
        proto = helper.make_model(graph, producer_name="alexnet-2012", opset_imports=opset, ir_version=8)
        helper.set_model_props(proto, _metadata(card, side))
        return proto


def _metadata(card: ModelCard, side: int) -> dict[str, str]:
    """What a user of the ONNX file has to know, as text and as data."""
    norm = card.normalization
    resized = "shorter side resized to 256 (bilinear, antialiased)"
    if norm.resize == "warp":
        resized = "both sides resized to 256 (bilinear, without antialiasing)"
    steps = f"RGB; {resized}; centre crop of {side}; (x / 255 - mean) / std"
    if norm.mean_image:
        steps += (
            "; mean is the centre crop of mean_image (little-endian float32 [side, side, 3] in base64), resized to "
            "256 x 256"
        )
    return {
        "variant": card.variant,
        "classes": json.dumps(card.classes),
        "preprocessing": steps,
        "mean": json.dumps(norm.mean),
        "std": json.dumps(norm.std),
        "resize": norm.resize,
        **({"mean_image": norm.mean_image} if norm.mean_image else {}),
        "data": card.data,
    }


FORMATS: dict[str, tuple[str, Callable[[AlexNet_2012, ModelCard, Path], tuple[Run, dict[str, Any]]]]] = {
    "onnx": (".onnx", _onnx),
    "safetensors": (".safetensors", _safetensors),
    "pt2": (".pt2", _pt2),
    "torchscript": (".pt", _torchscript),
}
