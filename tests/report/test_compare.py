"""Settings, their seeds, and when something may be claimed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_runs import DATA, VERSIONS, make_run, rows

from alexnet.report.compare import compare, differences, findings, settings_of
from alexnet.report.record import Record, read


def group(
    place: Path, name: str, values: Sequence[float], recipe: dict[str, Any] | None = None, **more: Any
) -> list[Record]:
    """Runs NAME-s0, NAME-s1, … with these accuracies."""
    return [
        read(make_run(place / f"{name}-s{seed}", value, recipe={"seed": seed, **(recipe or {})}, **more))
        for seed, value in enumerate(values)
    ]


def said(runs: list[Record]) -> list[str]:
    settings = settings_of(runs)
    return findings(settings, compare(settings))


def test_a_change_that_helps(tmp_path: Path) -> None:
    runs = group(tmp_path, "base", [70, 71, 69]) + group(tmp_path, "new", [72, 73.5, 71], {"lr": 0.02})
    settings = settings_of(runs)
    assert [setting.label for setting in settings] == ["lr 0.01", "lr 0.02"]
    assert [setting.spread() for setting in settings] == ["70.00 ± 1.00", "72.17 ± 1.26"]
    assert settings[0].spread("train_loss") == "1.000 ± 0.000"
    assert differences(settings) == {"lr": [0.01, 0.02]}
    (found,) = compare(settings)
    assert found.seeds == (0, 1, 2)
    assert found.text == (
        "lr 0.02 is better than lr 0.01: 2.17 points higher "
        "(95% interval +1.45 to +2.88, paired over 3 seeds, p = 0.0059)."
    )
    assert said(runs) == [
        found.text,
        "lr 0.01: 70.00 ± 1.00% (mean ± standard deviation, n = 3).",
        "lr 0.02: 72.17 ± 1.26% (mean ± standard deviation, n = 3).",
    ]


def test_a_change_that_harms_and_one_that_shows_nothing(tmp_path: Path) -> None:
    base = group(tmp_path, "base", [70, 71, 69])
    worse = group(tmp_path, "worse", [68, 69, 66.9], {"lr": 0.02})
    same = group(tmp_path, "same", [70.5, 70.5, 69.2], {"lr": 0.03})
    texts = [comparison.text for comparison in compare(settings_of(base + worse + same))]
    assert texts[0].startswith("lr 0.02 is worse than lr 0.01: 2.03 points lower (95% interval −2.18 to −1.89")
    assert texts[1].startswith("lr 0.03 is not shown to differ from lr 0.01: 0.07 points higher")
    assert any("one is wrong by chance" in text for text in said(base + worse + same))


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_is_claimed_of_fewer_than_three_seeds(tmp_path: Path, count: int) -> None:
    runs = group(tmp_path, "base", [50, 51][:count]) + group(tmp_path, "new", [90, 91][:count], {"lr": 0.02})
    (found,) = compare(settings_of(runs))
    assert found.difference is None
    told = "it is 40.00 points higher, one run each" if count == 1 else "its mean is 40.00 points higher, over 2 seeds"
    assert found.text.startswith(f"No claim on lr 0.02 against lr 0.01: {told}")
    assert "needs 3 seeds that both have" in found.text


def test_seeds_that_do_not_pair_are_no_claim(tmp_path: Path) -> None:
    base = group(tmp_path, "base", [70, 71, 69])
    others = [read(make_run(tmp_path / f"n{s}", 80, recipe={"seed": s, "lr": 0.02})) for s in (7, 8, 9)]
    (found,) = compare(settings_of(base + others))
    assert found.difference is None
    assert "none in common" in found.text


def test_a_change_of_the_code_is_a_setting_where_seeds_ran_from_both(tmp_path: Path) -> None:
    parts = [{"step": 0, "commit": "fedcba987654+"}, {"step": 9, "commit": "abcdef012345"}]
    runs = group(tmp_path, "base", [70, 71, 69]) + group(tmp_path, "new", [72, 73, 71.1], parts=parts)
    settings = settings_of(runs)
    assert [setting.label for setting in settings] == ["commit abcdef012345", "commit fedcba987654+"]
    assert compare(settings)[0].difference is not None
    assert any("never committed" in text for text in said(runs))


def test_seeds_of_several_commits_are_one_setting_where_none_ran_twice(tmp_path: Path) -> None:
    later = [{"step": 0, "commit": "fedcba987654"}]
    first = [read(make_run(tmp_path / f"a{s}", 70 + s, recipe={"seed": s})) for s in (0, 1)]
    third = read(make_run(tmp_path / "a2", 72, recipe={"seed": 2}, parts=later))
    new = group(tmp_path, "new", [80, 81, 82], {"lr": 0.02}, parts=later)
    settings = settings_of([*first, third, *new])
    assert [(setting.label, len(setting.runs)) for setting in settings] == [("lr 0.01", 3), ("lr 0.02", 3)]
    assert differences(settings)["commit"] == ["abcdef012345, fedcba987654", "fedcba987654"]
    told = "began from several commits (lr 0.01: abcdef012345 seeds 0, 1; fedcba987654 seed 2)"
    assert any(told in text for text in said([*first, third, *new]))


def test_runs_not_at_their_end_are_no_part_of_a_mean(tmp_path: Path) -> None:
    base = group(tmp_path, "base", [70, 71, 69])
    short = group(tmp_path, "short", [80, 80, 80], {"lr": 0.02}, steps=90)
    settings = settings_of(base + short)
    assert (settings[1].judged, settings[1].spread()) == ({}, "–")
    (found,) = compare(settings)
    assert "no run of lr 0.02 is at its end" in found.text
    assert "Not at their end, or diverged, so no part of any mean: short-s0, short-s1, short-s2." in said(base + short)


def test_what_is_recorded_beside_the_recipe_makes_a_setting(tmp_path: Path) -> None:
    def run(name: str, data: dict[str, Any], lrn: str) -> Record:
        return read(make_run(tmp_path / name, data=DATA | data, lrn=lrn))

    runs = [run("a", {}, "C++"), run("b", {}, "torch"), run("c", {"val": 7}, "C++")]
    assert differences(settings_of(runs)) == {
        "counts": [f"train {DATA['train']}, val {DATA['val']}"] * 2 + [f"train {DATA['train']}, val 7"],
        "lrn": ["C++", "torch", "C++"],
    }


@pytest.mark.parametrize(
    "data", [{"fingerprint": "f" * 16}, {"val": 300}, {"name": "other"}, {"val_split": "test", "fingerprint": "0" * 16}]
)
def test_figures_of_other_images_are_not_compared(tmp_path: Path, data: dict[str, Any]) -> None:
    runs = group(tmp_path, "base", [70, 71, 69]) + group(tmp_path, "other", [80, 81, 79], data=DATA | data)
    (found,) = compare(settings_of(runs))
    assert found.difference is None
    assert "data are not, or not known to be, the same" in found.text


def test_what_does_not_change_figures_makes_no_setting(tmp_path: Path) -> None:
    runs = [
        read(make_run(tmp_path / "a", recipe={"tracker": "wandb", "device": "cpu", "data_dir": "x"})),
        read(make_run(tmp_path / "b", recipe={"seed": 1, "save_every": 1.0, "data": "/elsewhere"})),
    ]
    (setting,) = settings_of(runs)
    assert setting.label == "quickstart"
    assert any("nothing that is compared differs" in text for text in said(runs))


def test_a_seed_that_ran_twice_counts_once(tmp_path: Path) -> None:
    runs = [read(make_run(tmp_path / name, value)) for name, value in (("a", 70.0), ("b", 71.0))]
    (setting,) = settings_of([*runs, read(make_run(tmp_path / "c", 75.0, recipe={"seed": 1}))])
    assert setting.values == [70.0, 75.0]
    assert (setting.spread("val_acc"), setting.spread()) == ("72.50 ± 3.54", "72.50 ± 3.54")
    assert any("seed 0 ran 2 times" in text for text in said(runs))


def test_labels_tell_settings_apart(tmp_path: Path) -> None:
    versions = VERSIONS | {"torch": "2.16.0"}
    many = {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.001, "clip_norm": 0.0}
    first = read(make_run(tmp_path / "x" / "run"))
    assert [s.label for s in settings_of([first, read(make_run(tmp_path / "y", versions=versions))])] == [
        "torch 2.15.0",
        "torch 2.16.0",
    ]
    recipes = [first, read(make_run(tmp_path / "z", recipe={"name": "classic", **many}))]
    assert [s.label for s in settings_of(recipes)] == ["quickstart", "classic"]
    folders = [first, read(make_run(tmp_path / "folder", recipe=many))]
    assert [s.label for s in settings_of(folders)] == ["run", "folder"]
    alike = [first, read(make_run(tmp_path / "run", recipe=many))]
    assert [s.label for s in settings_of(alike)] == ["1: run", "2: run"]
    long = [first, read(make_run(tmp_path / ("n" * 250), recipe=many))]
    assert max(len(s.label) for s in settings_of(long)) < 60


def test_a_run_that_diverged_at_its_end_is_no_part_of_a_mean(tmp_path: Path) -> None:
    logged = rows(135, 90.0)
    logged[-1]["val_loss"] = None
    runs = [read(make_run(tmp_path / f"s{seed}", 70.0 + seed, recipe={"seed": seed})) for seed in range(2)]
    runs.append(read(make_run(tmp_path / "s2", logged=logged, recipe={"seed": 2})))
    (setting,) = settings = settings_of(runs)
    assert setting.values == [70.0, 71.0]
    said = findings(settings, compare(settings))
    assert "Not at their end, or diverged, so no part of any mean: s2." in said


def test_every_way_to_compute_makes_a_setting(tmp_path: Path) -> None:
    for number, (name, value) in enumerate(
        {"device": "cuda", "precision": "bf16", "loader": "workers", "compiled": True, "processes": 2}.items()
    ):
        runs = [read(make_run(tmp_path / f"a{number}")), read(make_run(tmp_path / f"b{number}", **{name: value}))]
        assert list(differences(settings_of(runs))) == [name]
