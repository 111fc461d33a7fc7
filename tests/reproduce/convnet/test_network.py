"""The four-layer networks: counts, shapes, and each kind of layer against a plain description of it."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from alexnet.reproduce.convnet.network import NETWORKS, ConvNet, LocallyConnected


@pytest.mark.parametrize(
    ("name", "side", "parameters", "products"),
    [
        ("13pct", 24, 1_116_490, 18_517_248),
        ("11pct", 24, 2_112_970, 19_512_576),
        ("11pct-no-norm", 24, 2_112_970, 19_512_576),
        ("13pct-pool-2x2", 24, 1_116_490, 18_517_248),
        ("13pct", 32, 1_901_386, 32_919_552),  # figure 1, guess A
        ("19pct", 32, 89_578, 12_298_240),  # and B
    ],
)
def test_counts(name: str, side: int, parameters: int, products: int) -> None:
    network = ConvNet(name, 10, side)
    assert sum(p.numel() for p in network.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, side, side))
    assert counter.get_total_flops() == 2 * products


ENDS = "local3 {} 6, neuron3 {} 6, local4 32 6, neuron4 32 6"
SIZES = {
    "13pct": "conv1 64 24, pool1 64 12, neuron1 64 12, conv2 64 12, pool2 64 6, neuron2 64 6, " + ENDS.format(32, 32),
    "11pct": "conv1 64 24, pool1 64 12, neuron1 64 12, rnorm1 64 12, "
    "conv2 64 12, neuron2 64 12, rnorm2 64 12, pool2 64 6, " + ENDS.format(64, 64),
    "19pct": "conv1 32 24, pool1 32 12, neuron1 32 12, conv2 32 12, neuron2 32 12, pool2 32 6, "
    "conv3 64 6, neuron3 64 6, pool3 64 3",
}


@pytest.mark.parametrize("name", SIZES)
def test_layers_and_sizes(name: str) -> None:
    x, seen = torch.zeros(2, 3, 24, 24), []
    for layer, module in ConvNet(name, 10, 24).named_children():
        x = module(x)
        if x.ndim == 4:
            seen.append(f"{layer} {x.shape[1]} {x.shape[2]}")
    assert ", ".join(seen) == SIZES[name]
    assert x.shape == (2, 10)


def test_locally_connected_is_a_loop_over_positions() -> None:
    torch.manual_seed(0)
    layer = LocallyConnected(channels=3, maps=4, side=5).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    padded = F.pad(x, (1, 1, 1, 1))
    expected = torch.zeros(2, 4, 5, 5, dtype=torch.float64)
    for row in range(5):
        for column in range(5):
            patch = padded[:, :, row : row + 3, column : column + 3]  # [N, C, 3, 3]
            position = 5 * row + column
            kernel = layer.weight[position].view(3, 3, 3, 4)  # row, column, channel, map
            expected[:, :, row, column] = torch.einsum("ncij,ijcm->nm", patch, kernel) + layer.bias[position]
    got = layer(x)
    assert torch.allclose(got, expected, atol=1e-12)
    weights = torch.randn_like(expected)
    ours = torch.autograd.grad((got * weights).sum(), [x, layer.weight, layer.bias])
    loops = torch.autograd.grad((expected * weights).sum(), [x, layer.weight, layer.bias])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, loops, strict=True))


def test_equal_weights_at_each_position_are_a_convolution() -> None:
    layer, conv = LocallyConnected(3, 4, 6), nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(conv.weight.permute(2, 3, 1, 0).reshape(1, 27, 4).expand(36, -1, -1))
        assert conv.bias is not None
        layer.bias.copy_(conv.bias.expand(36, 1, -1))
    x = torch.randn(2, 3, 6, 6)
    assert torch.allclose(layer(x), conv(x), atol=1e-5)


def by_hand(x: Tensor, pool: str) -> Tensor:
    """Windows of 3 at stride 2 that reach over the right and lower border, of real pixels alone."""
    side = x.shape[-1]
    out = math.ceil((side - 3) / 2) + 1
    found = torch.empty(*x.shape[:2], out, out)
    for i in range(out):
        for j in range(out):
            window = x[..., 2 * i : min(2 * i + 3, side), 2 * j : min(2 * j + 3, side)]
            found[..., i, j] = window.amax((2, 3)) if pool == "max" else window.mean((2, 3))
    return found


@pytest.mark.parametrize(("layer", "kind", "side"), [("pool1", "max", 24), ("pool2", "avg", 12), ("pool3", "avg", 6)])
def test_pools_count_real_pixels_alone(layer: str, kind: str, side: int) -> None:
    x = torch.randn(1, 2, side, side) - 3  # all below zero: a border of zeros would show
    assert torch.allclose(getattr(ConvNet("19pct", 10, 24), layer)(x), by_hand(x, kind), atol=1e-6)


def test_norms_divide_the_scale_by_nine_and_add_one() -> None:
    x = torch.randn(1, 64, 2, 2) * 100
    got = ConvNet("11pct", 10, 24).rnorm1(x)
    for i in (0, 3, 31, 63):
        squares = x[:, max(0, i - 4) : i + 5].square().sum(1)
        assert torch.allclose(got[:, i], x[:, i] / (1 + 0.001 / 9 * squares) ** 0.75, rtol=1e-4)


@pytest.mark.parametrize("neuron", ["relu", "tanh"])
def test_a_neuron_may_follow_the_max_pool(neuron: str) -> None:
    """As the files have it, before the pool: the same values and gradients."""
    torch.manual_seed(0)
    network = ConvNet("13pct", 10, 24, neuron, "today")
    act = torch.relu if neuron == "relu" else torch.tanh
    x = torch.randn(2, 3, 24, 24)
    y = act(network.conv1(x))
    y = F.max_pool2d(y, 3, 2, ceil_mode=True)
    y = F.max_pool2d(act(network.conv2(y)), 3, 2, ceil_mode=True)
    y = network.fc10(torch.flatten(act(network.local4(act(network.local3(y)))), 1))
    assert torch.allclose(network(x), y, atol=1e-5)
    ours, files = (torch.autograd.grad(out.square().sum(), network.conv1.weight)[0] for out in (network(x), y))
    assert torch.allclose(ours, files, rtol=1e-3, atol=1e-3 * float(files.abs().max()))


def test_initialisation_of_2012() -> None:
    torch.manual_seed(0)
    stds = {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}
    for told, layer in ConvNet("13pct", 10, 24).weight_layers():
        assert layer.weight.std().item() == pytest.approx(stds[told.name], rel=0.05), told.name
        assert not layer.bias.any()


@pytest.mark.parametrize(("neuron", "gain"), [("relu", lambda i, _: 2 / i), ("tanh", lambda i, o: 2 / (i + o))])
def test_initialisation_of_today(neuron: str, gain) -> None:
    torch.manual_seed(0)
    fans = {"conv1": (75, 1600), "conv2": (1600, 1600), "local3": (576, 288), "local4": (288, 288), "fc10": (1152, 10)}
    for told, layer in ConvNet("13pct", 10, 24, neuron, "today").weight_layers():
        assert layer.weight.std().item() == pytest.approx(math.sqrt(gain(*fans[told.name])), rel=0.05), told.name


def test_biases_behind_the_first_layer() -> None:
    found = {
        told.name: layer.bias.unique().tolist() for told, layer in ConvNet("13pct", 10, 24, bias=1).weight_layers()
    }
    assert found == {"conv1": [0], "conv2": [1], "local3": [1], "local4": [1], "fc10": [0]}


def test_rates_and_decays_are_the_files() -> None:
    network = ConvNet("11pct", 10, 24)
    groups = network.parameter_groups(0.001)
    assert [(g["lr"], g["weight_decay"]) for g in groups[::2]] == [
        (0.001, 0), (0.001, 0), (0.001, 0.004), (0.001, 0.004), (0.001, 0.01)
    ]  # fmt: skip
    assert {(g["lr"], g["weight_decay"]) for g in groups[1::2]} == {(0.002, 0)}
    assert {g["weight_decay"] for g in network.parameter_groups(0.001, decay=0)} == {0}
    assert sum(p.numel() for g in groups for p in g["params"]) == 2_112_970
    decays = [g["weight_decay"] for g in ConvNet("19pct", 10, 32).parameter_groups(0.001)[::2]]
    assert decays == [0.004, 0.004, 0.004, 3]


def test_the_ablated_networks_differ_in_one_thing() -> None:
    whole, bare = ([layer.name for layer in NETWORKS[name].layers] for name in ("11pct", "11pct-no-norm"))
    assert [name for name in whole if name not in bare] == ["rnorm1", "rnorm2"]
    sizes = [[m.kernel_size for m in ConvNet(name, 10, 24) if isinstance(m, nn.MaxPool2d)]
             for name in ("13pct", "13pct-pool-2x2")]  # fmt: skip
    assert sizes == [[3, 3], [2, 2]]


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"network 12pct: allowed is one of 13pct, .*did you mean"):
        ConvNet("12pct", 10, 24)
    with pytest.raises(ValueError, match="neuron gelu: allowed is one of relu, tanh"):
        ConvNet("13pct", 10, 24, "gelu")
    with pytest.raises(ValueError, match="init 2013: allowed is one of 2012, today"):
        ConvNet("13pct", 10, 24, init="2013")
