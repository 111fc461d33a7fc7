"""The run's record: the file, and each tracker behind it read back with the tracker's own reader."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.run import trackers, tracking

KEY = "0123456789" * 4  # has the form of an API key, and opens nothing
CONFIG = {"recipe": "classic", "lr": 0.01, "epochs": 13, "data": {"classes": ["cat", "dog"]}}
ROWS: list[dict[str, float | int]] = [
    {"step": 100, "epoch": 0.25, "train_loss": 2.25, "val_loss": 2.125, "val_acc": 20.5, "lr": 0.01},
    {"step": 200, "epoch": 0.5, "train_loss": 2.0, "val_loss": 1.875, "val_acc": 31.25, "lr": 0.0095},
    {"step": 200, "epoch": 0.5, "epoch_val_acc": 31.25},
    {"step": 300, "epoch": 0.75, "train_loss": 1.5, "val_loss": 1.625, "val_acc": 42.0, "lr": 0.009},
]
SUMMARY = {"final_val_acc": 42.0, "best_val_acc": 42.0, "best_step": 300}


@pytest.fixture(autouse=True)
def a_machine_that_knows_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> Iterator[None]:
    """No credentials, no settings, no cache of the person who runs the tests."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    for name in ("HOME", "USERPROFILE", "HF_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("NETRC", str(home / "no-netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.chdir(home)
    yield
    if "wandb" in sys.modules:
        import wandb
        from wandb.sdk.lib import wbauth

        wbauth.unauthenticate_session(update_settings=False)
        wandb.teardown()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def record(name: str, folder: Path, rows=ROWS, resume_step: int | None = None, **more: Any) -> list[str]:
    """A whole run; returns what was said."""
    said: list[str] = []
    tracker = tracking.start(name, folder, CONFIG, resume_step=resume_step, say=said.append)
    print("a line of the program's own")
    for row in rows:
        tracker.log(row)
    tracker.finish(SUMMARY, **more)
    return said


class Broken:
    """A tracker whose every call fails."""

    calls = 0

    def log(self, row) -> None:
        self.calls += 1
        raise ConnectionError("the server\nwent away")

    def finish(self, summary, state) -> None:
        self.calls += 1
        raise TimeoutError


# The file.


def test_rows_are_on_disk_before_log_returns(tmp_path):
    tracker = tracking.start("none", tmp_path, CONFIG)
    for count, row in enumerate(ROWS, start=1):
        tracker.log(row)
        assert lines(tmp_path) == ROWS[:count]
    tracker.finish(SUMMARY)
    assert tracking.read_rows(tmp_path) == ROWS


def test_nan_and_infinities_are_valid_json(tmp_path):
    record("none", tmp_path, [{"step": 1, "train_loss": math.nan, "grad_norm": math.inf, "lr": -math.inf}])
    assert (
        tmp_path / "metrics.jsonl"
    ).read_text() == '{"step": 1, "train_loss": null, "grad_norm": null, "lr": null}\n'
    assert tracking.read_rows(tmp_path) == [{"step": 1, "train_loss": None, "grad_norm": None, "lr": None}]


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"step": st.integers(0, 10**6)},
            optional={"train_loss": st.floats(allow_nan=False, allow_infinity=False), "val_acc": st.floats(0, 100)},
        )
    )
)
def test_every_float_comes_back_as_it_was(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("run")
    record("none", folder, rows)
    assert tracking.read_rows(folder) == rows


def test_a_new_run_starts_an_empty_file(tmp_path):
    record("none", tmp_path)
    record("none", tmp_path, ROWS[:1])
    assert lines(tmp_path) == ROWS[:1]


def test_a_last_line_cut_by_a_kill_is_dropped(tmp_path):
    record("none", tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        ended = whole[:length].count(b"\n")
        # A line that lacks nothing but its end is whole.
        assert tracking.read_rows(tmp_path) in (ROWS[:ended], ROWS[: ended + 1])
    path.write_bytes(whole + '{"step": 400, "é'.encode()[:-1])
    assert tracking.read_rows(tmp_path) == ROWS
    path.write_bytes(whole + b"\0\0\0")
    assert tracking.read_rows(tmp_path) == ROWS


@pytest.mark.parametrize("bad", ['{"step": 1', "nonsense", "[1, 2]", "3", "", "{}", '{"step": 1.5}', "[" * 100_000])
def test_a_broken_line_elsewhere_is_named(tmp_path, bad):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a row of alexnet"):
        tracking.read_rows(tmp_path)


@pytest.mark.parametrize("value", ['"100"', "true", "[]"])
@pytest.mark.parametrize("name", ["step", "val_acc"])
def test_a_value_that_is_no_number_is_named_where_a_run_goes_on(tmp_path, name, value):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text := f'{{"step": 1}}\n{{"step": 2, "{name}": {value}}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a row of alexnet, which has a step and numbers"):
        tracking.start("none", tmp_path, CONFIG, resume_step=100)
    assert path.read_text() == text


def test_a_folder_without_a_record(tmp_path):
    with pytest.raises(FileNotFoundError):
        tracking.read_rows(tmp_path)


# Resuming.


@pytest.mark.parametrize("torn", ["", '{"step": 400, "train_l'])
def test_resuming_drops_what_came_after_the_checkpoint(tmp_path, torn):
    record("none", tmp_path / "whole")
    folder = tmp_path / "killed"
    tracker = tracking.start("none", folder, CONFIG)
    for row in ROWS:
        tracker.log({**row, "images_per_sec": 1.0})
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(torn)
    kept = (folder / "metrics.jsonl").read_text().splitlines()[:3]
    # The checkpoint was at step 200: both of its rows stay, and the row at 300 is made again.
    record("none", folder, ROWS[3:], resume_step=200)
    assert (folder / "metrics.jsonl").read_text().splitlines()[:3] == kept
    steps = [(row["step"], "val_loss" in row) for row in tracking.read_rows(folder)]
    assert steps == [(row["step"], "val_loss" in row) for row in tracking.read_rows(tmp_path / "whole")]
    assert [file.name for file in folder.iterdir()] == ["metrics.jsonl"]


@given(cut=st.integers(0, 600), at=st.sampled_from([0, 100, 200, 300, 400, 500]))
def test_killed_anywhere_and_resumed_equals_uninterrupted(tmp_path_factory, cut, at):
    rows = [{"step": step, "train_loss": 1 / step} for step in range(100, 600, 100)]
    folder = tmp_path_factory.mktemp("run")
    record("none", folder, rows)
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    # What was there when the checkpoint of step `at` was written is there still; the rest is cut anywhere.
    at_checkpoint = sum(len(line) + 1 for line in whole.split(b"\n")[: at // 100])
    path.write_bytes(whole[: max(at_checkpoint, min(cut, len(whole)))])
    record("none", folder, [row for row in rows if row["step"] > at], resume_step=at)
    assert path.read_bytes() == whole


def test_resuming_without_a_record_starts_one(tmp_path):
    record("none", tmp_path, ROWS[:1], resume_step=0)
    assert lines(tmp_path) == ROWS[:1]


def test_a_failed_rewrite_leaves_the_old_record(tmp_path, monkeypatch):
    record("none", tmp_path)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        tracking.start("none", tmp_path, CONFIG, resume_step=100)
    assert lines(tmp_path) == ROWS
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


# What goes wrong.


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_not_hidden(tmp_path, monkeypatch):
    tracker = tracking.start("none", tmp_path, CONFIG)
    tracker._stream = open("/dev/full", "w")  # noqa: SIM115, PTH123
    with pytest.raises(OSError, match="No space left"):
        tracker.log(ROWS[0])
    tracker._stream = open(os.devnull, "w")  # noqa: SIM115, PTH123
    tracker.finish({})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_does_not_keep_the_tracker_from_its_end(tmp_path):
    tracker = tracking.start("none", tmp_path, CONFIG)
    tracker._stream = open("/dev/full", "w")  # noqa: SIM115, PTH123
    tracker._tracker = broken = Broken()
    for call in (lambda: tracker.log(ROWS[0]), lambda: tracker.finish({}, "failed")):
        with pytest.raises(OSError, match="No space left"):
            call()
    assert broken.calls == 1  # the end


def test_a_tracker_that_fails_midway_is_told_once(tmp_path):
    said: list[str] = []
    tracker = tracking.start("none", tmp_path, CONFIG, say=said.append)
    broken = Broken()
    tracker.log(ROWS[0])
    tracker._name, tracker._tracker = "wandb", broken
    for row in ROWS[1:]:
        tracker.log(row)
    tracker.finish(SUMMARY)
    assert said == ["wandb: the server went away; training goes on, and metrics.jsonl has every row"]
    assert lines(tmp_path) == ROWS
    assert broken.calls == 2  # one row and the end: a tracker that is gone is not asked again for each row


def test_a_tracker_that_fails_at_the_start_is_told_once(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("x" * 1000)

    monkeypatch.setattr(tracking, "start_wandb", fail)
    said = record("wandb", tmp_path)
    assert len(said) == 1
    assert said[0].startswith("wandb: xxx")
    assert len(said[0]) < 300
    assert lines(tmp_path) == ROWS


def test_a_tracker_that_fails_at_the_end_is_told_once(tmp_path):
    said: list[str] = []
    tracker = tracking.start("none", tmp_path, CONFIG, say=said.append)
    tracker._tracker = Broken()
    tracker.finish(SUMMARY)
    tracker.finish(SUMMARY)
    assert said == ["none: TimeoutError; training goes on, and metrics.jsonl has every row"]


def test_an_interrupt_is_not_swallowed(tmp_path):
    class Interrupted(Broken):
        def log(self, row) -> None:
            raise KeyboardInterrupt

    tracker = tracking.start("none", tmp_path, CONFIG)
    tracker._tracker = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        tracker.log(ROWS[0])


def test_an_unknown_tracker_is_refused_before_anything_is_lost(tmp_path):
    record("none", tmp_path)
    with pytest.raises(ValueError, match="--tracker mlflow: allowed is one of wandb, trackio, tensorboard, none"):
        tracking.start("mlflow", tmp_path, CONFIG)
    assert lines(tmp_path) == ROWS


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_names_what_to_install(tmp_path, monkeypatch, name):
    record("none", tmp_path)
    monkeypatch.setattr(trackers, "find_spec", lambda asked: None)
    install = "wandb" if name == "wandb" else rf"'alexnet-2012\[{name}\]'"
    with pytest.raises(ValueError, match=f"^--tracker {name}: its package is not installed; pip install {install}$"):
        tracking.start(name, tmp_path, CONFIG)
    assert lines(tmp_path) == ROWS


def test_every_tracker_has_the_same_face():
    def face(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    kinds = [trackers.Nothing, trackers.Wandb, trackers.Trackio, trackers.TensorBoard]
    assert [face(kind) for kind in kinds] == [{"log", "finish"}] * 4


def test_none_says_nothing_and_leaves_only_the_file(tmp_path):
    assert record("none", tmp_path) == []
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_process_that_is_not_the_first_records_nothing(tmp_path):
    said: list[str] = []
    tracker = tracking.start(None, tmp_path / "run", CONFIG, resume_step=100, say=said.append)
    tracker.log(ROWS[0])
    tracker.finish(SUMMARY)
    assert (said, list(tmp_path.iterdir())) == ([], [])


# wandb.


def wandb_records(folder: Path) -> list[list[dict[str, Any]]]:
    """The records of each part of the run in ``folder``, oldest first, as wandb's own reader prints them."""
    parts = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        parts.append([json.loads(line) for line in printed.splitlines()])
    return parts


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in records:
        if entry["type"] == "summary":
            found |= entry["summary"].get("update", {})
    return found


def test_wandb_offline_holds_the_whole_run(tmp_path, capfd):
    folder = tmp_path / "a run"
    said = record("wandb", folder)
    place = f"'{folder / 'wandb'}'"
    assert said == [
        "wandb: not logged in, so this run is recorded offline; "
        f"send it: wandb login && wandb sync {place}; view it: wandb leet {place}"
    ]
    assert capfd.readouterr() == ("a line of the program's own\n", "")  # wandb itself says nothing
    assert lines(folder) == ROWS
    (records,) = wandb_records(folder)
    (run,) = [entry["run"] for entry in records if entry["type"] == "run"]
    assert run["project"] == "alexnet-2012"
    assert run["display_name"] == "a run"
    assert run["run_id"] == (folder / "wandb" / "id").read_text().strip()
    assert {key: value for key, value in run["config"]["update"].items() if key != "_wandb"} == CONFIG
    assert history(records) == ROWS
    assert [entry["history"]["step"]["num"] for entry in records if entry["type"] == "history"] == [0, 1, 2, 3]
    axes = [entry["metric"] for entry in records if entry["type"] == "metric"]
    assert {"glob_name": "*", "step_metric": "step"}.items() <= axes[-1].items()
    assert {**SUMMARY, "state": "finished", "step": 300, "val_acc": 42.0}.items() <= summary(records).items()
    assert records[-1]["exit"]["exit_code"] == 0
    assert "a line of the program's own" not in json.dumps(records)
    assert not list(folder.glob("wandb/**/*.py"))  # no code
    # The command in the line finds it.
    sync = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(folder / "wandb")]
    assert "Would sync 1 run" in subprocess.run(sync, capture_output=True, text=True, check=True).stderr


def test_a_resumed_wandb_run_is_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    monkeypatch.setenv("WANDB_NAME", "named")
    said = record("wandb", tmp_path, ROWS, state="stopped")
    assert said[0].startswith(
        f"wandb: wandb is set to offline, so this run is recorded offline; send it: wandb sync {tmp_path}"
    )
    record("wandb", tmp_path, ROWS[3:], resume_step=200)
    before, after = wandb_records(tmp_path)
    ids = [next(entry["run"] for entry in part if entry["type"] == "run") for part in (before, after)]
    assert ids[0]["run_id"] == ids[1]["run_id"]
    assert [(run["project"], run["entity"], run["display_name"]) for run in ids] == [("mine", "us", "named")] * 2
    assert ids[1]["resume"]
    # The row that was logged and lost is logged again in its old place.
    assert history(after) == ROWS[3:]
    assert [entry["history"]["step"]["num"] for entry in after if entry["type"] == "history"] == [3]
    assert (before[-1]["exit"]["exit_code"], after[-1]["exit"]["exit_code"]) == (130, 0)
    # A new run in the same folder is another run.
    record("wandb", tmp_path, ROWS[:1], state="failed")
    assert (tmp_path / "wandb" / "id").read_text().strip() != ids[0]["run_id"]


def test_wandb_disabled_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert record("wandb", tmp_path) == []
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert trackers.wandb_mode() == ("disabled", "WANDB_MODE=disabled")


def test_a_wrong_wandb_mode_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    (said,) = record("wandb", tmp_path)
    assert "sometimes" in said
    assert "\n" not in said
    assert lines(tmp_path) == ROWS


@pytest.mark.parametrize("where", ["environment", "netrc", "netrc of another host", "nowhere", "settings"])
def test_wandb_is_online_where_there_are_credentials(tmp_path, monkeypatch, where):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens: asking must not ask it
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    elif where.startswith("netrc"):
        host = "127.0.0.1:9" if where == "netrc" else "elsewhere.example"
        (tmp_path / "netrc").write_text(f"machine {host}\n login user\n password {KEY}\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    elif where == "settings":
        (tmp_path / "settings").write_text("[default]\nmode = offline\n")
        monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    expected = {
        "environment": ("online", "logged in"),
        "netrc": ("online", "logged in"),
        "settings": ("offline", "wandb is set to offline"),
    }
    assert trackers.wandb_mode() == expected.get(where, ("offline", "not logged in"))


def test_a_key_of_the_wrong_form_is_offline(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    mode, why = trackers.wandb_mode()
    assert mode == "offline"
    assert why.startswith("WANDB_API_KEY invalid")
    assert "short" not in why.replace("characters", "")


def test_a_missing_network_falls_back_to_offline(tmp_path, monkeypatch, capfd):
    """Logged in, but the server does not answer: the same run, offline, after a short while."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(trackers, "_WANDB_INIT_TIMEOUT", 1.0)
    began = time.monotonic()
    (said,) = record("wandb", tmp_path)
    assert time.monotonic() - began < 60
    assert said.startswith("wandb: no answer (")
    assert f"so this run is recorded offline; send it: wandb sync {tmp_path}" in said
    assert "\n" not in said
    assert KEY not in said
    assert capfd.readouterr() == ("a line of the program's own\n", "")
    (records,) = wandb_records(tmp_path)
    assert history(records) == ROWS
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert KEY.encode() not in path.read_bytes(), path


PROGRAM = """
from pathlib import Path
from alexnet.run import tracking
tracker = tracking.start("wandb", Path("run"), {"lr": 0.01})
tracker.log({"step": 1, "train_loss": 2.0})
tracker.finish({"best_val_acc": 10.0})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_wandb_never_prompts_at_a_terminal(tmp_path):
    import pty

    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    try:
        assert child.wait(timeout=120) == 0  # it would wait here for ever
    finally:
        child.kill()
    printed = os.read(ours, 65536).decode()
    os.close(ours)
    assert printed.splitlines() == [
        "wandb: not logged in, so this run is recorded offline; "
        "send it: wandb login && wandb sync run/wandb; view it: wandb leet run/wandb"
    ]


# TensorBoard and trackio.


def test_tensorboard_holds_the_rows(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said = record("tensorboard", tmp_path)
    assert said == [f"tensorboard: view it: tensorboard --logdir {tmp_path / 'tensorboard'}"]
    # Killed after step 300 and resumed from step 200: what came after is not shown twice.
    record("tensorboard", tmp_path, [{**ROWS[3], "val_acc": 43.0}], resume_step=200)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_acc")] == [
        (100, 20.5),
        (200, 31.25),
        (300, 43.0),
    ]
    assert [(event.step, event.value) for event in events.Scalars("epoch_val_acc")] == [(200, 31.25)]
    assert [event.value for event in events.Scalars("summary/best_val_acc")] == [42.0]
    assert "step" not in events.Tags()["scalars"]
    (config,) = events.Tensors("config/text_summary")[-1].tensor_proto.string_val
    assert '"recipe": "classic"' in config.decode()
    assert lines(tmp_path)[:3] == ROWS[:3]


TRACKIO = """
import json, sys
from pathlib import Path
from alexnet.run import tracking
rows, config = json.load(sys.stdin)
first, second = Path("named"), Path("other", "named")
for folder, resume_step, some in ((first, None, rows[:3]), (second, None, rows[:1]), (first, 200, rows[3:])):
    tracker = tracking.start("trackio", folder, config, resume_step=resume_step, say=lambda line: None)
    for row in some:
        tracker.log(row)
    tracker.finish({"best_val_acc": 42.0})
from trackio.sqlite_storage import SQLiteStorage
run = ("alexnet-2012", (first / "trackio" / "name").read_text().strip())
print(json.dumps([SQLiteStorage.get_runs(run[0]), SQLiteStorage.get_logs(*run), SQLiteStorage.get_run_config(*run)]))
"""


def test_trackio_holds_the_rows(tmp_path, monkeypatch):
    # In a process of its own, for trackio reads where its store is when it is imported.
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO], cwd=tmp_path, input=json.dumps([ROWS, CONFIG]), text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    names, logs, config = json.loads(done.stdout)  # so trackio's own lines are not on standard output
    assert len(names) == 2  # the resumed run is the same run, and another folder of that name another
    assert all(name.startswith("named-") for name in names)
    assert CONFIG.items() <= config.items()
    logged = [(row["step"], row["val_acc"]) for row in logs if "val_acc" in row]
    assert logged == [(100, 20.5), (200, 31.25), (300, 42.0)]
    assert [row["step"] for row in logs if "epoch_val_acc" in row] == [200]
    assert {row["summary/best_val_acc"] for row in logs if "summary/best_val_acc" in row} == {42.0}
    assert (tmp_path / "store").is_dir()
    shutil.rmtree(tmp_path / "store")


@pytest.mark.parametrize(("state", "code"), [("finished", 0), ("stopped", 130), ("failed", 1)])
def test_wandb_is_told_how_a_run_ended(state: Any, code: int) -> None:
    ended: list[int] = []
    run = SimpleNamespace(
        summary={}, finish=lambda exit_code: ended.append(exit_code), define_metric=lambda *_, **__: None
    )
    trackers.Wandb(run, 0).finish({"best_step": 3}, state)
    assert (run.summary, ended) == ({"best_step": 3, "state": state}, [code])


@pytest.mark.parametrize("own", [None, SimpleNamespace(offline=False)])
def test_a_wandb_run_of_the_callers_own_is_left_alone(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, own: Any) -> None:
    import wandb

    asked: list[Any] = []

    def init(mode: str, **options: Any) -> Any:
        asked.append((mode, options["reinit"], options["id"], options["allow_val_change"]))
        if mode == "online":
            raise TimeoutError
        return SimpleNamespace(define_metric=lambda *_, **__: None)

    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    monkeypatch.setattr(trackers, "wandb_mode", lambda: ("online", "logged in"))
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "run", own)
    with monkeypatch.context() as patch:
        patch.setattr(wandb, "teardown", lambda: asked.append("teardown"))
        trackers.start_wandb(tmp_path, {}, resume=False, first=0, say=lambda _: None)
    tried = [(mode, "create_new", "mine", True) for mode in ("online", "offline")]
    assert asked == (tried if own else [tried[0], "teardown", tried[1]])
    assert trackers._kept(tmp_path / "wandb" / "id", True, "another") == "mine"
