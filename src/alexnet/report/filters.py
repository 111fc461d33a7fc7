"""The filters of the first convolution as a picture, as in the paper's figure 3."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

__all__ = ["filter_sheet"]


def filter_sheet(weight: Tensor, columns: int = 16) -> Image.Image:
    """The filters in rows of ``columns``, a pixel a weight, one pixel of transparency between them.

    Each is scaled by itself, so that its least weight over all colours is 0 and its greatest 255: what is shown is its
    form, not its strength. Those of a network with two towers follow one another, the first tower's half first.

    Args:
        weight: ``[filters, 3, side, side]``, float, of any range.
    """
    filters = weight.detach().float().cpu().permute(0, 2, 3, 1).numpy()  # [filters, side, side, 3]
    count, side = filters.shape[:2]
    low = filters.min(axis=(1, 2, 3), keepdims=True)
    span = filters.max(axis=(1, 2, 3), keepdims=True) - low
    with np.errstate(invalid="ignore"):
        scaled = np.nan_to_num(255 * (filters - low) / np.where(span > 0, span, 1))
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.zeros((rows * (side + 1) - 1, columns * (side + 1) - 1, 4), np.uint8)
    for number, pixels in enumerate(scaled.round().astype(np.uint8)):
        top, left = (place * (side + 1) for place in divmod(number, columns))
        sheet[top : top + side, left : left + side, :3] = pixels
        sheet[top : top + side, left : left + side, 3] = 255
    return Image.fromarray(sheet)
