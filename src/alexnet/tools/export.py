"""Export a trained network to ONNX or safetensors.

An exported file is loaded again, and its logits are compared with the network's, before it is kept. Batches may have
any size. Class names and preprocessing are stored in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.checkpoint import check_out, load_model, load_weights, save_weights, write_atomically
from alexnet.errors import check_choice
from alexnet.evaluate import info_of
from alexnet.lrn import ResponseNorm
from alexnet.model import AlexNet_2012, ModelInfo

__all__ = ["FORMATS", "export"]

FORMATS = ("onnx", "safetensors")
OPSET = 18  # the lowest that torch.onnx writes without converting; LRN is unchanged since 13
BATCHES = ((1, 60.0), (3, 60.0), (2, 1.0))  # images, and the spread of their pixels: raw and standardised
MAX_ONNX_BYTES = 1.5e9  # of more weights, the exporter makes a second file
TOLERANCE = 1e-4  # of the largest logit; another order of summation in float32 gives about 1e-6


def export(path: str | Path, format: str, out: str | Path) -> dict[str, Any]:
    """Write a network to ``out`` in another format.

    Args:
        path: anything that ``load_model`` reads.
        format: ``onnx`` or ``safetensors``.
        out: a file name that ends in ``.onnx`` or ``.safetensors``.

    Returns:
        ``file``, ``format``, ``bytes``; ``checked_with``: the program that ran the file; ``checked``: the largest
        difference of a logit, as a fraction of the largest logit, on three batches; for ONNX also ``opset``.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: an unknown format, a wrong suffix or folder of ``out``, a damaged ``path``, a missing package, or a
            file that does not compute what the network computes (it is deleted).
    """
    check_choice("format", format, FORMATS)
    out = Path(out)
    check_out(out, f".{format}")
    model = load_model(path)
    result: dict[str, Any] = {"file": str(out), "format": format}

    def write(file: Path) -> None:
        run, notes = (_write_onnx if format == "onnx" else _write_safetensors)(model, file)
        result.update(notes, checked=_difference(model, run), bytes=file.stat().st_size)

    write_atomically(out, write)
    return result


def _difference(model: AlexNet_2012, run: Callable[[Tensor], Tensor]) -> float:
    """The largest difference of a logit as a fraction of the largest logit. ValueError if it is above the tolerance."""
    generator = torch.Generator().manual_seed(0)
    side = model.variant.image_sizes[0]
    worst = 0.0
    for count, spread in BATCHES:
        images = torch.randn(count, 3, side, side, generator=generator) * spread
        with torch.no_grad():
            expected, got = model(images), run(images)
        if got.shape != expected.shape:
            raise ValueError(f"the exported file gives {list(got.shape)} where the model gives {list(expected.shape)}")
        difference = float((got - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE:  # NaN is not
            raise ValueError(f"the exported file differs from the model by {difference:.1e} of the largest logit")
        worst = max(worst, difference)
    return worst


def _write_safetensors(model: AlexNet_2012, file: Path) -> tuple[AlexNet_2012, dict[str, Any]]:
    save_weights(file, model.state_dict(), info_of(model))
    return AlexNet_2012.from_weights(*load_weights(file)), {"checked_with": "alexnet.load_model"}


# --- ONNX


class _OnnxResponseNorm(nn.Module):
    """Response normalisation as ONNX's own operator, LRN: one node for each tower, which runtimes have kernels for."""

    def __init__(self, norm: ResponseNorm) -> None:
        super().__init__()
        self.towers = norm.towers
        self.constants: dict[str, Any] = {"size": norm.size, "alpha": norm.alpha, "beta": norm.beta, "bias": norm.k}

    def forward(self, x: Tensor) -> Tensor:
        towers = [
            torch.onnx.ops.symbolic("LRN", (tower,), self.constants, dtype=tower.dtype, shape=tower.shape)
            for tower in x.chunk(self.towers, 1)
        ]
        return torch.cat(towers, 1) if self.towers > 1 else towers[0]


def _write_onnx(model: AlexNet_2012, file: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ModuleNotFoundError as error:
        missing = "onnx, onnxruntime and onnxscript: pip install 'alexnet-2012[export]'"
        raise ValueError(f"export to ONNX needs the packages {missing}") from error
    info, side = info_of(model), model.variant.image_sizes[0]
    copy = AlexNet_2012.from_weights(model.state_dict(), info)
    if sum(weight.nbytes for weight in copy.parameters()) > MAX_ONNX_BYTES:
        raise ValueError("the weights have more than 1.5 GB, too much for one ONNX file; export to safetensors")
    for name, layer in model.named_modules():
        if isinstance(layer, ResponseNorm):
            copy.set_submodule(name, _OnnxResponseNorm(layer))
    program = torch.onnx.export(
        copy,
        (torch.zeros(2, 3, side, side),),  # a batch of one would be exported as a constant
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None  # of the exporter of torch.export
    for node in program.model.graph:
        node.metadata_props.clear()  # traces of the source, with this machine's paths
    program.model.metadata_props.update(_metadata(info, side))
    program.save(file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    notes = {"opset": OPSET, "checked_with": f"onnxruntime {onnxruntime.__version__}"}
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), notes


def _metadata(info: ModelInfo, side: int) -> dict[str, str]:
    """Variant, classes and preprocessing, as text for people and as data for programs."""
    norm = info.normalization
    warped = "both sides resized to 256 (bilinear, without antialiasing)"
    resized = warped if norm.resize == "warp" else "shorter side resized to 256 (bilinear, antialiased)"
    preprocessing = f"RGB; {resized}; centre crop of {side}; (x / 255 - mean) / std"
    if norm.mean_image:
        preprocessing += "; mean is the centre crop of mean_image, resized to 256 x 256 (little-endian float32 "
        preprocessing += "[side, side, 3] in base64)"
    metadata = {
        "variant": info.variant,
        "classes": json.dumps(info.classes),
        "preprocessing": preprocessing,
        "mean": json.dumps(norm.mean),
        "std": json.dumps(norm.std),
        "resize": norm.resize,
        "data": info.data,
        "mean_image": norm.mean_image,
    }
    return {key: value for key, value in metadata.items() if value}
