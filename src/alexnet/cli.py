"""The ``alexnet`` command, and the only module that parses flags.

Each command is a function of the parsed arguments, which its decorator lists. ``fields`` makes flags of fields of
``Recipe`` and ``Runtime``, with their types and help; ``train`` has all of them.

Whatever needs torch is imported inside the commands, so that ``alexnet --help`` answers at once.

Exit codes: 0 done; 1 failed; 2 wrong usage; 130 and 143 stopped by SIGINT or SIGTERM; 141 standard output was closed.
A failure and a wrong usage print one line to standard error. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import textwrap
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, get_args, get_origin

from alexnet import __version__, recipes
from alexnet.errors import FieldError, suggest
from alexnet.recipes import RECIPES, TTA, Recipe, Runtime, choices_of, field_types

if TYPE_CHECKING:
    from alexnet.checkpoint import Run
    from alexnet.data.datasets import Dataset
    from alexnet.model import AlexNet_2012
    from alexnet.train import Result

__all__ = ["COMMANDS", "UsageError", "main", "parse"]

HELP = """\
usage: alexnet COMMAND [flags]

AlexNet (2012): train it, evaluate it, look inside it, use it.

commands:
{commands}

start with:
  alexnet train quickstart

alexnet COMMAND --help shows the arguments of a command."""
RENAMED = {
    "--widths": "--width-mult (quarter is --width-mult 0.25)",
    "--crop": "--augment (random_crop or random_resized_crop)",
    "--flip": "--augment (with flip)",
    "--no-flip": "--augment (without flip)",
    "--color-noise": "--augment (with pca_color or pca_color_std)",
    "--color-noise-until": "--pca-color-until",
    "--views": "--tta",
    "--test-views": "--tta",
    "--parallel columns": "--parallel towers",
    "--tracker trackio": "--tracker wandb or --tracker tensorboard",
    "--format pt2": "--format onnx or --format safetensors, or torch.export on load_model in Python",
    "--format torchscript": "--format onnx or --format safetensors, or torch.jit on load_model in Python",
}
"""Flags and values of version 0.1.0, and what to use instead."""
DEFAULT_RUN = "cifar10-small"
BUNDLED = {DEFAULT_RUN: "cifar10"}
"""The networks that come with this package, and the data set of each."""
FIELDS = {
    field.name: (field_types(kind)[field.name], field)
    for kind in (Recipe, Runtime)
    for field in dataclasses.fields(kind)
    if "help" in field.metadata
}
"""Each field that is a flag: its type, and the field itself."""


class UsageError(Exception):
    """The command line is wrong. The message is one line that says what is allowed."""


@dataclass
class Answer:
    """The result of a command: a document for ``--json`` and a text."""

    document: Any
    text: str
    code: int = 0
    note: str = ""
    """Printed to standard error, with ``--json`` too."""
    then: Callable[[], object] | None = None
    """Called when everything is printed."""


class Argument(NamedTuple):
    """A flag, or a positional argument if the name has no hyphens, with the options of argparse's ``add_argument``."""

    name: str
    options: dict[str, Any]
    group: str = ""


Function = Callable[[Namespace], Answer]
COMMANDS: dict[str, tuple[Function, Sequence[Argument], str]] = {}
"""The function, the arguments and an example of each command."""


def command(*arguments: Argument, example: str = "") -> Callable[[Function], Function]:
    """Register a function as the command of its name. The first line of its docstring is the help."""

    def register(function: Function) -> Function:
        COMMANDS[function.__name__] = (function, arguments, f"alexnet {function.__name__} {example}".rstrip())
        return function

    return register


def argument(name: str, kind: Any, help: str, default: Any = None, **options: Any) -> Argument:
    """An argument of type ``kind``: bool, str, int, float, a Literal, a tuple of strings, or one of these or None."""
    kinds, choices = get_args(kind) if get_origin(kind) is UnionType else (kind,), choices_of(kind)
    if not all(choice in help for choice in choices):
        help += f" One of {', '.join(choices)}."
    if default is not None:
        shown = " ".join(default) if isinstance(default, tuple) else str(default)
        help += f" (default {shown})".replace("True", "yes").replace("False", "no")
    options = {"help": help.replace("%", "%%"), "default": default} | options
    if bool in kinds:
        return Argument(name, options | {"action": "store_true", "default": False})

    def read(word: str) -> Any:
        if word in choices:
            return word
        if NoneType in kinds and word.lower() == "none":
            return None
        for number in (int, float):
            if number in kinds:
                with contextlib.suppress(ValueError):
                    return number(word)
        if not choices and int not in kinds and float not in kinds:
            return word
        allowed = f"one of {', '.join(choices)}" if choices else "a whole number" if int in kinds else "a number"
        allowed += " or none" if NoneType in kinds else ""
        raise argparse.ArgumentTypeError(f"must be {allowed}, got {word!r}{suggest(word, choices)}")

    metavars = {int: "N", float: "X", str: name.removesuffix("s").rpartition("-")[2].upper()}
    metavar = next((metavars[each] for each in kinds if each in metavars), "NAME")
    return Argument(name, {"type": read, "metavar": metavar} | options)


def fields(*names: str) -> Iterator[Argument]:
    """The flags of these fields. A field that is not given is missing from the parsed arguments."""
    for name in names:
        hint, field = FIELDS[name]
        options: dict[str, Any] = {"nargs": "*"} if get_origin(hint) is tuple else {}
        made = argument(_flag(name), hint, field.metadata["help"], field.default, **options)
        if "action" in made.options:
            options["action"] = argparse.BooleanOptionalAction
        yield Argument(made.name, made.options | options | {"default": argparse.SUPPRESS}, field.metadata["group"])


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# --- the commands

RUN = argument("run", str, "Run folder, checkpoint, .safetensors file, or cifar10-small, which is bundled.")
RUN_IF_ANY = argument("run", str, "Run folder, checkpoint or .safetensors file; default: cifar10-small.", nargs="?")
RESUME = argument("--resume", bool, "Resume what is in the folder. What decides its result cannot be changed.")
DATA_IF_ANY = argument(
    "--data",
    str,
    "cifar10, digits, a folder, hf:NAME, or none; default: the run's own, which IMAGES and demo do not download.",
)
DATA_DIR = argument("--data-dir", str, "Where downloaded data sets are kept; default: the run's own.")
NEIGHBOURS = argument("--neighbours", int, "Training images to search for nearest neighbours; 0: none.", 10_000)
DEVICE = tuple(fields("device", "precision"))


@command(
    argument("recipe", str, f"{', '.join(RECIPES)}; default: classic.", nargs="?"),
    argument("--out", str, "Run folder; default: runs/RECIPE."),
    RESUME,
    *fields(*FIELDS),
    example="classic --data cifar10 --out runs/first --epochs 5",
)
def train(args: Namespace) -> Answer:
    """Train a network and write a run folder."""
    folder = Path(args.out or f"runs/{args.recipe or 'classic'}")
    if args.resume and (folder / "config.json").is_file():
        recipe, runtime = _stored_recipe(folder, args)
    elif args.resume and not args.recipe:
        raise UsageError(f"--resume: no run in {folder}; name a recipe to start one there")
    else:
        recipe, runtime = _named_recipe(args)
    from torch import distributed

    from alexnet import train

    parallel = None
    if runtime.parallel == "towers":
        from alexnet.tools.two_towers import TwoTowers

        parallel = TwoTowers()
    result = train.run(recipe, out=folder, runtime=runtime, resume=args.resume, parallel=parallel)
    if distributed.is_initialized():
        distributed.destroy_process_group()
    document = {"folder": str(folder), "final": result.final, "best": result.best, "stopped_by": result.stopped_by}
    if result.stopped_by:
        return _stopped(document, result.stopped_by, ["train", "--resume", "--out", folder.as_posix()])
    return Answer(document, _result_text(result, _example_image(folder, recipe)) if _is_first_process() else "")


@command(
    RUN,
    argument("--data", str, "Images: cifar10, digits, a folder, or hf:NAME; default: the run's own."),
    DATA_DIR,
    argument(
        "--tta",
        Literal[TTA],
        "Test-time augmentation. flip: also the mirror image; ten-crop: the paper's ten crops.",
        "center",
    ),
    argument("--split", Literal["val", "test"], "val: the run's validation images; test: its test set.", "val"),
    argument(
        "--out",
        str,
        "Confusion matrix, a .png file; default: confusion.png in the run folder, for its validation images.",
    ),
    *DEVICE,
    example="runs/first --tta ten-crop",
)
def evaluate(args: Namespace) -> Answer:
    """Evaluate a trained network on validation or test images."""
    if args.out and (Path(args.out).suffix.lower() != ".png" or not Path(args.out).parent.is_dir()):
        raise FieldError("out", "a .png file in a folder that exists", args.out)
    from alexnet.evaluate import evaluate, format_evaluation
    from alexnet.tools.confusion import confusion

    model, run = _load(args.run)
    dataset, _ = _dataset(args, run)
    if dataset is None:
        raise UsageError("--data must name images; see alexnet evaluate --help")
    found = evaluate(model, dataset, args.tta, args.split, progress=True, **_given(args, "device", "precision"))
    answer = Answer(found, format_evaluation(found, args.tta))
    if found["split"] == "test":
        answer.note = "alexnet: evaluated on the test set; do not tune on it"
    elif run and run.recipe.holdout and not run.owns(args.data):
        answer.note = "alexnet: evaluated on the validation images of --data, not on those that the run held out"
    picture = Path(args.out) if args.out else None
    if run and not picture and args.split == "val" and run.owns(args.data):
        picture = run.folder / "confusion.png"
    if picture:
        try:
            confusion(found["confusion"], dataset.classes, picture)
            answer.text += f"\n\nconfusion matrix as an image: {picture}"
        except OSError as error:  # the result is printed all the same
            answer.code = int(args.out is not None)
            answer.note = f"{answer.note}\nalexnet: no confusion matrix: {_reason(error)}".lstrip()
    return answer


@command(
    RUN_IF_ANY,
    argument("images", str, "Image files.", nargs="*"),
    argument("--top-k", int, "Classes per image; default: 5, or all if there are fewer."),
    *DEVICE,
    example="runs/first cat.jpg dog.png --top-k 3",
)
def predict(args: Namespace) -> Answer:
    """Classify image files."""
    run, images = _run_and_images(args)
    if not images:
        is_photos = Path(run).is_dir() and not (Path(run) / "config.json").is_file()
        hint = f", or those in a folder, such as {run}/*" if is_photos else ""
        raise UsageError(f"name the image files after the run{hint}; see alexnet predict --help")
    from alexnet.evaluate import predict

    document = []
    for answer in predict(_load(run)[0], images, args.top_k, **_given(args, "device", "precision")):
        top = [{"class": name, "probability": value} for name, value in answer.top]
        document.append({"file": answer.file, "top": top, "error": answer.error})
        if answer.error:
            _warn(answer.error)
        elif not args.json:
            classes = ", ".join(f"{name} {100 * value:.1f}%" for name, value in answer.top)
            print(f"{answer.file}: {classes}", flush=True)
    return Answer(document, "", int(any(entry["error"] for entry in document)))


@command(
    RUN_IF_ANY,
    argument("images", str, "Image files, at most 12; default: ten validation images of the run.", nargs="*"),
    DATA_IF_ANY,
    DATA_DIR,
    argument("--out", str, "Page, a .html file; default: explain.html in the run folder, or here."),
    argument("--layer", str, "Layer, such as conv3: show the patches to which --channel responds most."),
    argument("--channel", int, "Channel of --layer, from 0; default: one channel of each convolution."),
    NEIGHBOURS,
    *DEVICE,
    example="runs/first cat.jpg --out inside.html",
)
def explain(args: Namespace) -> Answer:
    """Show what a trained network has learned and why it answers as it does, on one page."""
    if (args.layer is None) != (args.channel is None):
        raise UsageError("--layer and --channel must be given together, such as --layer conv3 --channel 17")
    from alexnet.tools.explain import explain, format_explanation

    args.run, args.images = _run_and_images(args)
    model, run = _load(args.run)
    dataset, note = _dataset(args, run, download=not args.images)
    path = Path(args.run).resolve()
    found = explain(
        model,
        args.images,
        dataset,
        out=Path(args.out) if args.out else (run.folder if run else Path()) / "explain.html",
        title=args.run if args.run in BUNDLED else path.name if path.is_dir() else f"{path.parent.name}/{path.name}",
        run=run.folder if run else None,
        note=note,
        progress=True,
        **_given(args, "layer", "channel", "neighbours", "device", "precision"),
    )
    errors = [f"alexnet: {entry['error']}" for entry in found["images"] if entry["error"]]
    notes = [] if dataset else [f"alexnet: without accuracy, patches, errors and neighbours: {note}"]
    return Answer(found, format_explanation(found), int(bool(errors)), "\n".join([*errors, *notes]))


@command(
    argument("runs", str, "Run folders.", nargs="+"),
    argument("--out", str, "Page, a .html file; default: report.html in the run folder, or beside several runs."),
    example="runs/first runs/second --out both.html",
)
def report(args: Namespace) -> Answer:
    """Write a page about a run, or one that compares several."""
    from alexnet.tools.report import report

    found = report(args.runs, args.out)
    return Answer(found, "\n".join([*found["findings"], f"page: {found['out']}"]))


@command(
    RUN_IF_ANY,
    DATA_IF_ANY,
    DATA_DIR,
    NEIGHBOURS,
    argument("--host", str, "Address to listen on; 0.0.0.0: reachable from other machines.", "127.0.0.1"),
    argument("--port", int, "Port to listen on; default: the first free one from 7860."),
    *DEVICE,
    example="runs/first --port 8000",
)
def demo(args: Namespace) -> Answer:
    """Try a trained network on your own images, in a browser."""
    from alexnet.tools.demo import launch

    args.run = args.run or DEFAULT_RUN
    model, run = _load(args.run)
    dataset, note = _dataset(args, run, download=False)
    if note:
        _warn(f"without examples and nearest training images: {note}")
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # uploads are deleted at the exit
    options = _given(args, "neighbours", "host", "port", "device", "precision")
    blocks = launch(model, dataset, **options)
    url = blocks.local_url
    return Answer({"url": url}, f"{url}\nCtrl-C stops it", code=130, then=blocks.block_thread)


@command(
    RUN,
    argument("--format", Literal["onnx", "safetensors"], "Format of the file (required).", required=True),
    argument("--out", str, "File to write (required).", required=True),
    example="runs/first --format onnx --out alexnet.onnx",
)
def export(args: Namespace) -> Answer:
    """Export a trained network for other programs."""
    from alexnet.tools.export import export

    done = export(args.run, args.format, args.out)
    opset = f", opset {done['opset']}" if "opset" in done else ""
    checked = f"checked with {done['checked_with']}: logits differ by {done['checked']:.1e} of the largest"
    return Answer(done, f"{done['file']}: {done['format']}{opset}, {done['bytes'] / 1e6:.1f} MB\n{checked}")


@command(
    argument("source", str, "Weights: a .caffemodel, .safetensors or PyTorch file."),
    argument("out", str, "A .safetensors file to write."),
    argument("--variant", str, "Network of the weights, such as paper or caffe; default: inferred from their shapes."),
    example="bvlc_alexnet.caffemodel alexnet.safetensors",
)
def convert(args: Namespace) -> Answer:
    """Convert weights of other programs."""
    from alexnet.tools.convert import convert

    done = convert(args.source, args.out, args.variant)
    text = f"{done['file']}: variant {done['variant']}, {done['num_classes']} classes ({done['classes']})\n"
    ignored = f"\nignored: {', '.join(done['ignored'])}" if done["ignored"] else ""
    return Answer(done, f"{text}normalization: {done['normalization']}{ignored}")


@command(
    *fields("variant", "width_mult"),
    argument("--num-classes", int, "Number of classes.", 10),
    example="--variant paper --num-classes 1000",
)
def summary(args: Namespace) -> Answer:
    """Show the layers of a network."""
    from alexnet.tools.summary import format_summary, summarize

    found = summarize(**_given(args, "variant", "num_classes", "width_mult"))
    return Answer(found, format_summary(found))


@command()
def variants(args: Namespace) -> Answer:
    """Show how the networks called AlexNet differ."""
    from alexnet.tools.summary import format_variants, variants_table

    rows = variants_table()
    return Answer(rows, format_variants(rows))


@command(
    argument("--recipe", str, "Recipe to check, with the other flags; default: check the machine and data."),
    *fields("data", "data_dir", "images", "holdout", "batch_size", "input_scale", "variant", "width_mult", "init"),
    *DEVICE,
    example="--recipe classic --init he",
)
def doctor(args: Namespace) -> Answer:
    """Check the machine, the data, and whether a recipe will start to learn."""
    recipe, runtime = _named_recipe(args)
    from alexnet.tools.doctor import examine, format_report

    found = examine(recipe if args.recipe or _given(args, *field_types(Recipe)) else None, runtime)
    return Answer(found, format_report(found))


@command(
    argument("experiment", str, "An experiment, or a .py file; default: list the experiments.", nargs="?"),
    argument("--out", str, "Folder of the experiment; default: runs/reproduce-EXPERIMENT."),
    RESUME,
    argument("--full", bool, "Run it at the paper's size, not shortened for a laptop."),
    argument("--seeds", int, "Runs of each setting; default: the experiment's own number."),
    *fields("data", "data_dir", "device", "quiet"),
    example="figure-1 --data cifar10 --out runs/figure-1",
)
def reproduce(args: Namespace) -> Answer:
    """Test claims of the paper."""
    from alexnet.tools import reproduce

    if args.experiment is None:
        return Answer(reproduce.list_experiments(), reproduce.format_list())
    from alexnet.tools.reproduce.record import format_record
    from alexnet.tools.reproduce.run import run_experiment

    options = _given(args, "out", "seeds", "full", "data", "data_dir", "device", "quiet")

    def say(line: str) -> None:
        if not options.get("quiet"):
            print(line, file=sys.stderr)

    done = run_experiment(reproduce.find(args.experiment), resume=args.resume, say=say, **options)
    if done.record is None:
        words = ["reproduce", args.experiment, "--resume", "--out", done.folder.as_posix()]
        for name in _given(args, "seeds", "data", "data_dir", "device"):
            words += recipes.flags(name, options[name])
        return _stopped({}, done.stopped_by or signal.SIGINT, [*words, *(["--full"] if args.full else [])])
    return Answer(done.record, format_record(done.record, done.folder))


# --- recipes, runs and data sets


def _given(args: Namespace, *names: str) -> dict[str, Any]:
    """Those of the arguments that have a value. A recipe's field may also be given the value None."""
    found = {name: () if value == ["none"] else value for name, value in vars(args).items() if name in names}
    return {name: value for name, value in found.items() if value is not None or name in FIELDS}


def _named_recipe(args: Namespace) -> tuple[Recipe, Runtime]:
    """The recipe that is named and its runtime, with the fields that are given."""
    name = args.recipe or "classic"
    if name not in RECIPES:
        is_data = name in ("cifar10", "digits") or name.startswith("hf:") or Path(name).is_dir()
        hint = f"; images are named with --data {name}" if is_data else suggest(name, RECIPES)
        if (Path(name) / "config.json").is_file():
            hint = f"; to resume the run there: --resume --out {name}"
        raise FieldError("recipe", f"one of {', '.join(RECIPES)}", name, hint)
    runtime = recipes.runtime_for(name, **_given(args, *field_types(Runtime)))
    return RECIPES[name](**_given(args, *field_types(Recipe))), runtime


def _stored_recipe(folder: Path, args: Namespace) -> tuple[Recipe, Runtime]:
    """The recipe and the runtime of the run in ``folder``, with the fields that are given."""
    from alexnet.checkpoint import load_run

    run = load_run(folder)
    if args.recipe not in (None, run.recipe.name):
        raise FieldError("recipe", f"{run.recipe.name}, with which the run in {folder} was started", args.recipe)
    runtime = dataclasses.replace(recipes.runtime_from_config(run.config), **_given(args, *field_types(Runtime)))
    return dataclasses.replace(run.recipe, **_given(args, *field_types(Recipe))), runtime


def _run_and_images(args: Namespace) -> tuple[str, list[str]]:
    """Tell whether the first word is a run or, because the run was left out, an image file.

    An image is a file that does not hold weights, or a name that ends like an image's or begins like an address.
    """
    from alexnet.data.datasets import IMAGE_FILE

    if args.run is None:
        return DEFAULT_RUN, []
    path = Path(args.run)
    looks_like_image = bool(IMAGE_FILE.fullmatch(path.name)) or "://" in args.run
    is_image = not path.is_dir() and (path.is_file() or looks_like_image)
    is_run = args.run in BUNDLED or path.suffix in (".ckpt", ".safetensors") or not is_image
    return (args.run, args.images) if is_run else (DEFAULT_RUN, [args.run, *args.images])


def _load(name: str) -> tuple[AlexNet_2012, Run | None]:
    """A network, and the run that its file is part of, if it is part of one."""
    from alexnet.checkpoint import BEST, CONFIG, LAST, load_model, load_run
    from alexnet.system import keep_freed_memory

    keep_freed_memory()
    model, path = load_model(name), Path(name)
    folder = path if path.is_dir() else path.parent
    is_run = path.exists() and (folder / CONFIG).is_file() and any((folder / file).is_file() for file in (LAST, BEST))
    return model, load_run(folder) if is_run else None


def _dataset(args: Namespace, run: Run | None, *, download: bool = True) -> tuple[Dataset | None, str]:
    """The images of ``--data``, or the run's own, split as the run split them.

    None and the reason with ``--data none``, and, unless ``download``, if the run's own are not on disk.
    """
    from alexnet.data import datasets

    if args.data == "none":
        return None, "--data none"
    spec = args.data or (run.recipe.data if run else BUNDLED.get(args.run))
    if spec is None and download:
        raise UsageError(f"--data is required, because {args.run} is not part of a run folder")
    if spec is None:
        return None, "--data is not given"
    data_dir = args.data_dir or (run.runtime if run else {}).get("data_dir", "data")
    if not download and not args.data and not (found := datasets.describe(spec, data_dir))["found"]:
        can_fetch = spec == "cifar10" or spec.startswith("hf:")
        return None, found["how"] + (f"; add --data {spec} to use it" if can_fetch else "")
    dataset = run.dataset(args.data, data_dir) if run else datasets.load(spec, data_dir)
    for note in dataset.notes:
        _warn(note)
    return dataset, ""


# --- texts


def _result_text(result: Result, image: str) -> str:
    """The metrics, and what to do next; ``image`` is a file to try ``predict`` on."""
    from alexnet.curves import CURVES

    final, best, folder, lines = result.final, result.best, result.folder, []
    if final:
        names = ("test_acc", "test_loss", "val_acc", "val_loss", "train_acc", "train_loss")
        shown = (f"{n} {final[n]:.2f}%" if n.endswith("acc") else f"{n} {final[n]:.4f}" for n in names if n in final)
        lines.append(f"result after step {final['step']:,.0f}: {'  '.join(shown)}")
    if best:
        where = f"{best['val_acc']:.2f}% at step {best['step']:,.0f}"
        lines.append(f"highest val_acc: {where} (chosen on the validation images, so not a result)")
    place, program = shlex.quote(folder.as_posix()), _program()  # Windows takes slashes too
    lines += [
        f"curves: {folder / CURVES}",
        "next:",
        f"  {program} evaluate {place}",
        f"  {program} predict {place} {image}",
    ]
    return "\n".join(lines)


def _example_image(folder: Path, recipe: Recipe) -> str:
    """An image to try ``predict`` on: after training on digits, a validation image that is saved in ``folder``."""
    if recipe.data == "digits":
        from alexnet.data import datasets

        dataset = datasets.load(recipe.data)
        path = folder / f"example-{dataset.classes[dataset.val.labels[0]]}.png"
        with contextlib.suppress(OSError):  # the run is complete, even if the disk is full
            dataset.val.image(0).save(path)
            return shlex.quote(path.as_posix())
    return "IMAGE"


def _stopped(document: Any, number: int, words: Sequence[str]) -> Answer:
    """The answer of a command that signal ``number`` stopped and that ``alexnet`` with ``words`` resumes."""
    world, program = os.environ.get("WORLD_SIZE", "1"), _program()
    if world != "1":
        torchrun = ["torchrun"] if shutil.which("torchrun") else [sys.executable, "-m", "torch.distributed.run"]
        program = shlex.join([*torchrun, "--nproc-per-node", world, "-m", "alexnet"])
    resume = f"to resume:\n  {program} {shlex.join(words)}"
    if world != os.environ.get("LOCAL_WORLD_SIZE", world):
        resume = "to resume, start it on every machine as before, with --resume"
    return Answer(document, "", 128 + number, f"stopped by {signal.Signals(number).name}; {resume}")


def _program() -> str:
    """What to type for this program."""
    return "alexnet" if shutil.which("alexnet") else shlex.join([sys.executable, "-m", "alexnet"])


def _recipe_table() -> str:
    """Each recipe, with the flags by which it differs from ``classic``."""
    lines, indent = ["recipes, and their differences from classic:"], " " * 14
    width = max(40, shutil.get_terminal_size().columns)
    for name, make in RECIPES.items():
        lines.append(f"  {name:12}{(make.__doc__ or name).splitlines()[0].replace('`', '')}")
        flags = [
            *recipes.changed_flags(make(), Recipe()),
            *recipes.changed_flags(recipes.runtime_for(name), Runtime()),
        ]
        lines += textwrap.wrap(
            " ".join(flags), width - 2, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
    return "\n".join(lines)


def _warn(text: str) -> None:
    if _is_first_process():
        print(f"alexnet: {text}", file=sys.stderr)


def _is_first_process() -> bool:
    """Whether this is the only process, or the first of several, which prints."""
    return os.environ.get("RANK", "0") == "0"


# --- from words to arguments


class _Parser(argparse.ArgumentParser):
    """The parser of one command."""

    def __init__(self, name: str) -> None:
        if name not in COMMANDS:
            raise UsageError(f"unknown command {name}{suggest(name, COMMANDS)}; see alexnet --help")
        function, arguments, example = COMMANDS[name]
        super().__init__(
            prog=f"alexnet {name}",
            description=function.__doc__,
            epilog=(f"{_recipe_table()}\n\n" if name == "train" else "") + f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
        )
        groups: dict[str, Any] = {}
        self.flags, self.words, usage = {"-h", "--help"}, [], ""
        for each in [argument("--json", bool, "Print one JSON document instead of text."), *arguments]:
            if each.group not in groups:
                groups[each.group] = self.add_argument_group(each.group) if each.group and name == "train" else self
            action = groups[each.group].add_argument(each.name, **each.options)
            self.flags.update(action.option_strings)
            if not action.option_strings:
                self.words.append(each.name)
                forms = {None: " {}", "?": " [{}]", "*": " [{} ...]", "+": " {} ..."}
                usage += forms[action.nargs].format(action.metavar)
        self.usage = f"{self.prog}{usage} [flags]"

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file, flush=True)  # argparse's own hides that a pipe is closed

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse(self, words: Sequence[str]) -> Namespace:
        """The arguments. First refuses unknown and renamed flags, and joins negative numbers to their flags."""
        checked: list[str] = []
        for number, word in enumerate(words):
            if word == "--":
                checked += words[number:]
                break
            flag, last = word.partition("=")[0], checked[-1] if checked else ""
            is_unknown = flag.startswith("--") and flag not in self.flags
            for old in (flag,) if is_unknown else (f"{last} {word}", word.replace("=", " ")):
                if old in RENAMED:
                    raise UsageError(f"{old} is no longer available; use {RENAMED[old]}")
            if is_unknown:
                raise UsageError(f"unknown flag {flag}{suggest(flag, self.flags)}; see {self.prog} --help")
            if last in self.flags and re.match(r"-[\d.]", word):  # argparse takes -1e-3 for a flag
                checked[-1] += f"={word}"
            else:
                checked.append(word)
        try:
            args = self.parse_intermixed_args(checked)
        except argparse.ArgumentError as error:
            self.error(f"{error.argument_name or ''} {error.message}".strip())
        if getattr(args, "out", None):
            args.out = os.path.expanduser(args.out)  # noqa: PTH111  # a shell leaves --out=~/x as it is
        return args


def parse(words: Sequence[str]) -> Namespace:
    """The arguments of a command line, whose first word is the command.

    Raises:
        UsageError: an unknown command or flag, or a value that is not allowed.
        SystemExit: after ``--help``.
    """
    return _Parser(words[0]).parse(words[1:])


# --- running


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata; an image that cannot be read is an error
    words = sys.argv[1:] if argv is None else list(argv)
    with _safe_streams():
        try:
            return _run(words)
        except UsageError as error:
            return _complain(str(error), 2)
        except KeyboardInterrupt as error:  # train.run adds the signal's number
            return _complain("interrupted", 143 if error.args == (signal.SIGTERM,) else 130)
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):  # Python flushes again when it ends, and would complain
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + 13  # as if SIGPIPE had ended the process
        except OSError as error:
            return _complain(_reason(error), 1)
        except ValueError as error:
            return _complain(str(error), 1)
        except (MemoryError, RuntimeError) as error:
            from alexnet.system import out_of_memory
            from alexnet.train import TrainingError

            if out_of_memory(error):
                advice = "; a smaller --batch-size needs less" if words[0] == "train" else ""
                return _complain(f"out of memory ({(str(error).splitlines() or ['no details'])[0]}){advice}", 1)
            if isinstance(error, TrainingError):
                return _complain(str(error), 1)
            raise


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "--version"):
        summaries = "\n".join(f"  {name:11}{function.__doc__}" for name, (function, *_) in COMMANDS.items())
        print(f"alexnet {__version__}" if "--version" in words else HELP.format(commands=summaries), flush=True)
        return 0
    parser, out = _Parser(words[0]), sys.stdout
    try:
        args = parser.parse(words[1:])
    except SystemExit:  # --help
        return 0
    try:
        with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
            answer = COMMANDS[words[0]][0](args)
    except FieldError as error:
        name = error.field if error.field in parser.words else _flag(error.field)
        if name not in (*parser.words, *parser.flags):  # not about an argument
            raise
        raise UsageError(f"{name} {error.problem}") from error
    if not _is_first_process():
        return answer.code
    if args.json or answer.text:
        print(_json(answer.document) if args.json else answer.text, file=out, flush=True)
    if answer.note:
        print(answer.note, file=sys.stderr)
    if answer.then:
        with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
            answer.then()
    return answer.code


def _complain(text: str, code: int) -> int:
    if code == 1 or _is_first_process():  # one process may fail alone; a wrong command line is wrong for all
        with contextlib.suppress(OSError):
            print(f"alexnet: {' '.join(text.split())}", file=sys.stderr)
    return code


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def _json(document: Any) -> str:
    """``document`` as JSON: NaN and infinities become null, paths become strings."""
    return json.dumps(json.loads(json.dumps(document, default=str), parse_constant=lambda _: None), indent=2)


class _LogStream(io.TextIOBase):
    """A file around an object that can only be written to."""

    def __init__(self, log: Any) -> None:
        self.log = log

    def write(self, text: str) -> int:
        self.log.write(text)
        return len(text)


@contextlib.contextmanager
def _safe_streams() -> Iterator[None]:
    """Let everything write to ``sys.stdout`` and ``sys.stderr``, even if they are closed or not files."""
    with contextlib.ExitStack() as stack:
        for name, redirect in (("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)):
            stream = getattr(sys, name)
            if stream is None or getattr(stream, "closed", False):  # None: closed before the start, or pythonw
                stack.enter_context(redirect(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
            elif not hasattr(stream, "isatty"):  # a log object
                stack.enter_context(redirect(_LogStream(stream)))
            elif hasattr(stream, "reconfigure"):  # a file's name may hold what the terminal's encoding cannot show
                stream.reconfigure(errors="backslashreplace")
        yield
