"""Exports, run by the programs they are for and compared with the model on images that the export itself never saw."""

import base64
import gc
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.data.normalization import Normalization, encode_mean_image
from alexnet.model import VARIANTS, AlexNet_2012
from alexnet.weights import export as export_module
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import load_model, load_weights, save_weights
from alexnet.weights.export import FORMATS, _metadata, export

CLASSES = (*"abcdefghi", "jäger")


def card(variant):
    return ModelCard(variant, CLASSES, Normalization((0.4, 0.5, 0.6), (1 / 255, 1 / 255, 1 / 255)), "letters")


@pytest.fixture(scope="module")
def folder():
    """A folder that goes when the tests end: a file of weights has 230 MB."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(params=list(VARIANTS), scope="module")
def weights(request, folder):
    """A file of weights of each variant, with an initialisation that lets the input through to the logits."""
    torch.manual_seed(len(request.param))
    model = AlexNet_2012(10, request.param, init="he")
    with torch.no_grad():
        for _, layer in model.weight_layers():
            layer.bias.normal_()
    path = folder / "weights.safetensors"
    save_weights(path, model.state_dict(), card(request.param))
    del model
    yield path
    path.unlink()
    gc.collect()


classic_only = pytest.mark.parametrize("weights", ["classic"], indirect=True)
source_only = pytest.mark.parametrize("weights", ["source"], indirect=True)


def images_for(model, count):
    side = model.variant.image_sizes[0]
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(99)) * 70 + 5


def assert_agrees(run, model):
    for count in (1, 4):
        images = images_for(model, count)
        with torch.no_grad():
            expected, got = model(images), run(images)
        assert got.shape == expected.shape == (count, 10)
        assert count == 1 or expected.std(0).max() > 0.01 * expected.abs().max()  # the logits depend on the image
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_mean_image_is_described() -> None:
    norm = Normalization((0.4, 0.5, 0.6), (1.0, 1.0, 1.0), encode_mean_image(np.full((4, 4, 3), 51.0)))
    told = _metadata(ModelCard("paper", CLASSES, norm, "letters"), 224)
    assert "centre crop of mean_image" in told["preprocessing"]
    assert np.allclose(np.frombuffer(base64.b64decode(told["mean_image"]), "<f4"), 0.2)
    assert "mean_image" not in _metadata(card("paper"), 224)
    assert "shorter side resized to 256" in told["preprocessing"]
    warped = ModelCard("caffe", CLASSES, Normalization(norm.mean, norm.std, resize="warp"), "letters")
    told = _metadata(warped, 227)
    assert told["preprocessing"].startswith("RGB; both sides resized to 256 (bilinear, without antialiasing); centre")
    assert told["resize"] == "warp"


def test_onnx_runtime_agrees_on_every_variant(weights, folder):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    out, model = folder / "model.onnx", load_model(weights)
    result = export(weights, "onnx", out)
    assert result["file"] == str(out)
    assert result["checked"] < 1e-4
    assert result["checked_with"].startswith("onnxruntime")

    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert_agrees(lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]), model)
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    side = model.variant.image_sizes[0]
    assert (given.name, given.shape) == ("images", ["batch", 3, side, side])
    assert (returned.name, returned.shape) == ("logits", ["batch", 10])

    told = session.get_modelmeta().custom_metadata_map
    assert told["variant"] == model.variant.name
    assert json.loads(told["classes"]) == list(CLASSES)
    assert json.loads(told["mean"]) == [0.4, 0.5, 0.6]
    assert f"centre crop of {side}" in told["preprocessing"]

    graph = onnx.load(out, load_external_data=False)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 17)]
    norms = [node for node in graph.graph.node if node.op_type == "LRN"]
    assert len(norms) == 2 * model.variant.lrn_towers
    for node in norms:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        wanted = {"size": 5, "alpha": model.variant.lrn_alpha, "beta": 0.75, "bias": model.variant.lrn_k}
        assert attributes == pytest.approx(wanted)
    out.unlink()


@classic_only
def test_the_comparison_can_fail(weights, folder, monkeypatch):
    """α off by a factor of five, dropout left on, NaN: each is caught, and no file is left."""
    suffix, write = FORMATS["safetensors"]
    monkeypatch.setattr(export_module, "BATCHES", ((2, 60.0),))

    def five_times_alpha(model, card, file):
        run, notes = write(model, card, file)
        run.features.norm1.alpha *= 5
        return run, notes

    def dropout(model, card, file):
        run, notes = write(model, card, file)
        return run.train(), notes

    def nan(model, card, file):
        run, notes = write(model, card, file)
        return lambda images: run(images) * float("nan"), notes

    def one_image_alone(model, card, file):
        run, notes = write(model, card, file)
        return lambda images: run(images[:1]), notes

    for wrong in (five_times_alpha, dropout, nan, one_image_alone):
        monkeypatch.setitem(export_module.FORMATS, "safetensors", (suffix, wrong))
        before = set(folder.iterdir())
        with pytest.raises(ValueError, match=r"the exported file (differs|gives)"):
            export(weights, "safetensors", folder / "wrong.safetensors")
        assert set(folder.iterdir()) == before


@classic_only
def test_an_old_file_survives_a_failed_export(weights, folder, monkeypatch):
    old = folder / "old.safetensors"
    old.write_text("precious")
    monkeypatch.setattr(export_module, "_difference", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(weights, "safetensors", old)
    assert old.read_text() == "precious"


@source_only
def test_safetensors_needs_nothing_else(weights, folder):
    out = folder / "model.safetensors"
    result = export(str(weights), "safetensors", str(out))
    assert result["checked"] == 0
    assert result["bytes"] == out.stat().st_size
    again, read = load_weights(out)
    assert read == card("source")
    assert all(torch.equal(again[name], value) for name, value in load_model(weights).state_dict().items())
    out.unlink()


@source_only
def test_torch_export(weights, folder):
    out = folder / "model.pt2"
    result = export(weights, "pt2", out)
    assert result["checked_with"] == f"torch.export {torch.__version__}"
    extra = {"card.json": ""}
    program = torch.export.load(out, extra_files=extra)
    assert_agrees(program.module(), load_model(weights))
    assert ModelCard.from_json(extra["card.json"]) == card("source")
    out.unlink()


@source_only
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript(weights, folder):
    out = folder / "model.pt"
    export(weights, "torchscript", out)
    extra = {"card.json": ""}
    assert_agrees(torch.jit.load(out, _extra_files=extra), load_model(weights))
    assert ModelCard.from_json(extra["card.json"]) == card("source")
    out.unlink()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
@classic_only
def test_onnx_without_its_packages(weights, folder, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"pip install 'alexnet-2012\[export\]'"):
        export(weights, "onnx", folder / "model.onnx")
    assert not (folder / "model.onnx").exists()


@pytest.mark.parametrize(
    ("format", "out", "error", "message"),
    [
        ("tflite", "x.tflite", ValueError, "--format tflite: allowed is one of onnx, safetensors, pt2, torchscript"),
        ("onnx", "x.bin", ValueError, "a file of format onnx ends in .onnx"),
        ("onnx", "nowhere/x.onnx", FileNotFoundError, "no such folder"),
        ("onnx", "x.onnx", FileNotFoundError, "no such file"),
    ],
)
def test_refusals(format, out, error, message, folder):
    with pytest.raises(error, match=message) as caught:
        export(folder / "none.safetensors", format, folder / out)
    assert "\n" not in str(caught.value)


def test_the_metadata_says_what_pixels_are_divided_by() -> None:
    told = _metadata(ModelCard("classic", CLASSES, Normalization((0.4, 0.5, 0.6), (0.1, 0.2, 0.3)), "letters"), 224)
    assert (json.loads(told["mean"]), json.loads(told["std"])) == ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])


def test_a_class_may_be_named_in_bytes_that_are_no_text() -> None:
    names = ["caf\udce9", "thé"]
    norm = Normalization((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    told = _metadata(ModelCard("classic", tuple(names), norm, "letters"), 224)
    assert json.loads(told["classes"].encode()) == names


def test_the_largest_difference_is_told_and_a_thousandth_is_too_much(
    tiny_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, AlexNet_2012(len(CLASSES), init="he").state_dict(), card("classic"))
    suffix, write = FORMATS["safetensors"]

    def off_by(share: float) -> None:
        def wrong(model, card, file):  # type: ignore[no-untyped-def]
            run, notes = write(model, card, file)
            return lambda images: run(images) * (1 + share * (len(images) == 3)), notes

        monkeypatch.setitem(export_module.FORMATS, "safetensors", (suffix, wrong))

    off_by(5e-5)
    assert export(weights, "safetensors", tmp_path / "x.safetensors")["checked"] == pytest.approx(5e-5, rel=0.1)
    off_by(1e-3)
    with pytest.raises(ValueError, match=r"differs from the model by 1\.0e-03 of the largest logit; not kept"):
        export(weights, "safetensors", tmp_path / "y.safetensors")
