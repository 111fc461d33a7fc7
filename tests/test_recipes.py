"""Recipes: their values, what they refuse, and that every flag is explained."""

import dataclasses
import subprocess
import sys

import pytest

from alexnet import recipes


def test_classic_is_what_was_asked_for() -> None:
    recipe = recipes.classic()
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum) == (13, 128, 0.01, 0.9)
    assert (recipe.weight_decay, recipe.clip_norm, recipe.val_every) == (5e-4, 1.0, 100)
    assert (recipe.input_scale, recipe.init, recipe.variant) == ("raw", "paper", "classic")
    assert recipe.tracker == "wandb"


def test_reference_differs_only_where_the_published_run_does() -> None:
    ours, theirs = (dataclasses.asdict(r()) for r in (recipes.classic, recipes.reference))
    changed = {key: theirs[key] for key in ours if ours[key] != theirs[key]}
    assert changed == {"name": "reference", "input_scale": "imagenet", "init": "zero-bias"}


def test_every_recipe_is_valid_named_and_documented() -> None:
    for name, make in recipes.RECIPES.items():
        assert make().name == name
        assert f"alexnet train {name}" in (make.__doc__ or "")


def test_every_field_has_help() -> None:
    docs = recipes.field_docs()
    assert set(docs) == {field.name for field in dataclasses.fields(recipes.Recipe)}
    assert docs["batch_size"].startswith("Images a step")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs 0: allowed is 1 or more"),
        ({"max_steps": -1}, "--max-steps -1: allowed is 1 or more"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"lr": 0.0}, "--lr 0.0: allowed is a positive number"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"momentum": 1.0}, "--momentum 1.0: allowed is 0 to below 1"),
        ({"clip_norm": -1.0}, "--clip-norm -1.0"),
        ({"seed": 2**31}, "--seed 2147483648"),
        ({"epochs": 1.5}, "--epochs 1.5: allowed is int"),
        ({"flip": 1}, "--flip 1: allowed is bool"),
        ({"init": "hee"}, r"--init hee: allowed is one of .*did you mean he\?"),
        ({"tracker": "wnb"}, r"--tracker wnb: allowed is one of wandb, .*did you mean wandb\?"),
        ({"epoch": 3}, r"no field 'epoch'; did you mean 'epochs'\?"),
        ({"name": "mine"}, "no field 'name'"),
    ],
)
def test_refusals_name_the_flag(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        recipes.classic(**changes)
    assert "\n" not in str(error.value)


def test_recipes_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes.classic().lr = 1.0  # type: ignore[misc]


def test_importing_recipes_is_light() -> None:
    code = "import sys, alexnet.recipes; assert not {'torch', 'numpy', 'wandb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
