"""Confusion matrices, lines and filters as pictures."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.curves import Line, canvas, draw_lines, points
from alexnet.tools.filters import filter_sheet
from alexnet.tools.plots import confusion


def test_a_class_with_few_images_is_as_dark_as_one_with_many(tmp_path):
    def darkness(matrix):
        with Image.open(confusion(matrix, ["a", "b"], tmp_path / "c.png")) as picture:
            grey = picture.convert("L")
            return grey.getpixel((int(grey.width * 0.6), int(grey.height * 0.75)))  # of the lower right cell

    assert darkness([[2000, 0], [0, 2]]) == darkness([[2000, 0], [0, 2000]]) < 60
    assert darkness([[2000, 0], [2, 0]]) > 240


def test_equal_numbers_give_equal_bytes_whatever_the_users_style(tmp_path):
    first = confusion([[3, 1], [2, 4]], ["a", "b"], tmp_path / "1.png").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert confusion([[3, 1], [2, 4]], ["a", "b"], tmp_path / "2.png").read_bytes() == first
        assert matplotlib.rcParams["font.size"] == 30


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


def test_lines_have_gaps_and_a_chance_level():
    rows = [{"step": 1, "val_acc": 20.0}, {"step": 2, "val_acc": None}, {"step": 3}, {"step": 4, "val_acc": 80.0}]
    found = points(rows, "step", "val_acc")
    assert [x for x, _ in found] == [1, 2, 4]
    with canvas(3, 2) as figure:
        ax = figure.subplots()
        draw_lines(ax, [Line(found, "#000000", "validation")], "step", "val_acc", classes=4)
        assert np.isnan(ax.lines[0].get_ydata()[1])
        assert ax.lines[1].get_ydata()[0] == 25
        assert ax.get_ylim()[0] == 0
        assert ax.get_legend() is not None


def test_filters_are_scaled_one_by_one():
    weight = torch.zeros(5, 3, 2, 2)
    weight[0, 0] = torch.tensor([[1e-6, 2e-6], [3e-6, 4e-6]])
    weight[1, 2, 0, 0], weight[1, 1, 1, 1] = 100.0, -100.0
    weight[2] = float("nan")
    sheet = np.asarray(filter_sheet(weight, columns=2))
    assert sheet.shape == (8, 5, 4)
    assert sheet[:2, :2, 0].tolist() == [[64, 128], [191, 255]]
    assert sheet[0, 3].tolist() == [128, 128, 255, 255]
    assert sheet[1, 4].tolist() == [128, 0, 128, 255]
    assert (sheet[2, :, 3] == 0).all()
    assert (sheet[:, 2, 3] == 0).all()
