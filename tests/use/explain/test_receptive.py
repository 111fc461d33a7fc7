"""Receptive fields against the gradient of a network of ones; patches where they were planted."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alexnet import flags
from alexnet.data.normalization import Normalization
from alexnet.data.splits import Images
from alexnet.data.stores import Pixels
from alexnet.model import VARIANTS, AlexNet_2012
from alexnet.use.explain import answers, convolutions, receptive_field, strongest_patches, telling_channel
from alexnet.weights.card import ModelCard

pytestmark = pytest.mark.usefixtures("tiny_network")


def looked_at(model: AlexNet_2012, layer: str, row: int, column: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the input pixels that one cell depends on, measured."""
    size = model.variant.image_sizes[0]
    x = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    y: Tensor = x
    for name, part in model.features.named_children():
        if isinstance(part, nn.MaxPool2d):  # whose gradient goes to one pixel of a window alone
            part = nn.AvgPool2d(part.kernel_size, part.stride)
        y = part(y)
        if name == layer:
            break
    (gradient,) = torch.autograd.grad(y[0, :, row, column].sum(), x)
    touched = gradient[0].sum(0) != 0
    rows, columns = touched.any(1).nonzero()[:, 0], touched.any(0).nonzero()[:, 0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("layer", flags.CONVOLUTIONS)
def test_receptive_fields_are_what_a_gradient_measures(variant: str, layer: str) -> None:
    model = AlexNet_2012(2, variant).double()
    for _, part in model.weight_layers():
        nn.init.ones_(part.weight)
        nn.init.zeros_(part.bias)
    field, size = receptive_field(model, layer), model.variant.image_sizes[0]
    cells = {"conv1": 55, "conv2": 27}.get(layer, 13)
    for row, column in ((0, 0), (cells // 2, cells // 2), (2, cells - 1), (cells - 1, cells - 2)):
        left, top, right, bottom = field.box(row, column)
        inside = (max(left, 0), max(top, 0), min(right, size), min(bottom, size))
        assert looked_at(model, layer, row, column) == inside


def test_receptive_fields_of_the_classic_network() -> None:
    model = AlexNet_2012(2)
    assert [receptive_field(model, name).size for name in convolutions(model)] == [11, 51, 99, 131, 163]
    assert [receptive_field(model, name).stride for name in convolutions(model)] == [4, 8, 16, 16, 16]
    with pytest.raises(ValueError, match="layer conv6: allowed is one of conv1, relu1"):
        receptive_field(model, "conv6")


def test_cells_lie_in_the_middle_of_what_they_look_at() -> None:
    field = receptive_field(AlexNet_2012(2), "conv5")
    left, top, right, bottom = field.cell(0, 12)
    assert (right - left, bottom - top) == (16, 16)
    assert (top, left, right) == (7.5, 199.5, 215.5)  # of 224: half a cell stays free at either side


def spotted() -> Images:
    """Grey images; some have a bright spot of its own strength at a place of its own."""
    pixels = np.full((12, 224, 224, 3), 128, np.uint8)
    for index, bright in {3: 250, 7: 230, 10: 210}.items():
        place = 40 + 10 * index
        pixels[index, place : place + 9, 60:69] = bright
    return Images(np.arange(12) % 2, Pixels(pixels, "spots"))


def test_patches_are_where_the_spots_are() -> None:
    torch.manual_seed(0)
    model = AlexNet_2012(2).eval().requires_grad_(False)
    model.card = ModelCard("classic", ("a", "b"), Normalization((0.5,) * 3, (1 / 255,) * 3), "spots")
    model.features.conv1.weight[5] = 0.01  # answers to what is bright
    images = spotted()
    found = answers(model, images, precision="fp32")
    patches = strongest_patches(model, images, found.peaks["conv1"], "conv1", 5, count=3)
    assert [patch.index for patch in patches] == [3, 7, 10]
    for patch in patches:
        assert patch.value == pytest.approx(float(found.peaks["conv1"][patch.index, 5]), rel=1e-3)
        left, top, right, bottom = patch.box
        x, y = (64.5 * 256 / 224 - 16, (44.5 + 10 * patch.index) * 256 / 224 - 16)  # the spot, as the network sees it
        assert left <= x <= right
        assert top <= y <= bottom
    assert len(strongest_patches(model, images, found.peaks["conv4"], "conv4", 0, count=99)) == 12


def test_refusals() -> None:
    model, peaks = AlexNet_2012(2), torch.zeros(1, 12)
    with pytest.raises(ValueError, match="--layer fc6: allowed is one of conv1, conv2, conv3, conv4, conv5"):
        strongest_patches(model, spotted(), peaks, "fc6", 0)
    with pytest.raises(ValueError, match="--channel 12: allowed is 0 to 11, the channels of conv3"):
        strongest_patches(model, spotted(), peaks, "conv3", 12)


def test_the_telling_channel_stands_out_in_a_few_images() -> None:
    peaks = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    peaks[:9, 4] += 30
    peaks[:, 2] *= 100
    peaks[:, 5] = 7
    assert telling_channel(peaks) == 4
    assert telling_channel(torch.zeros(3, 2)) == 0
