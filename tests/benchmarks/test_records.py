"""Records: whose figures they hold, and that none passes for another's."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import accuracy
from alexnet import recipes
from record import Growing, origin

CPU = torch.device("cpu")


def test_a_run_keeps_its_own_origin_and_other_settings_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    Growing(path, {"epochs": 1}, ("name", "seed")).add({"name": "a", "seed": 0, "commit": "old"})
    again = Growing(path, {"epochs": 1}, ("name", "seed"))
    assert again.has(name="a", seed=0)
    assert not again.has(name="a", seed=1)
    again.add({"name": "b", "seed": 0, **origin(CPU)})
    runs = json.loads(path.read_text())["runs"]
    assert runs[0] == {"name": "a", "seed": 0, "commit": "old"}
    assert {"hardware", "versions", "commit", "date"} < set(runs[1])
    with pytest.raises(ValueError, match=r"its runs have another epochs; name another file"):
        Growing(path, {"epochs": 2}, ("name", "seed"))
    assert json.loads(path.read_text())["runs"] == runs


def test_a_label_is_of_one_recipe(tiny_network: None, tmp_path: Path) -> None:
    recipe = recipes.quickstart(batch_size=16, max_steps=2, val_every=2)
    path = accuracy.measure(recipe, tmp_path / "runs", tmp_path, "label")
    record = json.loads(path.read_text())
    assert (record["final"]["step"], record["recipe"]["max_steps"], record["parts"][0]["step"]) == (2, 2, 0)
    assert str(tmp_path) not in path.read_text()
    assert accuracy.measure(recipe, tmp_path / "runs", tmp_path, "label") == path
    with pytest.raises(ValueError, match=r"accuracy-quickstart-label-s0.json: a run with another lr; choose another"):
        accuracy.measure(dataclasses.replace(recipe, lr=0.5), tmp_path / "runs", tmp_path, "label")
