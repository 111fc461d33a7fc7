"""What a run records: metrics.jsonl, and each tracker's files read back with the tracker's own reader."""

import io
import json
import math
import os
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest import mock

import pytest

from alexnet import recipes, tracking
from alexnet.checkpoint import read_rows
from alexnet.errors import FieldError
from alexnet.recipes import Runtime
from alexnet.tracking import MetricsFile, ProgressBar, RunInfo, make_tracker

KEY = "0123456789" * 4  # has the form of an API key
CONFIG = {"recipe": "classic", "lr": 0.01, "data": {"classes": ["cat", "dog"]}}
ROWS = [
    {"step": 100, "epoch": 0.25, "train_loss": 2.25, "val_loss": 2.125, "val_acc": 20.5, "lr": 0.01},
    {"step": 200, "epoch": 0.5, "train_loss": 2.0, "val_loss": 1.875, "val_acc": 31.25, "lr": 0.0095},
    {"step": 200, "epoch": 0.5, "epoch_val_acc": 31.25},
    {"step": 300, "epoch": 0.75, "train_loss": 1.5, "val_loss": 1.625, "val_acc": 42.0, "lr": 0.009},
]
SUMMARY = {"val_acc": 42.0, "best_val_acc": 42.0, "best_step": 300}


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "USERPROFILE"):
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


def record(name, folder, rows=ROWS, resume_step=None, state="finished"):
    """A run's rows in the file and in a tracker; returns what was printed."""
    lines = []
    folder.mkdir(parents=True, exist_ok=True)
    file = MetricsFile(folder, resume_step)
    info = RunInfo(
        recipe=recipes.classic(), runtime=Runtime(), folder=folder, config=CONFIG, model=None, dataset=None,
        num_classes=2, total_steps=400, steps_per_epoch=400, rows=file.count, resume_step=resume_step, say=lines.append,
    )  # fmt: skip
    tracker = make_tracker(name)
    tracker.start(info)
    for row in rows:
        file.add(row)
        tracker.row(row)
    tracker.end(SUMMARY, state)
    file.close()
    return lines


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    bar = ProgressBar()
    bar.start(100, 20)
    bar.show(40, 2.0, 10.0, 64.0)
    bar.line("a row")
    assert bar.bar.n == 40
    bar.close()
    assert "40/100" in terminal.getvalue()
    assert "a row\n" in terminal.getvalue()


@pytest.mark.parametrize("stream", [SimpleNamespace(write=lambda text: None), None, "closed"])
def test_odd_streams_stop_nothing(stream, monkeypatch):
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    bar = ProgressBar()
    bar.start(10, 0)
    bar.line("a row")
    bar.close()


# --- metrics.jsonl


def test_each_row_is_in_the_file_at_once_and_nan_is_null(tmp_path):
    file = MetricsFile(tmp_path, None)
    for count, row in enumerate(ROWS, start=1):
        file.add(row)
        assert read_rows(tmp_path) == ROWS[:count]
    file.add({"step": 400, "epoch": 1.0, "train_loss": math.nan, "grad_norm": math.inf})
    file.sync()
    assert read_rows(tmp_path)[-1] == {"step": 400, "epoch": 1.0, "train_loss": None, "grad_norm": None}


def test_a_last_line_cut_by_a_kill_is_dropped(tmp_path):
    record("none", tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert read_rows(tmp_path) == ROWS[: whole[:length].count(b"\n")]
    path.write_bytes(whole + b"\0\0\0")
    assert read_rows(tmp_path) == ROWS


@pytest.mark.parametrize(
    "bad",
    ['{"step": 1', "nonsense", "[1, 2]", "3", "", "{}", '{"step": 1}', '{"step": 1.5, "epoch": 1}', "[" * 100_000],
)
def test_a_broken_line_elsewhere_is_named(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "epoch": 0.1}}\n{bad}\n{{"step": 3, "epoch": 0.3}}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_rows(tmp_path)


@pytest.mark.parametrize("at", [0, 100, 200, 300])
def test_a_resumed_file_has_the_rows_of_an_uninterrupted_one(tmp_path, at):
    record("none", tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    start = sum(len(line) for line in lines if json.loads(line)["step"] <= at)
    for more in (0, 20, 150, 600):  # bytes that were written after the checkpoint
        path.write_bytes(b"".join(lines)[: start + more])
        record("none", tmp_path, [row for row in ROWS if row["step"] > at], resume_step=at)
        assert read_rows(tmp_path) == ROWS


def test_a_failed_rewrite_leaves_the_old_file(tmp_path, monkeypatch):
    record("none", tmp_path)
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        MetricsFile(tmp_path, 200)
    assert read_rows(tmp_path) == ROWS


# --- any tracker


def broken(error):
    """A tracker that fails at every call."""
    return type("Broken", (), dict.fromkeys(("start", "row", "end"), mock.Mock(side_effect=error)))


def test_a_tracker_that_fails_is_named_once_and_costs_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "TensorBoard", broken(ConnectionError("the server\nwent away")))
    (line,) = record("tensorboard", tmp_path)
    assert line.startswith("tensorboard: the server went away")
    assert read_rows(tmp_path) == ROWS
    monkeypatch.setattr(tracking, "TensorBoard", broken(KeyboardInterrupt()))  # which must not be swallowed
    with pytest.raises(KeyboardInterrupt):
        record("tensorboard", tmp_path)


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_package_is_named(monkeypatch, name):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(FieldError, match=rf"^tracker must .*pip install '?.*{name}"):
        tracking.check_tracker(name)


# --- wandb


def wandb_records(folder):
    """The records of each part of the run in ``folder``, oldest first, as wandb's own reader prints them."""
    parts = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        parts.append([json.loads(line) for line in printed.splitlines()])
    return parts


def history(records):
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]


def test_wandb_offline_holds_the_whole_run(tmp_path, capfd):
    folder = tmp_path / "a run"
    (line,) = record("wandb", folder)
    assert line.startswith("wandb: not logged in; recording offline.")
    assert f"wandb sync '{folder / 'wandb'}'" in line
    assert capfd.readouterr() == ("", "")  # wandb itself prints nothing
    (records,) = wandb_records(folder)
    (run,) = [entry["run"] for entry in records if entry["type"] == "run"]
    assert (run["project"], run["display_name"]) == ("alexnet-2012", "a run")
    assert run["run_id"] == (folder / "wandb" / "id").read_text().strip()
    assert {key: value for key, value in run["config"]["update"].items() if key != "_wandb"} == CONFIG
    assert history(records) == ROWS
    summary = {}
    for entry in records:
        summary |= entry["summary"].get("update", {}) if entry["type"] == "summary" else {}
    assert {**SUMMARY, "state": "finished", "step": 300}.items() <= summary.items()
    assert records[-1]["exit"]["exit_code"] == 0
    assert not list(folder.glob("wandb/**/*.py"))  # no code


def test_a_resumed_wandb_run_is_the_same_run(tmp_path, monkeypatch):
    for name, value in {"MODE": "offline", "PROJECT": "mine", "ENTITY": "us", "NAME": "named"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    record("wandb", tmp_path, state="stopped")
    record("wandb", tmp_path, ROWS[3:], resume_step=200)
    before, after = wandb_records(tmp_path)
    runs = [next(entry["run"] for entry in part if entry["type"] == "run") for part in (before, after)]
    assert runs[0]["run_id"] == runs[1]["run_id"]
    assert [(run["project"], run["entity"], run["display_name"]) for run in runs] == [("mine", "us", "named")] * 2
    assert history(after) == ROWS[3:]  # the row that was logged and lost has its old place
    assert [entry["history"]["step"]["num"] for entry in after if entry["type"] == "history"] == [3]
    assert (before[-1]["exit"]["exit_code"], after[-1]["exit"]["exit_code"]) == (130, 0)
    record("wandb", tmp_path, ROWS[:1], state="failed")  # a new run in the same folder is another run
    assert (tmp_path / "wandb" / "id").read_text().strip() != runs[0]["run_id"]


@pytest.mark.parametrize("mode", ["disabled", "sometimes"])
def test_wandb_disabled_and_a_wrong_mode(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    lines = record("wandb", tmp_path)
    assert (lines == []) == (mode == "disabled")
    assert all("sometimes" in line and "\n" not in line for line in lines)
    assert read_rows(tmp_path) == ROWS


@pytest.mark.parametrize("where", ["environment", "netrc", "netrc of another host", "nowhere", "settings"])
def test_wandb_is_online_if_there_are_credentials(tmp_path, monkeypatch, where):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there: it must not be asked
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    elif where.startswith("netrc"):
        host = "127.0.0.1:9" if where == "netrc" else "elsewhere.example"
        (tmp_path / "netrc").write_text(f"machine {host}\n login user\n password {KEY}\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    elif where == "settings":
        (tmp_path / "settings").write_text("[default]\nmode = offline\n")
        monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    expected = {"environment": "online", "netrc": "online"}
    assert tracking.wandb_mode()[0] == expected.get(where, "offline")


def test_a_missing_network_falls_back_to_offline(tmp_path, monkeypatch, capfd):
    """Logged in, but the server does not answer: the same run, offline, after a short while."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(tracking, "WANDB_INIT_TIMEOUT_S", 1.0)
    began = time.monotonic()
    (line,) = record("wandb", tmp_path)
    assert time.monotonic() - began < 60
    assert line.startswith("wandb: no answer (")
    assert "\n" not in line
    assert capfd.readouterr() == ("", "")
    (records,) = wandb_records(tmp_path)
    assert history(records) == ROWS
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert KEY.encode() not in path.read_bytes(), path


def test_a_wandb_run_of_the_callers_own_is_left_alone(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    theirs = wandb.init(dir=str(tmp_path), project="theirs")
    record("wandb", tmp_path / "run")
    assert wandb.run is theirs
    theirs.log({"still": 1})
    theirs.finish()


# --- TensorBoard and the progress bar


def test_tensorboard_holds_the_rows(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record("tensorboard", tmp_path)
    # killed after step 300 and resumed from step 200: what came after is not shown twice
    record("tensorboard", tmp_path, [{**ROWS[3], "val_acc": 43.0}], resume_step=200)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    values = [(event.step, event.value) for event in events.Scalars("val_acc")]
    assert values == [(100, 20.5), (200, 31.25), (300, 43.0)]
    assert [(event.step, event.value) for event in events.Scalars("epoch_val_acc")] == [(200, 31.25)]
    assert [event.value for event in events.Scalars("summary/best_val_acc")] == [42.0]
    assert "step" not in events.Tags()["scalars"]


def test_progress_needs_no_terminal(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bar = ProgressBar()
    bar.start(100, 20)
    now[0] = 40.0
    assert bar.is_due()
    bar.show(40, 2.0, 10.0, 64.0)
    assert capsys.readouterr().err == "step 40/100  loss 2.000  acc 10.0%  64 images/s  2 min 00 s left\n"
