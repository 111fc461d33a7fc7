"""Records: whose figures they hold, and that none passes for another's."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import accuracy
import ladder
import report
from alexnet import recipes
from record import Growing, origin

CPU = torch.device("cpu")


def test_a_run_keeps_its_own_origin_and_other_settings_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    Growing(path, {"epochs": 1}, ("name", "seed")).add({"name": "a", "seed": 0, "commit": "old"})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"notes": "by hand"}))
    again, at_once = (Growing(path, {"epochs": 1}, ("name", "seed")) for _ in range(2))
    at_once.add({"name": "c", "seed": 0})
    assert again.has(name="a", seed=0)
    assert not again.has(name="a", seed=1)
    again.add({"name": "b", "seed": 0, **origin(CPU)})
    runs = json.loads(path.read_text())["runs"]
    assert [run["name"] for run in runs] == ["a", "c", "b"]
    assert json.loads(path.read_text())["notes"] == "by hand"
    assert runs[0] == {"name": "a", "seed": 0, "commit": "old"}
    assert {"hardware", "versions", "commit", "date"} < set(runs[2])
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


def test_a_whole_run_has_an_interval_its_classes_and_its_curves(tiny_network: None, tmp_path: Path) -> None:
    recipe = recipes.quickstart(images=40, epochs=1, batch_size=16, val_every=2)
    path = accuracy.measure(recipe, tmp_path / "runs", tmp_path, "whole")
    part = accuracy.measure(dataclasses.replace(recipe, max_steps=2), tmp_path / "runs", tmp_path, "part")
    record = json.loads(path.read_text())
    right = sum(row[i] for i, row in enumerate(record["confusion"]))
    assert sum(map(sum, record["confusion"])) == 359
    assert 100 * right / 359 == pytest.approx(record["final"]["val_acc"])
    assert record["weights_sha256"] != json.loads(part.read_text())["weights_sha256"]

    found = report.records(tmp_path)
    share = record["final"]["val_acc"]
    assert f"| 1 of 1 | 1 | {share:.2f} (" in report.readme_table(found)
    assert "0.667 of 1" not in report.readme_table(found)  # the beginning of a run, while there is a whole one
    page = report.results_page(found)
    assert "0.667 of 1" in page
    assert f"| 0 | {100 * record['confusion'][0][0] / sum(record['confusion'][0]):.1f} | **" in page
    assert report.readme_curves(found["accuracy"]).endswith("here seven epochs of digits.")  # no run of classic
    for each in found["accuracy"]:
        each["recipe"]["name"] = "classic"
    assert report.shown(found["accuracy"])["file"] == path.name
    assert report.readme_curves(found["accuracy"]).endswith("here `classic` on digits, 1 epochs, seed 0.")
    report.draw(found, tmp_path)
    assert [file.name for file in tmp_path.glob("*.png")] == ["curves.png"]  # of a single run the other shows no more
    found["accuracy"].append(record | {"recipe": record["recipe"] | {"name": "modern"}, "file": "modern.json"})
    assert "(docs/thirteen-epochs.png)" in report.readme_curves(found["accuracy"])
    report.draw(found, tmp_path)
    plain = (tmp_path / "thirteen-epochs.png").read_bytes()
    found["accuracy"][-1]["recipe"]["label_smoothing"] = 0.1
    report.draw(found, tmp_path)
    assert len(plain) > 1000
    assert (tmp_path / "thirteen-epochs.png").read_bytes() != plain  # its training loss is another one, and is named so

    seed_1 = {"recipe": record["recipe"] | {"seed": 1}, "final": record["final"] | {"val_acc": 99.0}}
    found["accuracy"].append(record | seed_1 | {"file": "lucky.json"})
    assert f"with seed 0 ([{path.name}](results/{path.name})): a row a true class" in report.results_page(found)


def test_a_trial_is_compared_with_the_one_before_it_seed_by_seed() -> None:
    accuracies = {
        "classic": (50.0, 60.0),
        "He initialisation on standardised input": (51.0, 60.5),
        ladder.RUNGS[-1]: (70.0, 80.0),
        "modern, lr 0.02": (69.0, 78.0),
    }
    runs = [
        {"name": name, "seed": seed, "val_acc": found, "data": {"name": "x", "train": 40, "val": 100}, **origin(CPU)}
        for name, both in accuracies.items()
        for seed, found in enumerate(both)
    ]
    record = {"command": "c", "epochs": 2, "file": "f.json", "widths": "quarter", "runs": runs}
    shorter = record | {"epochs": 1, "runs": [runs[0] | {"views": {"ten-crop": 50.5}}]}
    page = ladder.page([record, shorter])
    assert "| with | 2 epochs of 40 images, a fourth of the maps | 1 epoch of 40 images, a fourth of the maps |" in page
    assert "| classic | 55.00 ± 7.07 | 50.00 |" in page
    assert "| He initialisation on standardised input | 55.75 ± 6.72 (+0.75 ± 0.35) | – |" in page
    assert "| lr 0.08 = `modern` | 75.00 ± 7.07 | – |" in page  # the line before it did not run
    assert "| modern, lr 0.02 | 73.50 ± 6.36 (−1.50 ± 0.71) | – |" in page
    assert "| classic | 1 epoch of 40 images, a fourth of the maps | 50.00 | 50.50 |" in page  # by ten views
    assert "2 seeds; 100 images held out, standard error of an accuracy 5.00 points or less: `c` on x" in page
