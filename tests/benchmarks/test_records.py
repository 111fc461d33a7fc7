"""Records, and the pages made from them."""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import accuracy
import hub
import pages
import trials
from alexnet import load_model, recipes, train
from alexnet.data import datasets
from alexnet.data.augment import AUGMENTATIONS
from alexnet.evaluate import predict
from alexnet.recipes import Runtime
from record import GrowingRecord, origin

ROOT = Path(__file__).parents[2]
RUNTIME = Runtime(tracker="none", quiet=True)


def test_a_growing_record_keeps_what_others_add_and_refuses_another_head(tmp_path):
    path = tmp_path / "trials.json"
    GrowingRecord(path, {"epochs": 1}, ("name", "seed")).add({"name": "a", "seed": 0, "commit": "old"})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"notes": "by hand"}))
    one, other = (GrowingRecord(path, {"epochs": 1}, ("name", "seed")) for _ in range(2))
    other.add({"name": "c", "seed": 0})
    one.add({"name": "b", "seed": 0, **origin()})
    stored = json.loads(path.read_text())
    assert [run["name"] for run in stored["runs"]] == ["a", "c", "b"]
    assert stored["notes"] == "by hand"
    assert stored["runs"][0] == one.find(name="a", seed=0) == {"name": "a", "seed": 0, "commit": "old"}
    assert one.find(name="a", seed=1) is None
    assert {"hardware", "versions", "commit", "date"} < set(stored["runs"][2])
    with pytest.raises(ValueError, match="epochs"):
        GrowingRecord(path, {"epochs": 2}, ("name", "seed"))
    assert json.loads(path.read_text()) == stored


@pytest.fixture(scope="module")
def full_record(tmp_path_factory):
    """The folder of a record of one full epoch, and its recipe."""
    folder = tmp_path_factory.mktemp("results")
    recipe = recipes.quickstart(images=40, epochs=1, batch_size=16, val_every=2, width_mult=1 / 16)
    accuracy.measure(recipe, RUNTIME, folder / "runs" / "full", folder / "accuracy-full.json")
    return folder, recipe


def test_a_run_becomes_a_record_once(full_record):
    folder, recipe = full_record
    path = folder / "accuracy-full.json"
    record = json.loads(path.read_text())
    assert sum(map(sum, record["confusion"])) == record["data"]["val"]
    correct = sum(row[i] for i, row in enumerate(record["confusion"]))
    assert 100 * correct / record["data"]["val"] == pytest.approx(record["final"]["val_acc"])
    assert str(folder) not in path.read_text()
    assert accuracy.measure(recipe, RUNTIME, folder / "runs" / "full", path) == record
    with pytest.raises(ValueError, match=r"accuracy-full\.json"):
        accuracy.measure(dataclasses.replace(recipe, lr=0.5), RUNTIME, folder / "runs" / "full", path)
    again = json.loads(json.dumps(accuracy.record_of(folder / "runs" / "full", notes="a remark")))
    assert again.pop("notes") == "a remark"
    assert again == record


def test_the_record_of_a_run_that_was_stopped_early_says_so(full_record, tmp_path):
    train.run(full_record[1], out=tmp_path, runtime=dataclasses.replace(RUNTIME, max_steps=2))
    assert accuracy.record_of(tmp_path)["command"].endswith(" --max-steps 2")


@pytest.mark.parametrize("script", [(accuracy, "--from", "missing", "--json", "x.json"), (hub, "missing", "out")])
def test_a_run_that_does_not_exist_is_one_line(script, monkeypatch, capsys):
    module, *words = script
    monkeypatch.setattr("sys.argv", ["script", *words])
    with pytest.raises(SystemExit, match="2"):
        module.main()
    assert "error: missing: " in capsys.readouterr().err


def test_a_record_is_shown_with_its_interval_and_its_flags(full_record, tmp_path):
    found = pages.records(full_record[0])
    (record,) = found["accuracy"]
    table = pages.accuracy_table(found["accuracy"])
    assert f"| {record['final']['val_acc']:.2f} (" in table
    assert "--width-mult 0.0625" in table
    assert "--val-every" not in table
    assert pages.machine(record) in pages.results_page(found)
    assert pages.groups([record | {"data": record["data"] | {"test": 100}}]) == []  # its test images are not evaluated
    part = record | {"final": record["final"] | {"epoch": 0.5}}
    assert pages.full_runs([part, record]) == [record]

    other = {"recipe": record["recipe"] | {"seed": 1}, "final": record["final"] | {"val_acc": 99.0}, "file": "1.json"}
    both = [record, record | other]
    assert "±" in pages.accuracy_table(both)
    for each in both:
        each["recipe"] = each["recipe"] | {"name": "classic"}
    pages.draw(found | {"accuracy": both}, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["curves.png", "thirteen-epochs.png"]


def test_a_trial_is_compared_seed_by_seed_with_the_one_it_builds_on():
    accuracies = {"classic": (50.0, 60.0), "He initialisation on standardised input": (51.0, 60.5)}
    runs = [
        {"name": name, "seed": seed, "val_acc": found, "data": {"name": "x", "train": 40, "val": 100}}
        for name, both in accuracies.items()
        for seed, found in enumerate(both)
    ]
    runs[0]["tta"] = {"flip": 50.5}
    table = pages.trials_table([{"epochs": 2, "width_mult": 0.25, "runs": runs}])
    assert "| 2 epochs of 40 images, width × 0.25 |" in table
    assert "| 55.00 ± 7.07; flip 50.50 |" in table
    assert "| 55.75 ± 6.72 (+0.75 ± 0.35) |" in table


def test_every_trial_is_a_recipe_of_its_own():
    made = {name: recipes.classic(**trials.changes_of(name)) for name in trials.TRIALS}
    for name, recipe in made.items():
        assert set(recipe.augment) <= set(AUGMENTATIONS), name
    assert len(set(made.values())) == len(made)


def test_a_trial_trains_to_the_end_without_test_images():
    recipe = recipes.quickstart(images=64, epochs=1, width_mult=1 / 16, val_every=10**9)
    dataset = dataclasses.replace(datasets.load("digits").with_holdout(100), test=None)
    found = trials.measure(recipe, dataset, ["center"])
    assert found["step"] == -(-found["data"]["train"] // recipe.batch_size)
    assert (found["data"]["val_split"], found["data"]["test"]) == ("holdout", 0)
    assert found["tta"]["center"] == pytest.approx(found["val_acc"])


def test_a_shift_by_reflection_moves_each_image():
    images = torch.arange(2 * 3 * 64 * 64.0).view(2, 3, 64, 64)
    draws = SimpleNamespace(randint=lambda high: torch.tensor([28, 0]))
    shifted = trials.reflected_shift(images.clone(), draws)
    assert torch.equal(shifted[0], images[0])
    assert torch.equal(shifted[1, :, 28:, 28:], images[1, :, :-28, :-28])
    assert torch.equal(shifted[1, :, 28:, :28], images[1, :, :-28, 1:29].flip(-1))


def test_the_bundled_network_is_the_measured_one():
    bundled = json.loads((ROOT / "results" / "accuracy-cifar10-small.json").read_text())["bundled"]
    assert hashlib.sha256((ROOT / bundled["file"]).read_bytes()).hexdigest() == bundled["sha256"]
    (answer,) = predict(load_model("cifar10-small"), [ROOT / "docs" / "cat.jpg"], device="cpu")
    assert answer.top[0][0] == "cat"


def test_a_folder_for_the_hub_loads_and_has_the_measured_number(full_record, tmp_path):
    folder, _ = full_record
    model = load_model(folder / "runs" / "full")
    hub.write_folder(model, tmp_path / "hub", folder / "accuracy-full.json")
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    (record,) = pages.records(folder)["accuracy"]
    assert pages.with_interval(record) in card
    assert load_model(tmp_path / "hub").info == model.info
    hub.write_folder(model, tmp_path / "plain", None)
    assert "`alexnet train quickstart`" in (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")
