"""The filters of the first convolution as pictures, as in the paper's figure 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from alexnet.model import AlexNet_2012

if TYPE_CHECKING:
    from PIL.Image import Image

    from alexnet.checkpoint import Run

__all__ = ["conv1_filters", "filter_changes", "filter_sheet", "initial_model"]


def conv1_filters(model: AlexNet_2012) -> Tensor:
    """The weights of conv1, ``[filters, 3, 11, 11]`` float32 on the CPU. In two towers, the first half is tower 1's."""
    return model.get_parameter("features.conv1.weight").detach().float().cpu()


def initial_model(run: Run) -> AlexNet_2012:
    """The network of a run before its first step, drawn again from the run's seed."""
    recipe = run.recipe
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)  # as alexnet.train does; weights are drawn on the CPU
        model = AlexNet_2012(len(run.classes), recipe.variant, recipe.init, recipe.width_mult)
    return model.eval().requires_grad_(False)


def filter_changes(after: Tensor, before: Tensor) -> Tensor:
    """How much training changed filters ``[N, 3, side, side]``: ‖after − before‖ / ‖before‖, ``[N]``."""
    change: Tensor = (after - before).square().sum((1, 2, 3)).sqrt()
    return change / before.square().sum((1, 2, 3)).sqrt()


def filter_sheet(weight: Tensor, columns: int = 12) -> Image:
    """Draw filters in rows of ``columns``, one pixel for each weight, with one transparent pixel between filters.

    Each filter is scaled by itself, so that its lowest weight is 0 and its highest 255: the picture shows the filters'
    form, not their strength.

    Args:
        weight: ``[filters, 3, side, side]``, floating point, of any range.
    """
    from PIL import Image

    filters = weight.detach().float().cpu().permute(0, 2, 3, 1)  # [filters, side, side, 3]
    low, high = filters.amin((1, 2, 3), keepdim=True), filters.amax((1, 2, 3), keepdim=True)
    scaled = ((filters - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny) * 255).nan_to_num()
    count, side = filters.shape[:2]
    columns = min(columns, count)
    sheet = np.zeros((-(-count // columns) * (side + 1) - 1, columns * (side + 1) - 1, 4), np.uint8)
    for number, pixels in enumerate(scaled.round().byte().numpy()):
        top, left = (place * (side + 1) for place in divmod(number, columns))
        sheet[top : top + side, left : left + side, :3] = pixels
        sheet[top : top + side, left : left + side, 3] = 255
    return Image.fromarray(sheet)
