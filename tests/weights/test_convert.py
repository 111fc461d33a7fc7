"""Weights from elsewhere: Caffe's files, written here byte by byte and read by OpenCV too, and others' state_dicts."""

import gc
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from alexnet.data.normalization import Normalization
from alexnet.model import VARIANTS, AlexNet_2012, DropoutOf2012
from alexnet.weights.caffemodel import read_binaryproto, read_caffemodel
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import load_model, save_weights
from alexnet.weights.convert import _naturally_sorted, convert
from caffe_files import blob, caffe_layers, caffemodel, chunk, fresh

MEAN_BGR = (104.0, 117.0, 123.0)


@pytest.fixture
def folder():
    """A folder that goes when the test ends: a file of weights has 230 MB."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
    gc.collect()


def assert_same_weights(path, model):
    again = load_model(path)
    for (name, ours), theirs in zip(again.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    return again


# --- Caffe in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "v1", "style", "classes"), [("caffe", True, "sides", 1000), ("caffenet", False, "shape", 10)]
)
def test_caffemodel(variant, v1, style, classes, folder):
    """Both formats; the variant is read off the order of the layers, the mean off the binaryproto beside."""
    model = fresh(variant, classes)
    source, out = folder / "net.caffemodel", folder / "net.safetensors"
    source.write_bytes(caffemodel(caffe_layers(model), v1, style))
    if v1:
        mean = np.stack([np.linspace(m - 8, m + 8, 256 * 256).reshape(256, 256) for m in MEAN_BGR])
        (folder / "mean.binaryproto").write_bytes(blob(mean, "sides"))
    result = convert(source, out)
    assert (result["variant"], result["num_classes"]) == (variant, classes)
    card = assert_same_weights(out, model).card
    assert card.normalization.std == (1 / 255,) * 3
    if v1:
        assert result["normalization"] == "the image warped to 256×256, 0..255 minus mean.binaryproto"
        assert [255 * m for m in card.normalization.mean] == pytest.approx(MEAN_BGR[::-1])  # RGB here
        assert (card.classes[0], card.classes[281], card.classes[999]) == ("tench", "tabby", "toilet tissue")
    else:
        told = "assumed: the image warped to 256×256, 0..255 minus Caffe's channel means of ILSVRC-2012"
        assert result["normalization"] == told
        assert [255 * m for m in card.normalization.mean] == pytest.approx([122.679, 116.669, 104.007], abs=1e-3)
        assert card.classes == tuple("0123456789")


SMALL = [
    ("conv1", "Convolution", [np.arange(24.0).reshape(2, 3, 2, 2), np.array([1.0, 2.0])]),
    ("norm1", "LRN", []),
    ("fc6", "InnerProduct", [np.arange(6.0).reshape(2, 3), np.array([3.0, 4.0])]),
]


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("style", ["shape", "sides", "unpacked", "double"])
def test_every_way_to_write_a_blob(v1, style, folder):
    file = folder / "small.caffemodel"
    file.write_bytes(caffemodel(SMALL, v1, style))
    layers = read_caffemodel(file)
    assert [(layer.name, layer.type) for layer in layers] == [(name, kind) for name, kind, _ in SMALL]
    for layer, (_, _, blobs) in zip(layers, SMALL, strict=True):
        for got, wanted in zip(layer.blobs, blobs, strict=True):
            assert got.dtype == np.float32
            assert np.array_equal(got.reshape(wanted.shape), wanted)
            assert got.ndim == (4 if style == "sides" else wanted.ndim)


def complaint(read, file, content):
    """The error of reading ``content``; empty where it can be read. Nothing but ValueError may come."""
    file.write_bytes(content)
    try:
        read(file)
    except ValueError as error:
        return str(error)
    return ""


def test_a_file_cut_anywhere_is_refused_or_shorter(folder):
    whole, file = caffemodel(SMALL, style="unpacked"), folder / "cut.caffemodel"
    for length in range(len(whole)):
        told = complaint(read_caffemodel, file, whole[:length])
        if told:
            assert told.startswith(f"{file}: ")
            assert "\n" not in told
        else:  # cut between two layers
            assert len(read_caffemodel(file)) < len(SMALL)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400), st.integers(1, 255))
def test_damage_never_crashes_the_reader(noise, place, flip):
    damaged = bytearray(caffemodel(SMALL))
    damaged[place % len(damaged)] ^= flip
    with tempfile.TemporaryDirectory() as name:
        for content in (noise, bytes(damaged)):
            for read in (read_caffemodel, read_binaryproto):
                assert "\n" not in complaint(read, Path(name) / "file", content)


def test_wrong_shapes_are_refused_by_name(folder):
    layers = caffe_layers(fresh("caffe", 2))
    ungrouped = [(name, kind, [np.zeros((384, 384, 3, 3)), *blobs[1:]] if name == "conv4" else blobs)
                 for name, kind, blobs in layers]  # fmt: skip
    (folder / "net.caffemodel").write_bytes(caffemodel(ungrouped))
    with pytest.raises(ValueError, match=r"conv4: weight of shape \[384, 384, 3, 3\]; variant caffe has \[384, 192, 3"):
        convert(folder / "net.caffemodel", folder / "out.safetensors")


def test_what_a_caffemodel_may_lack(folder):
    source, out = folder / "net.caffemodel", folder / "net.safetensors"

    def refused(content, message, **options):
        source.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            convert(source, out, **options)
        assert "\n" not in str(error.value)
        assert not out.exists()

    pooled = [*SMALL, ("pool1", "Pooling", [])]
    refused(b"", "no layer in it has weights")
    refused(b"GIF89a, certainly not a model", "cut short or not a Caffe model")
    refused(caffemodel([("conv1", "Convolution", [])]), "no layer in it has weights")
    refused(caffemodel(SMALL), "name the --variant, caffe or caffenet")
    refused(caffemodel(pooled), "1 convolutions and 1 fully connected layers; AlexNet has 5 and 3")
    refused(caffemodel(pooled), "--variant caffenet: .* in the order of caffe", variant="caffenet")
    one_blob = [("conv1", "Convolution", SMALL[0][2][:1]), *pooled[1:]]
    refused(caffemodel(one_blob), "conv1: 1 blobs; a layer of AlexNet has weights and bias")
    for shape in ((9,), (3, 3), (2, 3, 3, 3, 1)):
        odd = [("conv1", "Convolution", [np.zeros(shape), np.zeros(2)]), *pooled[1:]]
        refused(
            caffemodel(odd), rf"conv1: weight of shape {re.escape(str(list(shape)))}; a convolution's has four sides"
        )
    refused(chunk(2, chunk(1, b"V0")), "Caffe's first format, V0")
    (folder / "a.binaryproto").write_bytes(blob(np.zeros((1, 2, 2))))
    refused(caffemodel(pooled), "a.binaryproto: not a mean image of three channels")
    (folder / "b.binaryproto").write_bytes(blob(np.zeros((3, 2, 2))))
    refused(caffemodel(pooled), r"several mean images lie beside it \(a.binaryproto, b.binaryproto\)")


# --- state_dicts in ---------------------------------------------------------------------------------------------------


def hollow(state):
    """Tensors of the same shapes that share one value: a file of them is small."""
    return {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}


def state_of(variant, num_classes=10):
    with torch.device("meta"):
        state = AlexNet_2012(num_classes, variant).state_dict()
    return hollow(state)


def numbered(state):
    """The names that torch.nn.Sequential gives: features.0.weight, features.4.weight …"""
    places = ("features.0", "features.4", "features.8", "features.10", "features.12")
    places += ("classifier.1", "classifier.4", "classifier.6")
    keys = [f"{place}.{key}" for place in places for key in ("weight", "bias")]
    return dict(zip(keys, state.values(), strict=True))


def test_pth_under_other_names(folder):
    model = fresh("classic")
    state = {f"module.{name}": value for name, value in numbered(model.state_dict()).items()}
    source, out = folder / "net.pth", folder / "net.safetensors"
    torch.save({"epoch": 3, "state_dict": dict(reversed(state.items()))}, source)  # the order does not matter
    result = convert(source, out)
    assert (result["variant"], result["num_classes"]) == ("classic", 10)
    assert result["normalization"].startswith("assumed: (x/255 − mean)/std with ImageNet's figures")
    card = assert_same_weights(out, model).card
    assert card.normalization == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_safetensors_in_any_order(folder):
    model = fresh("source", 3)
    values = iter(model.state_dict().values())
    names = ("stem", "b_10", "b_9", "c", "d", "top1", "top0", "a_head")  # neither in order nor alike
    state = {f"{name}.{key}": next(values).half().contiguous() for name in names for key in ("weight", "bias")}
    source, out = folder / "net.safetensors", folder / "out.safetensors"
    save_file(state, source)
    with pytest.raises(
        ValueError, match="two towers; name the network, --variant paper or source or caffe or caffenet"
    ):
        convert(source, out)
    assert convert(source, out, "source")["num_classes"] == 3
    assert_same_weights(out, model.half().float())


def test_own_files_keep_their_card(folder):
    model = fresh("caffenet", 2)
    card = ModelCard("caffenet", ("cat", "dog"), Normalization((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)), "pets")
    save_weights(folder / "own.safetensors", model.state_dict(), card)
    assert convert(folder / "own.safetensors", folder / "out.safetensors")["variant"] == "caffenet"
    assert assert_same_weights(folder / "out.safetensors", model).card == card


def test_unknown_variant(folder):
    torch.save(state_of("classic"), folder / "net.pth")
    with pytest.raises(ValueError, match="variant vgg: allowed is one of classic"):
        convert(folder / "net.pth", folder / "out.safetensors", "vgg")


def refusal(folder, state, variant=None):
    source = folder / "net.pth"
    torch.save(state, source)
    with pytest.raises(ValueError, match=r"net\.pth: ") as error:
        convert(source, folder / "out.safetensors", variant)
    assert "\n" not in str(error.value)
    assert not (folder / "out.safetensors").exists()
    return str(error.value)


def test_torchvisions_alexnet_is_refused_with_the_difference(folder):
    with torch.device("meta"):
        state = hollow(torchvision.models.alexnet().state_dict())
    message = refusal(folder, state)
    for told in ("torchvision", "2014", "64 first filters", "no response normalisation"):
        assert told in message


def test_wrong_state_dicts_are_refused_by_name(folder):
    good = state_of("classic")
    changed = {**good, "classifier.fc6.weight": torch.zeros(()).expand(4096, 6400)}
    assert "fc6: weight of shape [4096, 6400]; variant classic has [4096, 9216]" in refusal(folder, changed)
    changed = {**good, "features.conv3.bias": torch.zeros(383)}
    assert "conv3: bias of shape [383]; variant classic has [384]" in refusal(folder, changed)
    assert "conv2: weight of shape [256, 96, 5, 5]; variant paper has [256, 48" in refusal(folder, good, "paper")
    normed = {**good, "features.bn.weight": torch.ones(96), "features.bn.bias": torch.ones(96)}
    assert "features.bn.*: not a weight with its bias" in refusal(folder, normed)
    biasless = {name: value for name, value in good.items() if name != "features.conv1.bias"}
    assert "features.conv1.*: not a weight with its bias" in refusal(folder, biasless)
    shallow = {name: value for name, value in good.items() if "conv5" not in name}
    assert "4 convolutions and 3 fully connected layers; AlexNet has 5 and 3" in refusal(folder, shallow)
    assert "holds no state_dict" in refusal(folder, {"epoch": 3})
    assert "holds no state_dict" in refusal(folder, [torch.zeros(3)])
    for name, kind in ((0, "int"), (None, "NoneType"), ((1, 2), "tuple")):
        assert f"the name of a tensor in it is of type {kind}, not a text" in refusal(folder, {name: torch.zeros(3)})


def test_tensors_that_are_no_plain_numbers_are_refused_by_name(folder):
    values = torch.zeros(96, 3, 11, 11)
    for odd in (values.to_sparse(), values.to(torch.complex64), torch.empty_like(values, device="meta")):
        message = refusal(folder, {**state_of("classic"), "features.conv1.weight": odd})
        assert "conv1: weight is sparse, quantized, complex or without values" in message


def test_a_dict_that_holds_itself_is_refused(folder):
    state = {"epoch": 3}
    state["model"] = state
    assert "holds no state_dict" in refusal(folder, state)
    inner = {"net": state, "model": {"state_dict": state}}
    state["model"] = inner
    assert "holds no state_dict" in refusal(folder, inner)


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path(tempfile.gettempdir()) / "alexnet-was-harmed",))


def test_a_file_that_would_run_code_is_refused(folder):
    assert "refused: loading it would run code" in refusal(folder, {"conv1.weight": Harmful()})
    assert not (Path(tempfile.gettempdir()) / "alexnet-was-harmed").exists()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.caffemodel"])
def test_broken_files(name, folder):
    source = folder / name
    for content in (b"", b"PK\x03\x04 cut", b"hello world, this is no file of weights at all", bytes(1000)):
        source.write_bytes(content)
        with pytest.raises(ValueError, match=name) as error:
            convert(source, folder / "out.safetensors")
        assert "\n" not in str(error.value)
    source.unlink()
    with pytest.raises(FileNotFoundError, match="no such file"):
        convert(source, folder / "out.safetensors")
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        convert(source, folder / "out.pth")


# --- OpenCV, which reads Caffe's files and which nobody here wrote ----------------------------------------------------


def prototxt(model, side):
    """The network in Caffe's description language, for OpenCV.

    OpenCV's LRN knows k = 1 alone: (2 + s)^−β = 2^−β · (1 + s/2)^−β, so α is halved and a Power layer scales. The two
    towers' own normalisation is a Slice and a Concat, and the normalisation within a map is Caffe's WITHIN_CHANNEL. Of
    the padding that rounds 224 up Caffe has nothing: such variants take 227 here.
    """
    text = [f'name: "net" input: "data" input_dim: 1 input_dim: 3 input_dim: {side} input_dim: {side}']
    top = "data"

    def layer(name, kind, parameters="", bottoms=None, tops=None):
        nonlocal top
        ends = [f'bottom: "{b}"' for b in bottoms or [top]] + [f'top: "{t}"' for t in tops or [name]]
        text.append(f'layer {{ name: "{name}" type: "{kind}" {" ".join(ends)} {parameters} }}')
        top = (tops or [name])[0]

    for name, module in (*model.features.named_children(), *model.classifier.named_children()):
        if name.startswith("conv"):
            sides = f"kernel_size: {module.kernel_size[0]} stride: {module.stride[0]} pad: {module.padding[0]}"
            layer(name, "Convolution", f"convolution_param {{ num_output: {module.out_channels} {sides} "
                                       f"group: {module.groups} }}")  # fmt: skip
        elif name.startswith("pool"):
            layer(name, "Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }")
        elif name.startswith("norm"):
            constants = f"lrn_param {{ local_size: 5 alpha: {module.alpha / module.k} beta: 0.75 }}"
            if module.towers == 1:
                layer(f"{name}/lrn", "LRN", constants)
            else:
                halves = [f"{name}/a", f"{name}/b"]
                layer(f"{name}/split", "Slice", "slice_param { axis: 1 }", tops=halves)
                for half in halves:
                    layer(f"{half}/lrn", "LRN", constants, bottoms=[half])
                layer(f"{name}/join", "Concat", "concat_param { axis: 1 }", bottoms=[f"{half}/lrn" for half in halves])
            layer(name, "Power", f"power_param {{ scale: {module.k**-0.75} }}")
        elif name.startswith("within"):
            layer(name, "LRN", "lrn_param { local_size: 5 alpha: 0.001 beta: 0.75 norm_region: WITHIN_CHANNEL }")
        elif name.startswith("fc"):
            layer(name, "InnerProduct", f"inner_product_param {{ num_output: {module.out_features} }}")
        elif name.startswith("relu"):
            layer(name, "ReLU")
        elif name.startswith("drop"):
            layer(name, "Dropout")
            if isinstance(module, DropoutOf2012):
                layer(f"{name}/keep", "Power", f"power_param {{ scale: {1 - module.p} }}")
    return "\n".join(text)


@pytest.mark.parametrize("variant", VARIANTS)
def test_opencv_agrees(variant):
    """The same picture through OpenCV's network, from BGR bytes, and through ours, from RGB: to 1e-3."""
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    model = fresh(variant)
    side = 224 if variant == "classic" else 227
    weights = caffemodel(caffe_layers(model))
    description = prototxt(model, side).encode()
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(description, np.uint8), np.frombuffer(weights, np.uint8))
    del weights
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    bgr = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    net.setInput(cv2.dnn.blobFromImage(bgr, 1.0, (side, side), MEAN_BGR))
    theirs = torch.from_numpy(net.forward())
    rgb = torch.from_numpy(bgr[:, :, ::-1].copy()).float() - torch.tensor(MEAN_BGR[::-1])
    ours = model(rgb.permute(2, 0, 1)[None])
    assert (ours - theirs).abs().max() < 1e-3 * ours.abs().max()
    mirrored = model(rgb.permute(2, 0, 1)[None].flip(1))  # and BGR taken for RGB would not pass
    assert (mirrored - theirs).abs().max() > 1e-2 * ours.abs().max()


def test_names_are_in_the_order_of_their_numbers() -> None:
    names = ["b.10.bias", "b.9.bias", "a.2.bias", "a.11.bias"]
    assert list(_naturally_sorted(dict.fromkeys(names, torch.zeros(1)))) == [
        "a.2.bias", "a.11.bias", "b.9.bias", "b.10.bias"
    ]  # fmt: skip


def test_a_caffemodel_may_be_of_the_papers_network(tiny_network: None, tmp_path: Path) -> None:
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(caffe_layers(fresh("caffe", 4))))
    assert convert(tmp_path / "net.caffemodel", tmp_path / "out.safetensors", "paper")["variant"] == "paper"
    assert load_model(tmp_path / "out.safetensors").variant.name == "paper"


def test_converted_weights_are_float32(tiny_network: None, tmp_path: Path) -> None:
    model = fresh("classic", 3).half()
    torch.save(model.state_dict(), tmp_path / "net.pth")
    convert(tmp_path / "net.pth", tmp_path / "out.safetensors")
    assert {value.dtype for value in load_file(tmp_path / "out.safetensors").values()} == {torch.float32}
