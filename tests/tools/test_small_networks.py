"""The four-layer networks of 2012: their layers, batches and training, each against a plain description of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from alexnet import load_run
from alexnet.checkpoint import load_checkpoint
from alexnet.data import datasets
from alexnet.errors import FieldError
from alexnet.recipes import Runtime
from alexnet.tools.reproduce import Small, Stage, small_networks
from alexnet.tools.reproduce.small_networks import LocallyConnected, SmallLoader, SmallNetwork, check, recipe_of

CPU = torch.device("cpu")
TINY = Small("19pct", init="today", crop=32, decay=0, rate=0.02, images=200, stages=(Stage(3),))


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def make_grid(folder, count=200, side=32):
    """Images whose red is 7 times the row, whose green is 7 times the column, and whose blue is the image's number."""
    for split, images in (("train", count), ("val", 20)):
        for number in range(images):
            pixels = np.full((side, side, 3), number, np.uint8)
            pixels[..., 0], pixels[..., 1] = np.indices((side, side)) * 7 % 256
            (folder / split / str(number % 2)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / split / str(number % 2) / f"{number}.png")
    return datasets.load(str(folder))


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return make_grid(tmp_path_factory.mktemp("grid"))


def network(name, digits, **changes):
    torch.manual_seed(0)
    return SmallNetwork(Small(name, **changes), digits)


# --- the networks


@pytest.mark.parametrize(
    ("name", "crop", "parameters", "products"),
    [
        ("13pct", 24, 1_116_490, 18_517_248),
        ("11pct", 24, 2_112_970, 19_512_576),
        ("11pct-no-norm", 24, 2_112_970, 19_512_576),
        ("13pct-pool-2x2", 24, 1_116_490, 18_517_248),
        ("13pct", 32, 1_901_386, 32_919_552),  # figure 1, guess A
        ("19pct", 32, 89_578, 12_298_240),  # and B
    ],
)
def test_counts(name, crop, parameters, products, digits):
    net = network(name, digits, crop=crop)
    assert sum(p.numel() for p in net.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        assert net(torch.zeros(1, 3, crop, crop)).shape == (1, 10)
    assert counter.get_total_flops() == 2 * products


def test_locally_connected_has_its_own_weights_at_each_position():
    torch.manual_seed(0)
    layer = LocallyConnected(channels=3, maps=4, side=5).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    patches = F.unfold(x, 3, padding=1).view(2, 3, 9, 25)  # image, channel, place in the window, position
    weight = layer.weight.view(25, 9, 3, 4)  # position, place in the window, channel, map
    expected = (torch.einsum("ncps,spcm->nms", patches, weight) + layer.bias[:, 0].T).view(2, 4, 5, 5)
    found, scale = layer(x), torch.randn_like(expected)
    assert torch.allclose(found, expected, atol=1e-12)
    inputs = [x, layer.weight, layer.bias]
    for ours, theirs in zip(*(torch.autograd.grad((y * scale).sum(), inputs) for y in (found, expected)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def pooled(x, kind):
    """Windows of 3 at stride 2 that extend over the right and lower border of even sides, of real pixels alone."""
    if kind == "max":
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)
    total, count = (F.avg_pool2d(F.pad(each, (0, 1, 0, 1)), 3, 2) for each in (x, torch.ones_like(x)))
    return total / count


@pytest.mark.parametrize("neuron", ["relu", "tanh"])
def test_11pct_and_19pct_are_their_files(neuron, digits):
    """Layer by layer from the files, with the neuron before the max pool as they have it."""
    act = torch.relu if neuron == "relu" else torch.tanh
    images = 255 * torch.rand(2, 3, 24, 24)

    def norm(x):
        squares = [x[:, max(0, i - 4) : i + 5].square().sum(1) for i in range(x.shape[1])]
        return x / (1 + 0.001 / 9 * torch.stack(squares, 1)) ** 0.75

    net = network("11pct", digits, neuron=neuron, init="today")
    x = norm(pooled(act(net.conv1((images - net.mean) / net.std)), "max"))
    x = pooled(norm(act(net.conv2(x))), "max")
    expected = net.fc10(torch.flatten(act(net.local4(act(net.local3(x)))), 1))
    assert torch.allclose(net(images), expected, atol=1e-5)

    net = network("19pct", digits, neuron=neuron, init="today")
    x = pooled(act(net.conv1((images - net.mean) / net.std)), "max")
    x = pooled(act(net.conv3(pooled(act(net.conv2(x)), "avg"))), "avg")
    assert torch.allclose(net(images), net.fc10(torch.flatten(x, 1)), atol=1e-5)


def test_initial_weights_and_biases(digits):
    fans = {"conv1": (75, 1600), "conv2": (1600, 1600), "local3": (576, 288), "local4": (288, 288), "fc10": (1152, 10)}
    stds = {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}
    for neuron, init in (("relu", "2012"), ("relu", "today"), ("tanh", "today")):
        for layer, module in network("13pct", digits, neuron=neuron, init=init, bias=1.0).weight_layers():
            fan_in, fan_out = fans[layer.name]
            today = math.sqrt(2 / fan_in) if neuron == "relu" else math.sqrt(2 / (fan_in + fan_out))
            expected = stds[layer.name] if init == "2012" else today
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), layer.name
            assert module.bias.unique().tolist() == [float(layer.name not in ("conv1", "fc10"))]


def test_rates_and_decays_are_the_files(digits):
    stages = (Stage(4), Stage(1, 0.1))
    net = network("11pct", digits, stages=stages)
    groups = net.param_groups(recipe_of(net.settings, digits, seed=0))
    assert [g["weight_decay"] for g in groups[::2]] == [0, 0, 0.004, 0.004, 0.01]
    assert all(g["lr_steps"] == [(0, 0.001), (4, 0.0001)] for g in groups[::2])
    assert all((g["lr_steps"], g["weight_decay"]) == ([(0, 0.002)], 0) for g in groups[1::2])
    assert sum(p.numel() for g in groups for p in g["params"]) == 2_112_970
    bare = network("19pct", digits, decay=0)
    assert {g["weight_decay"] for g in bare.param_groups(recipe_of(bare.settings, digits, seed=0))} == {0}


def test_refusals(digits, tmp_path):
    for field, settings in (
        ("network", Small("12pct")),
        ("neuron", Small("13pct", neuron="gelu")),  # type: ignore[arg-type]
        ("init", Small("13pct", init="2013")),  # type: ignore[arg-type]
    ):
        with pytest.raises(FieldError, match=field):
            check(settings, digits)
    with pytest.raises(FieldError, match="data"):
        check(TINY, make_grid(tmp_path, count=2, side=128))


# --- the batches


def test_crops_come_from_every_offset_and_both_sides(grid):
    loader = SmallLoader(grid, Small("13pct"), 0, CPU)
    seen = []
    for epoch in range(10):
        numbers = []
        for images, labels in loader.train(epoch):
            for image, label in zip(images, labels, strict=True):
                top, left, mirrored = image[0, 0, 0] // 7, image[1].min() // 7, image[1, 0, 0] > image[1, 0, 1]
                expected = torch.empty(3, 24, 24)
                expected[0], expected[1] = 7 * (torch.arange(24) + top)[:, None], 7 * (torch.arange(24) + left)
                expected[2] = image[2, 0, 0]
                assert torch.equal(image.flip(-1) if mirrored else image, expected)
                assert label == int(image[2, 0, 0]) % 2
                seen.append((int(top), int(left), bool(mirrored)))
                numbers.append(int(image[2, 0, 0]))
        assert sorted(numbers) == list(range(200))
    assert len({place[:2] for place in seen}) == 81
    assert 0.45 < np.mean([mirrored for *_, mirrored in seen]) < 0.55


def test_seed_and_epoch_decide_the_batches(grid):
    def batches(seed, epoch, start=0):
        return [images for images, _ in SmallLoader(grid, Small("13pct"), seed, CPU).train(epoch, start)]

    first = batches(1, 2)
    assert [len(images) for images in first] == [128, 72]
    assert all(map(torch.equal, first, batches(1, 2)))
    assert all(map(torch.equal, first[1:], batches(1, 2, start=1)))
    assert not torch.equal(first[0], batches(1, 3)[0])
    assert not torch.equal(first[0], batches(2, 2)[0])


def test_ten_views_are_the_corners_the_centre_and_their_mirrors(grid):
    torch.manual_seed(0)
    net = SmallNetwork(Small("11pct", init="today"), grid).eval()
    ((whole, labels),) = small_networks.eval_batches(grid.val, CPU)
    assert torch.equal(net(whole), net(whole[..., 4:28, 4:28]))
    corners = [whole[..., y : y + 24, x : x + 24] for y, x in ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8))]
    with torch.inference_mode():
        answers = [net(view).softmax(1) for crop in corners for view in (crop, crop.flip(-1))]
    expected = F.nll_loss(torch.stack(answers).mean(0).log(), labels).item()
    found = small_networks.evaluate_small(net, grid, grid.val, "ten-crop", "cpu")
    assert found["loss"] == pytest.approx(expected, rel=1e-2)
    assert not SmallLoader(datasets.load("digits"), Small("13pct"), 0, CPU).mirror


# --- training


def trained(settings, dataset, folder, seed=0):
    runtime = Runtime(tracker="none", device="cpu", precision="fp32", quiet=True)
    small_networks.train_small(settings, dataset, seed, runtime, folder)
    return load_run(folder).rows


def test_losses_are_those_of_version_0_1_0(digits, tmp_path):
    settings = Small("11pct", rate=0.002, images=300, stages=(Stage(2), Stage(1, 0.1)))
    rows = trained(settings, digits, tmp_path, seed=3)
    assert [row["train_loss"] for row in rows] == pytest.approx([2.29991, 2.28166, 2.23093], abs=5e-4)  # of another CPU
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert [row["lr"] for row in rows] == pytest.approx([0.002, 0.002, 0.0002])


def test_it_ends_at_the_training_error_asked_for(digits, tmp_path):
    settings = replace(TINY, stages=(Stage(40),), stop_at=70)
    rows = trained(settings, digits, tmp_path)
    errors = [100 - row["train_acc"] for row in rows]
    assert [row["step"] for row in rows] == list(range(2, 2 * len(rows) + 2, 2))  # 200 images are two batches
    assert len(rows) < 40
    assert errors[-1] <= 70 < min(errors[:-1])
    assert load_checkpoint(tmp_path / "last.ckpt")["progress"]["step"] == rows[-1]["step"]
    assert trained(settings, digits, tmp_path) == rows  # it is not trained any further
