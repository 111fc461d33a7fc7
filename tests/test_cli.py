"""The command line: its arguments and help, what it refuses, what it prints, and its exit codes."""

import contextlib
import dataclasses
import errno
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from PIL import Image

from alexnet import __version__, load_model
from alexnet.cli import COMMANDS, RENAMED, main, parse
from alexnet.errors import FieldError
from alexnet.recipes import RECIPES, Recipe, Runtime, choices_of, field_types
from alexnet.train import Result, TrainingError

SMALL = ["--batch-size", "8", "--val-every", "2", "--tracker", "none", "--width-mult", "0.0625"]
FIELDS = {name: hint for kind in (Recipe, Runtime) for name, hint in field_types(kind).items() if name != "name"}


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A run of two steps, and the document that the command printed."""
    out = tmp_path_factory.mktemp("runs") / "my run"
    words = ["train", "--data", str(images), *SMALL, "--out", str(out), "--max-steps", "2", "--lr", "0.001", "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(words) == 0
    return SimpleNamespace(out=out, document=json.loads(printed.getvalue()))


def refused(argv, capsys, code=2):
    """The one line of a command that has to fail."""
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"alexnet: .+\n", err), err
    return err


def documented(argv, capsys, code=0):
    """The document of a command with ``--json``, which must be all that it prints to standard output."""
    capsys.readouterr()
    assert main([*argv, "--json"]) == code
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


# --- help


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys; from alexnet.cli import main; main(['train', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "torchvision", "matplotlib", "PIL", "wandb", "accelerate", "sklearn", "datasets", "tqdm"}
    assert not heavy & set(done.stdout.splitlines()[-1].split())


def test_overview_and_version(capsys):
    for argv in ([], ["--help"], ["-h"]):
        assert main(argv) == 0
        text = capsys.readouterr().out
        assert all(re.search(rf"^  {command} +[A-Z]", text, re.MULTILINE) for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"alexnet {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example_that_parses(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text
    parse(shlex.split(re.findall(rf"example:\n  alexnet ({command}.*)$", text, re.MULTILINE)[0]))


def test_train_help_has_every_field_in_its_group_and_every_recipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    groups = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", text, re.MULTILINE))
    for field in (*dataclasses.fields(Recipe), *dataclasses.fields(Runtime)):
        if field.name != "name":
            flag, group = f"--{field.name.replace('_', '-')}", groups[field.metadata["group"]]
            assert re.search(rf"^  {flag}\b.*\n?.*{re.escape(field.metadata['help'])}", group, re.MULTILINE)
    assert re.search(r"--epochs N .* \(default 13\)$", text, re.MULTILINE)
    recipes = text.split("differences from classic:\n")[1]
    assert all(re.search(rf"^  {name} ", recipes, re.MULTILINE) for name in RECIPES)
    for line in re.findall(r"^ {14}(--.*)$", recipes, re.MULTILINE):
        parse(["train", *shlex.split(line)])


# --- arguments


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_a_flag_and_only_given_fields_are_set(name):
    flag, kind = f"--{name.replace('_', '-')}", Recipe if name in field_types(Recipe) else Runtime
    if choices := choices_of(FIELDS[name]):
        words, value = [flag, choices[-1]], choices[-1]
    elif "bool" in str(FIELDS[name]):
        value = not getattr(kind(), name)
        words = [flag if value else f"--no-{flag[2:]}"]
    elif name == "augment":
        words, value = [flag, "flip", "cutout"], ["flip", "cutout"]
    else:
        word = "x" if FIELDS[name] is str else "0.5" if "float" in str(FIELDS[name]) else "7"
        words, value = [f"{flag}={word}"], {"x": "x", "0.5": 0.5, "7": 7}[word]
    given = {key: each for key, each in vars(parse(["train", *words])).items() if key in FIELDS}
    assert given == {name: value}
    assert type(given[name]) is type(value)
    kind(**given)


def test_special_values():
    args = parse(shlex.split("train paper --max-steps None --dropout none --lr -1e-3 --seed -1 --no-nesterov"))
    assert (args.recipe, args.max_steps, args.dropout, args.lr, args.seed) == ("paper", None, None, -1e-3, -1)
    assert args.nesterov is False
    assert parse(["train", "--augment"]).augment == []
    args = parse(["predict", "runs/x", "--top-k", "3", "a.png", "b.png", "--", "-c.png"])
    assert (args.run, args.images, args.top_k) == ("runs/x", ["a.png", "b.png", "-c.png"], 3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("trian", "trian train"),
        ("train clasic", "recipe classic paper modern 'clasic'"),
        ("train digits", "recipe 'digits' --data"),
        ("train paper runs/x", "runs/x"),
        ("train --epoch 3", "--epoch --epochs"),
        ("train --epochs ten", "--epochs whole 'ten'"),
        ("train --epochs", "--epochs"),
        ("train --lr fast", "--lr number 'fast'"),
        ("train --lr -1e-3", "--lr positive -0.001"),
        ("train --batch-size=", "--batch-size whole ''"),
        ("train --max-steps 1.5", "--max-steps whole none '1.5'"),
        ("train --init papr", "--init paper he 'papr' mean"),
        ("train --name x", "--name"),
        ("train --resume --out runs/none", "--resume runs/none"),
        ("evaluate", "RUN"),
        ("evaluate x --tta tencrop", "--tta center ten-crop 'tencrop' mean"),
        ("evaluate cifar10-small --data none", "--data"),
        ("evaluate x --out x.pdf", "--out .png 'x.pdf'"),
        ("predict --topk 3 x y", "--topk --top-k"),
        ("predict x", "image"),
        ("explain --layer conv3", "--layer --channel"),
        ("export x --format onnx", "--out"),
        ("convert x", "OUT"),
        ("doctor --recipe clasic", "--recipe classic 'clasic'"),
        ("reproduce figur-1", "experiment figure-1"),
        ("reproduce figure-1 --seeds 0", "--seeds 1 0"),
    ],
)
def test_wrong_usage_is_one_line(argv, words, capsys, tmp_path):
    with contextlib.chdir(tmp_path):
        line = refused(argv.split(), capsys)
    assert set(words.split()) <= set(re.split(r"[\s,;:?()]+", line)), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("old", RENAMED)
def test_flags_of_0_1_0_are_refused_with_the_new_one(old, capsys):
    command = "evaluate" if old == "--views" else "export" if "format" in old else "train"
    for words in (old.split(), [old.replace(" ", "=")]):
        line = refused([command, "x", *words], capsys)
        assert old in line
        new = re.findall(r"--[\w-]+", line.replace(old, ""))[0]
        assert main([command, "--help"]) == 0
        assert f"{new} " in capsys.readouterr().out


# --- failures


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("photos/cat.jpg: damaged\nor truncated"), 1, "photos/cat.jpg: damaged or truncated"),
        (FieldError("seed", "even", 3), 2, "--seed must be even, got 3"),
        (FieldError("layout", "square", 3), 1, "layout must be square, got 3"),
        (OSError(errno.ENOSPC, "No space left on device", "x/last.ckpt.tmp"), 1, "x/last.ckpt.tmp: No space left"),
        (ConnectionError("no network"), 1, "no network"),
        (TrainingError("the loss became NaN"), 1, "the loss became NaN"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 GiB\nmore"), 1, "9 GiB"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "interrupted"),
    ],
)
def test_failures_are_one_line(error, code, words, monkeypatch, capsys):
    monkeypatch.setattr("alexnet.train.run", mock.Mock(side_effect=error))
    line = refused(["train", "--data", "digits"], capsys, code)
    assert words in line
    assert ("--batch-size" in line) == ("memory" in line)
    monkeypatch.setenv("RANK", "1")  # of several processes the first one speaks; a failure may be another one's alone
    assert main(["train", "--data", "digits"]) == code
    assert capsys.readouterr().err == (line if code == 1 else "")


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), TypeError("x"), KeyError("x")])
def test_a_bug_keeps_its_trace(error, monkeypatch):
    monkeypatch.setattr("alexnet.train.run", mock.Mock(side_effect=error))
    with pytest.raises(type(error)):
        main(["train", "--data", "digits"])


@pytest.mark.parametrize("name", ["none", "foreign.ckpt", "empty"])
def test_what_is_no_run_is_named(name, capsys, tmp_path):
    (tmp_path / "foreign.ckpt").write_bytes(b"PK nonsense")
    (tmp_path / "empty").mkdir()
    for command, *images in (["evaluate"], ["predict", "x.png"], ["explain", "x.png"]):
        assert name in refused([command, str(tmp_path / name), *images], capsys, code=1)


# --- train


def fake(monkeypatch, folder, **changes):
    """Replace ``train.run`` by a function that returns at once. Gives the list of its arguments."""
    row = {"step": 225, "epoch": 5.0, "train_loss": 0.1234567, "train_acc": 96.5, "val_loss": 0.3, "val_acc": 91.4}
    fields = {"final": row, "best": {"val_acc": 92.5, "step": 200}} | changes
    asked = []

    def run(recipe, **options):
        asked.append((recipe, options))
        return Result(folder, **fields)

    monkeypatch.setattr("alexnet.train.run", run)
    return asked


def test_train_prints_one_document_and_leaves_a_run(trained):
    assert set(trained.document) == {"folder", "final", "best", "stopped_by"}
    assert trained.document["folder"] == str(trained.out)
    assert (trained.document["final"]["step"], trained.document["best"]["step"]) == (2, 2)
    assert trained.document["stopped_by"] is None
    assert json.loads((trained.out / "config.json").read_text())["recipe"]["lr"] == 0.001
    assert {path.name for path in trained.out.iterdir()} >= {"last.ckpt", "best.safetensors", "curves.png"}


def test_the_result_and_the_next_commands(monkeypatch, capsys, tmp_path):
    out = tmp_path / "a run"
    out.mkdir()
    fake(monkeypatch, out)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["train", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for part in ("val_acc 91.40%", "train_loss 0.1235", "92.50% at step 200", f"{out}/curves.png"):
        assert part in text
    assert f"  {sys.executable} -m alexnet evaluate '{out}'\n" in text  # the shell would not find alexnet
    (tmp_path / "alexnet").touch(0o755)
    assert main(["train", "quickstart", "--out", str(out)]) == 0
    args = parse(shlex.split(capsys.readouterr().out.splitlines()[-1])[1:])
    assert args.run == str(out)
    with Image.open(args.images[0]) as image:
        assert image.size == (8, 8)
    example = Path(args.images[0])
    example.unlink()
    example.mkdir()  # it cannot be written
    assert main(["train", "quickstart", "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith(" IMAGE\n")


@pytest.mark.parametrize(
    ("world", "local", "program"),
    [("1", "1", "alexnet"), ("2", "2", "torchrun --nproc-per-node 2 -m alexnet"), ("4", "2", None)],
)
def test_a_stopped_run_says_how_to_resume_it(world, local, program, tmp_path, monkeypatch, capsys):
    out = tmp_path / "it's"
    fake(monkeypatch, out, final={}, best={}, stopped_by=int(signal.SIGTERM))
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert main(["train", "--out", str(out), "--json"]) == 143
    printed, err = capsys.readouterr()
    assert json.loads(printed) == {"folder": str(out), "final": {}, "best": {}, "stopped_by": signal.SIGTERM}
    assert "SIGTERM" in err
    if program:
        assert shlex.split(err.splitlines()[-1]) == [*program.split(), "train", "--resume", "--out", str(out)]


def test_resume_takes_the_runs_own_recipe_and_runtime(trained, monkeypatch, capsys):
    (trained.out / "curves.png").unlink()  # as if killed just before it was drawn
    found = documented(["train", "--resume", "--out", str(trained.out), "--quiet"], capsys)  # it is at its last step
    assert (trained.out / "curves.png").is_file()
    assert found["final"]["val_loss"] == trained.document["final"]["val_loss"]
    assert "reference" in refused(["train", "reference", "--resume", "--out", str(trained.out)], capsys)

    assert "to resume the run there: --resume --out" in refused(["train", "--resume", str(trained.out)], capsys)

    asked = fake(monkeypatch, trained.out)
    assert main(["train", "--resume", "--out", str(trained.out), "--max-steps", "9", "--device", "cpu"]) == 0
    ((recipe, options),) = asked
    runtime = options["runtime"]
    assert (recipe.name, recipe.lr, recipe.batch_size, options["resume"]) == ("classic", 0.001, 8, True)
    assert (runtime.max_steps, runtime.device, runtime.tracker, runtime.quiet) == (9, "cpu", "none", False)


def test_resume_starts_the_run_that_is_not_there(monkeypatch, tmp_path):
    asked = fake(monkeypatch, tmp_path)
    assert main(["train", "sprint", "--resume", "--out", str(tmp_path / "new")]) == 0
    assert [(recipe.name, options["resume"]) for recipe, options in asked] == [("sprint", True)]


def test_what_contradicts_the_folder_or_the_data(trained, images, capsys, tmp_path):
    out, new = str(trained.out), ["train", "--data", str(images), "--tracker", "none"]
    for argv, code, words in (
        ([*new, "--out", out], 1, out),
        ([*new, "--batch-size", "25", "--out", f"{tmp_path}/a"], 2, "--batch-size"),
        (["train", "--resume", "--lr", "0.5", "--out", out], 1, "lr 0.001 (not 0.5)"),
        (["train", "--resume", "--max-steps", "1", "--out", out], 2, "--max-steps"),
        (["train", "--resume", "--epochs", "0", "--out", out], 2, "--epochs"),
        (["predict", out, "x.png", "--top-k", "4"], 2, "--top-k must be between 1 and the model's 2 classes"),
        (["evaluate", out, "--data", "digits"], 2, "--data"),
    ):
        assert words in refused(argv, capsys, code)


# --- commands that use a run


def test_evaluate_agrees_with_training(trained, images, capsys, tmp_path):
    found = documented(["evaluate", str(trained.out)], capsys)
    assert list(found) == ["data", "split", "count", "loss", "top1", "top5", "per_class", "confusion"]
    assert found["count"] == 6
    assert found["loss"] == pytest.approx(trained.document["final"]["val_loss"], rel=1e-6)
    assert found["top1"] == pytest.approx(trained.document["final"]["val_acc"])
    with Image.open(trained.out / "confusion.png") as picture:
        assert picture.format == "PNG"

    weights = tmp_path / "weights.safetensors"  # not in a run folder
    weights.hardlink_to(trained.out / "best.safetensors")
    assert "--data" in refused(["evaluate", str(weights)], capsys)
    command = ["evaluate", str(weights), "--data", str(images), "--tta", "ten-crop"]
    assert main(command) == 0
    assert "top5 100.00%" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))
    assert main([*command, "--out", str(tmp_path / "m.png")]) == 0
    assert (tmp_path / "m.png").is_file()


def test_evaluate_uses_the_holdout_and_warns_on_test(images, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "run")
    held_out = ["--holdout", "4", "--images", "8", "--max-steps", "1"]
    assert main(["train", "--data", str(images), "--out", out, *SMALL, *held_out]) == 0
    error = OSError(errno.EROFS, "Read-only file system", "confusion.png")
    monkeypatch.setattr("alexnet.tools.confusion.confusion", mock.Mock(side_effect=error))  # costs no result
    no_picture, no_holdout = "confusion.png: Read-only file system", "not on those that the run held out"
    without_val = shutil.copytree(images, tmp_path / "without-val")
    (without_val / "val").rename(without_val / "test")
    for words, split, count, note in (
        ([], "holdout", 4, no_picture),
        (["--split", "test"], "test", 6, "do not tune on it"),
        (["--data", str(without_val)], "test", 6, "do not tune on it"),
        (["--data", f"{images}/."], "holdout", 4, no_picture),
        (["--data", str(shutil.copytree(images, tmp_path / "copy"))], "val", 6, no_holdout),
    ):
        capsys.readouterr()
        assert main(["evaluate", out, "--json", *words]) == 0
        printed, err = capsys.readouterr()
        assert (json.loads(printed)["split"], json.loads(printed)["count"]) == (split, count)
        assert err.count("alexnet: ") == 1
        assert note in err


@pytest.mark.parametrize("run", ["runs/lr0.1", "first.v2", "old.pth", "cifar10.small"])
def test_a_missing_run_is_no_image_for_the_bundled_network(run, capsys):
    assert "no such file, run folder or bundled network" in refused(["predict", run, "docs/cat.jpg"], capsys, 1)


def test_predict_without_images(images, trained, capsys):
    photos = images / "val" / "dark"
    assert f"such as {photos}/*" in refused(["predict", str(photos)], capsys)
    assert "such as" not in refused(["predict", str(trained.out)], capsys)


def test_predict_answers_all_and_reports_the_bad_one(trained, images, capsys, tmp_path):
    bad, odd = tmp_path / "bad.png", os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    bad.write_text("not an image")
    Path(odd).write_bytes((images / "val/dark/0.png").read_bytes())
    files = [odd, str(bad), str(images / "val/light/0.png")]
    capsys.readouterr()
    assert main(["predict", str(trained.out), *files, "--top-k", "2"]) == 1
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()] == [odd.replace("\udcff", "\\udcff"), files[2]]
    assert all(re.search(r": (dark|light) \d+\.\d%, (dark|light) \d+\.\d%$", line) for line in out.splitlines())
    assert re.fullmatch(f"alexnet: .*{bad}.*\n", err)

    found = documented(["predict", str(trained.out / "best.safetensors"), *files], capsys, code=1)
    assert [entry["file"] for entry in found] == files
    assert [entry["error"] is None for entry in found] == [True, False, True]
    assert set(found[0]) == {"file", "top", "error"}
    assert math.isclose(sum(entry["probability"] for entry in found[0]["top"]), 1, abs_tol=1e-5)


@pytest.mark.parametrize(
    ("words", "run", "images"),
    [
        ("", "cifar10-small", []),
        ("photo dog.png", "cifar10-small", ["photo", "dog.png"]),
        ("cifar10-small cat.jpg", "cifar10-small", ["cat.jpg"]),
        ("lr-0.1 cat.jpg", "lr-0.1", ["cat.jpg"]),
        ("x/best.safetensors", "x/best.safetensors", []),
    ],
)
def test_the_first_word_is_a_run_or_an_image(words, run, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr-0.1").mkdir()
    Path("photo").touch()
    asked = []
    monkeypatch.setattr("alexnet.checkpoint.load_model", asked.append)
    explain = "alexnet.tools.explain.explain"
    monkeypatch.setattr(explain, lambda _, files, *__, **___: asked.append(files) or {"images": []})
    monkeypatch.setattr("alexnet.tools.explain.format_explanation", str)
    assert main(["explain", *words.split(), "--data", "none"]) == 0
    assert asked == [run, images]


def test_explain_report_export_and_convert(trained, images, capsys, tmp_path):
    run, page = str(trained.out), tmp_path / "page.html"
    (tmp_path / "bad.png").write_text("not an image")
    files = [str(images / "val/dark/0.png"), str(tmp_path / "bad.png")]
    found = documented(["explain", run, *files, "--out", str(page), "--data", "none"], capsys, code=1)
    assert [entry["error"] is None for entry in found["images"]] == [True, False]
    assert page.is_file()

    found = documented(["report", run], capsys)
    assert set(found) == {"out", "runs", "findings"}
    assert Path(found["out"]).is_file()
    assert "gone" in refused(["report", str(tmp_path / "gone")], capsys, 1)

    exported, other, converted = tmp_path / "a.safetensors", tmp_path / "b.pth", tmp_path / "c.safetensors"
    assert main(["export", run, "--format", "safetensors", "--out", str(exported)]) == 0
    assert capsys.readouterr().out.startswith(f"{exported}: safetensors, ")
    torch.save(load_model(exported).state_dict(), other)
    assert documented(["convert", str(other), str(converted)], capsys)["num_classes"] == 2
    assert converted.is_file()


def test_a_home_folder_that_the_shell_left_alone(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert parse(["report", "x", "--out=~/page.html"]).out == "/home/ada/page.html"


def test_demo(monkeypatch, trained, capsys):
    asked = []
    served = SimpleNamespace(local_url="http://127.0.0.1:9/", block_thread=lambda: None)
    monkeypatch.setattr("alexnet.tools.demo.launch", lambda *_, **options: asked.append(options) or served)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    found = documented(["demo", str(trained.out), "--port", "9", "--neighbours", "0"], capsys, code=130)
    assert found == {"url": served.local_url}
    assert asked == [{"neighbours": 0, "host": "127.0.0.1", "port": 9}]


# --- the others


def test_summary_and_variants(capsys):
    found = documented(["summary", "--variant", "paper", "--num-classes", "1000", "--width-mult", "0.25"], capsys)
    assert (found["variant"], found["num_classes"], found["layers"][-1]["output"]) == ("paper", 1000, [1000])
    assert found["parameters"] < 5e6
    assert main(["summary"]) == 0
    assert "conv1" in capsys.readouterr().out
    assert isinstance(documented(["variants"], capsys), list)


def test_doctor_examines_the_recipe_asked_for(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("alexnet.tools.doctor.examine", lambda *args: asked.append(args) or {"device": "abacus"})
    monkeypatch.setattr("alexnet.tools.doctor.format_report", lambda found: f"an {found['device']}")
    assert main(["doctor", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "an abacus\n"
    assert main(["doctor", "--init", "he", "--input-scale", "imagenet"]) == 0
    (everything, on_cpu), (recipe, runtime) = asked
    assert (everything, recipe) == (None, RECIPES["classic"](init="he", input_scale="imagenet"))
    assert (on_cpu.device, runtime.device) == ("cpu", "auto")


def test_reproduce(monkeypatch, capsys, tmp_path):
    asked = []
    stopped = SimpleNamespace(folder=tmp_path, record=None, stopped_by=signal.SIGTERM)
    run_experiment = "alexnet.tools.reproduce.run.run_experiment"

    def run(_, *, say, **options):
        say("run 1 of 4")
        asked.append(options)
        return stopped

    monkeypatch.setattr(run_experiment, run)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert isinstance(documented(["reproduce"], capsys), list)
    assert main(["reproduce", "figure-1"]) == 143
    assert "run 1 of 4" in capsys.readouterr().err
    assert main(["reproduce", "figure-1", "--data", "digits", "--seeds", "2", "--full", "--quiet"]) == 143
    assert asked[1] == {"data": "digits", "seeds": 2, "full": True, "quiet": True, "resume": False}
    err = capsys.readouterr().err
    assert "run 1 of 4" not in err
    resumed = vars(parse(shlex.split(err.splitlines()[-1])[1:]))
    expected = {"experiment": "figure-1", "out": str(tmp_path), "data": "digits", "seeds": 2}
    assert resumed == {"json": False, "resume": True, "full": True} | expected


# --- output


def test_json_is_all_there_is_on_standard_output(monkeypatch, capsys):
    def noisy(**_):
        print("something a library says")
        return {"loss": math.nan, "rows": (1.5, -math.inf), "where": Path("a")}

    monkeypatch.setattr("alexnet.tools.summary.summarize", noisy)
    monkeypatch.setattr("alexnet.tools.summary.format_summary", str)
    assert documented(["summary"], capsys) == {"loss": None, "rows": [1.5, None], "where": "a"}
    monkeypatch.setenv("RANK", "1")  # of several processes the first one speaks
    assert main(["summary", "--json"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["none", "closed", "log"])
def test_training_needs_no_terminal(kind, images, tmp_path, monkeypatch):
    closed, text = io.StringIO(), []
    closed.close()
    log = SimpleNamespace(write=text.append)  # an object that can be written to, and nothing else
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, {"none": None, "closed": closed, "log": log}[kind])
    words = ["train", "--data", str(images), "--out", str(tmp_path / "run"), *SMALL, "--max-steps", "1"]
    codes = main(words), main(["summary", "--variant", "lenet"])
    monkeypatch.undo()
    assert codes == (0, 2)
    assert kind != "log" or {"step 1", "result", "'lenet'"} <= set(re.findall(r"step 1|result|'lenet'", "".join(text)))


# --- as processes


def test_a_reader_who_leaves_is_no_error(monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    arguments = [sys.executable, "-m", "alexnet", "train", "--help"]
    done = subprocess.run(arguments, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    assert (done.returncode, done.stderr) == (141, "")
    with os.fdopen(write, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        assert main(["variants"]) == 141
        print("to nobody", flush=True)  # as Python does at its end: no second error
    assert capsys.readouterr().err == ""
