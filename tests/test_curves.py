"""curves.png: six labelled panels, the same bytes each time, whatever the rows."""

import json

import numpy as np
import pytest
from PIL import Image

from alexnet import curves
from alexnet.curves import draw_curves  # the real one, which conftest.py replaces

ROWS = [
    {"step": 100, "epoch": 0.5, "train_loss": 2.2, "train_acc": 15.0, "val_loss": 2.1, "val_acc": 20.0},
    {"step": 200, "epoch": 1.0, "train_loss": None, "train_acc": 30.0, "val_acc": 31.0, "epoch_val_acc": 31.0},
    {"step": 300, "epoch": 1.5, "train_loss": 1.5, "train_acc": 45.0, "val_loss": 1.6, "val_acc": 42.0},
]  # fmt: skip


def draw(folder, rows=ROWS):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return draw_curves(folder, classes=10)


def test_six_panels_have_names_values_and_chance(tmp_path, monkeypatch):
    figures = []
    save = curves.save_png
    monkeypatch.setattr(curves, "save_png", lambda figure, path: (figures.append(figure), save(figure, path))[1])
    with Image.open(draw(tmp_path / "a run")) as picture:
        assert picture.size == (1200, 760)
    axes = figures[0].axes
    names = ["train_loss", "val_loss", "step", "train_acc", "val_acc", "epoch_val_acc"]
    assert [ax.get_title("left") for ax in axes] == names
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in axes)
    assert axes[4].get_title("right") == "42.0% at step 300"
    assert axes[4].lines[-1].get_ydata()[0] == 10  # guessing among ten classes
    assert axes[0].texts[0].get_text() == "ln 10 = 2.30"
    assert np.isnan(axes[0].lines[0].get_ydata()).tolist() == [False, True, False]  # a gap
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert axes[3].get_ylim() == axes[4].get_ylim() == axes[5].get_ylim()


@pytest.mark.parametrize("rows", [[], ROWS[:1], [{"step": 1, "epoch": 0.1, "train_loss": None}]])
def test_few_rows_are_drawn(tmp_path, rows):
    assert draw(tmp_path / "run", rows).stat().st_size > 1000


def test_the_same_bytes_whatever_the_users_style_and_the_folders_name(tmp_path):
    import matplotlib

    first = draw(tmp_path / "run").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert draw(tmp_path / "run").read_bytes() == first
        assert matplotlib.rcParams["font.size"] == 30
    draw(tmp_path / "caf\udce9 $x^2")  # a name that is not valid text, and no formula
