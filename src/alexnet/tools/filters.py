"""The filters of the first convolution as pictures, as in the paper's figure 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from alexnet.model import AlexNet_2012

if TYPE_CHECKING:
    from PIL.Image import Image

    from alexnet.checkpoint import Run

__all__ = ["conv1_filters", "filter_changes", "filter_order", "filter_sheet", "initial_model"]


def conv1_filters(model: AlexNet_2012) -> Tensor:
    """The weights of conv1, ``[filters, 3, 11, 11]`` float32 on the CPU. In two towers, the first half is tower 1's."""
    return model.get_parameter("features.conv1.weight").detach().float().cpu()


def initial_model(run: Run) -> AlexNet_2012:
    """The network of a run before its first step, drawn again from the run's seed.

    Raises:
        ValueError: the run started from other weights.
    """
    recipe = run.recipe
    if run.config.get("given_model"):
        raise ValueError("the run did not draw its first weights, but was given a network")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)  # as alexnet.train does; weights are drawn on the CPU
        model = AlexNet_2012(len(run.classes), recipe.variant, recipe.init, recipe.width_mult, recipe.dropout)
    return model.eval().requires_grad_(False)


def filter_changes(after: Tensor, before: Tensor) -> Tensor:
    """How much training changed filters ``[N, 3, side, side]``: ‖after − before‖ / ‖before‖, ``[N]``."""
    change: Tensor = (after - before).square().sum((1, 2, 3)).sqrt()
    return change / before.square().sum((1, 2, 3)).sqrt()


def filter_order(scores: Tensor, towers: int) -> Tensor:
    """Indices ``[towers, N / towers]`` that sort each tower's filters by ``scores`` ``[N]``, the highest first."""
    order = scores.view(towers, -1).argsort(descending=True, stable=True)
    return order + len(scores) // towers * torch.arange(towers)[:, None]


def filter_sheet(weight: Tensor, columns: int = 12) -> Image:
    """Draw filters in rows of ``columns``, one pixel for each weight, with one transparent pixel between filters.

    Each filter is scaled by itself, so that its lowest weight is 0 and its highest 255: the picture shows the filters'
    form, not their strength.

    Args:
        weight: ``[filters, 3, side, side]``, float32 on the CPU, of any range.
    """
    low, high = weight.amin((1, 2, 3), keepdim=True), weight.amax((1, 2, 3), keepdim=True)
    scaled = ((weight - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)).nan_to_num()
    pixels = torch.cat([scaled, torch.ones_like(scaled[:, :1])], 1)  # opaque
    pixels = pixels.mul(255).round().byte()
    # make_grid frames what it draws, but one image
    sheet = make_grid(pixels, columns, padding=1)[:, 1:-1, 1:-1] if len(pixels) > 1 else pixels[0]
    picture: Image = to_pil_image(sheet)
    return picture
