"""Every field of a recipe has its effect on a run: none is read and forgotten."""

from collections.abc import Callable

import pytest

from alexnet import load_run
from alexnet.checkpoint import load_checkpoint
from alexnet.data import datasets
from alexnet.data.normalization import make_normalization
from alexnet.recipes import Recipe, field_types
from alexnet.train import learning_rate
from runs import MANY, run_small

Losses = Callable[..., list[dict[str, float]]]

BASE = MANY | {
    "epochs": 4, "lr": 0.01, "clip_norm": 1.0, "patience": 1, "tta": "flip", "pca_color_until": 0.5,
    "input_scale": "imagenet", "init": "he", "weight_decay": 0.1, "device": "cpu", "precision": "fp32",
}  # fmt: skip
CHANGES = {
    "images": 10, "holdout": 6, "input_scale": "mean-image", "augment": ("random_resized_crop", "flip"),
    "pca_color_until": 1.0, "variant": "source", "width_mult": 1 / 8, "init": "zero-bias", "dropout": 0.2,
    "epochs": 2, "batch_size": 4, "lr": 0.02, "muon_lr": 0.01, "bias_lr": 2.0, "schedule": "cosine", "warmup": 0.0,
    "patience": 5, "momentum": 0.5, "nesterov": False, "weight_decay": 5e-4, "decay_biases": True, "clip_norm": 0.01,
    "label_smoothing": 0.0, "dropout_ramp": True, "ema": 0.0, "val_every": 1, "tta": "center", "seed": 2,
    "max_steps": 3, "precision": "bf16",
}  # fmt: skip


@pytest.fixture(scope="module")
def losses(images, tmp_path_factory):
    def losses(folder=None, **changes):
        folder = folder or tmp_path_factory.mktemp("runs") / "run"
        run_small(images, folder, **BASE | changes)
        return [{name: row[name] for name in row if name.endswith("loss")} for row in load_run(folder).rows]

    return losses


@pytest.fixture(scope="module")
def base(losses):
    return losses()


def test_all_fields_are_here():
    assert CHANGES.keys() - {"max_steps", "precision"} == field_types(Recipe).keys() - {"name", "data"}


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_has_an_effect(losses, base, field):
    assert losses(**{field: CHANGES[field]}) != base


def test_the_rate_of_a_row_is_the_one_that_its_step_took(losses, tmp_path):
    losses(tmp_path / "run", schedule="cosine", warmup=0.0)
    run, state = load_run(tmp_path / "run"), load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert run.final["lr"] == state["optimizer"]["param_groups"][0]["lr"] == learning_rate(run.recipe, run.step - 1, 2)


def test_the_input_is_normalised_by_the_training_images(losses, images, tmp_path):
    losses(tmp_path / "run", epochs=1, input_scale="mean-image")
    run = load_run(tmp_path / "run")
    info, dataset = run.model().info, datasets.load(str(images)).with_holdout(4)
    assert info is not None
    assert info.normalization == make_normalization("mean-image", dataset.train)
    assert info.normalization != make_normalization("mean-image", dataset.val)
