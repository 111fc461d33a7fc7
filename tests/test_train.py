"""The loop: its records, exact resuming after every kind of interruption, and what it refuses."""

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from alexnet import hardware, native, recipes, train
from alexnet.data import datasets
from alexnet.lrn import written_in
from alexnet.run import doctor, trackers, tracking
from alexnet.run.processes import Accord
from alexnet.run.progress import Progress
from alexnet.run.runfolder import alone_in, begin_in
from alexnet.run.session import Session
from alexnet.run.tracking import read_rows
from alexnet.use.evaluate import evaluate
from alexnet.weights.checkpoint import load_checkpoint, load_model, load_weights
from forked import Command, several
from small_run import COMMAND, MANY, SMALL, TIMES, assert_same_run, make_images, rows_without_times


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


Run = Callable[..., train.Result]


@pytest.fixture(scope="module")
def run(images: Path, tiny_network: None) -> Run:
    def run(out: Path, *, resume: bool = False, picture: bool = False, **changes: object) -> train.Result:
        recipe = recipes.quickstart(**{"data": str(images)} | SMALL | changes)
        with pytest.MonkeyPatch.context() as patch:
            if not picture:  # half of a small run's time
                patch.setattr("alexnet.report.plots.curves", lambda folder: None)
            return train.run(recipe, out=out, resume=resume, quiet=True)

    return run


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder, max_steps=6, picture=True)
    return folder


def test_a_run_folder_holds_what_it_should(whole: Path) -> None:
    assert {p.name for p in whole.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "last.ckpt",
        "best.safetensors",
        "curves.png",
        ".lock",
    }
    rows = read_rows(whole)
    assert [row["step"] for row in rows] == [2, 3, 4, 6]  # an epoch has 3 steps
    assert set(rows[1]) == {"step", "epoch", "epoch_val_acc"}
    assert (
        set(rows[0]) == {"step", "epoch", "train_loss", "train_acc", "val_loss", "val_acc", "lr", "grad_norm"} | TIMES
    )
    assert rows[0]["epoch"] == pytest.approx(2 / 3)
    assert 0 < rows[0]["data_wait_pct"] < 100
    assert rows[0]["train_acc"] in {100 * n / 16 for n in range(17)}
    assert rows[2]["train_acc"] in {100 * n / 12 for n in range(13)}  # the epoch's last batch has 4 images
    assert rows[0]["val_acc"] in {100 * n / 6 for n in range(7)}
    assert rows[3]["epoch_val_acc"] == rows[3]["val_acc"]
    config = json.loads((whole / "config.json").read_text())
    assert config["recipe"]["batch_size"] == 8
    assert (config["data"]["train"], config["data"]["val"], config["data"]["val_split"]) == (20, 6, "val")
    assert config["classes"] == ["dark", "light"]
    assert {"torch", "python"} <= set(config["versions"])
    assert (whole / "last.ckpt").stat().st_size < 480e6
    _, card = load_weights(whole / "best.safetensors")
    assert card.classes == tuple(config["classes"])
    assert card.record["best val_acc on the way, %"] == max(row["val_acc"] for row in rows if "val_acc" in row)
    record = load_model(whole).card.record
    assert (record["recipe"], record["step"], record["val_acc, %"]) == ("quickstart", 6, rows[3]["val_acc"])


def test_the_result_is_the_last_row(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "run", epochs=1)
    rows = read_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 3]
    assert result.final == rows[-1]
    assert result.best["val_acc"] == max(row["val_acc"] for row in rows)
    assert result.stopped_by is None


def test_resuming_after_max_steps_is_exact(run: Run, whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", max_steps=4)
    run(tmp_path / "run", max_steps=6, resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_a_clock_that_is_set_back_changes_nothing(
    run: Run, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(-1, -1)
    monkeypatch.setattr("time.time", lambda: 1e9 + 3600 * next(hours))
    monkeypatch.setattr("time.time_ns", lambda: 10**18 + 3600 * 10**9 * next(hours))
    run(tmp_path / "run", max_steps=4, save_every=0.0)
    run(tmp_path / "run", max_steps=6, save_every=0.0, resume=True)
    assert_same_run(tmp_path / "run", whole)
    assert all(row[name] >= 0 for row in read_rows(tmp_path / "run") for name in TIMES & row.keys())


def test_resuming_with_workers_is_exact(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "whole", max_steps=4, loader="workers")
    run(tmp_path / "parts", max_steps=2, loader="workers")
    run(tmp_path / "parts", max_steps=4, loader="workers", resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_bug_with_workers_ends_the_process(images: Path, tmp_path: Path) -> None:
    flags = ["--data", str(images), "--loader", "workers", "--out", str(tmp_path / "run")]
    command = [sys.executable, tiny.__file__, *COMMAND, *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"FAIL_AT_STEP": "2"}, timeout=200)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: a bug")


def test_a_killed_data_worker_is_one_line(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--data", str(images), "--loader", "workers", "--epochs", "100000", "--save-every", "0", "--out", str(out)]
    process = Command([*COMMAND, *flags], tmp_path / "output")
    process.wait_for(out / "last.ckpt")
    process.send_to_others(signal.SIGKILL)
    code, said = process.end()
    assert code == 1, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("alexnet: a data worker was killed"), said


def test_a_data_worker_killed_during_a_step_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is our own child, torch raises at once, wherever the loop is."""
    real = train.train_step

    def train_step(s: Session, *batch: torch.Tensor) -> torch.Tensor:
        for worker in s.batches.loader._iterator._workers:  # type: ignore[attr-defined]
            worker.kill()
            worker.join()
        return real(s, *batch)

    monkeypatch.setattr(train, "train_step", train_step)
    with pytest.raises(OSError, match=r"^a data worker was killed"):
        run(tmp_path / "run", loader="workers")


def test_max_steps_between_two_rows_adds_a_row_and_changes_nothing_else(run: Run, whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", max_steps=5)
    run(tmp_path / "run", max_steps=6, resume=True)
    rows = rows_without_times(tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 3, 4, 5, 6]
    assert [row for row in rows if row["step"] != 5] == rows_without_times(whole)


def test_a_profile_leaves_a_table_and_a_trace_and_changes_nothing(
    images: Path, tmp_path: Path, tiny_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipes.quickstart(data=str(images), **SMALL, max_steps=4)
    train.run(recipe, out=tmp_path / "plain")
    capsys.readouterr()
    train.run(recipe, out=tmp_path / "profiled", profile=2)
    said = capsys.readouterr().err
    assert "2 steps, operation by operation; the whole trace: " in said
    assert "convolution" in said
    assert json.loads((tmp_path / "profiled" / "trace.json").read_text())["traceEvents"]
    assert_same_run(tmp_path / "profiled", tmp_path / "plain")
    for steps, says in ((3, "1 step, operation by operation"), (2, "nothing to show"), (1, "nothing to show")):
        train.run(dataclasses.replace(recipe, max_steps=steps), out=tmp_path / str(steps), profile=2)
        assert says in capsys.readouterr().err
    assert not (tmp_path / "2" / "trace.json").exists()


def test_a_row_at_max_steps_picks_no_best_weights(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "run", max_steps=1)
    assert read_rows(tmp_path / "run")[-1]["step"] == 1
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_a_finished_run_says_that_nothing_is_left_and_how_to_go_on(
    run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, changes = tmp_path / "run", {"data": str(images)} | SMALL
    first = run(out, max_steps=2)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = train.run(recipes.quickstart(**changes, max_steps=2), out=out, resume=True)
    assert again.final == first.final
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert before | {"curves.png": after["curves.png"]} == after  # `run` leaves the picture out
    said = capsys.readouterr().err
    assert "is at step 2, where --max-steps ended it; to go on: --max-steps N, or --max-steps none for all 12" in said


@pytest.mark.skipif(written_in(torch.device("cpu")) != "C++", reason="needs a C++ compiler with OpenMP")
def test_a_run_that_goes_on_without_the_compiler_says_so(
    run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "run", max_steps=2)
    monkeypatch.setattr(native, "load", lambda _: None)
    train.run(recipes.quickstart(data=str(images), **SMALL, max_steps=3), out=tmp_path / "run", resume=True)
    assert "goes on with lrn torch (was C++): not bit for bit as it would have been" in capsys.readouterr().err


def test_a_resumed_run_is_of_the_same_images_wherever_they_lie(run: Run, images: Path, tmp_path: Path) -> None:
    out, moved = tmp_path / "run", tmp_path / "moved"
    run(out, max_steps=2)
    shutil.copytree(images, moved)
    run(out, max_steps=3, resume=True, data=str(moved))
    config = json.loads((out / "config.json").read_text())
    assert [part["step"] for part in config["parts"]] == [0, 2]
    assert config["started"] == config["parts"][0]["started"]
    assert {"commit", "hardware", "versions", "device", "processes"} <= set(config["parts"][1])
    first = next(moved.glob("train/dark/*.png"))
    Image.fromarray(255 - np.asarray(Image.open(first))).save(first)
    with pytest.raises(ValueError, match=rf"--data {moved}: not the images that the run in {out} began with"):
        run(out, max_steps=4, resume=True, data=str(moved))


def test_a_resumed_run_computes_in_the_same_precision(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, max_steps=2, precision="fp32", loader="resident")
    with pytest.raises(ValueError, match=r"--precision bf16: comes to bf16 here, and .* began with fp32; --precision"):
        run(out, max_steps=3, precision="bf16", resume=True)
    with pytest.raises(ValueError, match=r"--loader workers: comes to workers here, and .* began with resident"):
        run(out, max_steps=3, precision="fp32", loader="workers", resume=True)
    assert run(out, max_steps=3, precision="fp32", resume=True).final["step"] == 3


def start(out: Path, images: Path, *flags: str) -> Command:
    flags = ("--data", str(images), "--max-steps", "6", "--save-every", "0", "--out", str(out), *flags)
    return Command([*COMMAND, *flags], out.with_suffix(".output"))


def test_killed_at_any_moment_and_resumed_is_exact(images: Path, whole: Path, tmp_path: Path) -> None:
    out, codes = tmp_path / "run", []
    for attempt, delay in enumerate((0.01, 0.1, 0.3)):
        process = start(out, images, *(["--resume"] if attempt else []))
        process.wait_for(out / ("last.ckpt" if attempt else "last.ckpt.tmp"))
        time.sleep(delay)
        process.send(signal.SIGKILL)
        codes.append(process.end()[0])
        if (out / "last.ckpt").exists():
            load_checkpoint(out / "last.ckpt")  # whole, or not there
    assert -signal.SIGKILL in codes
    (out / "best.safetensors.tmp").write_text("half")  # of a file that will not be written again
    code, output = start(out, images, "--resume").end()
    assert code == 0, output
    assert_same_run(out, whole)
    assert not list(out.glob("*.tmp"))


def test_two_runs_at_once_in_one_folder(run: Run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--data", str(images), "--epochs", "100000", "--out", str(out)]
    first = Command([*COMMAND, *flags], tmp_path / "output")
    try:
        first.wait_for(out / "metrics.jsonl")
        refused = rf"^--out {re.escape(str(out))}: another run is at work in it; name another folder$"
        for resume in (False, True):
            with pytest.raises(ValueError, match=refused):
                run(out, resume=resume)
        with pytest.raises(ValueError, match=refused), begin_in(out, recipes.quickstart(), resume=True):
            pass  # the second look, once the data are read
    finally:
        first.send(signal.SIGKILL)
        first.process.join()
    with alone_in(out):  # a dead run does not hold it
        pass


class Killed(BaseException):
    pass


def kill_at(line: int) -> Callable[..., Any]:
    """A tracer that raises ``Killed`` at the ``line``-th line executed in the loop and what it calls in train.py."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        nonlocal count
        if frame.f_code.co_filename != train.__file__ or frame.f_code.co_name in ("run", "_run", "_result"):
            return None
        if event == "line":
            count += 1
            if count == line:
                raise Killed
        return trace

    return trace


def killed_at(line: int, run: Run, out: Path) -> bool:
    """Run, and be killed at that line; False where the run has fewer."""
    sys.settrace(kill_at(line))
    try:
        run(out, max_steps=4, save_every=0)
    except Killed:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.parametrize("stride", [61, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_line_of_the_loop_and_resumed_is_exact(run: Run, tmp_path: Path, stride: int) -> None:
    """Every save is whole or absent (tested below), so an exception that nothing catches stands for SIGKILL."""
    whole = tmp_path / "whole"
    run(whole, max_steps=4)
    for line in itertools.count(1, stride):
        out = tmp_path / str(line)
        if not killed_at(line, run, out):
            break
        run(out, max_steps=4, resume=True)
        assert_same_run(out, whole)
    assert line > 100


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_a_signal_and_resumed_is_exact(
    run: Run, images: Path, whole: Path, tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "run"
    process = start(out, images)
    process.wait_for(out / "last.ckpt")
    process.send(number)
    found, output = process.end()
    assert found == code, output
    assert f"alexnet train --resume --out {out}" in output
    run(out, max_steps=6, resume=True)
    assert_same_run(out, whole)


def test_the_same_seed_gives_the_same_rows_and_another_seed_does_not(run: Run, whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "same", max_steps=2)
    assert rows_without_times(tmp_path / "same") == rows_without_times(whole)[:1]
    run(tmp_path / "other", max_steps=2, seed=2)
    assert rows_without_times(tmp_path / "other") != rows_without_times(whole)[:1]


def test_the_test_images_are_opened_once_at_the_end(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = train._test
    monkeypatch.setattr(train, "_test", lambda s, stopped: (opened.append(s.progress.step), real(s, stopped))[1])
    out = tmp_path / "run"
    run(out, epochs=2, max_steps=2, **MANY)
    run(out, epochs=2, max_steps=3, resume=True, **MANY)
    assert opened == []  # the schedule has not ended
    result = run(out, epochs=2, resume=True, **MANY)
    rows = read_rows(out)
    assert opened == [4]  # 16 images left, two steps an epoch
    assert [row["step"] for row in rows if "test_acc" in row] == [4]
    assert result.final == rows[-1]
    assert rows[-1]["test_acc"] in {100 * n / 6 for n in range(7)}
    config = json.loads((out / "config.json").read_text())["data"]
    assert (config["train"], config["val"], config["val_split"], config["test"]) == (16, 4, "holdout", 6)
    assert run(out, resume=True, epochs=2, **MANY).final == rows[-1]
    assert opened == [4]
    dataset = datasets.load(str(images)).with_holdout(4)
    found = evaluate(load_model(out), dataset, "ten-crop", "test", device="cpu")  # the same by another road
    assert found["loss"] == pytest.approx(rows[-1]["test_loss"], abs=1e-4)
    assert found["top1"] == pytest.approx(rows[-1]["test_acc"])


def test_data_with_val_and_test_keep_to_them(
    run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "data")
    for name in ("dark", "light"):
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        shutil.copy(images / "val" / name / "1.png", tmp_path / "data" / "test" / name)
    recipe = recipes.quickstart(**SMALL | {"data": str(tmp_path / "data"), "epochs": 1, "holdout": 5})
    train.run(recipe, out=tmp_path / "run")
    assert "20 training and 6 validation images; 2 test images, opened at the end" in capsys.readouterr().err
    rows = read_rows(tmp_path / "run")
    assert [row["step"] for row in rows if "test_acc" in row] == [rows[-1]["step"]]
    data = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (data["train"], data["val"], data["val_split"], data["test"]) == (20, 6, "val", 2)
    run(tmp_path / "views", data=str(tmp_path / "data"), epochs=1, test_views="ten-crop")
    assert "test_acc" in read_rows(tmp_path / "views")[-1]
    with pytest.raises(ValueError, match="--test-views flip: allowed is center, unless there is a --holdout"):
        run(tmp_path / "none", test_views="flip")


def test_of_a_run_without_mirrors_no_mirrored_view_is_taken(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = train.with_views
    monkeypatch.setattr(train, "with_views", lambda *given: (seen.append(given[-1]), real(*given))[1])
    for flip in (True, False):
        run(tmp_path / str(flip), epochs=1, flip=flip, holdout=4, test_views="flip")
        assert set(seen) == {flip}
        seen.clear()


def test_a_signal_to_another_process_ends_this_one_as_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def now(self: Accord, *wishes: float) -> list[float]:  # another process has got SIGTERM after the second step
        asked.append(wishes)
        return [15.0, *wishes[1:]] if len(wishes) == 1 else [float(len(asked) > 4), *wishes[1:]]

    monkeypatch.setattr(Accord, "now", now)
    monkeypatch.setattr(train, "_log_row", lambda *_: True)
    result = run(tmp_path / "run")
    assert result.stopped_by == signal.SIGTERM
    assert load_checkpoint(tmp_path / "run" / "last.ckpt")["progress"]["step"] < 12


def test_every_part_of_a_recipe_is_resumed_exactly(run: Run, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, epochs=3, **MANY)
    for steps in (1, 4):
        run(parts, epochs=3, max_steps=steps, resume=steps > 1, **MANY)
    run(parts, epochs=3, resume=True, **MANY)
    ours, theirs = load_checkpoint(parts / "last.ckpt"), load_checkpoint(whole / "last.ckpt")
    for part in ("model", "average"):
        assert all(torch.equal(ours[part][name], theirs[part][name]) for name in ours[part])
    assert not torch.equal(ours["model"]["classifier.fc8.weight"], ours["average"]["classifier.fc8.weight"])
    for name in ("drops", "stale", "plateau_acc", "best_acc"):
        assert ours["progress"][name] == theirs["progress"][name]
    assert rows_without_times(parts)[-1] == rows_without_times(whole)[-1]
    assert torch.equal(load_model(parts).classifier.fc8.weight, ours["average"]["classifier.fc8.weight"])


def test_a_loss_that_is_not_finite_stops_the_run(run: Run, tmp_path: Path) -> None:
    with pytest.raises(train.TrainingError, match=r"NaN or infinite at step [23]; no row .* Try a lower --lr") as error:
        run(tmp_path / "run", lr=1e9, clip_norm=0.0, max_steps=5)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_last_step_that_diverges_is_no_success(run: Run, tmp_path: Path) -> None:
    """Its loss and gradient are those of the weights before it, and finite."""
    with pytest.raises(train.TrainingError, match=r"the validation loss became NaN or infinite at step 1; no row .*"):
        run(tmp_path / "run", lr=3e38, clip_norm=0.0, max_steps=1)
    assert read_rows(tmp_path / "run") == []
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_the_plateau_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parts:
        recipe = recipes.reference()
        progress = Progress(step=200, row={"train_loss": math.log(10) - 0.01})
        card = type("Card", (), {"num_classes": 10})

    said: list[str] = []
    doctor.warn_of_plateau(Parts, said.append)  # type: ignore[arg-type]
    doctor.warn_of_plateau(Parts, said.append)  # type: ignore[arg-type]
    assert len(said) == 1
    for part in ("after 200 steps", "ln 10 = 2.303", "'zero-bias'", "'imagenet'", "--input-scale raw", "--init he"):
        assert part in said[0]
    Parts.progress = Progress(step=100, row={"train_loss": 2.3})
    doctor.warn_of_plateau(Parts, said.append)  # type: ignore[arg-type]
    Parts.progress = Progress(step=200, row={"train_loss": 2.2})
    doctor.warn_of_plateau(Parts, said.append)  # type: ignore[arg-type]
    assert len(said) == 1


def test_refusals_leave_no_folder(run: Run, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    for changes, message in (
        ({"batch_size": 21}, r"--batch-size 21: .* has only 20 training images"),
        ({"data": "no-such-folder"}, "no-such-folder"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            run(out, **changes)  # type: ignore[arg-type]
    assert not out.exists()
    out.write_text("")
    with pytest.raises(ValueError, match="a file; name a run's folder"):
        run(out, resume=True)
    with pytest.raises(ValueError, match="already exists; name another, or continue the run in it with --resume"):
        run(whole)
    with pytest.raises(ValueError, match=r"was started with --lr 0.02, not 0.5"):
        run(whole, resume=True, lr=0.5)


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    monkeypatch.setattr(datasets, "load", lambda *_: pytest.fail("the data were asked for"))
    with pytest.raises(ValueError, match=r"^--tracker trackio: its package is not installed; pip install 'alexnet"):
        run(tmp_path / "run", tracker="trackio")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@pytest.mark.gpu
def test_cuda_learns_digits(tmp_path: Path) -> None:
    result = train.run(recipes.quickstart(), out=tmp_path / "run", quiet=True)
    assert result.final["val_acc"] > 85


def test_a_full_disk_is_one_line_and_loses_nothing(run: Run, whole: Path, tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: the write fails half-way with an OSError."""
    out = tmp_path / "run"
    run(out, max_steps=2)
    before = (out / "last.ckpt").read_bytes()
    flags = ["train", "--resume", "--out", str(out), "--max-steps", "3"]
    code, said = Command(flags, tmp_path / "output", FILE_SIZE_LIMIT=str(len(before) // 2)).end()
    assert code == 1
    assert "Traceback" not in said
    assert "last.ckpt" in said.splitlines()[-1]
    assert (out / "last.ckpt").read_bytes() == before
    assert not list(out.glob("*.tmp"))
    run(out, max_steps=6, resume=True)
    assert_same_run(out, whole)


def launch(processes: int, out: Path, images: Path, *flags: str, dropout: bool = False) -> list[Command]:
    """In several processes, in float32."""
    flags = ("--data", str(images), "--device", "cpu", "--precision", "fp32", "--out", str(out), *flags)
    return several(processes, [*COMMAND, *flags], out.with_suffix(".output"), NO_DROPOUT="" if dropout else "1")


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_compute_what_one_does(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """Over ten steps; an epoch's batches are of 8, 8 and 4 images, so three processes have uneven shares."""
    started = launch(processes, tmp_path / "several", images, "--max-steps", "10", "--val-every", "1")
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    run(tmp_path / "one", max_steps=10, val_every=1, precision="fp32", device="cpu")
    assert [process.end()[0] for process in started] == [0] * processes, started[0].end()
    assert json.loads((tmp_path / "several" / "config.json").read_text())["processes"] == processes
    several, one = read_rows(tmp_path / "several"), read_rows(tmp_path / "one")
    assert [row["step"] for row in several] == list(range(1, 11))
    for ours, theirs in zip(several, one, strict=True):
        assert set(ours) == set(theirs)
        for name in ("train_loss", "val_loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5), (ours["step"], name)
        for name in ("train_acc", "val_acc"):
            assert ours[name] == theirs[name]


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_resuming_several_processes_is_exact(images: Path, tmp_path: Path, processes: int) -> None:
    """Each draws its own dropout and sums up its own images; the run is left between two full rows.

    Three, to rounding: DistributedDataParallel orders its gradients anew after a start's first step, hence its sums.
    """
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def finish(started: list[Command]) -> None:
        assert [process.end()[0] for process in started] == [0] * processes, started[0].end()

    others = launch(processes, whole, images, "--max-steps", "4", dropout=True)
    finish(launch(processes, parts, images, "--max-steps", "1", dropout=True))
    finish(launch(processes, parts, images, "--max-steps", "4", "--resume", dropout=True))
    finish(others)
    if processes == 2:
        assert_same_run(parts, whole, extra_row=1)
    ours, theirs = load_checkpoint(parts / "last.ckpt"), load_checkpoint(whole / "last.ckpt")
    assert torch.equal(ours["random"]["cpu"], theirs["random"]["cpu"])
    assert len({bytes(state.numpy()) for state in ours["random"]["cpu"]}) == processes
    torch.testing.assert_close(ours["model"], theirs["model"], rtol=0, atol=1e-7)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_one_line(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    started = launch(2, out, images, "--epochs", "100000", "--save-every", "0")
    started[0].wait_for(out / "last.ckpt")
    started[1].send(signal.SIGKILL)
    code, said = started[0].end(timeout=60)
    assert code == 1
    assert "Traceback" not in said
    assert "another process of this run has ended or cannot be reached; `--resume`" in said.splitlines()[-1]
    load_checkpoint(out / "last.ckpt")


@pytest.mark.slow
def test_more_processes_than_validation_images(run: Run, tmp_path: Path, images: Path) -> None:
    few = tmp_path / "few"
    shutil.copytree(images / "train", few / "train")
    for name in ("dark", "light"):
        (few / "val" / name).mkdir(parents=True)
        shutil.copy(images / "val" / name / "0.png", few / "val" / name / "0.png")
    started = launch(3, tmp_path / "run", few, "--max-steps", "2", "--val-every", "1")
    assert [process.end()[0] for process in started] == [0, 0, 0], started[0].end()
    assert read_rows(tmp_path / "run")[-1]["val_acc"] in (0, 50, 100)


@pytest.mark.slow
def test_sigterm_to_torchrun_saves_in_time_also_in_validation(tmp_path: Path, images: Path) -> None:
    many = tmp_path / "many"
    shutil.copytree(images / "train", many / "train")
    for name in ("dark", "light"):
        (many / "val" / name).mkdir(parents=True)
        for i in range(3000):
            (many / "val" / name / f"{i}.png").hardlink_to(images / "val" / name / "0.png")
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", tiny.__file__]
    flags = ["--data", str(many), "--device", "cpu", "--out", str(out), "--val-every", "1"]
    started = subprocess.Popen([*torchrun, *COMMAND, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (out / "config.json").exists() and started.poll() is None:
        time.sleep(0.02)
    time.sleep(5)  # the first step is quick; its validation takes most of a minute
    began = time.monotonic()
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=60)
    assert time.monotonic() - began < 30
    load_checkpoint(tmp_path / "run" / "last.ckpt")


def test_compiling_that_was_to_be_and_cannot_be_is_told(
    images: Path,
    tiny_network: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hardware, "can_compile", lambda device: False)
    plain = recipes.quickstart(**{"data": str(images), "max_steps": 1, "device": "cpu"} | SMALL)
    train.run(dataclasses.replace(plain, compile=True), out=tmp_path / "run")
    assert "not compiled: what torch.compile needs was not found" in "".join(capsys.readouterr())
    assert json.loads((tmp_path / "run" / "config.json").read_text())["compiled"] is False
    train.run(plain, out=tmp_path / "plain")
    assert "not compiled" not in "".join(capsys.readouterr())


@pytest.mark.slow
def test_compiled_on_cpu(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)  # whose draws differ
    plain = run(tmp_path / "plain", max_steps=3, precision="fp32", device="cpu")
    compiled = run(tmp_path / "compiled", max_steps=3, precision="fp32", device="cpu", compile=True)
    assert json.loads((tmp_path / "compiled" / "config.json").read_text())["compiled"]
    assert compiled.final["train_loss"] == pytest.approx(plain.final["train_loss"], abs=1e-4)


def test_batches_follow_one_another_over_epochs() -> None:
    class Batches:
        steps_per_epoch = 3

        def train(self, epoch: int, start: int = 0):  # type: ignore[no-untyped-def]
            return ((epoch, place) for place in range(start, 3))

    parts = SimpleNamespace(batches=Batches(), progress=Progress(step=4))
    stream = Session.batches_from_here(parts)  # type: ignore[arg-type]
    assert list(itertools.islice(stream, 4)) == [(1, 1), (1, 2), (2, 0), (2, 1)]


def test_a_tracker_is_told_the_result_and_how_the_run_ended(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(tracking.Tracking, "finish", lambda self, *given: told.append(given))
    result = run(tmp_path / "run", max_steps=2)
    best = {"best_val_acc": result.best["val_acc"], "best_step": result.best["step"]}
    monkeypatch.setattr(train, "_loop", lambda *_: 15)
    run(tmp_path / "stopped")
    monkeypatch.setattr(train, "_loop", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "failed")
    assert told == [(result.final | best, "finished"), ({}, "stopped"), ({}, "failed")]


def test_what_has_diverged_is_not_saved(run: Run, tmp_path: Path) -> None:
    with pytest.raises(train.TrainingError):
        run(tmp_path / "run", lr=1e9, clip_norm=0.0, max_steps=5, val_every=100, save_every=0.0)
    kept = load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert all(value.isfinite().all() for value in kept["model"].values())


def test_checkpoints_are_minutes_apart(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, saved, step, save = [0.0], [], train.train_step, train._save

    def train_step(s: Session, *batch: torch.Tensor) -> torch.Tensor:
        now[0] += 40
        return step(s, *batch)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(train, "train_step", train_step)
    monkeypatch.setattr(train, "_save", lambda s: (saved.append(s.progress.step), save(s)))
    run(tmp_path / "run", max_steps=5, save_every=1.0)
    assert saved == [2, 4, 5]


def test_a_step_weighs_its_share_of_the_batch(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    for weight in (1.0, 2.0):
        monkeypatch.setattr(Session, "loss_weight", lambda self, own, weight=weight: weight)
        norms.append(run(tmp_path / str(weight), max_steps=1, precision="fp32").final["grad_norm"])
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-4)


def test_the_average_of_a_run_is_that_of_its_steps_and_what_is_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, averages = train.train_step, []

    def train_step(s: Session, *batch: torch.Tensor) -> torch.Tensor:
        if not averages:
            averages.append(s.net.classifier.fc8.weight.detach().clone())
        loss, step = real(s, *batch), len(averages)
        share = min(0.9, step / (9 + step))
        averages.append(share * averages[-1] + (1 - share) * s.net.classifier.fc8.weight.detach())
        return loss

    monkeypatch.setattr(train, "train_step", train_step)
    best = run(tmp_path / "run", max_steps=3, val_every=1, ema=0.9).best["step"]
    kept = load_checkpoint(tmp_path / "run" / "last.ckpt")
    name = "classifier.fc8.weight"
    torch.testing.assert_close(kept["average"][name], averages[3])
    assert (averages[3] - kept["model"][name]).abs().max() > 1e-5  # the test can tell
    torch.testing.assert_close(load_weights(tmp_path / "run" / "best.safetensors")[0][name], averages[best])


def test_a_run_says_that_it_stays_on_the_plateau(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        train, "warn_of_plateau", lambda s, say: asked.append((s.progress.step, s.progress.row["step"]))
    )
    run(tmp_path / "run", max_steps=4)
    assert asked == [(2, 2), (4, 4)]


def test_a_checkpoint_between_two_rows_has_no_figures_of_another_step(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_row_is_due", lambda s: s.progress.step == 2 != s.progress.logged)
    run(tmp_path / "run", max_steps=3)
    record = load_model(tmp_path / "run").card.record
    assert record["step"] == 3
    assert "val_acc, %" not in record
    _, best = load_weights(tmp_path / "run" / "best.safetensors")
    assert best.record["step"] == 2
