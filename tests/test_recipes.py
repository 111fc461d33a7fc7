"""Recipes: their values, what they refuse, and that every field is documented."""

import dataclasses
import json
import shlex
import subprocess
import sys
from typing import Any

import pytest

from alexnet import recipes
from alexnet.recipes import FieldError, Recipe, Runtime, field_types


def test_classic_is_what_was_asked_for() -> None:
    recipe = recipes.classic()
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum) == (13, 128, 0.01, 0.9)
    assert (recipe.weight_decay, recipe.clip_norm, recipe.val_every, recipe.schedule) == (5e-4, 1.0, 100, "cosine")
    assert (recipe.input_scale, recipe.init, recipe.variant) == ("raw", "paper", "classic")
    assert recipes.runtime_for("classic").tracker == "wandb"


def test_reference_differs_only_where_the_published_run_does() -> None:
    ours, theirs = (dataclasses.asdict(make()) for make in (recipes.classic, recipes.reference))
    changed = {key: theirs[key] for key in ours if ours[key] != theirs[key]}
    assert changed == {"name": "reference", "input_scale": "imagenet", "init": "zero-bias"}


def test_paper_has_the_papers_values() -> None:
    recipe = recipes.paper()
    assert (recipe.variant, recipe.init, recipe.input_scale) == ("paper", "source", "mean-image")
    assert (recipe.batch_size, recipe.lr, recipe.momentum, recipe.weight_decay) == (128, 0.01, 0.9, 5e-4)
    assert (recipe.schedule, recipe.tta) == ("plateau", "ten-crop")
    assert recipe.augment == ("random_crop", "flip", "pca_color")


def test_source_has_the_values_of_the_released_code() -> None:
    """layers-145.cfg, layer-params-145.cfg, convdata.py, convnet.py; its rates are tested in test_train.py."""
    recipe = recipes.source()
    assert (recipe.variant, recipe.init, recipe.input_scale) == ("source", "source", "mean-image")
    assert recipe.augment == ("random_crop", "flip", "pca_color_std")
    assert round(recipe.pca_color_until * recipe.epochs) == 67
    assert (recipe.epochs, recipe.schedule, recipe.lr, recipe.bias_lr * recipe.lr) == (91, "source", 0.01, 0.02)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay, recipe.decay_biases) == (0.9, False, 5e-4, False)
    assert (recipe.batch_size, recipe.clip_norm, recipe.tta) == (128, 0, "ten-crop")


def test_modern_has_the_layers_and_the_epochs_of_classic() -> None:
    classic, modern = recipes.classic(), recipes.modern()
    assert (modern.variant, modern.epochs) == (classic.variant, classic.epochs) == ("classic", 13)


def test_only_the_published_protocol_validates_on_the_test_set() -> None:
    assert {name: make().holdout for name, make in recipes.RECIPES.items()} == {
        "classic": 0, "reference": 0, "quickstart": 0, "paper": 5000, "source": 5000, "modern": 5000,
        "sprint": 5000, "imagenet": 50_000,
    }  # fmt: skip


def test_every_recipe_and_field_is_documented() -> None:
    for name, make in recipes.RECIPES.items():
        assert make().name == name
        assert f"alexnet train {name}" in (make.__doc__ or "")
    for kind in (Recipe, Runtime):
        for field in dataclasses.fields(kind):
            assert field.name == "name" or {"group", "help"} <= set(field.metadata), field.name


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"epochs": 0}, "epochs"), ({"batch_size": 0}, "batch_size"), ({"lr": 0.0}, "lr"), ({"lr": float("nan")}, "lr"),
        ({"lr": "x"}, "lr"), ({"momentum": 1.0}, "momentum"), ({"clip_norm": -1.0}, "clip_norm"),
        ({"seed": 2**31}, "seed"), ({"epochs": 1.5}, "epochs"), ({"epochs": True}, "epochs"),
        ({"holdout": -1}, "holdout"), ({"pca_color_until": 0.0}, "pca_color_until"), ({"warmup": 13.0}, "warmup"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov"), ({"nesterov": 1}, "nesterov"), ({"ema": 1.0}, "ema"),
        ({"label_smoothing": 1.0}, "label_smoothing"), ({"init": "hee"}, "init"), ({"augment": "flip"}, "augment"),
        ({"width_mult": 0.0}, "width_mult"), ({"dropout": 1.0}, "dropout"),
        ({"muon_lr": 0.1, "schedule": "source"}, "muon_lr"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError, match=f"^{field} must be ") as error:
        recipes.classic(**changes)
    assert error.value.field == field
    assert "\n" not in str(error.value)


def test_a_misspelt_name_gets_a_suggestion() -> None:
    for changes, suggestion in (({"init": "hee"}, "he"), ({"epoch": 3}, "epochs")):
        with pytest.raises(FieldError, match=rf"did you mean {suggestion}\?"):
            recipes.classic(**changes)  # type: ignore[arg-type]
    with pytest.raises(FieldError, match="max_steps"):
        Runtime(max_steps=-1)


def test_two_recipes_are_equal_wherever_their_images_are() -> None:
    assert recipes.classic(data="here") == recipes.classic(data="there") != recipes.classic(seed=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes.classic().lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_and_its_runtime_survive_json(name: str) -> None:
    recipe, runtime = recipes.RECIPES[name](seed=3), recipes.runtime_for(name, max_steps=7)
    config = json.loads(json.dumps({"recipe": dataclasses.asdict(recipe), "runtime": dataclasses.asdict(runtime)}))
    assert recipes.recipe_from_config(config["recipe"]) == recipe
    assert recipes.runtime_from_config(config) == runtime


def test_importing_recipes_is_light() -> None:
    code = "import sys, alexnet.recipes; assert not {'torch', 'numpy', 'wandb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_of_a_recipe() -> None:
    changed = recipes.modern(data="my images", lr=0.5, nesterov=False, augment=("flip", "cutout"), images=7)
    words = shlex.split(recipes.command(changed, Runtime(compile=False, max_steps=7, tracker="none")))
    assert words == shlex.split(
        "alexnet train modern --data 'my images' --images 7 --augment flip cutout --lr 0.5 --no-nesterov "
        "--max-steps 7 --tracker none --no-compile"
    )
    assert recipes.command(recipes.quickstart()) == "alexnet train quickstart"
    assert "--data FOLDER" in recipes.command(changed, data="FOLDER")


def test_every_field_changes_the_recipe() -> None:
    """Fields are compared all alike: no list has to be kept."""
    for name in field_types(Recipe).keys() - {"data", "name"}:
        assert Recipe.__dataclass_fields__[name].compare, name
