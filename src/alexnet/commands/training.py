"""Commands that train, and the one that says whether it will help."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.commands.answer import Answer, FailedError, given, program
from alexnet.flags import UsageError, recipe_from
from alexnet.recipes import Recipe, field_types

if TYPE_CHECKING:
    from alexnet.train import Result

__all__ = ["doctor", "reproduce", "train"]


def train(args: argparse.Namespace) -> Answer:
    changes = given(args)
    folder = Path(args.out or f"runs/{args.recipe or 'classic'}")
    if args.resume and (folder / "config.json").is_file():
        recipe = _stored_recipe(folder, args.recipe, changes)
    elif args.resume and not args.recipe:
        raise UsageError(f"--resume: {folder} holds no run to go on with; name a recipe to begin one there")
    else:
        recipe = recipe_from(args.recipe or "classic", changes)
    from torch import distributed

    from alexnet import train

    try:
        result = train.run(recipe, out=folder, resume=args.resume, quiet=args.quiet, profile=args.profile)
    except train.TrainingError as error:
        raise FailedError(str(error)) from error
    if distributed.is_initialized():
        distributed.destroy_process_group()
    document = {
        "folder": str(folder),
        "final": result.final,
        "best": result.best,  # empty before the first validation
        "stopped_by": result.stopped_by,
    }
    if result.stopped_by:
        steps = ["--max-steps", str(changes["max_steps"])] if changes.get("max_steps") else []
        again = _to_go_on(shlex.join(["train", "--resume", "--out", folder.as_posix(), *steps]))
        name = signal.Signals(result.stopped_by).name
        return Answer(document, "", 128 + result.stopped_by, f"stopped by {name}{again}")
    first = os.environ.get("RANK", "0") == "0"  # of several processes, the one that writes and speaks
    return Answer(document, _result_text(result, recipe) if first else "")


def _to_go_on(command: str) -> str:
    """How to start ``command`` as this process was started: by itself, or by torchrun on one machine or several."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world != os.environ.get("LOCAL_WORLD_SIZE", world):
        return "; to go on, start it on every machine as before, with --resume"
    call = program()
    if world != "1":
        torchrun = (
            "torchrun" if shutil.which("torchrun") else shlex.join([sys.executable, "-m", "torch.distributed.run"])
        )
        call = f"{torchrun} --nproc-per-node {world} -m alexnet"
    return f"; to go on:\n  {call} {command}"


def _stored_recipe(folder: Path, name: str | None, changes: dict[str, Any]) -> Recipe:
    """The recipe that a run was started with, and the changes; ``train.run`` refuses those that contradict it."""
    from alexnet.run.runfolder import read_config

    config = read_config(folder)
    stored = config.get("recipe") if isinstance(config, dict) else None
    if not isinstance(stored, dict) or not set(stored) <= set(field_types()):
        raise ValueError(f"{folder}/config.json: holds no recipe that this version of alexnet knows")
    if name not in (None, stored.get("name")):
        raise UsageError(f"recipe {name}: {folder} was started with {stored.get('name')}; leave it out to continue")
    try:
        return Recipe(**(stored | changes))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _result_text(result: Result, recipe: Recipe) -> str:
    """The figures, each with what it is worth, and what to do next."""
    from alexnet.report.plots import CURVES

    def figures(row: Mapping[str, float], names: Sequence[str]) -> str:
        return "  ".join(f"{n} {row[n]:.2f}%" if n.endswith("acc") else f"{n} {row[n]:.4f}" for n in names if n in row)

    final, best, folder = result.final, result.best, result.folder
    told = figures(final, ["test_acc", "test_loss", "val_acc", "val_loss", "train_acc", "train_loss"])
    lines = [f"result, after step {final['step']:,.0f}: {told}"] if final else []
    if best.get("step"):
        where = f"{best['val_acc']:.2f}% at step {best['step']:,.0f}"
        lines.append(f"highest val_acc on the way: {where}; picked on the validation images, so not a result")
    # with slashes, which Windows takes too: of backslashes shlex would make quotes that cmd.exe does not know
    picture, place = folder / CURVES, shlex.quote(folder.as_posix())
    viewer = {"darwin": "open", "win32": "start"}.get(sys.platform, "xdg-open")
    if recipe.name == "quickstart":
        example = _example(folder, recipe)
        lines += [
            "",
            "look at the curves:",
            f"  {viewer} {shlex.quote(str(picture))}",
            "classify an image:",
            f"  {program()} predict {place} {shlex.quote(example.as_posix()) if example else 'IMAGE'}",
        ]
    else:
        call = program()
        lines += [f"curves: {picture}", f"next:\n  {call} evaluate {place}\n  {call} predict {place} IMAGE"]
    return "\n".join(lines)


def _example(folder: Path, recipe: Recipe) -> Path | None:
    """A validation image as a file, for somebody who has no picture of a digit at hand."""
    if recipe.data != "digits":
        return None
    from alexnet.data import datasets

    dataset = datasets.load(recipe.data)
    path = folder / f"example-{dataset.classes[dataset.val.labels[0]]}.png"
    dataset.val.image(0).save(path)
    return path


def reproduce(args: argparse.Namespace) -> Answer:
    from alexnet.reproduce.catalogue import EXPERIMENTS, find
    from alexnet.reproduce.told import format_list, format_record, list_experiments

    if args.experiment is None:
        return Answer(list_experiments(EXPERIMENTS), format_list(EXPERIMENTS))
    try:
        experiment = find(args.experiment)
    except ValueError as error:
        raise UsageError(str(error)) from error
    from alexnet.reproduce.conduct import conduct
    from alexnet.train import TrainingError

    asked = {name: getattr(args, name) for name in ("data", "data_dir", "out", "seeds", "full", "resume", "device")}
    try:
        done = conduct(experiment, **asked, say=lambda line: print(line, file=sys.stderr, flush=True), quiet=args.quiet)
    except TrainingError as error:
        raise FailedError(str(error)) from error
    if done.record is None:
        words = ["reproduce", args.experiment, "--resume", "--out", done.folder.as_posix(), "--data", args.data]
        words += ["--full"] * args.full + (["--seeds", str(args.seeds)] if args.seeds else [])
        words += [] if args.data_dir == "data" else ["--data-dir", args.data_dir]
        words += [] if args.device == "auto" else ["--device", args.device]
        again = f"{program()} {shlex.join(words)}"
        number = done.stopped_by or signal.SIGINT
        return Answer({}, "", 128 + number, f"stopped by {signal.Signals(number).name}; to go on:\n  {again}")
    return Answer(done.record, format_record(done.record, done.folder))


def doctor(args: argparse.Namespace) -> Answer:
    changes = given(args)
    recipe = recipe_from(args.recipe or "classic", changes) if args.recipe or changes else None
    from alexnet.run.doctor import examine, report

    document = examine(recipe)
    return Answer(document, report(document))
