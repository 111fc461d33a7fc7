"""The command line: what it takes, what it refuses and how, what it prints, and its exit codes."""

import contextlib
import errno
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet import __version__, flags
from alexnet.cli import main
from alexnet.commands import using
from alexnet.recipes import GROUPS, RECIPES, choices_of, classic, field_metadata, field_types
from alexnet.run.runfolder import read_config
from alexnet.train import Result
from forked import Command

COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "summary",
    "variants",
    "export",
    "convert",
    "reproduce",
    "doctor",
    "report",
    "explain",
    "demo",
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
COLOURS = {"blue": (40, 60, 200), "green": (30, 180, 60), "red": (210, 40, 40)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of three classes: 8 images each to train on, 3 to validate on."""
    folder = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for name, colour in COLOURS.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noisy = np.clip(random.normal(colour, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(colours: Path, tiny_network: None, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two steps of training by the command, and the document it printed."""
    out = tmp_path_factory.mktemp("runs") / "my run"
    flags = ["--data", str(colours), "--batch-size", "8", "--max-steps", "2", "--tracker", "none", "--val-every", "2"]
    with contextlib.redirect_stdout(Capture()) as printed:
        code = main(["train", *flags, "--lr", "0.001", "--quiet", "--json", "--out", str(out)])
    assert code == 0
    return SimpleNamespace(out=out, document=json.loads(printed.text))


class Capture:
    """A file that keeps what is written."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Run a command that has to fail: its one line."""
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("alexnet: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err.removeprefix("alexnet: ").rstrip()


def documented(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> Any:
    """Run a command with ``--json``: the one document on its standard output."""
    assert main([*argv, "--json"]) == code
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


# --- help


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = "import sys; from alexnet.cli import main\ntry: main(['train', '--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "torchvision", "matplotlib", "PIL", "wandb", "accelerate", "sklearn", "pyarrow", "tqdm"}
    assert not heavy & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    example = re.search(rf"example:\n  alexnet ({command}.*)$", text, re.MULTILINE)
    assert example, "no example"
    assert flags.parse(shlex.split(example[1])).command == command


def test_overview(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"]):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        assert all(re.search(rf"^ +{command} +[A-Z]", text, re.MULTILINE) for command in COMMANDS)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"alexnet {__version__}\n"


def test_train_help_has_every_field_with_its_words_and_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10000")  # nothing broken over lines but the help of a long flag
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in field_types():
        if name != "name":
            flag, words = f"--{name.replace('_', '-')}", field_metadata(name)["help"]
            assert re.search(rf" {flag}(, --no-{flag[2:]}| \S+) {re.escape(words)}", text), name
    places = [text.index(f" {group}: --") for group in GROUPS]
    assert places == sorted(places)
    others = "; ".join(f"{name} {make().epochs}" for name, make in RECIPES.items() if make().epochs != 13)
    assert f"over the training images. (default 13; {others})" in text
    assert "take mirrors for views; never done to digits. (default yes)" in text
    recipes = text.split(" recipes: ")[1]
    assert all(f"{recipe} " in recipes for recipe in RECIPES)


# --- the flags of train


def test_only_what_was_given_overrides() -> None:
    args = flags.parse(["train", "--epochs", "3", "--no-flip", "--max-steps", "none", "--lr", "1e-2"])
    given = {name: value for name, value in vars(args).items() if name in field_types()}
    assert given == {"epochs": 3, "flip": False, "max_steps": None, "lr": 0.01}
    assert flags.recipe_from("classic", {}) == classic()


@pytest.mark.parametrize("name", [name for name in field_types() if name != "name"])
def test_every_field_is_a_flag(name: str) -> None:
    flag, hint = f"--{name.replace('_', '-')}", field_types()[name]
    if choices := choices_of(hint):
        value: Any = choices[-1]
        words = [flag, value]
    elif "bool" in str(hint):
        value = not getattr(classic(), name)
        words = [flag if value else f"--no-{flag[2:]}"]
    else:
        value = {"str": "x"}.get(getattr(hint, "__name__", ""), 7)
        words = [f"{flag}={value}"]
    if name in ("momentum", "label_smoothing", "ema", "color_noise_until"):
        value, words = 0.5, [flag, "0.5"]
    recipe = flags.recipe_from("classic", {name: getattr(flags.parse(["train", *words]), name)})
    assert getattr(recipe, name) == value
    assert type(getattr(recipe, name)) is (float if float in (hint,) else type(value))


# --- wrong usage: code 2


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("trian", r"command trian: allowed is one of train, .*demo \(did you mean train\?\)"),
        ("train clasic", r"recipe clasic: allowed is one of classic, .* \(did you mean classic\?\)"),
        ("train digits", r"recipe digits: images are named with --data digits; recipes are .*"),
        ("train --epoch 3", r"--epoch: no such flag \(did you mean --epochs\?\); .*"),
        ("train --epochs ten", r"--epochs ten: allowed is a whole number"),
        ("train paper runs/x --images 5", r"unrecognized arguments: runs/x; see .*"),
        ("train --resume --out runs/none", r"--resume: runs/none holds no run to go on with; name a recipe .*"),
        ("evaluate runs/x --out x.pdf", r"--out x.pdf: allowed is a file whose name ends in \.png"),
        ("evaluate runs/x --out none/x.png", r"--out none/x.png: its folder does not exist"),
        ("train --epochs 0", r"--epochs 0: allowed is 1 or more"),
        ("train --epochs", r"--epochs: .*argument.*"),
        ("train --max-steps 1.5", r"--max-steps 1\.5: allowed is a whole number or none"),
        ("train --lr fast", r"--lr fast: allowed is a number"),
        ("train --lr nan", r"--lr nan: allowed is a positive number"),
        ("train --lr -1e-3", r"--lr -0\.001: allowed is a positive number"),
        ("train --seed -1", r"--seed -1: allowed is 0 to 2147483647"),
        ("train --batch-size=", r"--batch-size : allowed is a whole number"),
        ("train --init papr", r"--init papr: allowed is one of paper, .* \(did you mean paper\?\)"),
        ("train --device tpu", r"--device tpu: allowed is one of auto, cpu, cuda, mps.*"),
        ("train --tracker wandbb", r"--tracker wandbb: allowed is one of wandb, .* \(did you mean wandb\?\)"),
        ("train --data digit", r"--data 'digit': no such data set or folder \(did you mean digits\?\); allowed are .*"),
        ("train classic quickstart", r".*quickstart.*"),
        ("train --name x", r"--name: no such flag; .*"),
        (
            "evaluate x --views tencrop",
            r"--views tencrop: allowed is one of center, flip, ten-crop \(did .* ten-crop\?\)",
        ),
        ("evaluate x --precision fp16", r"--precision fp16: allowed is one of auto, fp32, bf16.*"),
        ("evaluate", r".*RUN_OR_CHECKPOINT; see alexnet evaluate --help"),
        ("predict --topk 3 x y", r"--topk: no such flag \(did you mean --top-k\?\); .*"),
        ("predict x", r".*IMAGE; see alexnet predict --help"),
        ("predict x y --top-k 0", r"--top-k 0: allowed is 1 or more"),
        ("summary --num-classes 0", r"--num-classes 0: allowed is 1 to 2147483647"),
        ("summary --num-classes 999999999999999", r"--num-classes 999999999999999: allowed is 1 to 2147483647"),
        ("summary --variant papper", r"--variant papper: allowed is one of .* \(did you mean paper\?\)"),
        ("export x --format onx --out y", r"--format onx: allowed is one of onnx, .* \(did you mean onnx\?\)"),
        ("export x --format onnx", r".*--out; see alexnet export --help"),
        ("convert x", r".*OUT; see alexnet convert --help"),
        ("doctor --recipe clasic", r"--recipe clasic: allowed is one of .* \(did you mean classic\?\)"),
        ("doctor --init papr", r"--init papr: allowed is one of .*"),
    ],
)
def test_wrong_usage_is_one_line(argv: str, line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        said = refused(argv.split(), capsys)
    assert re.fullmatch(line, said), said
    assert not list(tmp_path.iterdir())


def test_formats_are_those_of_export() -> None:
    from alexnet.weights.export import FORMATS

    assert set(flags.FORMATS) == set(FORMATS)


def test_what_contradicts_the_machine_the_data_or_the_folder(
    trained: SimpleNamespace, colours: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = shlex.quote(str(trained.out))
    data = f"--data {shlex.quote(str(colours))} --tracker none"
    for argv, line in (
        (f"train {data} --out {out}", r"--out .*my run: already exists; .*"),
        (f"train {data} --batch-size 25 --out {tmp_path}/a", r"--batch-size 25: .* has only 24 training images"),
        (f"train --resume --lr 0.5 --out {out}", r"--resume: .* was started with --lr 0\.001, not 0\.5"),
        (f"train --resume --max-steps 1 --out {out}", r"--max-steps 1: the run in .* is at step 2 already"),
        (f"train --resume --epochs 0 --out {out}", r"--epochs 0: allowed is 1 or more"),
        (f"train reference --resume --out {out}", r"recipe reference: .* was started with classic; .*"),
        (f"predict {out} x.png --top-k 4", r"--top-k 4: the model knows 3 classes; allowed is 1 to 3"),
        (f"evaluate {out} --data digits", r"--data digits: its classes .* only the model has blue, green, red"),
        (f"evaluate {out} --data {tmp_path}", r"--data .*: neither .*"),
    ):
        said = refused(shlex.split(argv), capsys)
        assert re.fullmatch(line, said), said


# --- what fails: code 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("photos/cat.jpg: damaged\nor truncated"), 1, "photos/cat.jpg: damaged or truncated"),
        (ValueError("--seed 3: not today"), 2, "--seed 3: not today"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x/last.ckpt.tmp"), 1,
         "runs/x/last.ckpt.tmp: No space left on device; the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 1, "runs: Permission denied"),
        (ConnectionError("CIFAR-10 could not be downloaded"), 1, "CIFAR-10 could not be downloaded"),
        (MemoryError(), 1, "out of memory (no more to be had); a smaller --batch-size needs less"),
        (RuntimeError("CUDA out of memory. Tried 9 GiB\nmore"), 1,
         "out of memory (CUDA out of memory. Tried 9 GiB); a smaller --batch-size needs less"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt(signal.SIGINT), 130, "interrupted"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "interrupted"),
    ],
)  # fmt: skip
def test_failures_are_one_line(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused_by(error, monkeypatch, capsys, code) == line


def refused_by(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> str:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("alexnet.train.run", fail)
    return refused(["train", "--data", "digits"], capsys, code)


def test_a_training_that_cannot_go_on_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from alexnet.train import TrainingError

    assert refused_by(TrainingError("the loss became NaN"), monkeypatch, capsys, 1) == "the loss became NaN"


def test_a_bug_keeps_its_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error in (RuntimeError("shapes do not match"), TypeError("x"), KeyError("x")):
        with pytest.raises(type(error)):
            refused_by(error, monkeypatch, capsys, 1)


def test_what_is_no_model_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "foreign.ckpt").write_bytes(b"PK nonsense")
    (tmp_path / "empty").mkdir()
    for name in ("none", "foreign.ckpt", "empty"):
        for command in (["evaluate", str(tmp_path / name)], ["predict", str(tmp_path / name), "x.png"]):
            assert name in refused(command, capsys, code=1)


# --- train


def result(folder: Path, **changes: Any) -> Any:
    from alexnet.train import Result

    row = {"step": 225, "epoch": 5.0, "train_loss": 0.1234567, "train_acc": 96.5, "val_loss": 0.3, "val_acc": 91.4}
    fields = {"final": row, "best": {"val_acc": 92.5, "step": 200}, "stopped_by": None} | changes
    return Result(folder=folder, **fields)


def test_train_prints_one_document_and_leaves_a_run(trained: SimpleNamespace) -> None:
    assert set(trained.document) == {"folder", "final", "best", "stopped_by"}
    assert trained.document["folder"] == str(trained.out)
    assert trained.document["final"]["step"] == 2
    assert trained.document["best"]["step"] == 2
    assert trained.document["stopped_by"] is None
    assert json.loads((trained.out / "config.json").read_text())["recipe"]["lr"] == 0.001
    assert {path.name for path in trained.out.iterdir()} >= {"last.ckpt", "best.safetensors", "curves.png"}


def test_the_result_is_labelled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "a run"
    monkeypatch.setattr("alexnet.train.run", lambda recipe, **_: result(out))
    assert main(["train", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"result, after step 225: val_acc 91\.40% .*val_loss 0\.3000 .*train_loss 0\.1235", lines[0])
    assert re.match(r"highest val_acc .* 92\.50% at step 200; picked on the validation images, so not a", lines[1])
    assert f"curves: {out}/curves.png" in lines
    assert f"  alexnet evaluate '{out}'" in lines
    assert f"  alexnet predict '{out}' IMAGE" in lines


def test_quickstart_ends_with_commands_that_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("alexnet.train.run", lambda recipe, **_: result(tmp_path))
    assert main(["train", "quickstart", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"look at the curves:\n  \S+ {tmp_path}/curves\.png\n", text)
    command = re.search(r"classify an image:\n  alexnet (predict .*)$", text, re.MULTILINE)
    assert command
    args = flags.parse(shlex.split(command[1]))
    assert args.model == str(tmp_path)
    with Image.open(args.images[0]) as image:
        assert image.size == (8, 8)
    monkeypatch.setattr("alexnet.train.run", lambda recipe, **_: result(tmp_path))
    assert main(["train", "quickstart", "--data", "elsewhere"]) == 0
    assert f"alexnet predict {tmp_path} IMAGE" in capsys.readouterr().out


def test_the_commands_it_prints_are_found_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("alexnet.train.run", lambda recipe, **_: result(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for called, typed in (
        (".venv/bin/alexnet", ".venv/bin/alexnet"),
        ("my env/bin/alexnet", "'my env/bin/alexnet'"),
        ("lib/alexnet/__main__.py", f"{sys.executable} -m alexnet"),
        ("bin/pytest", "alexnet"),
    ):
        monkeypatch.setattr("sys.argv", [called])
        assert main(["train"]) == 0
        assert f"\n  {typed} evaluate {tmp_path}\n" in capsys.readouterr().out
    (tmp_path / "alexnet").touch(0o755)
    monkeypatch.setattr("sys.argv", [".venv/bin/alexnet"])
    assert main(["train"]) == 0
    assert f"\n  alexnet evaluate {tmp_path}\n" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_tells_how_to_go_on(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stopped = result(tmp_path / "it's", final={}, best={}, stopped_by=int(number))
    monkeypatch.setattr("alexnet.train.run", lambda recipe, **_: stopped)
    argv = ["train", "--out", str(tmp_path / "it's"), "--max-steps", "70", "--lr", "0.02", "--json"]
    assert main(argv) == 128 + number
    out, err = capsys.readouterr()
    document = {"folder": str(tmp_path / "it's"), "final": {}, "best": {}, "stopped_by": number}
    assert json.loads(out) == document
    assert signal.Signals(number).name in err
    again = shlex.split(err.splitlines()[-1])
    assert again == ["alexnet", "train", "--resume", "--out", str(tmp_path / "it's"), "--max-steps", "70"]


def test_resume_takes_the_runs_own_recipe(
    trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def run(recipe: Any, **options: Any) -> Any:
        asked.append((recipe, options))
        return result(trained.out)

    monkeypatch.setattr("alexnet.train.run", run)
    assert main(["train", "--resume", "--out", str(trained.out), "--max-steps", "9"]) == 0
    ((recipe, options),) = asked
    assert (recipe.name, recipe.lr, recipe.batch_size, recipe.max_steps) == ("classic", 0.001, 8, 9)
    assert options["resume"]
    capsys.readouterr()


def test_a_refusal_costs_no_download(
    trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alexnet.data.datasets.load", lambda *_: pytest.fail("the data were asked for"))
    assert "already exists" in refused(["train", "--out", str(trained.out)], capsys)


def test_resume_goes_on(trained: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    before = trained.document["final"]
    (trained.out / "curves.png").unlink()  # as if killed just before it was drawn
    found = documented(["train", "--resume", "--out", str(trained.out), "--quiet"], capsys)
    assert (trained.out / "curves.png").is_file()
    assert found["final"]["step"] == 2  # it was done already: nothing to do, the same result
    assert found["final"]["val_loss"] == before["val_loss"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"recipe": {"name": "classic", "warp": 9}}', '{"recipe": 3}'])
def test_resume_with_a_broken_config_is_one_line(text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in refused(["train", "--resume", "--out", str(tmp_path)], capsys, code=1)


# --- evaluate and predict


def test_the_images_that_a_run_held_out_judge_it_and_its_test_images_are_opened_in_so_many_words(
    colours: Path, tiny_network: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["train", "--data", str(colours), "--holdout", "6", "--images", "9", "--batch-size", "8"]
    assert main([*command, "--max-steps", "1", "--tracker", "none", "--quiet", "--out", str(out)]) == 0
    capsys.readouterr()

    def judged(*flags: str) -> tuple[str, int, str]:
        assert main(["evaluate", str(out), "--json", *flags]) == 0
        said = capsys.readouterr()
        found = json.loads(said.out)
        return found["split"], found["count"], said.err

    split, count, said = judged()
    assert (split, count) == ("holdout", 6)
    assert "images" not in said
    split, count, said = judged("--split", "test")
    assert (split, count) == ("test", 9)
    assert "opening the test images, which this run kept closed" in said
    split, count, said = judged("--data", str(colours))
    assert (split, count) == ("val", 9)
    assert "all of its images to judge by, where this run held some out" in said
    args = flags.parse(["evaluate", str(out)])
    dataset = using._data_of(args, read_config(out)["recipe"])
    assert len(dataset.train) == 9


def test_evaluate_agrees_with_training(
    trained: SimpleNamespace, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = documented(["evaluate", str(trained.out)], capsys)
    assert list(found) == ["data", "split", "count", "loss", "top1", "top5", "per_class", "confusion"]
    assert found["count"] == 9
    assert found["loss"] == pytest.approx(trained.document["final"]["val_loss"], rel=1e-6)
    assert found["top1"] == pytest.approx(trained.document["final"]["val_acc"])
    assert list(found["per_class"]) == list(COLOURS)
    assert [sum(row) for row in found["confusion"]] == [3, 3, 3]
    with Image.open(trained.out / "confusion.png") as picture:
        assert picture.format == "PNG"


def test_a_picture_that_cannot_be_written_costs_no_result(
    trained: SimpleNamespace, colours: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system", "confusion.png")

    monkeypatch.setattr("alexnet.report.plots.confusion", refuse)
    assert main(["evaluate", str(trained.out), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["count"] == 9
    assert "without a picture: [Errno 30] Read-only file system: 'confusion.png'" in said.err


def test_evaluate_prints_tables(
    trained: SimpleNamespace, colours: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights, picture = tmp_path / "weights.safetensors", tmp_path / "m.png"
    weights.hardlink_to(trained.out / "best.safetensors")
    assert "--data: needed" in refused(["evaluate", str(weights)], capsys)
    command = ["evaluate", str(weights), "--data", str(colours), "--views", "ten-crop"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "9 images, ten-crop views" in text
    assert re.search(r"^top1 \d+\.\d\d%  top5 100\.00%  loss \d\.\d{4}$", text, re.MULTILINE)
    assert re.search(r"^green +3 +\d+\.\d% ", text, re.MULTILINE)
    assert "confusion matrix" in text
    assert not list(tmp_path.glob("*.png"))  # not a run folder, and nobody asked for it
    assert main([*command[:4], "--out", str(picture)]) == 0
    assert str(picture) in capsys.readouterr().out
    assert picture.is_file()


def test_a_picture_with_odd_metadata_is_answered_without_a_warning(
    trained: SimpleNamespace, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    cut = b"Exif\0\0MM\0*\0\0\0\x08\0\0"
    Image.new("RGB", (40, 30)).save(tmp_path / "cut.jpg", exif=cut)
    assert main(["predict", str(trained.out), str(tmp_path / "cut.jpg")]) == 0
    assert not [str(each.message) for each in recwarn if "EXIF" in str(each.message)]


def test_predict_answers_all_and_reports_the_bad_one(
    trained: SimpleNamespace, colours: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("not an image")
    files = [str(colours / "val/red/0.png"), str(bad), str(colours / "val/blue/0.png")]
    assert main(["predict", str(trained.out), *files, "--top-k", "2"]) == 1
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()] == [files[0], files[2]]
    assert all(re.search(r": (blue|green|red) \d+\.\d%, (blue|green|red) \d+\.\d%$", line) for line in out.splitlines())
    assert err.count("\n") == 1
    assert err.startswith(f"alexnet: {bad}: not an image")

    found = documented(["predict", str(trained.out / "best.safetensors"), *files], capsys, code=1)
    assert [entry["file"] for entry in found] == files
    assert [entry["error"] is None for entry in found] == [True, False, True]
    assert found[1]["top"] == []
    assert set(found[0]) == {"file", "top", "error"}
    assert {entry["class"] for entry in found[0]["top"]} == set(COLOURS)
    assert math.isclose(sum(entry["probability"] for entry in found[0]["top"]), 1, abs_tol=1e-5)
    assert main(["predict", str(trained.out), files[0]]) == 0


def test_a_name_that_no_terminal_shows(
    trained: SimpleNamespace, colours: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Path(odd).write_bytes((colours / "val/red/0.png").read_bytes())
    assert main(["predict", str(trained.out), odd]) == 0
    assert "\\udcff.png: " in capsys.readouterr().out
    assert documented(["predict", str(trained.out), odd], capsys)[0]["file"] == odd


# --- the others


def test_summary_and_variants(capsys: pytest.CaptureFixture[str]) -> None:
    found = documented(["summary", "--variant", "paper", "--num-classes", "1000"], capsys)
    assert (found["variant"], found["num_classes"], found["layers"][-1]["output"]) == ("paper", 1000, [1000])
    assert main(["summary"]) == 0
    assert "conv1" in capsys.readouterr().out
    assert isinstance(documented(["variants"], capsys), list)
    assert main(["variants"]) == 0
    assert "caffenet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], None),
        (["--recipe", "quickstart"], RECIPES["quickstart"]()),
        (["--init", "he", "--input-scale", "imagenet"], classic(init="he", input_scale="imagenet")),
        (["--recipe", "reference", "--data", "digits"], RECIPES["reference"](data="digits")),
    ],
)
def test_doctor_examines_the_recipe_asked_for(
    argv: list[str], expected: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("alexnet.run.doctor.examine", lambda recipe: asked.append(recipe) or {"device": "abacus"})
    monkeypatch.setattr("alexnet.run.doctor.report", lambda found: f"an {found['device']}")
    assert main(["doctor", *argv]) == 0
    assert capsys.readouterr().out == "an abacus\n"
    assert documented(["doctor", *argv], capsys) == {"device": "abacus"}
    assert asked == [expected, expected]


def test_export_and_convert(trained: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    exported, converted = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert main(["export", str(trained.out), "--format", "safetensors", "--out", str(exported)]) == 0
    assert capsys.readouterr().out.startswith(f"{exported}: safetensors, 0.1 MB\nchecked with ")
    assert main(["convert", str(exported), str(converted)]) == 0
    assert capsys.readouterr().out.startswith(f"{converted}: variant classic, 3 classes")
    assert documented(["convert", str(exported), str(converted)], capsys)["num_classes"] == 3
    assert "a.onnx" in refused(["export", "none", "--format", "safetensors", "--out", "a.onnx"], capsys)


def test_json_is_all_there_is_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def noisy(*_: object) -> dict[str, Any]:
        print("something a library says")
        return {"loss": math.nan, "rows": [1.5, -math.inf], "where": Path("a/b")}

    monkeypatch.setattr("alexnet.report.summary.summarize", noisy)
    monkeypatch.setattr("alexnet.report.summary.format_summary", str)
    assert main(["summary", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"loss": None, "rows": [1.5, None], "where": "a/b"}
    assert "something a library says" in err


def test_of_several_processes_one_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["summary"]) == 0
    assert capsys.readouterr().out == ""


# --- as processes


def test_a_reader_who_leaves_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    arguments = [sys.executable, "-m", "alexnet", "--help"]
    done = subprocess.run(arguments, stdout=write, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (141, "")
    with os.fdopen(write, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        assert main(["variants"]) == 141
        print("to nobody", flush=True)  # as Python does at its end: no second error
    assert capsys.readouterr().err == ""


def test_a_signal_to_every_process_leaves_a_checkpoint_and_the_command_to_go_on(colours: Path, tmp_path: Path) -> None:
    """As job schedulers do it; Ctrl-C reaches the data workers too."""
    out, rows = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    command = f"train --data {colours} --out {out} --batch-size 8 --epochs 999 --max-steps 900 --tracker none"
    process = Command([*command.split(), "--loader", "workers", "--val-every", "1", "--json"], tmp_path / "output")
    until = time.monotonic() + 120
    while not (rows.exists() and rows.stat().st_size) and process.process.is_alive() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_to_others(signal.SIGTERM)
    seen = rows.stat().st_size
    while rows.stat().st_size < 20 * seen and process.process.is_alive() and time.monotonic() < until:
        time.sleep(0.05)  # they load on: the queue of batches is shorter than that
    process.send(signal.SIGTERM)
    code, said = process.end()
    assert code == 143, said
    assert json.loads(said[said.index("\n{") : said.rindex("}") + 1])["stopped_by"] == signal.SIGTERM
    assert f"train --resume --out {out} --max-steps 900" in said
    assert "Traceback" not in said
    assert (out / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "; to go on:\n  alexnet train --resume --out {out} --max-steps 9\n"),
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, "; to go on:\n  alexnet train --resume --out"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
         "; to go on:\n  torchrun --nproc-per-node 2 -m alexnet train --resume --out {out} --max-steps 9\n"),
        ({"WORLD_SIZE": "3"}, "; to go on:\n  torchrun --nproc-per-node 3 -m alexnet train --resume --out"),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"},
         "; to go on, start it on every machine as before, with --resume\n"),
    ],
)  # fmt: skip
def test_a_stopped_run_says_how_it_goes_on(
    environment: dict[str, str], told: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "run"
    monkeypatch.setattr("alexnet.train.run", lambda *_, **__: Result(out, {}, {}, signal.SIGTERM))
    monkeypatch.setattr("shutil.which", lambda name: name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--data", "digits", "--out", str(out), "--max-steps", "9"]) == 143
    assert f"stopped by SIGTERM{told.format(out=out)}" in capsys.readouterr().err


def test_of_several_processes_only_the_first_writes_an_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alexnet.train.run", lambda *_, **__: Result(tmp_path, {}, {}))
    for rank, written in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        assert main(["train", "quickstart", "--out", str(tmp_path)]) == 0
        assert len(list(tmp_path.glob("example-*.png"))) == written
        assert bool(capsys.readouterr().out) == written


# --- report


def test_report_of_one_run_and_of_several(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = documented(["report", str(trained.out)], capsys)
    assert set(found) == {"out", "runs", "findings"}
    assert found["out"] == str(trained.out / "report.html")
    assert found["runs"] == [
        {"folder": str(trained.out), "recipe": "classic", "seed": 0, "final": trained.document["final"]}
    ]
    assert "of the 9 validation images of colours" in found["findings"][0].replace(trained.out.parent.name, "")
    assert "8 filters of 11×11×3 at step 2" in (trained.out / "report.html").read_text(encoding="utf-8")
    other, page = tmp_path / "other", tmp_path / "both.html"
    shutil.copytree(trained.out, other)
    assert main(["report", str(trained.out), str(other), "--out", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "seed 0 ran 2 times" in out
    assert out.endswith(f"page: {page}\n")
    assert err == ""
    assert page.is_file()


def test_report_refuses_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such run folder" in refused(["report", str(tmp_path / "gone")], capsys, 1)
    assert "not a run folder" in refused(["report", str(tmp_path)], capsys, 1)
    assert "ends in .html" in refused(["report", str(tmp_path), "--out", str(tmp_path / "last.ckpt")], capsys)
    assert "RUN" in refused(["report"], capsys)
    (tmp_path / "config.json").write_text('{"recipe": {}}')
    (tmp_path / "metrics.jsonl").write_text("step 1\n")
    assert "metrics.jsonl, line 1" in refused(["report", str(tmp_path)], capsys, 1)


def test_nobody_has_to_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed before the start, or as pythonw has them."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["variants"]) == 0
    assert main(["summary", "--variant", "lenet"]) == 2


def test_none_may_be_written_in_capitals() -> None:
    assert flags.parse(["train", "--max-steps", "None"]).max_steps is None


def test_how_to_show_a_run_reaches_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "alexnet.train.run", lambda recipe, **options: asked.append(options) or Result(tmp_path, {}, {})
    )
    assert main(["train", "--data", "digits", "--out", str(tmp_path / "x"), "--quiet", "--profile", "3"]) == 0
    assert main(["train", "--data", "digits", "--out", str(tmp_path / "x")]) == 0
    assert [(each["quiet"], each["profile"], each["resume"]) for each in asked] == [(True, 3, False), (False, 0, False)]


def test_only_training_is_told_of_a_smaller_batch(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("alexnet.report.summary.summarize", fail)
    assert main(["summary"]) == 1
    assert capsys.readouterr().err == "alexnet: out of memory (no more to be had)\n"
