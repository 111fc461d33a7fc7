"""Confusion matrices and filters as pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.tools.confusion import confusion
from alexnet.tools.filters import filter_order, filter_sheet


def test_a_class_with_few_images_is_as_dark_as_one_with_many(tmp_path):
    def darkness(matrix):
        with Image.open(confusion(matrix, ["a", "b"], tmp_path / "c.png")) as picture:
            grey = picture.convert("L")
            return grey.getpixel((int(grey.width * 0.6), int(grey.height * 0.75)))  # of the lower right cell

    assert darkness([[2000, 0], [0, 2]]) == darkness([[2000, 0], [0, 2000]]) < 60
    assert darkness([[2000, 0], [2, 0]]) > 240


@pytest.mark.parametrize("count", [1, 21, 1000])
def test_many_classes(tmp_path, count):
    path = confusion(np.eye(count, dtype=int).tolist(), [f"class {i}" for i in range(count)], tmp_path / "c.png")
    assert path.stat().st_size < 200_000
    with Image.open(path) as picture:
        assert 300 < min(picture.size) <= max(picture.size) < 1400


def test_names_are_drawn_as_they_are(tmp_path, recwarn):
    confusion([[0, 0], [0, 1]], ["猫 $\\frac$", "a very long name of a class, number 3, caf\udce9"], tmp_path / "c.png")
    assert [str(each.message) for each in recwarn if "Glyph" in str(each.message)] == []


@pytest.mark.parametrize("matrix", [[], [[1], [2]], [[1, 2], [3, 4], [5, 6]]])
def test_another_shape_is_refused(tmp_path, matrix):
    with pytest.raises(ValueError, match="matrix must have 2 rows"):
        confusion(matrix, ["a", "b"], tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []


def test_filters_are_sorted_within_their_tower():
    scores = torch.tensor([1.0, 3.0, 3.0, 9.0, 0.0, 9.5])
    assert filter_order(scores, 1).tolist() == [[5, 3, 1, 2, 0, 4]]
    assert filter_order(scores, 2).tolist() == [[1, 2, 0], [5, 3, 4]]
    assert filter_order(torch.zeros(4), 2).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("filters", "size"), [(1, (11, 11)), (2, (23, 11)), (13, (143, 23))])
def test_filters_are_drawn_pixel_by_pixel(filters, size):
    assert filter_sheet(torch.randn(filters, 3, 11, 11)).size == size
