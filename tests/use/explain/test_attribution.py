"""Maps and Grad-CAM: captum's values, whatever lies between the layer and the logits."""

import numpy as np
import pytest
import torch
from captum.attr import LayerActivation, LayerGradCam
from PIL import Image
from torch import Tensor

from alexnet.data.normalization import Normalization
from alexnet.model import VARIANTS, AlexNet_2012
from alexnet.use.explain import (
    activations,
    convolutions,
    correlation,
    grad_cam,
    inputs,
    seen,
    with_new_fc8,
)
from alexnet.weights.card import ModelCard

pytestmark = pytest.mark.usefixtures("tiny_network")


def network(variant: str = "classic", classes: int = 4) -> AlexNet_2012:
    torch.manual_seed(0)
    model = AlexNet_2012(classes, variant, "he").eval().requires_grad_(False)
    names = tuple(f"class {i}" for i in range(classes))
    model.card = ModelCard(variant, names, Normalization((0.5, 0.4, 0.6), (1 / 255,) * 3), "noise")
    return model


def batch(model: AlexNet_2012, count: int = 3) -> Tensor:
    size = model.variant.image_sizes[0]
    return 60 * torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("layer", ["relu5", "conv5", "pool2", "conv2", "relu1", "conv1"])
def test_grad_cam_is_captums(variant: str, layer: str) -> None:
    """Below conv5 response normalisation and pooling lie between, and behind every convolution a ReLU in place."""
    model, classes = network(variant), torch.tensor([0, 3, 1])
    x = batch(model)
    expected = LayerGradCam(model, model.features.get_submodule(layer)).attribute(x, classes).detach()[:, 0]
    got = grad_cam(model, x, classes, layer)
    assert got.shape == expected.shape
    assert expected.abs().max() > 0
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_grad_cam_has_a_sign_and_thirteen_cells_a_side() -> None:
    model = network()
    maps = grad_cam(model, batch(model), torch.tensor([0, 1, 2]))
    assert maps.shape == (3, 13, 13)
    assert maps.min() < 0 < maps.max()


def test_grad_cam_works_in_any_mode_and_leaves_it_as_it_was() -> None:
    model, classes = network(), torch.tensor([0, 1, 2])
    x = batch(model)
    expected = grad_cam(model, x, classes)
    model.train().requires_grad_(True)
    with torch.inference_mode():
        assert torch.equal(grad_cam(model, x.clone(), classes), expected)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_activations_are_those_before_the_relu(variant: str) -> None:
    model = network(variant)
    x = batch(model, 2)
    found = activations(model, x)
    assert tuple(found) == convolutions(model)
    for name, maps in found.items():
        expected = LayerActivation(model, model.features.get_submodule(name)).attribute(x)
        assert torch.equal(maps, expected)
        assert maps.min() < 0


def test_a_new_fc8_changes_nothing_else() -> None:
    model = network()
    other = with_new_fc8(model, seed=3)
    mine, its = model.state_dict(), other.state_dict()
    for name in mine:
        same = mine[name].data_ptr() == its[name].data_ptr()
        assert same == (name != "classifier.fc8.weight")
    new, old = its["classifier.fc8.weight"], mine["classifier.fc8.weight"]
    assert new.std() == pytest.approx(float(old.std()), rel=0.2)
    assert not torch.allclose(new, old)
    assert torch.equal(new, with_new_fc8(model, seed=3).state_dict()["classifier.fc8.weight"])
    assert other.card is model.card


def test_inputs_are_what_prediction_gives_the_network() -> None:
    model = network()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    picture = Image.fromarray(pixels)
    x = inputs(model, [picture, picture.rotate(90)])
    assert x.shape == (2, 3, 224, 224)
    levels = torch.from_numpy(np.array(seen(model, picture))).permute(2, 0, 1)
    assert torch.allclose(x[0] + 255 * torch.tensor([0.5, 0.4, 0.6])[:, None, None], levels.float(), atol=1e-3)


def test_correlation_of_maps() -> None:
    one = torch.randn(13, 13)
    assert correlation(one, 3 * one + 2) == pytest.approx(1)
    assert correlation(one, -one) == pytest.approx(-1)
    assert correlation(one, torch.ones(13, 13)) is None
