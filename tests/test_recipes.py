"""Recipes: their values, what they refuse, and that every field is documented."""

import dataclasses
import json
import shlex

import pytest

from alexnet import recipes
from alexnet.errors import FieldError
from alexnet.recipes import Recipe, Runtime


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("classic", {"epochs": 13, "batch_size": 128, "lr": 0.01, "schedule": "cosine", "clip_norm": 1.0}),
        ("classic", {"momentum": 0.9, "weight_decay": 5e-4, "val_every": 100, "input_scale": "raw", "init": "paper"}),
        ("modern", {"epochs": 13, "variant": "classic"}),
        ("sprint", {"epochs": 1, "images": 12_000}),
        ("imagenet", {"epochs": 90}),
        ("paper", {"epochs": 60, "tta": "ten-crop"}),
        ("paper", {"batch_size": 128, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "plateau"}),
        ("paper", {"variant": "paper", "input_scale": "mean-image", "augment": ("random_crop", "flip", "pca_color")}),
        # layers-145.cfg, layer-params-145.cfg, convdata.py, convnet.py; the rates are tested in test_train.py
        ("source", {"batch_size": 128, "lr": 0.01, "bias_lr": 2.0, "momentum": 0.9, "nesterov": False}),
        ("source", {"weight_decay": 5e-4, "decay_biases": False, "clip_norm": 0.0, "epochs": 91, "schedule": "source"}),
        ("source", {"variant": "source", "init": "source", "input_scale": "mean-image", "tta": "ten-crop"}),
        ("source", {"augment": ("random_crop", "flip", "pca_color_std"), "pca_color_until": 67 / 91}),
    ],
)
def test_values_of_the_paper_and_the_released_code(name, values):
    recipe = recipes.RECIPES[name]()
    assert {field: getattr(recipe, field) for field in values} == values


def test_reference_differs_only_where_the_published_run_does():
    ours, theirs = (dataclasses.asdict(make()) for make in (recipes.classic, recipes.reference))
    changed = {key: theirs[key] for key in ours if ours[key] != theirs[key]}
    assert changed == {"name": "reference", "input_scale": "imagenet", "init": "zero-bias"}


def test_only_the_published_protocol_validates_on_the_test_set():
    assert {name: make().holdout for name, make in recipes.RECIPES.items()} == {
        "classic": 0, "reference": 0, "quickstart": 0, "paper": 5000, "source": 5000, "modern": 5000,
        "sprint": 5000, "imagenet": 50_000,
    }  # fmt: skip


def test_quickstart_has_no_tracker():
    assert recipes.runtime_for("quickstart").tracker == "none"


def test_every_recipe_and_field_is_documented():
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
        ({"width_mult": 0.0}, "width_mult"), ({"dropout": 1.0}, "dropout"), ({"images": 0}, "images"),
        ({"patience": 0}, "patience"), ({"val_every": 0}, "val_every"), ({"muon_lr": -0.1}, "muon_lr"),
        ({"weight_decay": -1.0}, "weight_decay"), ({"lr": float("inf")}, "lr"), ({"seed": -1}, "seed"),
        ({"muon_lr": 0.1, "schedule": "source"}, "muon_lr"),
        ({"dropout_ramp": True, "variant": "source"}, "dropout_ramp"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field(changes, field):
    with pytest.raises(FieldError, match=f"^{field} must be ") as error:
        recipes.classic(**changes)
    assert error.value.field == field
    assert "\n" not in str(error.value)


def test_a_misspelt_name_gets_a_suggestion():
    for changes, suggestion in (({"init": "hee"}, "he"), ({"epoch": 3}, "epochs")):
        with pytest.raises(ValueError, match=rf"did you mean {suggestion}\?"):
            recipes.classic(**changes)
    with pytest.raises(FieldError, match="max_steps"):
        Runtime(max_steps=-1)


def test_two_recipes_are_equal_wherever_their_images_are():
    assert recipes.classic(data="here") == recipes.classic(data="there") != recipes.classic(seed=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes.classic().lr = 1.0


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_and_its_runtime_survive_json(name):
    recipe, runtime = recipes.RECIPES[name](seed=3), recipes.runtime_for(name, max_steps=7)
    config = json.loads(json.dumps({"recipe": dataclasses.asdict(recipe), "runtime": dataclasses.asdict(runtime)}))
    assert recipes.recipe_from_config(config["recipe"]) == recipe
    assert recipes.runtime_from_config(config) == runtime


def test_the_command_of_a_recipe():
    changed = recipes.modern(data="my images", lr=0.5, nesterov=False, augment=("flip", "cutout"), images=7)
    words = shlex.split(recipes.command_line(changed, Runtime(compile=False, max_steps=7, tracker="none")))
    assert words == shlex.split(
        "alexnet train modern --data 'my images' --images 7 --augment flip cutout --lr 0.5 --no-nesterov "
        "--max-steps 7 --tracker none --no-compile"
    )
    assert recipes.command_line(recipes.quickstart()) == "alexnet train quickstart"
    assert "--data FOLDER" in recipes.command_line(changed, data="FOLDER")
