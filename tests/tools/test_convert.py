"""Weights of other programs: Caffe's files, written here byte by byte and read by OpenCV too, and state dicts."""

import argparse
import collections
import contextlib
import datetime
import pathlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from alexnet import load_model
from alexnet.checkpoint import save_checkpoint, save_weights
from alexnet.data.normalization import IMAGENET, Normalization
from alexnet.evaluate import predict
from alexnet.model import AlexNet_2012, ModelInfo
from alexnet.tools.caffe import read_binaryproto, read_caffemodel
from alexnet.tools.convert import convert
from caffe_files import blob, caffe_layers, caffemodel, chunk, integer, make_network, real

MEAN_BGR = (104.0, 117.0, 123.0)
LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 233289216\n"


def assert_same_weights(path, model):
    again = load_model(path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.float()), name
    return again.info


def refusal(source, **options):
    """The message of a refused conversion, which must be one line that names the file, and must write nothing."""
    out = source.with_name("refused.safetensors")
    with pytest.raises(ValueError, match=re.escape(str(source))) as error:
        convert(source, out, **options)
    assert "\n" not in str(error.value)
    assert not out.exists()
    return str(error.value)


# --- Caffe


@pytest.mark.parametrize(
    ("variant", "v1", "style", "classes"), [("caffe", True, "sides", 1000), ("caffenet", False, "shape", 10)]
)
def test_caffemodel(variant, v1, style, classes, tmp_path):
    """The order of the layers gives the variant, the file beside them the mean image."""
    model = make_network(variant, classes)
    source, out = tmp_path / "net.caffemodel", tmp_path / "net.safetensors"
    source.write_bytes(caffemodel(caffe_layers(model), v1, style))
    if v1:
        mean = np.stack([np.linspace(m - 8, m + 8, 256 * 256).reshape(256, 256) for m in MEAN_BGR])
        (tmp_path / "mean.binaryproto").write_bytes(blob(mean, "sides"))
    result = convert(source, out)
    assert result.keys() == {"file", "variant", "num_classes", "classes", "normalization", "ignored"}
    assert (result["variant"], result["num_classes"], result["ignored"]) == (variant, classes, [])
    info = assert_same_weights(out, model)
    assert (info.normalization.std, info.normalization.resize) == ((1 / 255,) * 3, "warp")
    mean_rgb = [255 * value for value in info.normalization.mean]
    if v1:
        assert "mean.binaryproto" in result["normalization"]
        assert info.normalization.mean_image
        assert mean_rgb == pytest.approx(MEAN_BGR[::-1])
        assert (info.classes[0], info.classes[281], info.classes[999]) == ("tench", "tabby", "toilet tissue")
    else:
        assert mean_rgb == pytest.approx([122.679, 116.669, 104.007], abs=1e-3)
        assert info.classes == tuple("0123456789")


# what models/bvlc_alexnet/deploy.prototxt states, in Caffe's binary form
STATED = {
    "conv1": integer(6, 4), "conv2": integer(3, 2), "conv3": integer(3, 1), "conv4": integer(3, 1),
    "conv5": integer(3, 1), "pool": integer(1, 0) + integer(2, 3) + integer(3, 2),
    "norm": integer(1, 5) + real(2, 1e-4) + real(3, 0.75),
}  # fmt: skip
PARAMETERS = {"conv": (106, 10), "fc": (117, 17), "norm": (118, 18), "pool": (121, 19)}  # fields of a layer


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("", b"", ""),
        ("norm2", real(5, 2), "k is 2; variant caffe has 1"),
        ("norm1", real(2, 5e-4), "alpha is 0.0005"),
        ("norm1", integer(4, 1), "norm_region"),
        ("conv1", integer(3, 2), "pad is 2"),
        ("conv2", integer(18, 2), "dilation is 2"),
        ("pool5", integer(1, 1), "pool is 1"),
        ("fc7", integer(6, 1), "transpose"),
    ],
)
def test_constants_that_the_file_states(v1, name, change, named, tmp_path):
    layers = []
    for layer, kind, blobs in caffe_layers(make_network("caffe")):
        family = layer.rstrip("12345678")
        stated = STATED.get(layer, STATED.get(family, b"")) + change * (layer == name)
        more = [chunk(PARAMETERS[family][v1], stated)] if family in PARAMETERS else []
        layers.append((layer, kind, blobs, *more))
    source = tmp_path / "net.caffemodel"
    source.write_bytes(caffemodel(layers, v1))
    with pytest.raises(ValueError, match=f"{name}: {named}") if name else contextlib.nullcontext():
        convert(source, tmp_path / "net.safetensors")


def test_a_converted_network_sees_what_caffe_sees(tmp_path):
    """The mean image pixel by pixel, BGR and RGB: the same probabilities as Caffe's own arithmetic in numpy."""
    random = np.random.default_rng(0)
    mean = random.uniform(90, 140, (3, 256, 256)).astype(np.float32)
    image = Image.fromarray(random.integers(0, 256, (256, 256, 3), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    model = make_network("caffe", 4)
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(caffe_layers(model)))
    (tmp_path / "ilsvrc.binaryproto").write_bytes(blob(mean[None], "sides"))
    convert(tmp_path / "net.caffemodel", tmp_path / "net.safetensors")
    # src/caffe/data_transformer.cpp
    datum = np.asarray(image)[:, :, ::-1].transpose(2, 0, 1).astype(np.float32)
    first = (256 - 227) // 2
    bgr = torch.from_numpy((datum - mean)[:, first : first + 227, first : first + 227])
    model.features.conv1.weight.data = model.features.conv1.weight.data.flip(1)
    expected = model(bgr[None]).softmax(1)[0].tolist()
    (got,) = predict(load_model(tmp_path / "net.safetensors"), [tmp_path / "image.png"], 4, device="cpu",
                     precision="fp32")  # fmt: skip
    assert dict(got.top) == pytest.approx(dict(zip("0123", expected, strict=True)), abs=1e-4)


def test_a_mean_image_of_another_size_gives_channel_means(tmp_path):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(caffe_layers(make_network("caffenet", 4))))
    (tmp_path / "mean.binaryproto").write_bytes(blob(np.full((3, 128, 200), 51.0) * [[[1]], [[2]], [[3]]]))
    assert "128×200" in convert(tmp_path / "net.caffemodel", tmp_path / "net.safetensors")["normalization"]
    norm = load_model(tmp_path / "net.safetensors").info.normalization
    assert (norm.mean, norm.mean_image, norm.resize) == (pytest.approx((0.6, 0.4, 0.2)), "", "warp")


SMALL = [
    ("conv1", "Convolution", [np.arange(24.0).reshape(2, 3, 2, 2), np.array([1.0, 2.0])]),
    ("norm1", "LRN", []),
    ("fc6", "InnerProduct", [np.arange(6.0).reshape(2, 3), np.array([3.0, 4.0])]),
]


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("style", ["shape", "sides", "unpacked", "double"])
def test_blobs_in_every_encoding(v1, style, tmp_path):
    file = tmp_path / "small.caffemodel"
    file.write_bytes(caffemodel(SMALL, v1, style))
    layers = read_caffemodel(file)
    assert [(layer.name, layer.type) for layer in layers] == [(name, kind) for name, kind, _ in SMALL]
    for layer, (_, _, blobs) in zip(layers, SMALL, strict=True):
        for got, expected in zip(layer.blobs, blobs, strict=True):
            assert got.dtype == np.float32
            assert np.array_equal(got.reshape(expected.shape), expected)
            assert got.ndim == (4 if style == "sides" else expected.ndim)


def read_damaged(read, file, content):
    """Read ``content``; None if it is refused. No error but a ValueError of one line is allowed."""
    file.write_bytes(content)
    try:
        return read(file)
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
    return None


def test_a_truncated_file_is_refused_or_shorter(tmp_path):
    whole = caffemodel(SMALL, style="unpacked")
    for length in range(len(whole)):
        layers = read_damaged(read_caffemodel, tmp_path / "cut.caffemodel", whole[:length])
        assert layers is None or len(layers) < len(SMALL)


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(1, 255))
def test_damage_never_crashes_the_reader(tmp_path_factory, noise, place, flip):
    damaged = bytearray(caffemodel(SMALL))
    damaged[place % len(damaged)] ^= flip
    file = tmp_path_factory.getbasetemp() / "damaged"
    for content in (noise, bytes(damaged)):
        for read in (read_caffemodel, read_binaryproto):
            read_damaged(read, file, content)


@pytest.mark.parametrize(
    ("layers", "options", "named"),
    [
        ([("conv1", "Convolution", [])], {}, "no layer"),
        (SMALL, {}, "variant"),
        ([*SMALL, ("pool1", "Pooling", [])], {}, "1 convolutions and 1 fully connected"),
        ([*SMALL, ("pool1", "Pooling", [])], {"variant": "caffenet"}, "variant must be caffe"),
        ([("conv1", "Convolution", SMALL[0][2][:1])], {"variant": "caffe"}, "conv1"),
        ([("conv1", "Convolution", [np.zeros((3, 3)), np.zeros(2)])], {"variant": "caffe"}, "conv1"),
    ],
)
def test_caffemodels_that_are_refused(layers, options, named, tmp_path):
    source = tmp_path / "net.caffemodel"
    source.write_bytes(caffemodel(layers))
    assert named in refusal(source, **options)


def test_v0_and_wrong_shapes_are_refused_by_name(tmp_path):
    source = tmp_path / "net.caffemodel"
    source.write_bytes(chunk(2, chunk(1, b"V0")))
    assert "upgrade_net_proto_binary" in refusal(source)
    layers = caffe_layers(make_network("caffe", 2))
    ungrouped = [
        (name, kind, [np.zeros((24, 24, 3, 3)), *blobs[1:]] if name == "conv4" else blobs)
        for name, kind, blobs in layers
    ]
    source.write_bytes(caffemodel(ungrouped))
    assert "conv4: weight of shape [24, 24, 3, 3]; variant caffe has [24, 12, 3, 3]" in refusal(source)


def test_mean_images_that_are_refused(tmp_path):
    source, out = tmp_path / "net.caffemodel", tmp_path / "out.safetensors"
    source.write_bytes(caffemodel(caffe_layers(make_network("caffe", 2))))
    for pixels in (np.zeros((1, 2, 2)), np.full((3, 2, 2), np.nan)):  # grey, not finite
        (tmp_path / "a.binaryproto").write_bytes(blob(pixels))
        with pytest.raises(ValueError, match=r"a\.binaryproto"):
            convert(source, out)
    (tmp_path / "b.binaryproto").write_bytes(blob(np.zeros((3, 2, 2))))
    assert "a.binaryproto, b.binaryproto" in refusal(source)


# --- state dicts


def numbered(state):
    """The names that torch.nn.Sequential gives."""
    places = [f"features.{i}" for i in (0, 4, 8, 10, 12)] + [f"classifier.{i}" for i in (1, 4, 6)]
    names = [f"{place}.{key}" for place in places for key in ("weight", "bias")]
    return dict(zip(names, state.values(), strict=True))


def save(tmp_path, state, **options):
    torch.save(state, tmp_path / "net.pth", **options)
    return tmp_path / "net.pth"


STATE = make_network().state_dict()


@pytest.mark.parametrize(
    "state",
    [
        dict(reversed(numbered(STATE).items())),
        {f"module.{name}": value for name, value in STATE.items()},
        {f"_orig_mod.module.{name}": value for name, value in STATE.items()},
        {"state_dict": {f"model.{name}": value for name, value in STATE.items()}, "epoch": 3},
        {"model": STATE, "model_ema": STATE},
        {"net": {"model_state_dict": STATE}, "step": torch.tensor(3)},
        {"checkpoint": {"model": STATE}, "saved": datetime.datetime.now(datetime.UTC)},
        {"checkpoint": {"every": 5}, "state_dict": STATE},
        collections.OrderedDict((name.replace(".", "_"), value) for name, value in STATE.items()),
    ],
    ids=["Sequential", "DataParallel", "compiled DDP", "Lightning", "EMA", "nested", "dated", "config", "underscores"],
)
def test_state_dicts_under_other_names(state, tmp_path):
    result = convert(save(tmp_path, state), tmp_path / "out.safetensors")
    assert (result["variant"], result["num_classes"], result["ignored"]) == ("classic", 10, [])
    info = assert_same_weights(tmp_path / "out.safetensors", make_network())
    assert info.normalization == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_safetensors_in_any_order_of_two_towers_in_half_precision(tmp_path):
    model = make_network("source", 3).half()
    values = iter(model.state_dict().values())
    names = ("stem", "b_10", "b_9", "c", "d", "top1", "top0", "a_head")  # neither in order nor alike
    state = {f"{name}.{key}": next(values).contiguous() for name in names for key in ("weight", "bias")}
    source = tmp_path / "net.safetensors"
    save_file(state, source)
    assert "paper or source or caffe or caffenet" in refusal(source)
    assert convert(source, tmp_path / "out.safetensors", "source")["num_classes"] == 3
    assert_same_weights(tmp_path / "out.safetensors", model)
    assert {value.dtype for value in load_model(tmp_path / "out.safetensors").parameters()} == {torch.float32}


def test_a_state_dict_under_any_key(tmp_path):
    source = save(tmp_path, {"params_ema": STATE, "epoch": 3, "step": torch.tensor(7)})
    convert(source, tmp_path / "out.safetensors")
    source = save(tmp_path, {"ema": STATE, "teacher": STATE})
    assert "ema, teacher" in refusal(source)


@pytest.mark.parametrize("full", [False, True])
def test_what_lies_beside_the_weights_is_ignored(full, tmp_path):
    state = {f"model.{name}": value for name, value in (STATE if full else numbered(STATE)).items()}
    stems = {name.rpartition(".")[0] for name in state}
    beside = {
        **{f"{stem}.{key}": torch.zeros(1) for stem in stems for key in ("total_ops", "total_params")},
        "total_ops": torch.zeros(1, dtype=torch.float64),
        "criterion.weight": torch.ones(10),
        "n_averaged": torch.tensor(3),
        "aux.weight": torch.zeros(256, 256), "aux.bias": torch.zeros(256),  # could be fc7
        "model.head.weight": torch.zeros(10, 256), "model.head.bias": torch.zeros(10),  # could be fc8
    }  # fmt: skip
    result = convert(save(tmp_path, {**beside, **state}), tmp_path / "out.safetensors")
    assert set(result["ignored"]) == beside.keys()
    assert_same_weights(tmp_path / "out.safetensors", make_network())


@pytest.mark.parametrize(
    "beside",
    [
        np.float64(57.1), np.arange(3.0), argparse.Namespace(lr=0.01, out=pathlib.Path("x")), pathlib.Path("/x"),
        pathlib.PureWindowsPath("c:/x"), collections.defaultdict(list, a=[1]), np.array([{}, None], dtype=object),
    ],
)  # fmt: skip
def test_objects_beside_the_weights_that_are_only_data(beside, tmp_path):
    convert(save(tmp_path, {"state_dict": STATE, "beside": [beside, beside]}), tmp_path / "out.safetensors")
    assert_same_weights(tmp_path / "out.safetensors", make_network())
    allowed = [entry[1] for entry in torch.serialization.get_safe_globals() if isinstance(entry, tuple)]
    assert "numpy.dtype" not in allowed  # by other readers in this process


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Config:
    pass


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused_and_says_what_is_in_it(legacy, tmp_path):
    options = {"_use_new_zipfile_serialization": not legacy}
    message = refusal(save(tmp_path, {**STATE, "x": Harmful(tmp_path / "harmed")}, **options))
    assert legacy or "builtins.getattr" in message
    message = refusal(save(tmp_path, {**STATE, "config": Config(), "scale": np.float64(1)}, **options))
    assert legacy or f"{__name__}.Config" in message
    assert "numpy" not in message
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classifier.fc6.weight": torch.zeros(256, 400)}, "fc6: weight of shape [256, 400]"),
        ({"features.conv3.bias": torch.zeros(23)}, "conv3: bias of shape [23]; variant classic has [24]"),
        ({"features.bn.weight": torch.ones(6), "features.bn.bias": torch.ones(6)}, "features.bn."),
        ({"features.relu1.weight": torch.ones(1)}, "features.relu1.weight"),  # PReLU
        ({"classifier.9.weight": torch.zeros(5, 10), "classifier.9.bias": torch.zeros(5)}, "classifier.9"),
        ({"features.conv1.bias": None}, "4 convolutions and 3 fully connected"),
        ({"features.conv6.weight": torch.zeros(6, 6, 3, 3), "features.conv6.bias": torch.zeros(6)}, "6 convolutions"),
        ({"features.conv1.weight": torch.zeros(6, 3, 11, 11).to_sparse()}, "conv1: weight is sparse"),
        ({"features.conv1.weight": torch.zeros(6, 3, 11, 11, dtype=torch.complex64)}, "not floating point"),
        ({"features.conv1.weight": torch.zeros(6, 3, 11, 11, dtype=torch.int8)}, "not floating point"),
        ({"features.conv1.weight": torch.zeros(6, 3, 11, 11, device="meta")}, "without values"),
    ],
)
def test_state_dicts_that_do_not_fit_are_refused_by_name(changes, named, tmp_path):
    state = {name: value for name, value in {**STATE, **changes}.items() if value is not None}
    assert named in refusal(save(tmp_path, state))


@pytest.mark.parametrize("state", [{"epoch": 3}, [torch.zeros(3)], {0: torch.zeros(3)}, {None: torch.zeros(3)}])
def test_files_without_a_state_dict_are_refused(state, tmp_path):
    assert "holds no state dict" in refusal(save(tmp_path, state))


def test_files_of_this_project_need_no_conversion(tmp_path):
    model = make_network("caffenet", 2)
    info = ModelInfo("caffenet", ("cat", "dog"), IMAGENET, "pets", width_mult=1 / 16)
    save_weights(tmp_path / "own.safetensors", model.state_dict(), info)
    save_checkpoint(tmp_path / "last.ckpt", {"model": model.state_dict()}, info)
    for name in ("own.safetensors", "last.ckpt"):
        assert "load_model reads it" in refusal(tmp_path / name)
    assert "folder" in refusal(tmp_path)


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    state = {"epoch": 3}
    state["model"] = {"net": state}
    assert "holds no state dict" in refusal(save(tmp_path, state))


def test_torchvisions_alexnet_is_refused_with_the_difference(tmp_path):
    with torch.device("meta"):
        state = torchvision.models.alexnet().state_dict()
    message = refusal(save(tmp_path, {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}))
    assert "torchvision" in message
    assert "64 first filters" in message


def test_64_first_filters_alone_are_not_torchvisions(tmp_path):
    with torch.device("meta"):
        state = AlexNet_2012(3, width_mult=2 / 3).state_dict()
    state["classifier.fc8.bias"] = torch.zeros(4)  # refused for another reason, before all weights are written
    file = save(tmp_path, {name: torch.zeros(()).expand(value.shape) for name, value in state.items()})
    assert "torchvision" not in refusal(file)


def test_arguments_that_are_refused(tmp_path):
    source = save(tmp_path, STATE)
    with pytest.raises(ValueError, match="vgg"):
        convert(source, tmp_path / "out.safetensors", "vgg")
    with pytest.raises(ValueError, match=r"\.safetensors"):
        convert(source, tmp_path / "out.pth")
    assert "variant paper has [16, 3, 5, 5]" in refusal(source, variant="paper")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.caffemodel"])
def test_broken_files(name, tmp_path):
    source = tmp_path / name
    for content in (b"", b"PK\x03\x04 cut", b"hello world, this is no file of weights at all", bytes(1000)):
        source.write_bytes(content)
        refusal(source)
    source.write_text(LFS_POINTER)
    assert "git lfs pull" in refusal(source)
    source.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        convert(source, tmp_path / "out.safetensors")


# --- OpenCV, an independent reader of Caffe's files


def prototxt(model, side):
    """The network in Caffe's description language, for OpenCV.

    OpenCV's LRN supports k = 1 only: (2 + s)^−β = 2^−β · (1 + s/2)^−β, so α is halved and a Power layer scales. The two
    towers' own normalisation is a Slice and a Concat, and the normalisation within a map is Caffe's WITHIN_CHANNEL.
    Caffe cannot pad one side, so such variants take 227 here.
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
        elif name.startswith("scale"):
            layer(name, "Power", f"power_param {{ scale: {module.factor} }}")
    return "\n".join(text)


@pytest.mark.parametrize("variant", ["classic", "paper", "source", "caffe", "caffenet"])
def test_opencv_agrees(variant):
    """The same picture through OpenCV's network, from BGR bytes, and through ours, from RGB: to 1e-3."""
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    model = make_network(variant)
    side = 224 if variant == "classic" else 227
    weights, description = caffemodel(caffe_layers(model)), prototxt(model, side).encode()
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(description, np.uint8), np.frombuffer(weights, np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    bgr = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    net.setInput(cv2.dnn.blobFromImage(bgr, 1.0, (side, side), MEAN_BGR))
    theirs = torch.from_numpy(net.forward())
    rgb = torch.from_numpy(bgr[:, :, ::-1].copy()).float() - torch.tensor(MEAN_BGR[::-1])
    ours = model(rgb.permute(2, 0, 1)[None])
    assert (ours - theirs).abs().max() < 1e-3 * ours.abs().max()
    swapped = model(rgb.permute(2, 0, 1)[None].flip(1))  # BGR taken for RGB does not pass
    assert (swapped - theirs).abs().max() > 1e-2 * ours.abs().max()
