"""Exported files, run by the programs they are for and compared with the network on other images and batch sizes."""

import json
import sys

import numpy as np
import pytest
import torch

from alexnet import load_model
from alexnet.checkpoint import load_weights, save_weights
from alexnet.data.normalization import Normalization, encode_mean_image
from alexnet.errors import FieldError
from alexnet.model import ModelInfo
from alexnet.tools import export as export_module
from alexnet.tools.export import export
from caffe_files import make_network

CLASSES = (*"abcdefgh", "jäger", "caf\udce9")  # the last of bytes that are not UTF-8
MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
WARPED = Normalization(MEAN, STD, encode_mean_image(np.full((4, 4, 3), 51.0)), "warp")


@pytest.fixture
def weights(request, tmp_path):
    """A narrow network's weights; its variant can be set indirectly."""
    model = make_network(getattr(request, "param", "classic"))
    path = tmp_path / "weights.safetensors"
    save_weights(path, model.state_dict(), info(model.variant.name))
    return path


def info(variant):
    norm = WARPED if variant == "caffe" else Normalization(MEAN, STD)
    return ModelInfo(variant, CLASSES, norm, "letters", width_mult=1 / 16)


@pytest.mark.parametrize("weights", ["classic", "source", "caffe"], indirect=True)
def test_onnx(weights, tmp_path):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    out, model = tmp_path / "model.onnx", load_model(weights)
    result = export(weights, "onnx", out)
    assert result["file"] == str(out)
    assert result["bytes"] == out.stat().st_size
    assert 0 < result["checked"] < 1e-4
    assert result["checked_with"] == f"onnxruntime {onnxruntime.__version__}"
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    side = model.variant.image_sizes[0]
    for count in (1, 4):
        images = torch.randn(count, 3, side, side) * 70 + 5
        (got,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), model(images), rtol=1e-4, atol=1e-3)
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("images", ["batch", 3, side, side])
    assert (returned.name, returned.shape) == ("logits", ["batch", 10])

    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["variant"] == model.variant.name
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert (json.loads(metadata["mean"]), json.loads(metadata["std"])) == (list(MEAN), list(STD))
    assert f"centre crop of {side}" in metadata["preprocessing"]
    assert metadata.get("mean_image", "") == model.info.normalization.mean_image
    assert metadata["resize"] == model.info.normalization.resize
    assert ("without antialiasing" in metadata["preprocessing"]) == (metadata["resize"] == "warp")

    graph = onnx.load(out, load_external_data=False)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", result["opset"])]
    norms = [node for node in graph.graph.node if node.op_type == "LRN"]
    assert len(norms) == 2 * model.variant.lrn_towers
    for node in norms:
        constants = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        expected = {"size": 5, "alpha": model.variant.lrn_alpha, "beta": 0.75, "bias": model.variant.lrn_k}
        assert constants == pytest.approx(expected)
    assert str(tmp_path.parent) not in str(graph.graph.node)  # no paths of this machine
    assert ".py" not in str(graph.graph.node)


def test_safetensors(weights, tmp_path):
    out = tmp_path / "model.safetensors"
    result = export(str(weights), "safetensors", str(out))
    assert result["checked"] < 1e-5  # mapped weights may be added in another order
    assert result["bytes"] == out.stat().st_size
    state, stored = load_weights(out)
    assert stored == info("classic")
    assert all(torch.equal(state[name], value) for name, value in load_model(weights).state_dict().items())


@pytest.mark.parametrize("factor", [1 + 1e-3, float("nan")])
def test_a_file_that_computes_something_else_is_not_kept(weights, tmp_path, monkeypatch, factor):
    def save_other_weights(path, state, info):
        save_weights(path, {name: value * factor for name, value in state.items()}, info)

    monkeypatch.setattr(export_module, "save_weights", save_other_weights)
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    with pytest.raises(ValueError, match="differs"):
        export(weights, "safetensors", out)
    assert out.read_text() == "precious"
    assert set(tmp_path.iterdir()) == {weights, out}


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_onnx_without_its_packages(weights, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="pip install"):
        export(weights, "onnx", tmp_path / "model.onnx")
    assert set(tmp_path.iterdir()) == {weights}


@pytest.mark.parametrize(
    ("format", "out", "error", "named"),
    [
        ("tflite", "x.tflite", ValueError, "tflite"),
        ("onnx", "x.bin", ValueError, "x.bin"),
        ("onnx", "nowhere/x.onnx", ValueError, "nowhere"),
        ("onnx", "folder.onnx", FieldError, "out must be a file in a folder that exists"),
        ("onnx", "x.onnx", FileNotFoundError, "missing"),
    ],
)
def test_refusals(tmp_path, format, out, error, named):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(error, match=named) as caught:
        export(tmp_path / "missing", format, tmp_path / out)
    assert "\n" not in str(caught.value)
