"""A split's answers: the figures of the network itself, errors in order, calibration by hand."""

import numpy as np
import pytest
import torch

from alexnet.data.normalization import Normalization
from alexnet.data.splits import Images
from alexnet.data.stores import Pixels
from alexnet.model import AlexNet_2012
from alexnet.use.explain import activations, answers, calibration, confident_errors, convolutions, inputs
from alexnet.weights.card import ModelCard


def test_one_pass_keeps_logits_labels_and_peaks(tiny_network: None) -> None:
    torch.manual_seed(0)
    model = AlexNet_2012(3, init="he").eval().requires_grad_(False)
    model.card = ModelCard("classic", ("a", "b", "c"), Normalization((0.5,) * 3, (1 / 255,) * 3), "noise")
    pixels = np.random.default_rng(1).integers(0, 256, (130, 40, 40, 3), np.uint8)
    images = Images(np.arange(130) % 3, Pixels(pixels, "noise"))
    watched = []
    found = answers(model, images, precision="fp32", watch=lambda batches, count: watched.append(count) or batches)
    x = inputs(model, [images.image(index) for index in (0, 129)])
    logits, maps = model(x), activations(model, x)
    assert watched == [2]
    assert found.labels.tolist() == images.labels.tolist()
    assert torch.allclose(found.logits[[0, 129]], logits, atol=0.02 * float(logits.abs().max()))
    assert torch.allclose(found.probabilities.sum(1), torch.ones(130))
    for name in convolutions(model):
        peaks = maps[name].amax((2, 3))
        assert torch.allclose(found.peaks[name][[0, 129]], peaks, atol=0.02 * float(peaks.abs().max()))


def test_the_images_are_not_rounded_to_the_networks_precision(tiny_network: None) -> None:
    model = AlexNet_2012(3, init="he").eval().requires_grad_(False)
    model.card = ModelCard("classic", ("a", "b", "c"), Normalization((0.5,) * 3, (1 / 255,) * 3), "noise")
    images = Images(np.arange(3), Pixels(np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3), np.uint8), "noise"))
    seen = []
    handle = model.register_forward_pre_hook(lambda _model, given: seen.append(given[0].dtype))
    answers(model, images, precision="bf16")
    handle.remove()
    assert seen == [torch.float32]


def test_confident_errors_come_with_the_surest_first() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.01, 0.99]])
    labels = torch.tensor([1, 0, 1, 1, 1])
    assert confident_errors(probabilities, labels) == [0, 1, 2]
    assert confident_errors(probabilities, labels, 1) == [0]
    assert confident_errors(probabilities, probabilities.argmax(1)) == []


def test_calibration_by_hand() -> None:
    sure = torch.tensor([0.55, 0.58, 0.9, 0.92, 0.98, 1.0])
    probabilities = torch.stack([sure, 1 - sure], 1)
    labels = torch.tensor([0, 1, 0, 0, 0, 1])
    found = calibration(probabilities, labels, bins=10)  # 0.5 to 0.6; 0.8 to 0.9; 0.9 to 1
    assert found.counts == [2, 1, 3]
    assert found.confidence == pytest.approx([0.565, 0.9, (0.92 + 0.98 + 1) / 3], abs=1e-6)
    assert found.accuracy == pytest.approx([0.5, 1, 2 / 3])
    error = (2 * 0.065 + 1 * 0.1 + 3 * abs(2 / 3 - 2.9 / 3)) / 6
    assert found.expected_error == pytest.approx(error, abs=1e-6)


def test_a_bin_holds_its_upper_end() -> None:
    sure = torch.tensor([0.5, 0.625, 0.75])
    found = calibration(torch.stack([sure, 1 - sure], 1), torch.tensor([0, 0, 0]), bins=4)  # (¼, ½], (½, ¾]
    assert found.counts == [1, 2]


def test_calibration_of_a_perfect_network_is_without_error() -> None:
    logits = torch.eye(4) * 100
    found = calibration(logits.softmax(1), torch.arange(4))
    assert (found.counts, found.accuracy, found.expected_error) == ([4], [1.0], 0.0)
