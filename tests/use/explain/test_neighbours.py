"""Nearest neighbours against scikit-learn's; vectors against a computation by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from alexnet.data.normalization import Normalization
from alexnet.data.splits import Images
from alexnet.data.stores import Pixels
from alexnet.model import AlexNet_2012
from alexnet.use.explain import features, features_of_inputs, inputs, nearest
from alexnet.weights.card import ModelCard


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_neighbours_are_scikit_learns(offset: float) -> None:
    random = torch.Generator().manual_seed(0)
    candidates = torch.randn(300, 50, generator=random) + offset
    queries = torch.cat([torch.randn(40, 50, generator=random) + offset, candidates[[5, 280]] + 1e-3])
    distances, places = nearest(queries, candidates, 5)
    found = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(candidates.double().numpy())
    expected, order = found.kneighbors(queries.double().numpy())
    assert np.array_equal(places.numpy(), order)
    assert np.allclose(distances.numpy(), expected, rtol=1e-3, atol=1e-5)


def test_fewer_candidates_than_asked_for() -> None:
    distances, places = nearest(torch.zeros(2, 3), torch.tensor([[3.0, 4, 0], [0, 0, 1]]), 5)
    assert places.tolist() == [[1, 0]] * 2
    assert distances.tolist() == [[1, 5]] * 2
    assert nearest(torch.zeros(2, 3), torch.zeros(0, 3), 5)[1].shape == (2, 0)
    assert nearest(torch.zeros(0, 3), torch.zeros(4, 3), 5)[0].shape == (0, 4)


@pytest.fixture
def model(tiny_network: None) -> AlexNet_2012:
    torch.manual_seed(0)
    model = AlexNet_2012(3, init="he").eval().requires_grad_(False)
    norm = Normalization((0.5, 0.4, 0.6), (0.2, 0.3, 0.25))
    model.card = ModelCard("classic", ("ant", "bee", "cow"), norm, "noise")
    return model


def noise(count: int, side: int) -> Images:
    pixels = np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)
    return Images(np.arange(count) % 3, Pixels(pixels, "noise"))


def test_vectors_are_the_last_hidden_layer(model: AlexNet_2012) -> None:
    images = noise(130, 16)  # more than a batch
    found = features(model, images, precision="fp32")
    assert found.fc7.shape == (130, 32)
    x = inputs(model, [images.image(index) for index in (0, 129)])
    hidden = model.classifier[:-1](model.features(x).flatten(1))
    assert torch.allclose(found.fc7[[0, 129]], hidden, atol=0.02 * float(hidden.abs().max()))
    assert found.fc7.min() >= 0
    again = features_of_inputs(model, x, precision="fp32")
    assert torch.allclose(again.fc7, hidden, rtol=1e-4, atol=1e-5)


def test_distance_in_pixels_is_in_grey_levels(model: AlexNet_2012) -> None:
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ((100, 100, 100), (110, 110, 110), (100, 100, 160))]
    pixels = features_of_inputs(model, inputs(model, pictures)).pixels
    assert pixels.shape == (3, 32 * 32 * 3)
    assert F.pairwise_distance(pixels[0], pixels[1], eps=0).item() == pytest.approx(10, abs=1e-3)
    assert F.pairwise_distance(pixels[0], pixels[2], eps=0).item() == pytest.approx(60 / 3**0.5, abs=1e-3)


def test_an_image_is_its_own_nearest(model: AlexNet_2012) -> None:
    images = noise(60, 24)
    training = features(model, images)
    own = features_of_inputs(model, inputs(model, [images.image(index) for index in (7, 31)]))
    assert nearest(own.fc7, training.fc7, 1)[1].tolist() == [[7], [31]]
    assert nearest(own.pixels, training.pixels, 1)[1].tolist() == [[7], [31]]
