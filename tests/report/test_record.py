"""What a run folder says, whole, unfinished, old or broken."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_runs import DATA, HARDWARE, VERSIONS, make_run, rows

from alexnet.recipes import quickstart
from alexnet.report.findings import findings
from alexnet.report.record import isolated, read


def test_a_run_at_its_end(tmp_path: Path) -> None:
    record = read(make_run(tmp_path / "a", 70.19, recipe={"seed": 3, "lr": 0.03}))
    assert record.finished
    assert (record.steps_per_epoch, record.total_steps, record.last_step) == (45, 315, 135)
    usual = quickstart()
    assert record.changes().items() >= {"max_steps": (135, None), "lr": (0.03, usual.lr), "seed": (3, 0)}.items()
    assert {"name", "batch_size", "momentum"}.isdisjoint(record.changes())
    assert re.fullmatch(r"alexnet train quickstart .*--max-steps 135 --lr 0.03 --seed 3", record.command())
    (figure,) = record.figures()
    assert (figure.name, figure.images, figure.value) == ("val_acc", "359 validation images", 70.19)
    assert figure.interval == pytest.approx((65.27, 74.69), abs=0.005)  # 252 of 359
    assert record.best == {"val_acc": 75.19, "step": 90}
    assert record.resumed_at == []
    said = findings(record)
    assert said[0].startswith(
        "At step 135 of 315, epoch 3, a is right on 70.19% of the 359 validation images of digits"
    )
    assert "--max-steps" in said[0]


def test_a_run_at_the_end_of_its_schedule(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "a", steps=315, recipe={"max_steps": None})
    assert findings(read(whole))[0].startswith("At its end (step 315 of 315, epoch 7), a is right on 70.00%")


def test_a_run_that_goes_on_is_no_result(tmp_path: Path) -> None:
    record = read(make_run(tmp_path / "a", steps=90))
    assert not record.finished
    assert "no result yet" in findings(record)[0]


def test_a_row_of_an_epochs_end_is_not_the_result(tmp_path: Path) -> None:
    logged = rows(90, 50.0)
    logged.append({"step": 100, "epoch": 100 / 45, "epoch_val_acc": 80.0})
    record = read(make_run(tmp_path / "a", logged=logged))
    assert (record.step, record.final["step"]) == (100, 90)
    assert record.best == {"val_acc": 80.0, "step": 100}
    assert findings(record)[0].startswith("At step 90 of 315")


def test_the_test_images_come_first_where_they_were_opened(tmp_path: Path) -> None:
    logged = rows(135, 60.0)
    logged[-1] |= {"test_loss": 1.0, "test_acc": 50.0}
    data = DATA | {"val_split": "holdout", "test": 100}
    record = read(make_run(tmp_path / "a", logged=logged, data=data))
    assert [figure.images for figure in record.figures()] == ["100 test images", "359 held-out images"]
    assert "right on 50.00% of the 100 test images" in findings(record)[0]


def test_how_a_split_came_about_stands_behind_it(tmp_path: Path) -> None:
    data = DATA | {"val_split": "val (a tenth of train, seed 0)"}
    (figure,) = read(make_run(tmp_path / "a", data=data)).figures()
    assert figure.images == "359 validation images (a tenth of train, seed 0)"


def test_time_is_counted_once(tmp_path: Path) -> None:
    # Windows end at the multiples of 45; the row at --max-steps 60 stood in the one of 90, and was resumed.
    logged = rows(60, 50.0) + rows(100, 50.0)[1:]
    assert [row["step"] for row in logged] == [45, 60, 90, 100]
    record = read(make_run(tmp_path / "a", logged=logged, recipe={"max_steps": 100}))
    spent = record.seconds()
    images = 2 * 1438 + 10 * 32
    assert spent["computing"] + spent["waiting"] == pytest.approx(images / 144)
    assert spent["waiting"] == pytest.approx(0.02 * images / 144)
    assert (spent["validating"], spent["saving"]) == (4.5, 0.75)


def test_rows_of_an_older_version_tell_less_of_time(tmp_path: Path) -> None:
    logged = [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows(135, 50.0)]
    assert set(read(make_run(tmp_path / "a", logged=logged)).seconds()) == {"computing", "waiting"}


def test_parts_and_what_older_configs_lack(tmp_path: Path) -> None:
    part = {"started": "x", "hardware": HARDWARE, "versions": VERSIONS, "commit": "aaa+"}
    parts = [{"step": 0, **part}, {"step": 60, **part, "hardware": {"gpu": "Some GPU"}}]
    record = read(make_run(tmp_path / "a", parts=parts))
    assert record.resumed_at == [60]
    assert [part.machine for part in record.parts] == ["Some CPU, 2 cores", "Some GPU"]
    said = findings(record)
    assert "It was resumed at step 60." in said
    assert "Its code was commit aaa and changes that were never committed." in said
    old = read(make_run(tmp_path / "old", parts=None, versions=None, commit=None, hardware=None, data=None))
    assert [part.machine for part in old.parts] == ["not recorded"]
    assert (old.total_steps, old.finished, old.seconds()["validating"]) == (None, False, 4.5)
    assert old.figures()[0].interval is None
    assert old.figures()[0].images == "validation images"


def test_what_is_said_of_learning(tmp_path: Path) -> None:
    assert any("not more than guessing" in text for text in findings(read(make_run(tmp_path / "a", 11.0))))
    assert not any("guessing" in text for text in findings(read(make_run(tmp_path / "b", 70.0))))
    logged = rows(135, 60.0)
    for row, loss in zip(logged, (0.9, 0.5, 0.8), strict=True):
        row["val_loss"] = loss
    assert any("since step 90 validation's loss has risen by 0.300" in t for t in findings(_with(tmp_path, logged)))
    for row in logged:
        row["data_wait_pct"] = 40.0
    assert any("waited for data 40%" in text for text in findings(_with(tmp_path, logged)))
    logged[-1]["train_loss"] = None
    assert "diverged" in findings(_with(tmp_path, logged))[0]


def _with(place: Path, logged: list[dict[str, Any]]) -> Any:
    return read(make_run(place / f"run-{len(list(place.iterdir()))}", logged=logged))


def test_a_folder_without_rows(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "metrics.jsonl").unlink()
    record = read(folder)
    assert (record.final, record.best, record.figures(), record.seconds()) == ({}, {}, [], {})
    assert "no row yet" in findings(record)[0]


def test_a_recipe_of_another_version(tmp_path: Path) -> None:
    record = read(make_run(tmp_path / "a", recipe={"name": "mine", "wings": 2}))
    assert record.command() is None
    assert "wings" not in record.changes()


@pytest.mark.parametrize(
    ("config", "metrics", "message"),
    [
        (None, None, "not a run folder"),
        ("{", "", "not valid JSON"),
        ("[]", "", "holds no recipe"),
        ('{"recipe": 3}', "", "holds no recipe"),
        ('{"recipe": {"seed": []}}', "", "seed"),
        ('{"recipe": {}}', "x\n", "line 1"),
        ('{"recipe": {}}', '{"step": 1}\n{"epoch": 1}\n', "line 2"),
        ('{"recipe": {}}', '{"step": 1, "val_acc": "high"}\n', "line 1"),
    ],
)
def test_broken_and_foreign_folders_are_one_line(
    tmp_path: Path, config: str | None, metrics: str | None, message: str
) -> None:
    for name, text in (("config.json", config), ("metrics.jsonl", metrics)):
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises((OSError, ValueError), match=message) as raised:
        read(tmp_path)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, message in (("gone", "no such run folder"), ("file", "a file, not a run folder")):
        with pytest.raises(FileNotFoundError, match=message):
            read(tmp_path / name)


def test_a_config_of_almost_nothing_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"recipe": {}, "data": [], "classes": 3, "parts": [7]}))
    record = read(tmp_path)
    assert (record.recipe, record.seed, record.classes, record.last_step) == ("unnamed", None, None, None)
    assert record.seconds() == {}


def test_names_from_right_to_left_stay_apart() -> None:
    assert isolated("runs") == "runs"
    assert isolated("תוצאה 1") == "\u2068תוצאה 1\u2069"
    assert isolated("a\u202eb") == "ab"
