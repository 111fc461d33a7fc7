"""The classic network less one thing, and with a fourth of its maps: layers, counts, weights, a round trip."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from alexnet import load_model
from alexnet.data.normalization import Normalization
from alexnet.model import ABLATIONS, VARIANTS, AlexNet_2012
from alexnet.weights.card import ModelCard
from alexnet.weights.checkpoint import save_weights

CLASSIC = 58_322_314
COUNTS = {  # conv4 then has 256 inputs in place of 384; conv4 and its biases are gone
    "pool-2x2": CLASSIC,
    "no-dropout": CLASSIC,
    "no-conv3": CLASSIC - (256 * 9 * 384 + 384) - (384 - 256) * 9 * 384,
    "no-conv4": CLASSIC - (384 * 9 * 384 + 384),
}


def on_meta(name: str, widths: str = "full") -> AlexNet_2012:
    with torch.device("meta"):
        return AlexNet_2012(10, name, widths=widths).eval()


def layers(network: AlexNet_2012) -> list[str]:
    return [name for part in (network.features, network.classifier) for name, _ in part.named_children()]


@pytest.mark.parametrize("name", ABLATIONS)
def test_parameters_and_the_size_at_the_end(name: str) -> None:
    network = on_meta(name)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name]
    for side in network.variant.image_sizes:
        assert network.features(torch.empty(1, 3, side, side, device="meta")).shape == (1, 256, 6, 6)


def test_each_lacks_one_thing() -> None:
    classic = layers(on_meta("classic"))
    missing = {name: [layer for layer in classic if layer not in layers(on_meta(name))] for name in ABLATIONS}
    assert missing == {
        "pool-2x2": [],
        "no-dropout": ["drop6", "drop7"],
        "no-conv3": ["conv3", "relu3"],
        "no-conv4": ["conv4", "relu4"],
    }
    pools = {
        name: {m.kernel_size for m in on_meta(name).modules() if isinstance(m, nn.MaxPool2d)} for name in ABLATIONS
    }
    assert pools == {"pool-2x2": {2}, "no-dropout": {3}, "no-conv3": {3}, "no-conv4": {3}}


def test_no_ablation_is_taken_for_a_variant() -> None:
    assert not ABLATIONS.keys() & VARIANTS.keys()
    assert all(variant.name == name for name, variant in ABLATIONS.items())


def test_a_quarter_of_the_widths_carries_as_strong_a_signal() -> None:
    torch.manual_seed(0)
    for init in ("paper", "he"):
        network = AlexNet_2012(10, init=init, widths="quarter")
        found = dict(network.weight_layers())
        assert [layer.weight.shape[0] for layer in found.values()] == [24, 64, 96, 96, 64, 1024, 1024, 10]
        for name, layer in found.items():
            fan_in = layer.weight[0].numel()
            whole = fan_in * (1 if name == "conv1" else 4)
            std = 0.01 * math.sqrt(whole / fan_in) if init == "paper" else math.sqrt(2 / fan_in)
            assert layer.weight.std().item() == pytest.approx(std, rel=0.06), (init, name)


def test_weights_of_a_quarter_come_back(tmp_path: Path) -> None:
    network = AlexNet_2012(3, "no-conv4", widths="quarter")
    card = ModelCard("no-conv4", ("a", "b", "c"), Normalization((0.5,) * 3, (1 / 255,) * 3), "noise", widths="quarter")
    save_weights(tmp_path / "x.safetensors", network.state_dict(), card)
    again = load_model(tmp_path / "x.safetensors")
    assert again.card == card
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))
    images = torch.randn(1, 3, 224, 224)
    assert torch.allclose(again(images), network.eval()(images), rtol=1e-4, atol=1e-4)  # memory decides


def test_unknown_widths() -> None:
    with pytest.raises(ValueError, match="widths half: allowed is one of full, quarter"):
        AlexNet_2012(10, widths="half")
