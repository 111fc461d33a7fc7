"""The network: its numbers against the published ones, its arithmetic against the same written out by hand."""

import copy
import gc
import io
import math
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alexnet import hardware
from alexnet.data.normalization import Normalization
from alexnet.model import INITS, VARIANTS, AlexNet_2012
from alexnet.weights.card import ModelCard

ROOT = Path(__file__).parents[1]


def on_meta(*args, **kwargs):
    with torch.device("meta"):
        return AlexNet_2012(*args, **kwargs).eval()


@pytest.fixture(scope="module")
def classic():
    """One classic network for the tests that do not change it, with weights that let the input through."""
    torch.manual_seed(0)
    return AlexNet_2012(10, init="he").eval().requires_grad_(False)


@pytest.fixture(params=list(VARIANTS), scope="module")
def network(request, classic):
    torch.manual_seed(1)
    if request.param == "classic":
        yield classic
    else:
        model = AlexNet_2012(10, request.param, init="he").eval().requires_grad_(False)
        for _, layer in model.weight_layers():  # biases that would show if they were mixed up
            layer.bias.copy_(torch.randn_like(layer.bias))
        yield model
        del model
    gc.collect()


@pytest.fixture
def folder():
    """A folder that goes when the test ends: a file of weights has 230 MB."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def raw_images(count=2, side=224, seed=0):
    """Noise of the mean and spread of pixels in 0..255 minus their mean, smooth enough to have structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 14, 14, generator=generator) * 60
    return F.interpolate(coarse, side, mode="bilinear") + torch.randn(count, 3, side, side, generator=generator) * 20


def assert_near(got, expected, relative=1e-4):
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= relative * float(expected.abs().max())


# --- what the networks consist of -------------------------------------------------------------------------------------

# facts.md, counted there from the papers and configurations
COUNTS = {
    ("classic", 10): 58_322_314,
    ("classic", 1000): 62_378_344,
    **{(name, 10): 56_909_194 for name in ("paper", "source", "caffe", "caffenet")},
    **{(name, 1000): 60_965_224 for name in ("paper", "source", "caffe", "caffenet")},
}

MIDDLE = "conv3 relu3 conv4 relu4 conv5 relu5 pool5"
FEATURES = {
    "classic": f"conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 {MIDDLE}",
    "paper": f"pad1 conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 {MIDDLE}",
    "source": f"pad1 conv1 norm1 pool1 relu1 conv2 relu2 norm2 within2 pool2 {MIDDLE}",
    "caffe": f"conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 {MIDDLE}",
    "caffenet": f"conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2 {MIDDLE}",
}


@pytest.mark.parametrize(("variant", "classes"), COUNTS)
def test_parameter_counts(variant, classes):
    assert sum(p.numel() for p in on_meta(classes, variant).parameters()) == COUNTS[variant, classes]


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_layers(variant):
    model = on_meta(10, variant)
    assert " ".join(name for name, _ in model.features.named_children()) == FEATURES[variant]
    assert " ".join(name for name, _ in model.classifier.named_children()) == (
        "drop6 fc6 relu6 drop7 fc7 relu7 fc8" if variant == "classic" else "fc6 relu6 drop6 fc7 relu7 drop7 fc8"
    )
    assert [drop.p for drop in model.modules() if isinstance(drop, nn.Dropout)] == [0.5, 0.5]
    assert [name for name, _ in model.weight_layers()] == [
        *("conv1", "conv2", "conv3", "conv4", "conv5"),
        *("fc6", "fc7", "fc8"),
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_of_weights(variant):
    halved = 1 if variant == "classic" else 2
    assert [list(layer.weight.shape) for _, layer in on_meta(10, variant).weight_layers()] == [
        [96, 3, 11, 11],
        [256, 96 // halved, 5, 5],
        [384, 256, 3, 3],
        [384, 384 // halved, 3, 3],
        [256, 384 // halved, 3, 3],
        [4096, 9216],
        [4096, 4096],
        [10, 4096],
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_of_maps(variant):
    model = on_meta(7, variant)
    sizes = {}
    for name, layer in model.named_modules():
        layer.register_forward_hook(lambda _, __, out, name=name: sizes.update({name: tuple(out.shape)}))
    for side in model.variant.image_sizes:
        assert model(torch.empty(2, 3, side, side, device="meta")).shape == (2, 7)
        first = 56 if (variant, side) == ("classic", 227) else 55  # padding 2 makes 227 one column wider
        maps = {"conv1": (96, first), "pool1": (96, 27), "conv2": (256, 27), "pool2": (256, 13)}
        maps |= {"conv3": (384, 13), "conv4": (384, 13), "conv5": (256, 13), "pool5": (256, 6)}
        for name, (channels, width) in maps.items():
            assert sizes[f"features.{name}"] == (2, channels, width, width), name
        assert sizes["features"] == (2, 256, 6, 6)
        assert sizes["classifier.fc6"] == sizes["classifier.fc7"] == (2, 4096)


# --- initialisation ---------------------------------------------------------------------------------------------------

FAN_IN = {
    "conv1": 363,
    "conv2": 2400,
    "conv3": 2304,
    "conv4": 3456,
    "conv5": 3456,
    "fc6": 9216,
    "fc7": 4096,
    "fc8": 4096,
}
STARTS = {  # weights' standard deviation by layer, bias of conv2, conv4, conv5, fc6 and fc7
    "paper": (dict.fromkeys(FAN_IN, 0.01), 1.0),
    "zero-bias": (dict.fromkeys(FAN_IN, 0.01), 0.0),
    "source": ({**dict.fromkeys(FAN_IN, 0.01), "conv3": 0.03, "conv4": 0.03, "conv5": 0.03}, 1.0),
    "caffe": ({**dict.fromkeys(FAN_IN, 0.01), "fc6": 0.005, "fc7": 0.005}, 0.1),
    "caffenet": ({**dict.fromkeys(FAN_IN, 0.01), "fc6": 0.005, "fc7": 0.005}, 1.0),
    "he": ({name: math.sqrt(2 / fan_in) for name, fan_in in FAN_IN.items()}, 0.0),
}


def test_every_initialisation_is_tested():
    assert STARTS.keys() == INITS.keys()
    assert {name: variant.init for name, variant in VARIANTS.items()} == {
        "classic": "paper",
        "paper": "paper",
        "source": "source",
        "caffe": "caffe",
        "caffenet": "caffenet",
    }


def test_initialisations():
    """Mean, spread and share within one deviation of each layer's weights, to six standard errors; biases exactly."""
    torch.manual_seed(2)
    model = AlexNet_2012(10)
    for init, (stds, bias) in STARTS.items():
        if init != "paper":  # the default
            model.initialize(init)
        for name, layer in model.weight_layers():
            weight, std = layer.weight.detach(), stds[name]
            n = weight.numel()
            assert abs(weight.mean().item()) < 6 * std / math.sqrt(n), (init, name)
            assert weight.std().item() == pytest.approx(std, rel=6 / math.sqrt(2 * n)), (init, name)
            within = (weight.abs() < std).float().mean().item()
            assert within == pytest.approx(math.erf(math.sqrt(0.5)), abs=6 * 0.4655 / math.sqrt(n)), (init, name)
            expected = bias if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
            assert (layer.bias == expected).all(), (init, name)


def test_the_seed_decides_the_weights():
    def first_weights(seed):
        torch.manual_seed(seed)
        return AlexNet_2012(2).features.conv1.weight

    assert torch.equal(first_weights(5), first_weights(5))
    assert not torch.equal(first_weights(5), first_weights(6))


# --- arithmetic: each variant once more, straight from its description ------------------------------------------------


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
    squares = F.conv2d(F.pad(x**2, (2, 2, 2, 2)), torch.ones(256, 1, 5, 5), groups=256)  # sums over 5×5 pixels
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
    "classic": classic_by_hand,
    "paper": paper_by_hand,
    "source": source_by_hand,
    "caffe": caffe_by_hand,
    "caffenet": caffenet_by_hand,
}


def test_forward_is_the_description_written_out(network):
    weights, own = weights_of(network), network.variant.name
    for side in network.variant.image_sizes:
        images = raw_images(side=side)
        logits = network(images)
        assert_near(logits, BY_HAND[own](weights, images), 1e-5)
    if own == "classic":
        return
    for other in ("paper", "source", "caffe", "caffenet"):  # and no other two-tower network's: the test can tell
        if other != own:
            difference = (BY_HAND[other](weights, images) - logits).abs().max() / logits.abs().max()
            assert difference > 1e-3, other


@pytest.mark.parametrize("network", ["paper", "source"], indirect=True)
def test_two_towers_are_two_half_networks_that_meet_at_conv3_and_the_fully_connected_layers(network):
    alpha = network.variant.lrn_alpha
    w, x = weights_of(network), to_227(raw_images())

    def half(name, tower):
        weight, bias = w[name]
        rows = slice(tower * len(bias) // 2, (tower + 1) * len(bias) // 2)
        return weight[rows], bias[rows]

    def lower(tower):
        """48 filters, then 128 that see those 48 alone."""
        y = F.conv2d(x, *half("conv1", tower), stride=4)
        y = pool(norm(F.relu(y), alpha, 2)) if network.variant.name == "paper" else F.relu(pool(norm(y, alpha, 2)))
        assert y.shape[1] == 48
        y = norm(F.relu(F.conv2d(y, *half("conv2", tower), padding=2)), alpha, 2)
        assert y.shape[1] == 128
        if network.variant.name == "source":
            y = y / (1 + 0.001 * F.avg_pool2d(y**2, 5, 1, 2)) ** 0.75
        return pool(y)

    def upper(tower, both):
        """192 filters on all maps of layer 2, then 192 and 128 within the tower."""
        y = F.relu(F.conv2d(both, *half("conv3", tower), padding=1))
        y = F.relu(F.conv2d(y, *half("conv4", tower), padding=1))
        return pool(F.relu(F.conv2d(y, *half("conv5", tower), padding=1)))

    met = torch.cat([lower(0), lower(1)], 1)
    y = torch.cat([upper(0, met), upper(1, met)], 1).flatten(1)
    for name in ("fc6", "fc7"):  # 2048 units in each tower, all of which see both
        y = F.relu(torch.cat([F.linear(y, *half(name, 0)), F.linear(y, *half(name, 1))], 1))
        y = y / 2 if network.variant.name == "source" else y
    assert_near(network(raw_images()), F.linear(y, *w["fc8"]), 1e-5)


def test_dropout_works_in_training_alone(classic):
    images = raw_images(1)
    assert torch.equal(classic(images), classic(images))
    seen = {}
    hooks = [
        classic.classifier.get_submodule(name).register_forward_hook(
            lambda _, inputs, out, name=name: seen.update({name: (inputs[0].clone(), out.clone())})
        )
        for name in ("drop6", "drop7")
    ]
    try:
        torch.manual_seed(3)
        first = classic.train()(images)
        assert not torch.equal(first, classic(images))
    finally:
        classic.eval()
        for hook in hooks:
            hook.remove()
    for name, (before, after) in seen.items():
        kept = after[before != 0] != 0
        assert kept.float().mean().item() == pytest.approx(0.5, abs=6 * 0.5 / math.sqrt(kept.numel())), name
        assert torch.allclose(after[after != 0], 2 * before[after != 0]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_dropout_is_scaled_in_training_or_as_in_2012_at_test(variant):
    drops = [layer for layer in on_meta(10, variant).modules() if isinstance(layer, nn.Dropout)]
    trained, tested = {"source": (1.0, 0.5)}.get(variant, (2.0, 1.0))
    ones = torch.ones(1000)
    for drop in drops:
        assert set(drop.train()(ones).tolist()) == {0.0, trained}
        assert set(drop.eval()(ones).tolist()) == {tested}


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.empty(1, 3, 225, 224), r"expected \[N, 3, 224, 224\] or \[N, 3, 227, 227\], got \[1, 3, 225, 224\]"),
        (torch.empty(1, 3, 224, 227), "got [1, 3, 224, 227]"),
        (torch.empty(1, 1, 224, 224), "got [1, 1, 224, 224]"),
        (torch.empty(3, 224, 224), "got [3, 224, 224]"),
        (torch.empty(1, 224, 224, 3), "got [1, 224, 224, 3]"),
        (torch.empty(1, 3, 224, 224, dtype=torch.uint8), "expected floating-point images .* got torch.uint8"),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(ValueError, match=message.replace("got [", r"got \[")) as error:
        on_meta()(images.to("meta"))
    assert "\n" not in str(error.value)


def test_224_is_not_enough_for_caffe():
    with pytest.raises(ValueError, match=r"\(caffe\): expected \[N, 3, 227, 227\], got \[1, 3, 224, 224\]"):
        on_meta(variant="caffe")(torch.empty(1, 3, 224, 224, device="meta"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "papr"}, "variant papr: allowed is one of classic, paper, .* mean paper"),
        ({"variant": "vgg"}, "variant vgg: allowed is one of classic, paper, source, caffe, caffenet, "),
        ({"init": "cafe"}, "init cafe: allowed is one of .* mean caffe"),
        ({"num_classes": 0}, "num_classes: 0; allowed: 1 or more"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        on_meta(**arguments)
    assert "\n" not in str(error.value)


# --- the machinery around it ------------------------------------------------------------------------------------------


def test_an_empty_batch(classic):
    assert classic(torch.empty(0, 3, 224, 224)).shape == (0, 10)


def test_deepcopy_and_pickle(classic):
    images, logits = raw_images(1), classic(raw_images(1))
    assert torch.equal(copy.deepcopy(classic)(images), logits)
    stream = io.BytesIO()
    pickle.dump(classic, stream)
    stream.seek(0)
    again = pickle.load(stream)
    assert torch.equal(again(images), logits)
    assert again.variant == classic.variant


def test_bf16_autocast(classic):
    images = raw_images()
    with torch.autocast("cpu", torch.bfloat16):
        logits = classic(images)
    assert logits.dtype == torch.bfloat16
    assert_near(logits.float(), classic(images), 0.03)


def test_channels_last_changes_nothing(classic):
    images = raw_images()
    assert_near(classic(images.to(memory_format=torch.channels_last)), classic(images), 1e-5)


def test_torch_compile_in_one_graph(classic):
    compiled = torch.compile(classic, fullgraph=True, backend="aot_eager")  # test_lrn.py goes through the C++ compiler
    assert_near(compiled(raw_images()), classic(raw_images()))


@pytest.mark.slow
@pytest.mark.skipif(not hardware.can_compile(torch.device("cpu")), reason="needs a C++ compiler")
def test_torch_compile_with_gradients():
    torch.manual_seed(4)
    model = AlexNet_2012(10, "source").eval()
    images = raw_images()
    expected = torch.autograd.grad(model(images).square().sum(), list(model.parameters()))
    got = torch.autograd.grad(torch.compile(model)(images).square().sum(), list(model.parameters()))
    for ours, theirs in zip(got, expected, strict=True):
        assert_near(ours, theirs)


@pytest.mark.parametrize("network", ["source"], indirect=True)  # it has every kind of layer
def test_torch_export(network):
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (raw_images(),), dynamic_shapes=({0: batch},))
    for count in (1, 3):
        assert_near(program.module()(raw_images(count)), network(raw_images(count)))


def test_gradient_reaches_every_weight():
    torch.manual_seed(5)
    model = AlexNet_2012(3, "source", init="he")
    model(raw_images()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


# --- the Hub ----------------------------------------------------------------------------------------------------------


def test_pretrained_round_trip(classic, folder, capsys):
    card = ModelCard("classic", tuple("abcdefghij"), Normalization((0.1, 0.2, 0.3), (1 / 255,) * 3), "ten letters")
    classic.card = card
    try:
        classic.save_pretrained(folder, model_card_kwargs={"results": "99% on letters"})
        again = AlexNet_2012.from_pretrained(folder)
    finally:
        classic.card = None
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert capsys.readouterr().out == ""  # `--json` owns standard output
    assert again.card == card
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())
    for ours, theirs in zip(again.parameters(), classic.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    page = (folder / "README.md").read_text()
    for told in ("`classic`, 10 classes", "ten letters", "mean 0.1, 0.2, 0.3", "99% on letters", "from_pretrained"):
        assert told in page


def test_the_readme_shows_the_runs_own_record(classic, folder):
    record = {"recipe": "classic", "step": 5083, "val_acc, %": 81.234567}
    norm = Normalization((0.1, 0.2, 0.3), (1 / 255,) * 3)
    try:
        classic.card = ModelCard("classic", tuple("abcdefghij"), norm, "ten letters", record)
        classic.save_pretrained(folder)
        assert AlexNet_2012.from_pretrained(folder).card == classic.card
    finally:
        classic.card = None
    page = (folder / "README.md").read_text()
    for row in ("| recipe | classic |", "| step | 5083 |", "| val_acc, % | 81.23 |"):
        assert row in page


def test_pretrained_carries_the_arguments(folder):
    torch.manual_seed(6)
    AlexNet_2012(3, variant="caffenet", init="he").save_pretrained(folder)
    again = AlexNet_2012.from_pretrained(folder)
    assert (again.variant.name, again.num_classes, again.card) == ("caffenet", 3, None)
    assert '"init": "he"' in (folder / "config.json").read_text()
    with pytest.raises(ValueError, match=r"the weights do not fit variant 'caffenet' with 4 classes"):
        AlexNet_2012.from_pretrained(folder, num_classes=4)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut short or not a safetensors file"):
        AlexNet_2012.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="no such file"):
        AlexNet_2012.from_pretrained(folder)


def test_torch_hub():
    model = torch.hub.load(str(ROOT), "alexnet_2012", source="local", num_classes=4, variant="paper", init="he")
    assert (type(model).__name__, model.num_classes, model.variant.name) == ("AlexNet_2012", 4, "paper")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_begins_with_its_own_initialisation(variant: str) -> None:
    torch.manual_seed(0)
    layers = dict(AlexNet_2012(10, variant, widths="quarter").weight_layers())
    rule = INITS[VARIANTS[variant].init]
    assert (layers["conv2"].bias == rule.bias).all()
    for name in ("conv3", "fc6"):  # a fourth of the widths, twice the spread
        assert layers[name].weight.std().item() == pytest.approx(2 * rule.std_of.get(name, rule.std), rel=0.05)
