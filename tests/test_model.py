"""The network: its numbers against the published ones, its arithmetic against the same written out by hand."""

import copy
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from alexnet import load_model
from alexnet.checkpoint import save_weights
from alexnet.data.normalization import Normalization, encode_mean_image
from alexnet.errors import FieldError
from alexnet.evaluate import info_of
from alexnet.model import INITS, VARIANTS, AlexNet_2012, ModelInfo
from alexnet.system import can_compile

PUBLISHED = ("classic", "paper", "source", "caffe", "caffenet")
ABLATIONS = ("pool-2x2", "no-dropout", "no-conv3", "no-conv4")


def on_meta(*args, **kwargs):
    with torch.device("meta"):
        return AlexNet_2012(*args, **kwargs).eval()


@pytest.fixture(params=PUBLISHED, scope="module")
def network(request):
    """A published network, narrower, with weights that let the input through, and biases that show if mixed up."""
    torch.manual_seed(1)
    model = AlexNet_2012(10, request.param, init="he", width_mult=0.25).eval().requires_grad_(False)
    for _, layer in model.weight_layers():
        layer.bias.copy_(torch.randn_like(layer.bias))
    return model


def raw_images(count=2, side=224, seed=0):
    """Noise of the mean and spread of pixels in 0..255 minus their mean, smooth enough to have structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 14, 14, generator=generator) * 60
    return F.interpolate(coarse, side, mode="bilinear") + torch.randn(count, 3, side, side, generator=generator) * 20


def assert_near(got, expected, relative=1e-4):
    assert got.shape == expected.shape
    assert float((got - expected).detach().abs().max()) <= relative * float(expected.detach().abs().max())


# --- layers and parameters

CLASSIC = 58_322_314
COUNTS = {  # the published ones are counted from the papers and configurations
    ("classic", 10): CLASSIC,
    ("classic", 1000): 62_378_344,
    **{(name, 10): 56_909_194 for name in PUBLISHED[1:]},
    **{(name, 1000): 60_965_224 for name in PUBLISHED[1:]},
    ("pool-2x2", 10): CLASSIC,
    ("no-dropout", 10): CLASSIC,
    ("no-conv3", 10): CLASSIC - (256 * 9 * 384 + 384) - (384 - 256) * 9 * 384,  # conv4 then has 256 inputs, not 384
    ("no-conv4", 10): CLASSIC - (384 * 9 * 384 + 384),
}
MIDDLE = "conv3 relu3 conv4 relu4 conv5 relu5 pool5"
UPPER = f"{MIDDLE} fc6 relu6 drop6 fc7 relu7 drop7 fc8"
LAYERS = {
    "classic": f"conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 {MIDDLE} drop6 fc6 relu6 drop7 fc7 relu7 fc8",
    "paper": f"pad1 conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 {UPPER}",
    "source": f"pad1 conv1 norm1 pool1 relu1 conv2 relu2 norm2 within2 pool2 {MIDDLE} fc6 relu6 drop6 scale6 fc7 relu7 "
    "drop7 scale7 fc8",
    "caffe": f"conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 {UPPER}",
    "caffenet": f"conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2 {UPPER}",
}
LAYERS["pool-2x2"] = LAYERS["classic"]
LAYERS["no-dropout"] = LAYERS["classic"].replace("drop6 ", "").replace("drop7 ", "")
LAYERS["no-conv3"] = LAYERS["classic"].replace("conv3 relu3 ", "")
LAYERS["no-conv4"] = LAYERS["classic"].replace("conv4 relu4 ", "")


@pytest.mark.parametrize(("variant", "classes"), COUNTS)
def test_parameter_counts(variant, classes):
    assert sum(p.numel() for p in on_meta(classes, variant).parameters()) == COUNTS[variant, classes]


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_layers(variant):
    model = on_meta(10, variant)
    names = [name for part in (model.features, model.classifier) for name, _ in part.named_children()]
    assert " ".join(names) == LAYERS[variant]
    assert {drop.p for drop in model.modules() if isinstance(drop, nn.Dropout)} <= {0.5}
    windows = {layer.kernel_size for layer in model.modules() if isinstance(layer, nn.MaxPool2d)}
    assert windows == {2 if variant == "pool-2x2" else 3}


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_of_maps(variant):
    model = on_meta(7, variant)
    for side in model.variant.image_sizes:
        images = torch.empty(2, 3, side, side, device="meta")
        assert model.features(images).shape == (2, 256, 6, 6)
        assert model(images).shape == (2, 7)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("width_mult", [0.25, 0.3, 1.5])
def test_width_mult(variant, width_mult):
    model = on_meta(3, variant, width_mult=width_mult)
    side = model.variant.image_sizes[0]
    assert model(torch.empty(1, 3, side, side, device="meta")).shape == (1, 3)
    full = VARIANTS[variant].widths
    assert all(abs(width - part * width_mult) < 2 for width, part in zip(model.variant.widths, full, strict=True))
    if width_mult == 0.25:
        assert model.variant.widths == (24, 64, 96, 96, 64, 1024, 1024)


# --- initialisation

FAN_IN = {
    "conv1": 363, "conv2": 2400, "conv3": 2304, "conv4": 3456, "conv5": 3456, "fc6": 9216, "fc7": 4096, "fc8": 4096,
}  # fmt: skip
STARTS = {  # standard deviation of the weights of each layer; bias of conv2, conv4, conv5, fc6 and fc7
    "paper": (dict.fromkeys(FAN_IN, 0.01), 1.0),
    "zero-bias": (dict.fromkeys(FAN_IN, 0.01), 0.0),
    "source": ({**dict.fromkeys(FAN_IN, 0.01), "conv3": 0.03, "conv4": 0.03, "conv5": 0.03}, 1.0),
    "caffe": ({**dict.fromkeys(FAN_IN, 0.01), "fc6": 0.005, "fc7": 0.005}, 0.1),
    "caffenet": ({**dict.fromkeys(FAN_IN, 0.01), "fc6": 0.005, "fc7": 0.005}, 1.0),
    "he": ({name: math.sqrt(2 / fan_in) for name, fan_in in FAN_IN.items()}, 0.0),
}


def check_initialisation(model, init, scale_of):
    """Mean and spread of each layer's weights, to six standard errors; biases exactly."""
    stds, bias = STARTS[init]
    for name, layer in model.weight_layers():
        weight, n = layer.weight.detach(), layer.weight.numel()
        std = stds[name] * scale_of(name)
        assert abs(weight.mean().item()) < 6 * std / math.sqrt(n), (init, name)
        assert weight.std().item() == pytest.approx(std, rel=6 / math.sqrt(2 * n)), (init, name)
        assert (layer.bias == (bias if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0)).all(), (init, name)


def quarter(name):
    """The spread at a quarter of the width: twice that of the full one, for conv1 has as many inputs as ever."""
    return 1 if name == "conv1" else 2


def test_initialisations():
    assert STARTS.keys() == INITS.keys()
    torch.manual_seed(2)
    check_initialisation(AlexNet_2012(10), "paper", lambda name: 1)
    model = AlexNet_2012(10, width_mult=0.25)
    for init in STARTS:
        model.initialize(init)
        check_initialisation(model, init, quarter)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_starts_with_its_own_initialisation(variant):
    def start(init):
        torch.manual_seed(0)
        return nn.utils.parameters_to_vector(AlexNet_2012(10, variant, init, width_mult=1 / 16).parameters())

    own = {"source": "source", "caffe": "caffe", "caffenet": "caffenet"}.get(variant, "paper")
    assert [init for init in INITS if torch.equal(start(init), start(None))] == [own]


def test_the_seed_decides_the_weights():
    """A change in the order of draws would change every run."""
    torch.manual_seed(5)
    model = AlexNet_2012(2, width_mult=0.25)
    assert model.features.conv1.weight[0, 0, 0, :2].tolist() == pytest.approx([0.02119, 0.006612], abs=1e-6)
    assert model.classifier.fc8.weight[0, :2].tolist() == pytest.approx([0.047691, 0.005508], abs=1e-6)


# --- arithmetic: each published network once more, straight from its description


def weights_of(model):
    return {name: (layer.weight, layer.bias) for name, layer in model.weight_layers()}


def norm(x, alpha, k):
    return F.local_response_norm(x, 5, alpha, 0.75, k)


def norm_in_towers(x, alpha, k):
    half = x.shape[1] // 2
    return torch.cat([norm(x[:, :half], alpha, k), norm(x[:, half:], alpha, k)], 1)


def pool(x):
    return F.max_pool2d(x, 3, 2)


def to_227(x):
    return F.pad(x, (0, 3, 0, 3)) if x.shape[-1] == 224 else x


def upper_layers(w, x, groups, keep=1.0):
    x = F.relu(F.conv2d(x, *w["conv3"], padding=1))
    x = F.relu(F.conv2d(x, *w["conv4"], padding=1, groups=groups))
    x = pool(F.relu(F.conv2d(x, *w["conv5"], padding=1, groups=groups)))
    x = keep * F.relu(F.linear(x.flatten(1), *w["fc6"]))  # the released code halves at test what dropout let through
    return F.linear(keep * F.relu(F.linear(x, *w["fc7"])), *w["fc8"])


def classic_by_hand(w, x):
    x = pool(norm(F.relu(F.conv2d(x, *w["conv1"], stride=4, padding=2)), 1e-4, 2))
    x = pool(norm(F.relu(F.conv2d(x, *w["conv2"], padding=2)), 1e-4, 2))
    return upper_layers(w, x, groups=1)


def paper_by_hand(w, x):
    """α is not divided by n = 5 in the paper's formula; PyTorch divides."""
    x = pool(norm_in_towers(F.relu(F.conv2d(to_227(x), *w["conv1"], stride=4)), 5 * 1e-4, 2))
    x = pool(norm_in_towers(F.relu(F.conv2d(x, *w["conv2"], padding=2, groups=2)), 5 * 1e-4, 2))
    return upper_layers(w, x, groups=2)


def source_by_hand(w, x):
    x = F.relu(pool(norm_in_towers(F.conv2d(to_227(x), *w["conv1"], stride=4), 1e-4, 2)))
    x = norm_in_towers(F.relu(F.conv2d(x, *w["conv2"], padding=2, groups=2)), 1e-4, 2)
    squares = F.conv2d(
        F.pad(x**2, (2, 2, 2, 2)), torch.ones(len(x[0]), 1, 5, 5), groups=len(x[0])
    )  # sums over 5×5 pixels
    return upper_layers(w, pool(x / (1 + 0.001 / 25 * squares) ** 0.75), groups=2, keep=0.5)


def caffe_by_hand(w, x):
    x = pool(norm(F.relu(F.conv2d(x, *w["conv1"], stride=4)), 1e-4, 1))
    x = pool(norm(F.relu(F.conv2d(x, *w["conv2"], padding=2, groups=2)), 1e-4, 1))
    return upper_layers(w, x, groups=2)


def caffenet_by_hand(w, x):
    x = norm(pool(F.relu(F.conv2d(x, *w["conv1"], stride=4))), 1e-4, 1)
    x = norm(pool(F.relu(F.conv2d(x, *w["conv2"], padding=2, groups=2))), 1e-4, 1)
    return upper_layers(w, x, groups=2)


BY_HAND = {
    "classic": classic_by_hand, "paper": paper_by_hand, "source": source_by_hand, "caffe": caffe_by_hand,
    "caffenet": caffenet_by_hand,
}  # fmt: skip


def test_forward_is_the_description_written_out(network):
    weights, own = weights_of(network), network.variant.name
    for side in network.variant.image_sizes:
        images = raw_images(side=side)
        logits = network(images)
        assert_near(logits, BY_HAND[own](weights, images), 1e-5)
    if own == "classic":
        return
    for other in PUBLISHED[1:]:  # and no other two-tower network's: the test can tell
        if other != own:
            difference = (BY_HAND[other](weights, images) - logits).abs().max() / logits.abs().max()
            assert difference > 1e-3, other


@pytest.mark.parametrize(
    ("variant", "dropout"), [("classic", None), ("paper", 0.25), ("source", None), ("source", 0.25)]
)
def test_dropout(variant, dropout):
    """Scaled in training, or as in 2012 at test. Only training drops."""
    p = 0.5 if dropout is None else dropout
    layers = dict(on_meta(10, variant, dropout=dropout).classifier.named_children())
    ones = torch.ones(10_000)
    for names in (("drop6", "scale6"), ("drop7", "scale7")):
        drop = nn.Sequential(*(layers[name] for name in names if name in layers))
        trained = drop.train()(ones)
        assert (trained == 0).float().mean().item() == pytest.approx(p, abs=6 * 0.5 / 100)
        kept, tested = (1.0, 1 - p) if variant == "source" else (1 / (1 - p), 1.0)
        assert trained[trained != 0].unique().tolist() == pytest.approx([kept])
        assert drop.eval()(ones).unique().tolist() == pytest.approx([tested])


def test_dropout_of_0_leaves_the_layers_out():
    assert not [layer for layer in on_meta(dropout=0.0).modules() if isinstance(layer, nn.Dropout)]


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="needs a C++ compiler")
def test_compiled_gradients():
    torch.manual_seed(4)
    model = AlexNet_2012(10, "source").eval()
    images = raw_images()
    expected = torch.autograd.grad(model(images).square().sum(), list(model.parameters()))
    got = torch.autograd.grad(torch.compile(model)(images).square().sum(), list(model.parameters()))
    for ours, theirs in zip(got, expected, strict=True):
        assert_near(ours, theirs)


# --- errors


@pytest.mark.parametrize(
    ("variant", "shape"),
    [("paper", (1, 3, 225, 224)), ("paper", (1, 1, 224, 224)), ("paper", (3, 224, 224)), ("caffe", (1, 3, 224, 224))],
)
def test_wrong_images(variant, shape):
    with pytest.raises(ValueError, match=f"^images must be .*{re.escape(str(list(shape)))}"):
        on_meta(variant=variant)(torch.empty(shape, device="meta"))
    with pytest.raises(ValueError, match=r"^images must be .*uint8"):
        on_meta()(torch.empty(1, 3, 224, 224, dtype=torch.uint8, device="meta"))


@pytest.mark.parametrize(
    "arguments",
    [
        *({"variant": value} for value in ("papr", ["paper"])),
        {"init": "cafe"},
        *({"num_classes": value} for value in (0, 2**31, "10", 10.0, None, True)),
        *({"width_mult": value} for value in (0, -1, 100, math.nan, "half")),
        *({"dropout": value} for value in (1, -0.5, math.nan, "no")),
    ],
)
def test_wrong_arguments(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"^{name} must be ") as error:
        on_meta(**arguments)
    assert repr(value) in str(error.value)


# --- the model's info

MEAN_IMAGE = encode_mean_image(np.arange(12.0).reshape(2, 2, 3))
NORM = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), MEAN_IMAGE, "warp")
RECORD = {"recipe": "paper", "step": 5, "val_acc, %": 81.234567}
INFO = ModelInfo("caffe", ("cat", "dog", "été"), NORM, "pets", RECORD, width_mult=0.25, dropout=0.3)


def changed(**changes):
    """INFO as JSON with some fields replaced; ``norm_`` before a name means the normalisation's."""
    value = json.loads(INFO.to_json())
    for name, new in changes.items():
        place = value["normalization"] if name.startswith("norm_") else value
        place[name.removeprefix("norm_")] = new
    return json.dumps(value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *((text, "") for text in (None, "", "{", "[" * 100_000, "3")),
        ("{}", "normalization"),
        (changed(normalization={"mean": [0, 0, 0]}), "std"),
        (changed(norm_gamma=2), "gamma"),
        (changed(gamma=2), "gamma"),
        (changed(norm_mean=[1, 2]), "mean"),
        (changed(norm_mean=[1, 2, math.nan]), "mean"),
        (changed(norm_std=[1, 1, 0]), "std"),
        (changed(norm_resize="wrap"), "wrap"),
        *((changed(norm_mean_image=wrong), "mean_image") for wrong in ("AAAA", "no base64", MEAN_IMAGE[:-8], 3)),
        *((changed(classes=wrong), "classes") for wrong in ([], "ab", [1], None)),
        (changed(variant="a b"), "variant"),
        (changed(record=[1]), "record"),
        (changed(data=3), "data"),
        (changed(width_mult="0.25"), "width_mult"),
    ],
)
def test_malformed_model_info(text, named):
    with pytest.raises(ValueError, match=rf"^x\.ckpt: .*{named}") as error:
        ModelInfo.from_json(text, "x.ckpt")
    assert "\n" not in str(error.value)


# --- trained weights


def test_save_pretrained_and_from_pretrained(tmp_path, capsys):
    model = AlexNet_2012(3, "caffe", width_mult=0.25, dropout=0.3)
    model.info = INFO
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    page = (tmp_path / "README.md").read_text()
    for part in ("`caffe`, 3 classes", "Trained on pets.", "warped to 256", "the mean image", "| val_acc, % | 81.23 |"):
        assert part in page
    for again in (AlexNet_2012.from_pretrained(tmp_path), load_model(tmp_path)):
        assert (again.info, again.variant, again.training) == (INFO, model.variant, False)
        torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in AlexNet_2012.from_pretrained(tmp_path).parameters())
    assert capsys.readouterr().out == ""  # `--json` owns standard output
    for wrong in ({"num_classes": 4}, {"variant": "caffenet"}, {"dropout": 0.5}, {"width_mult": 1.0}):
        with pytest.raises(FieldError, match=rf"^{next(iter(wrong))} must be .* describes its own"):
            AlexNet_2012.from_pretrained(tmp_path, **wrong)
    assert AlexNet_2012.from_pretrained(tmp_path, map_location=torch.device("cpu")).info == INFO
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        AlexNet_2012.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        AlexNet_2012.from_pretrained(tmp_path)


def test_a_file_that_describes_itself_may_have_any_name(tmp_path):
    model = AlexNet_2012(3, "pool-2x2", width_mult=0.25, dropout=0.3)
    info = dataclasses.replace(INFO, variant="pool-2x2", classes=("a", "b", "c"))
    save_weights(tmp_path / "model.safetensors", model.half().state_dict(), info)
    loaded = load_model(tmp_path / "model.safetensors")
    assert (loaded.variant, loaded.info, loaded.classifier.fc8.weight.dtype) == (model.variant, info, torch.float32)


def test_arguments_of_a_network_that_describes_itself_are_refused():
    for wrong in ({"num_classes": 4}, {"dropout": 0.1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be .* cifar10-small"):
            AlexNet_2012.from_pretrained("cifar10-small", **wrong)
    with pytest.raises(TypeError, match="num_clases"):
        AlexNet_2012.from_pretrained("cifar10-small", num_clases=10)
    with pytest.raises(ValueError, match="width_mult must be"):
        AlexNet_2012.from_pretrained("cifar10-small", widths="full")
    same = {"num_classes": 10, "widths": "quarter", "dropout": None, "config": None}
    model = AlexNet_2012.from_pretrained("cifar10-small", map_location="meta", local_files_only=True, **same)
    assert model.classifier.fc8.weight.is_meta


def test_save_pretrained_without_info(tmp_path):
    model = AlexNet_2012(3, "caffenet", init="he", width_mult=0.25)
    model.save_pretrained(tmp_path, model_card_kwargs={"results": "99% on letters"})
    again = AlexNet_2012.from_pretrained(tmp_path)
    assert (again.variant, again.num_classes, again.info) == (model.variant, 3, None)
    assert "99% on letters" in (tmp_path / "README.md").read_text()


def test_a_network_without_its_classifier(tmp_path):
    model = AlexNet_2012(4, width_mult=1 / 16)
    model.aux = nn.Linear(3, 7)
    assert model.num_classes == 4
    model.classifier = nn.Identity()
    assert (hasattr(model, "num_classes"), model.info) == (False, None)
    images = torch.randn(2, 3, 224, 224)
    assert torch.jit.script(model)(images).shape == torch.jit.trace(model, images)(images).shape == (2, 16 * 36)
    with pytest.raises(ValueError, match="out_features"):
        model.info = INFO
    with pytest.raises(ValueError, match="classifier differs"):
        model.save_pretrained(tmp_path)


def test_a_changed_network_is_not_saved(tmp_path):
    model = AlexNet_2012(4, width_mult=1 / 16)
    model.aux = nn.Linear(3, 7)
    with pytest.raises(ValueError, match="aux differs"):
        model.save_pretrained(tmp_path)
    del model.aux
    model.features.relu1.inplace = True
    prune.l1_unstructured(model.classifier.fc6, "weight", 0.5)
    with pytest.raises(ValueError, match="fc6 differs"):
        model.save_pretrained(tmp_path)
    prune.remove(model.classifier.fc6, "weight")
    model.save_pretrained(tmp_path)
    model.features.norm1 = nn.Identity()
    with pytest.raises(ValueError, match="norm1 differs"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize("config", ["[1]", '{"num_classes"', '{"num_classes": "10"}'])
def test_a_damaged_config_on_the_hub_is_named(tmp_path, config):
    AlexNet_2012(3, width_mult=1 / 16).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    for load in (AlexNet_2012.from_pretrained, load_model):
        with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
            load(tmp_path)


@pytest.mark.parametrize("classes", [3, 10])
def test_a_new_last_layer_has_no_classes(tmp_path, classes):
    model = AlexNet_2012.from_pretrained("cifar10-small")
    assert copy.deepcopy(model).info == model.info
    model.classifier[-1] = nn.Linear(1024, classes)
    with pytest.raises(ValueError, match="info"):
        info_of(model)
    model.save_pretrained(tmp_path)
    assert "airplane" not in (tmp_path / "README.md").read_text()
    again = AlexNet_2012.from_pretrained(tmp_path)
    assert (again.num_classes, again.info) == (classes, None)
    assert torch.equal(again.classifier.fc8.weight, model.classifier.fc8.weight)
    with pytest.raises(ValueError, match="got 4"):
        again.info = dataclasses.replace(INFO, classes=tuple("abcd"))
    again.classifier.fc8 = nn.Linear(1024, 2, bias=False)
    again.initialize("he")


@pytest.mark.parametrize("described", [True, False])
def test_hub_folders_of_the_first_version(tmp_path, described):
    AlexNet_2012(2, width_mult=0.25).save_pretrained(tmp_path)
    norm = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    card = {"variant": "classic", "classes": ["a", "b"], "normalization": norm, "data": "pets", "widths": "quarter"}
    config = {"num_classes": 2, "variant": "classic", "init": None, "widths": "quarter"}
    config["card"] = card if described else None
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = AlexNet_2012.from_pretrained(tmp_path)
    assert again.width_mult == 0.25
    info = ModelInfo("classic", ("a", "b"), Normalization((0.1, 0.2, 0.3), (0.5, 0.5, 0.5)), "pets", {}, 0.25)
    assert again.info == (info if described else None)


def test_the_revision_of_a_repository_is_asked_for(tmp_path, monkeypatch):
    AlexNet_2012(3, width_mult=1 / 16).save_pretrained(tmp_path)
    asked = []

    def download(repo_id, filename, revision, **_):
        asked.append(revision)
        return str(tmp_path / filename)

    monkeypatch.setattr("alexnet.model.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", download)
    AlexNet_2012.from_pretrained("user/net", revision="v1")
    assert asked == ["v1", "v1"]


def test_torch_hub():
    root = Path(__file__).parents[1]
    arguments = {"num_classes": 4, "variant": "paper", "init": "he", "width_mult": 0.25}
    model = torch.hub.load(str(root), "alexnet_2012", source="local", **arguments)
    assert isinstance(model, AlexNet_2012)
    assert (model.num_classes, model.variant.name, model.width_mult) == (4, "paper", 0.25)
    trained = torch.hub.load(str(root), "alexnet_2012", source="local", weights="cifar10-small")
    assert trained.info == load_model("cifar10-small").info
