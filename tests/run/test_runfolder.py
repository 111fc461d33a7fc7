"""The lock of a run folder, and what may go on in it. Two whole runs in one folder are in tests/test_train.py."""

import dataclasses
import multiprocessing
import time
from pathlib import Path

import pytest

from alexnet import recipes
from alexnet.run.runfolder import (
    CONFIG,
    alone_in,
    begin_in,
    check_folder,
    continued,
    is_unused,
    read_config,
    write_config,
)


def test_processes_started_within_do_not_hold_the_lock(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        with alone_in(tmp_path):
            pass
    finally:
        worker.kill()
        worker.join()


def test_a_name_that_is_no_valid_text_is_read_as_it_was(tmp_path: Path) -> None:
    write_config(tmp_path, {"classes": ["caf\udce9", "thé"]})
    assert read_config(tmp_path)["classes"] == ["caf\udce9", "thé"]


def test_of_two_runs_that_begin_together_one_gets_the_folder(tmp_path: Path) -> None:
    out, recipe = tmp_path / "run", recipes.quickstart()
    check_folder(out, recipe, resume=False)
    out.mkdir()
    (out / CONFIG).touch()  # while the data are read, another run comes and goes
    with pytest.raises(ValueError, match="already exists"), begin_in(out, recipe, resume=False):
        pass


def test_a_folder_with_nothing_but_a_lock_is_free(tmp_path: Path) -> None:
    with alone_in(tmp_path / "run"):
        pass
    assert is_unused(tmp_path / "run")
    assert is_unused(tmp_path / "none")
    (tmp_path / "run" / CONFIG).touch()
    assert not is_unused(tmp_path / "run")


def test_the_config_is_read_as_it_was_written_whatever_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, config := {"classes": ["Straße", "犬"]})
    monkeypatch.setattr("io.text_encoding", lambda encoding, *_: encoding or "ascii")
    assert read_config(tmp_path) == config


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\N{SNOWMAN}"])
def test_a_config_that_is_no_json_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 1), ("ema", 0.9), ("holdout", 5), ("epochs", 9), ("widths", "quarter")]
)
def test_what_would_be_computed_otherwise_is_refused(tmp_path: Path, name: str, value: object) -> None:
    recipe = recipes.quickstart()
    write_config(tmp_path, {"recipe": dataclasses.asdict(recipe)})
    check_folder(tmp_path, dataclasses.replace(recipe, max_steps=7, save_every=1.0, device="cpu"), resume=True)
    with pytest.raises(ValueError, match=rf"was started with --{name} {getattr(recipe, name)}, not {value}"):
        check_folder(tmp_path, dataclasses.replace(recipe, **{name: value}), resume=True)


def test_a_run_of_a_version_with_fewer_fields_goes_on(tmp_path: Path) -> None:
    recipe = recipes.quickstart()
    older = dataclasses.asdict(recipe)
    del older["ema"], older["widths"]
    write_config(tmp_path, {"recipe": older})
    check_folder(tmp_path, recipe, resume=True)
    with pytest.raises(ValueError, match=r"was started with --ema 0\.0, not 0\.9"):
        check_folder(tmp_path, dataclasses.replace(recipe, ema=0.9), resume=True)


def test_whatever_changes_the_sums_is_told(tmp_path: Path) -> None:
    before = {"device": "cuda", "processes": 2, "compiled": True, "lrn": "torch"}
    write_config(tmp_path, {"parts": [{"step": 0} | before]})
    now = {"device": "cpu", "processes": 1, "compiled": False, "lrn": "C++"}
    fresh = {"data": {}, "precision": "fp32", "loader": "resident"}
    config, told = continued(tmp_path, fresh | {"parts": [{"step": 5} | now]})
    assert told == "device cpu (was cuda), processes 1 (was 2), compiled False (was True), lrn C++ (was torch)"
    assert [part["step"] for part in config["parts"]] == [0, 5]
    write_config(tmp_path, before)  # by a version that kept no parts
    config, told = continued(tmp_path, fresh | {"parts": [{"step": 5} | now]})
    assert config["parts"][0] == {"step": 0} | before
    assert told.startswith("device cpu (was cuda)")
