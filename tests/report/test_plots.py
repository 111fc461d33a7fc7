"""The pictures: that they exist, hold what they should, and come out the same twice."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from alexnet.report import plots


def write(folder: Path, rows: list[dict[str, float | None]], classes: object = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if classes is not None:
        (folder / "config.json").write_text(json.dumps({"classes": classes}))
    return folder


def some_rows(count: int) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    for step in range(100, 100 * count + 1, 100):
        fall = math.exp(-step / 1000)
        rows.append({"step": step, "epoch": step / 391, "train_loss": 2.3 * fall, "train_acc": 60 - 50 * fall})
        rows[-1] |= {"val_loss": 0.3 + 2 * fall, "val_acc": 55 - 45 * fall}
        if step % 400 == 0:
            rows.append({"step": step, "epoch": step / 391, "epoch_val_acc": 55 - 45 * fall})
    return rows


def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects every text of the figures drawn from here on, for the picture itself cannot be read."""
    found: list[str] = []
    save = plots.save

    def listen(figure, path):
        written = save(figure, path)
        found.extend(
            text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()
        )
        return written

    monkeypatch.setattr(plots, "save", listen)
    return found


def test_names_that_are_no_valid_text_are_drawn(tmp_path: Path) -> None:
    classes = ["caf\udce9", "th\u00e9"]
    folder = write(tmp_path / "run\udcff", some_rows(3), classes)
    assert plots.curves(folder).stat().st_size > 1000
    assert plots.confusion([[3, 1], [0, 4]], classes, tmp_path / "confusion.png").stat().st_size > 1000


def test_curves_are_six_labelled_charts(tmp_path, monkeypatch):
    found = texts(monkeypatch)
    path = plots.curves(write(tmp_path / "a-run", some_rows(20), [str(i) for i in range(10)]))
    assert path == tmp_path / "a-run" / "curves.png"
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", (1200, 760))
        assert len(picture.convert("L").getcolors()) > 50
        assert not picture.text  # neither a time nor a version
    assert path.stat().st_size < 200_000
    for title in ("train_loss", "train_acc", "val_loss", "val_acc", "epoch_val_acc", "step", "a-run"):
        assert found.count(title) == 1
    assert found.count("top-1 accuracy (%)") == 3
    assert found.count("cross-entropy (nats)") == 2
    assert "epoch (passes over the training images)" in found
    assert found.count("ln 10 = 2.30") == 2
    assert found.count("chance 10%") == 3
    assert "0.311 at step 2,000" in found  # 2.3·e^-2
    assert "48.9% at step 2,000" in found  # 55 - 45·e^-2
    assert "no rows yet" not in found
    assert [file.name for file in path.parent.glob("*.tmp")] == []


def test_curves_of_one_row(tmp_path, monkeypatch):
    found = texts(monkeypatch)
    plots.curves(write(tmp_path, some_rows(1)))  # and no config.json
    assert found.count("no rows yet") == 1  # epoch_val_acc
    assert not [text for text in found if text.startswith(("ln ", "chance"))]
    assert "2.081 at step 100" in found


def test_curves_of_nothing_and_of_gaps(tmp_path, monkeypatch):
    found = texts(monkeypatch)
    plots.curves(write(tmp_path / "empty", []))
    assert found.count("no rows yet") == 6
    found.clear()
    broken = [{"step": 100, "train_loss": 2.0}, {"step": 200, "train_loss": None}, {"step": 300, "train_loss": 1.5}]
    plots.curves(write(tmp_path / "gaps", broken))
    assert found.count("no rows yet") == 5  # no epoch, so no step against epoch either
    assert "1.500 at step 300" in found
    plots.curves(write(tmp_path / "nan", [{"step": 100, "train_loss": None, "val_loss": None}]))


@pytest.mark.parametrize("config", [None, "{", "[]", "null", '{"classes": 10}', '{"classes": []}', "{}"])
def test_a_config_that_does_not_say_the_classes_is_tolerated(tmp_path, config):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert plots._class_count(tmp_path) is None


def test_curves_say_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError):
        plots.curves(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        plots.curves(tmp_path)


def test_the_same_bytes_twice_whatever_the_users_style(tmp_path):
    folder = write(tmp_path / "run", some_rows(30), ["a", "b"])
    first = plots.curves(folder).read_bytes()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "text.color": "green"}):
        before = matplotlib.rcParams["font.size"]
        assert plots.curves(folder).read_bytes() == first
        assert matplotlib.rcParams["font.size"] == before
    matrix = [[3, 1], [2, 4]]
    one = plots.confusion(matrix, ["a", "b"], tmp_path / "one.png").read_bytes()
    assert plots.confusion(matrix, ["a", "b"], tmp_path / "two.png").read_bytes() == one


def test_confusion_writes_counts_and_names(tmp_path, monkeypatch):
    found = texts(monkeypatch)
    matrix = [[1234, 7, 0], [0, 0, 0], [5, 0, 31]]
    path = plots.confusion(matrix, ["cat", r"$\frac$", "a very long name of a class, number 3"], tmp_path / "c.png")
    assert {"1,234", "7", "5", "31", "predicted class", "true class"} <= set(found)
    assert "0" not in [text for text in found if text not in map(str, plots._SHARES)]
    assert "1,265 of 1,277 images right (99.1%)" in found
    assert found.count(r"$\frac$") == 2
    assert found.count("a very long…number 3") == 2
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300


def test_confusion_colours_are_shares_of_a_row(tmp_path):
    """A class of 2 images that are all right is as dark as one of 2,000."""

    def darkest(matrix: list[list[int]]) -> int:
        with Image.open(plots.confusion(matrix, ["a", "b"], tmp_path / "c.png")) as picture:
            grey = picture.convert("L")
            # The lower right cell, beside its number.
            return grey.getpixel((int(grey.width * 0.6), int(grey.height * 0.75)))

    assert darkest([[2000, 0], [0, 2]]) == darkest([[2000, 0], [0, 2000]]) < 60
    assert darkest([[2000, 0], [2, 0]]) > 240


@pytest.mark.parametrize("count", [20, 21, 1000])
def test_confusion_of_many_classes(tmp_path, monkeypatch, count):
    found = texts(monkeypatch)
    matrix = [[(i * j) % 977 + 1000 if count <= 20 or i == j else 0 for j in range(count)] for i in range(count)]
    path = plots.confusion(matrix, [f"class {i}" for i in range(count)], tmp_path / "c.png")
    assert path.stat().st_size < 200_000
    assert ("1,000" in found) == (count <= 20)
    names = [text for text in found if text.startswith("class ")]
    assert 2 * 20 <= len(names) <= 2 * 50
    with Image.open(path) as picture:
        assert max(picture.size) < 1400


@pytest.mark.parametrize("matrix", [[], [[1, 2]], [[1], [2]], [[1, 2], [3, 4], [5, 6]], [[1, 2, 3], [4, 5, 6]]])
def test_confusion_refuses_another_shape(tmp_path, matrix):
    with pytest.raises(ValueError, match="2×2"):
        plots.confusion(matrix, ["a", "b"], tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []


def test_names_in_other_scripts_do_not_warn(tmp_path, recwarn):
    plots.confusion([[1, 0], [0, 1]], ["猫", "犬"], tmp_path / "c.png")
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []


def test_importing_is_light():
    program = (
        "import sys; import alexnet.report.plots, alexnet.run.tracking; print([m for m in %r if m in sys.modules])"
    )
    heavy = ("matplotlib", "numpy", "torch", "wandb", "trackio", "PIL", "tensorboard")
    result = subprocess.run([sys.executable, "-c", program % (heavy,)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
