"""Every field of a recipe has its effect on a run: none is read and forgotten."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet import recipes, train
from alexnet.data import datasets
from alexnet.data.statistics import normalization
from alexnet.recipes import field_types
from alexnet.run.schedule import cosine
from alexnet.run.tracking import read_rows
from alexnet.weights.checkpoint import load_checkpoint, load_model, load_weights
from small_run import MANY, make_images

Losses = Callable[..., list[dict[str, float]]]

BASE = MANY | {
    "batch_size": 8, "epochs": 3, "lr": 0.01, "patience": 1, "test_views": "flip", "color_noise_until": 0.5,
    "input_scale": "imagenet", "init": "he", "weight_decay": 0.1, "device": "cpu", "precision": "fp32",
    "tracker": "none",
}  # fmt: skip
CHANGES: dict[str, Any] = {
    "images": 10, "holdout": 6, "input_scale": "mean-image", "crop": "random-resized", "flip": False,
    "color_noise": "eigenvalue", "color_noise_until": 1.0, "variant": "source", "init": "zero-bias",
    "epochs": 2, "batch_size": 4, "lr": 0.02, "bias_lr": 2.0, "schedule": "cosine", "warmup": 0.0, "patience": 5,
    "momentum": 0.5, "nesterov": False, "weight_decay": 5e-4, "decay_biases": True, "clip_norm": 0.01,
    "label_smoothing": 0.0, "ema": 0.0, "val_every": 2, "test_views": "center", "seed": 1, "max_steps": 3,
    "precision": "bf16",
}  # fmt: skip
WITHOUT = {"name", "data", "data_dir", "save_every", "tracker", "device", "loader", "compile", "parallel", "widths"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def losses(images: Path, tiny_network: None, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """The losses of a run's rows, its folder among the keywords or not kept."""

    def losses(folder: Path | None = None, **changes: Any) -> list[dict[str, float]]:
        recipe = recipes.classic(**BASE | {"data": str(images)} | changes)
        folder = folder or tmp_path_factory.mktemp("runs") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("alexnet.report.plots.curves", lambda folder: None)
            train.run(recipe, out=folder, quiet=True)
        return [{name: row[name] for name in row if name.endswith("loss")} for row in read_rows(folder)]

    return losses


@pytest.fixture(scope="module")
def base(losses: Losses) -> list[dict[str, float]]:
    return losses()


def test_all_fields_are_here() -> None:
    assert CHANGES.keys() | WITHOUT == field_types().keys()


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_has_an_effect(losses: Losses, base: list[dict[str, float]], field: str) -> None:
    assert losses(**{field: CHANGES[field]}) != base


def test_a_fourth_of_the_maps_is_another_network(losses: Losses) -> None:
    assert losses(variant="classic", widths="quarter") != losses(variant="classic")


def test_nothing_else_has_one(losses: Losses, base: list[dict[str, float]]) -> None:
    assert losses(save_every=0.001) == base


def test_the_rate_of_a_row_is_the_one_that_its_step_took(losses: Losses, tmp_path: Path) -> None:
    losses(tmp_path / "run", schedule="cosine", warmup=0.0)
    row, state = read_rows(tmp_path / "run")[-1], load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert row["lr"] == state["optimizer"]["param_groups"][0]["lr"] == cosine(5, 6, BASE["lr"])


def test_the_average_is_what_is_validated_and_kept(losses: Losses, images: Path, tmp_path: Path) -> None:
    rows = losses(tmp_path / "run", epochs=1, val_every=1, input_scale="mean-image")
    assert len({row["val_loss"] for row in rows}) == len(rows) == 2
    average, state = load_model(tmp_path / "run"), load_checkpoint(tmp_path / "run" / "last.ckpt")
    weights = "classifier.fc8.weight"
    assert torch.equal(average.get_parameter(weights), state["average"][weights])
    assert not torch.equal(average.get_parameter(weights), state["model"][weights])
    losses(tmp_path / "one", epochs=1, val_every=2)  # its one row is its best
    best, _ = load_weights(tmp_path / "one" / "best.safetensors")
    assert torch.equal(best[weights], load_model(tmp_path / "one").get_parameter(weights))

    dataset = datasets.load(str(images)).as_in(4, None, flip=True)
    assert average.card.normalization == normalization("mean-image", dataset.train)
    assert average.card.normalization != normalization("mean-image", dataset.val)
