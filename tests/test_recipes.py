"""Recipes: their values, what they refuse, and that every flag is explained."""

import dataclasses
import shlex
import subprocess
import sys

import pytest

import trials
from alexnet import flags, recipes


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


def test_paper_is_the_papers() -> None:
    recipe = recipes.paper()
    assert (recipe.variant, recipe.init, recipe.input_scale, recipe.crop) == ("paper", "source", "mean-image", "random")
    assert (recipe.batch_size, recipe.lr, recipe.momentum, recipe.weight_decay) == (128, 0.01, 0.9, 5e-4)
    assert (recipe.schedule, recipe.color_noise, recipe.test_views) == ("plateau", "eigenvalue", "ten-crop")


def test_source_is_the_released_codes_network_and_training() -> None:
    """layers-145.cfg, layer-params-145.cfg, convdata.py, convnet.py; the rates: tests/run/test_schedule.py."""
    recipe = recipes.source()
    assert (recipe.variant, recipe.init, recipe.input_scale, recipe.crop) == (
        "source",
        "source",
        "mean-image",
        "random",
    )
    assert (recipe.color_noise, round(recipe.color_noise_until * recipe.epochs)) == ("std", 67)
    assert (recipe.epochs, recipe.schedule, recipe.lr, recipe.bias_lr * recipe.lr) == (91, "source", 0.01, 0.02)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay, recipe.decay_biases) == (0.9, False, 5e-4, False)
    assert (recipe.batch_size, recipe.clip_norm, recipe.test_views) == (128, 0, "ten-crop")


def test_modern_has_the_layers_and_the_epochs_of_classic() -> None:
    classic, modern = recipes.classic(), recipes.modern()
    assert (modern.variant, modern.epochs) == (classic.variant, classic.epochs) == ("classic", 13)


def test_the_ladder_of_trials_leads_from_classic_to_modern() -> None:
    steps = dict(trials.trials())
    assert steps["classic"] == {}
    last = steps[trials.LADDER[-1][0]]
    assert recipes.classic(**last, holdout=5000, test_views="flip") == dataclasses.replace(
        recipes.modern(), name="classic"
    )
    assert all(recipes.classic(**changes) for changes in steps.values())


def test_the_published_protocol_validates_on_the_test_set_and_the_others_do_not() -> None:
    held = {name: make().holdout for name, make in recipes.RECIPES.items()}
    assert held == {
        "classic": 0, "reference": 0, "quickstart": 0, "paper": 5000, "source": 5000, "modern": 5000,
        "imagenet": 50_000,
    }  # fmt: skip


def test_every_recipe_is_valid_named_and_documented() -> None:
    for name, make in recipes.RECIPES.items():
        assert make().name == name
        assert f"alexnet train {name}" in (make.__doc__ or "")


def test_every_field_has_help() -> None:
    told = {name: recipes.field_metadata(name) for name in recipes.field_types() if name != "name"}
    assert {words["group"] for words in told.values()} == set(recipes.GROUPS)
    assert told["batch_size"]["help"].startswith("Images a step")


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
        ({"holdout": -1}, "--holdout -1: allowed is 0 or more"),
        ({"color_noise_until": 0.0}, r"--color-noise-until 0\.0: allowed is above 0, to 1"),
        ({"warmup": 13.0}, "--warmup 13.0: allowed is 0 to below --epochs 13"),
        ({"nesterov": True, "momentum": 0.0}, "--nesterov True: allowed is no, at --momentum 0"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0"),
        ({"ema": 1.0}, "--ema 1.0"),
        ({"flip": 1}, "--flip 1: allowed is bool"),
        ({"init": "hee"}, r"--init hee: allowed is one of .*did you mean he\?"),
        ({"tracker": "wnb"}, r"--tracker wnb: allowed is one of wandb, .*did you mean wandb\?"),
        ({"epoch": 3}, r"field epoch: allowed is one of .*did you mean epochs\?"),
        ({"name": "mine"}, "field name: allowed is one of data, "),
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


def test_a_command_trains_the_recipe_it_was_made_of() -> None:
    changed = recipes.modern(
        data="my images", data_dir="x", lr=0.5, nesterov=False, compile=False, max_steps=7, tracker="none", seed=3
    )
    words = shlex.split(recipes.command(changed))
    assert words[:3] == ["alexnet", "train", "modern"]
    args = flags.parse(words[1:])
    assert (
        flags.recipe_from(args.recipe, {n: v for n, v in vars(args).items() if n in recipes.field_types()}) == changed
    )
    assert recipes.command(recipes.classic()) == "alexnet train classic"
    assert recipes.command(changed, data="FOLDER") == (
        "alexnet train modern --data FOLDER --max-steps 7 --lr 0.5 --no-nesterov --tracker none --seed 3 --no-compile"
    )
