"""The lock of a run folder. Two whole runs in one folder are in tests/test_train.py."""

import multiprocessing
import time
from pathlib import Path

import pytest

from alexnet import recipes
from alexnet.run.runfolder import CONFIG, alone_in, begin_in, check_folder, is_unused, read_config, write_config


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
