"""Reports: what is said of a run and of several, and pages that are valid, safe and complete."""

import base64
import io
import json
import re
from pathlib import Path

import html5lib
import pytest
import torch
from fake_runs import DATA, PART, make_run, rows
from PIL import Image

from alexnet.checkpoint import LAST, load_run, save_checkpoint
from alexnet.data.normalization import Normalization
from alexnet.model import AlexNet_2012, ModelInfo
from alexnet.tools.filters import initial_model
from alexnet.tools.report import comparison, facts, report, run
from alexnet.tools.report.comparison import compare, differences, settings_of

SVG = "{http://www.w3.org/2000/svg}svg"


def findings(*folders):
    """What `report` says of the runs, without the page."""
    runs = [load_run(folder) for folder in folders]
    if len(runs) == 1:
        return run.findings(runs[0])
    settings = settings_of(runs)
    return comparison.findings(settings, [compare(settings[0], other) for other in settings[1:]])


def parsed(page):
    """The page, if a validating parser finds no error in it and it loads nothing from elsewhere."""
    text = Path(page).read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|<link|<iframe|\bon\w+=", re.sub(r"(?s)<script type=.*", "", text))
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def embedded(tree):
    (element,) = tree.iter("script")
    assert element.get("type") == "application/json"
    return json.loads(element.text, parse_constant=pytest.fail)


def text_of(tree):
    return " ".join(" ".join(tree.find("body").itertext()).split())


# --- one run


def test_a_complete_run(tmp_path):
    folder = make_run(tmp_path / "first", 70.19, recipe={"lr": 0.03, "seed": 3})
    found = report([folder])
    assert found["out"] == str(folder / "report.html")
    final = rows(315, 70.19)[-1]
    assert found["runs"] == [{"folder": str(folder), "recipe": "quickstart", "seed": 3, "final": final}]
    assert found["findings"][0].startswith("first learned: 70.2% accuracy on the 359 validation images of digits")
    assert len(found["findings"]) == 2  # the other is the time
    assert "65.3 to 74.7%" in found["findings"][0]  # Wilson, 252 of 359
    tree = parsed(found["out"])
    text = text_of(tree)
    for part in (*found["findings"], "--lr 0.03", "abcdef012345", "Some CPU, 2 cores", "0.9 nats", "1 min 22 s"):
        assert part in text
    assert "Dotted" not in text  # which is where a run was resumed
    assert len(list(tree.iter(SVG))) == 6
    document = embedded(tree)
    assert document["findings"] == found["findings"]
    first = document["runs"][0]
    assert first["finished"]
    assert first["rows"] == rows(315, 70.19)
    assert first["changes"]["lr"] == {"run": 0.03, "recipe": 0.02}
    assert first["best_picked"] == {"val_acc": 75.19, "step": 270}
    assert first["figures"][0]["interval"] == pytest.approx([65.27, 74.69], abs=0.005)
    assert first["seconds"] == pytest.approx({"computing": 68.6, "waiting": 1.4, "validating": 10.5, "saving": 1.75})


OVERFITTING = [row | {"val_loss": loss} for row, loss in zip(rows(135, 60.0), (0.9, 0.5, 0.8), strict=True)]
AFTER_AN_EPOCH = [*rows(90, 50.0), {"step": 100, "epoch": 100 / 45, "epoch_val_acc": 80.0}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logged": OVERFITTING}, ["overfits", "step 90", "0.5 to 0.8"]),
        ({"logged": AFTER_AN_EPOCH}, ["50.0% accuracy"]),  # an epoch's end is not the result
        ({"accuracy": 11.0}, ["is not above chance", "11.0%", "10%"]),
        (
            {"accuracy": 70.0, "data": DATA | {"largest_class_pct": {"val": 69.0}}},
            ["is not above chance", "always answering the largest class gives 69%"],
        ),
        ({"steps": 90}, ["step 90 of 315", "not the final result"]),
        ({"steps": 90, "diverged": "the loss became NaN"}, ["diverged: the loss became NaN"]),
        ({"steps": 90, "max_steps": 90}, ["step 90 of 315", "max_steps"]),
        ({"logged": []}, ["not logged"]),
        ({"logged": rows(315, 70.0, train_loss=None)}, ["diverged"]),
        ({"logged": rows(315, 70.0, wait_seconds=4.0)}, ["waited for data 40%"]),
        ({"logged": rows(315, 60.0, test_acc=50.0, test_loss=1.0), "data": DATA | {"test": 100}}, ["100 test images"]),
        ({"data": DATA | {"val_split": "holdout"}}, ["359 held-out images"]),
        ({"data": DATA | {"val_split": "val (a tenth)"}}, ["359 validation images (a tenth)"]),
        ({"parts": [{"step": 0, **PART}, {"step": 60, **PART, "commit": "bbb+"}]}, ["resumed at step 60", "bbb with"]),
    ],
)
def test_findings_of_a_run(tmp_path, changes, words):
    said = " ".join(findings(make_run(tmp_path / "a", **changes)))
    assert [word for word in words if word not in said] == []


def test_the_command_keeps_a_tracker_that_is_not_the_recipes(tmp_path):
    found = make_run(tmp_path / "a", recipe={"name": "classic"})
    assert "--tracker none" in facts.command_of(load_run(found))


def test_settings_are_shown_as_they_are():
    assert [facts.shown(each) for each in (0.9999, 0.01004, 1e-3, 13)] == ["0.9999", "0.01004", "0.001", "13"]


def test_time_is_counted_once(tmp_path):
    """The row at max_steps 60 is part of the one at 90, and 0.1.0 did not store seconds."""
    logged = rows(60, 50.0) + rows(100, 50.0)[1:]
    new = make_run(tmp_path / "new", logged=logged, max_steps=100)
    rates = [{name: value for name, value in row.items() if name not in ("seconds", "wait_seconds")} for row in logged]
    old = make_run(tmp_path / "old", logged=rates, max_steps=100)
    no_waits = [{name: value for name, value in row.items() if name != "wait_seconds"} for row in logged]
    damaged = make_run(tmp_path / "damaged", logged=no_waits, max_steps=100)
    for folder, times in ((new, (3 * 9.8, 4.5)), (old, (0, 0)), (damaged, (3 * 10, 4.5))):
        spent = facts.seconds(load_run(folder))
        assert (spent["computing"], spent["validating"]) == pytest.approx(times)


def test_a_run_of_version_0_1_0(tmp_path):
    folder = make_run(tmp_path / "a", parts=None, runtime=None, total_steps=None)
    config = json.loads((folder / "config.json").read_text())
    config["recipe"] |= {"widths": "quarter", "crop": "random", "flip": True, "color_noise": "none", "max_steps": 315}
    for name in ("augment", "width_mult", "muon_lr", "dropout", "dropout_ramp"):
        del config["recipe"][name]
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    assert "complete" in findings(folder)[0]
    assert "width_mult" in text_of(parsed(report([folder])["out"]))


def test_filters_are_sorted_by_their_change(tmp_path):
    recipe = {"variant": "paper", "width_mult": 1 / 16}
    folder = make_run(tmp_path / "a", recipe=recipe, classes=["a", "b", "c"], logged=[])
    model = initial_model(load_run(folder))
    weight = model.get_parameter("features.conv1.weight")
    weight[-1] = torch.linspace(0, 1, 3 * 11 * 11).view(3, 11, 11)
    info = ModelInfo("paper", ("a", "b", "c"), Normalization((0.0,) * 3, (1.0,) * 3), "x", {}, 1 / 16)
    save_checkpoint(folder / LAST, {"model": model.state_dict()}, info)
    tree = parsed(report([folder])["out"])
    _, second = [each.get("src") for each in tree.iter("img")]  # of the two towers
    sheet = Image.open(io.BytesIO(base64.b64decode(second.partition(",")[2])))
    ramp = [sheet.getpixel((x, 0))[0] for x in range(11)]
    assert ramp == sorted(ramp)
    assert sheet.getpixel((0, 0))[:3] == (0, 85, 170)  # a ramp over three colours
    (folder / LAST).write_bytes(b"damaged")
    assert "No filters" in text_of(parsed(report([folder])["out"]))


def test_initial_model_is_the_one_that_training_starts_from(tmp_path):
    folder = make_run(tmp_path / "a", recipe={"width_mult": 1 / 16, "seed": 5})
    torch.manual_seed(5)
    model = AlexNet_2012(10, "classic", "paper", 1 / 16)
    before = torch.random.get_rng_state()
    again = initial_model(load_run(folder)).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


# --- several runs


def group(place, name, values, lr=0.01, **more):
    """Runs NAME-s0, NAME-s1, … with these accuracies."""
    return [
        make_run(place / f"{name}-s{seed}", value, recipe={"seed": seed, "lr": lr}, **more)
        for seed, value in enumerate(values)
    ]


def test_a_change_that_helps(tmp_path):
    folders = group(tmp_path, "base", [70, 71, 69]) + group(tmp_path, "new", [72, 73.5, 71], lr=0.02)
    found = report(folders)
    assert found["out"] == str(tmp_path / "report.html")
    assert found["findings"] == [
        "lr 0.02 is better than lr 0.01: 2.17 points higher (95% interval +1.45 to +2.88, paired over 3 seeds, "
        "p = 0.0059).",
        "lr 0.01: 70.0 ± 1.0% accuracy (mean ± standard deviation of 3 seeds).",
        "lr 0.02: 72.2 ± 1.3% accuracy (mean ± standard deviation of 3 seeds).",
    ]
    tree = parsed(found["out"])
    text = text_of(tree)
    assert "lr 0.01 0.02" in text
    assert all(folder.name in text for folder in folders)
    assert len(list(tree.iter(SVG))) == 4
    document = embedded(tree)
    assert document["differences"] == {"lr": [0.01, 0.02]}
    assert document["comparisons"][0]["seeds"] == [0, 1, 2]
    assert document["comparisons"][0]["difference"]["count"] == 3
    assert [setting["values"] for setting in document["settings"]] == [[70, 71, 69], [72, 73.5, 71]]


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ([68, 69, 66.9], "lr 0.02 is worse than lr 0.01: 2.03 points lower"),
        ([70.5, 70.5, 69.2], "lr 0.02 is not shown to differ from lr 0.01: 0.07 points higher"),
        ([71.1, 72, 70], "lr 0.02 is better than lr 0.01: 1.03 points higher (95% interval +0.89 to +1.18"),
        ([71, 72, 70], "No claim about lr 0.02 and lr 0.01: all their seeds differ by +1.00 points"),
        (
            [90, 91],
            "No claim about lr 0.02 and lr 0.01: a claim needs 3 seeds that each of them has finished; they share 2",
        ),
    ],
)
def test_comparisons(tmp_path, values, start):
    folders = group(tmp_path, "base", [70, 71, 69]) + group(tmp_path, "new", values, lr=0.02)
    assert findings(*folders)[0].startswith(start)


def test_runs_that_diverged_forbid_a_claim(tmp_path):
    folders = group(tmp_path, "base", [70, 71, 69]) + group(tmp_path, "new", [75, 76, 74.5], lr=0.02)
    lost = make_run(tmp_path / "lost", steps=90, recipe={"lr": 0.02, "seed": 3}, diverged="the loss became NaN")
    assert "1 of their runs diverged" in findings(*folders, lost)[0]


def test_other_training_images_do_not_hinder_a_comparison(tmp_path):
    data = [DATA | {"fingerprint": each * 16, "val_fingerprint": "0" * 16} for each in "ab"]
    folders = group(tmp_path, "base", [70, 71, 69], data=data[0])
    assert "better" in findings(*folders, *group(tmp_path, "new", [80, 81, 79.5], lr=0.02, data=data[1]))[0]
    older = group(tmp_path, "old", [80, 81, 79.5], lr=0.03, data=DATA | {"fingerprint": "a" * 16})
    assert "better" in findings(*folders, *older)[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"steps": 90}, "has finished"), ({"data": DATA | {"fingerprint": "f" * 16}}, "different images")],
)
def test_what_cannot_be_compared(tmp_path, changes, reason):
    folders = group(tmp_path, "base", [70, 71, 69]) + group(tmp_path, "new", [80, 81, 79], lr=0.02, **changes)
    said = findings(*folders)
    assert reason in said[0]
    assert ("Unfinished or diverged" in said[-1]) == (reason == "has finished")


def test_settings_and_their_labels(tmp_path):
    """What is recorded makes settings; the seed, the place of the data and the runtime do not."""
    first = make_run(tmp_path / "x" / "run")

    def labels(name, **changes):
        return [
            setting.label for setting in settings_of([load_run(first), load_run(make_run(tmp_path / name, **changes))])
        ]

    assert labels("seed", recipe={"seed": 1, "data": "/elsewhere"}, runtime={"device": "cuda"}) == ["quickstart"]
    assert labels("torch", versions={"torch": "2.16.0"}) == ["torch 2.15.0", "torch 2.16.0"]
    many = {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.001, "clip_norm": 0.0}
    assert labels("recipe", recipe={"name": "classic", **many}) == ["quickstart", "classic"]
    assert labels("folder", recipe=many) == ["run", "folder"]
    assert labels("run", recipe=many) == ["1: run", "2: run"]
    assert max(map(len, labels("n" * 250, recipe=many))) < 60
    ways = {"device": "cuda", "precision": "bf16", "loader": "workers", "compiled": True, "processes": 2, "lrn": "x"}
    for name, value in ways.items():
        runs = [load_run(first), load_run(make_run(tmp_path / f"{name}-way", **{name: value}))]
        assert list(differences([[run] for run in runs])) == [name]


def test_max_steps_makes_a_setting(tmp_path):
    runs = [load_run(make_run(tmp_path / str(steps), max_steps=steps)) for steps in (90, 180)]
    assert list(differences([[run] for run in runs])) == ["max_steps"]


def test_commits_make_settings_if_a_seed_ran_from_both(tmp_path):
    later = [{"step": 0, **PART, "commit": "fedcba987654+"}]
    both = group(tmp_path, "base", [70, 71, 69]) + group(tmp_path, "new", [72, 73, 71.1], parts=later)
    settings = settings_of([load_run(folder) for folder in both])
    assert [setting.label for setting in settings] == ["commit abcdef012345", "commit fedcba987654+"]
    assert compare(*settings)["difference"]["count"] == 3
    assert any("Uncommitted" in text for text in findings(*both))
    one = [*both[:2], make_run(tmp_path / "third", recipe={"seed": 2}, parts=later)]
    (setting,) = settings_of([load_run(folder) for folder in one])
    assert len(setting.runs) == 3
    assert any("abcdef012345, fedcba987654+" in text for text in findings(*one))


def test_a_seed_that_ran_twice_counts_once(tmp_path):
    folders = [make_run(tmp_path / name, value) for name, value in (("a", 70.0), ("b", 71.0))]
    (setting,) = settings_of([load_run(folder) for folder in (*folders, make_run(tmp_path / "c", recipe={"seed": 1}))])
    assert setting.values == [70.0, 70.0]
    assert any("seed 0 ran 2 times" in text for text in findings(*folders))


# --- pages, whatever the files say


@pytest.mark.parametrize("name", ["<script>alert(1)</script>&\"'</script><b>{{ 7 * 7 }}$5\n$6" + "x" * 300, ""])
def test_names_break_nothing(tmp_path, name):
    folder = re.sub(r"[/\n]", "_", name)[:100] or "empty"
    more = {"data": DATA | {"name": name}, "classes": [name, "b"], "commit": name}
    runs = [
        make_run(tmp_path / folder, recipe={"name": name, "data": name}, **more),
        make_run(tmp_path / "other", recipe={"init": "he", "seed": 1}, versions={"torch": name}),
    ]
    for chosen, out in ((runs[:1], "one.html"), (runs, "both.html")):
        tree = parsed(report(chosen, tmp_path / out)["out"])
        assert len(list(tree.iter("b"))) == len(list(tree.iter(SVG)))  # the title of each chart, and no other
        assert embedded(tree)["runs"][0]["config"]["data"]["name"] == name
        assert "49" not in tree.find("head/title").text


def test_runs_without_results(tmp_path):
    first = make_run(tmp_path / "a", logged=[])
    (first / "metrics.jsonl").unlink()
    second = make_run(tmp_path / "b", logged=[{"step": 4, "epoch": 0.1, "train_loss": None, "val_acc": None}])
    for chosen in ([first], [second], [first, second]):
        parsed(report(chosen, tmp_path / "x.html")["out"])
    assert facts.accuracies(load_run(first)) == []


def test_a_resumed_run_shows_where(tmp_path):
    parts = [{"step": 0, **PART, "commit": "aaa"}, {"step": 60, **PART, "commit": "bbb"}]
    text = text_of(parsed(report([make_run(tmp_path / "b", parts=parts)])["out"]))
    assert "60 2026-11-24 10:00:00+0000 bbb" in text
    assert "Dotted" in text


@pytest.mark.parametrize("out", ["x.ckpt", "gone/x.html", "folder.html"])
def test_a_wrong_out_is_refused_before_any_work(tmp_path, out):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match=f"out must .*{re.escape(out)}"):
        report([tmp_path / "gone"], tmp_path / out)


def test_wrong_folders(tmp_path):
    folder = make_run(tmp_path / "runs" / "a")
    with pytest.raises(ValueError, match="runs must be different"):
        report([folder, tmp_path / "runs" / "b" / ".." / "a"])
    with pytest.raises(ValueError, match="out must be given"):
        report([folder, make_run(tmp_path / "elsewhere" / "b")])
    with pytest.raises(FileNotFoundError, match="gone"):
        report([tmp_path / "gone"])
