"""The ``alexnet`` command.

``--help`` has to answer at once, so torch and everything that needs it are imported inside the commands.

Exit codes: 0 done; 1 failed; 2 wrong usage; 130 and 143 stopped by SIGINT or SIGTERM. A failure and a wrong usage are
one line on standard error. Any other exception is a bug in this package and keeps its trace.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.files import finite
from alexnet.flags import UsageError, parse, recipe_from
from alexnet.recipes import Recipe, field_types

if TYPE_CHECKING:
    from alexnet.train import Result

__all__ = ["main"]


class FailedError(Exception):
    """The command could not do its work. The message says why."""


@dataclass
class Answer:
    """What a command found: one document for ``--json``, a text for people."""

    document: Any
    text: str
    code: int = 0
    aside: str = ""
    """For standard error: what is no result, but has to be said with ``--json`` too."""
    then: Callable[[], None] | None = None
    """What goes on after all that has been said, until somebody ends it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. ``--help`` and ``--version`` raise SystemExit, as argparse does."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file's name may hold what the terminal's encoding does not
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except UsageError as error:
        return _complain(error, 2)
    except FailedError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:  # whoever read the output has gone, such as `head`
        with contextlib.suppress(OSError, ValueError):  # Python would flush once more at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as if SIGPIPE had ended us
    except OSError as error:
        return _complain(_system_reason(error), 1)
    except ValueError as error:
        # Every message about a flag begins with it; the others are about files and data.
        return _complain(error, 2 if str(error).startswith("--") else 1)


def _complain(error: Exception | str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"alexnet: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _system_reason(error: OSError) -> str:
    if error.strerror is None or error.errno is None:
        return str(error)
    full = "; the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.filename}: {error.strerror}{full}" if error.filename else f"{error.strerror}{full}"


def _run(argv: list[str]) -> int:
    try:
        args = parse(argv)
    except SystemExit:  # --help: a reader who has gone shall be noticed here, not at Python's end
        sys.stdout.flush()
        raise
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext(), _memory(args.command):
        answer = _COMMANDS[args.command](args)
    if os.environ.get("RANK", "0") != "0":  # one of several processes; the first one speaks
        return answer.code
    if args.json:
        print(json.dumps(finite(answer.document), indent=2), file=out)
    elif answer.text:
        print(answer.text, file=out)
    out.flush()
    if answer.aside:
        print(answer.aside, file=sys.stderr)
    if answer.then:
        answer.then()
    return answer.code


@contextlib.contextmanager
def _memory(command: str) -> Iterator[None]:
    """Say in one line that memory ran out. torch has a class of its own for devices, and none for the CPU."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error)):
            raise
        reason = (str(error).splitlines() or ["no more to be had"])[0]
        remedy = "; a smaller --batch-size needs less" if command == "train" else ""
        raise FailedError(f"out of memory ({reason}){remedy}") from error


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe's fields that the command line sets."""
    return {name: value for name, value in vars(args).items() if name in field_types()}


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


def _train(args: argparse.Namespace) -> Answer:
    changes = _given(args)
    folder = Path(args.out or f"runs/{args.recipe or 'classic'}")
    if args.resume and (folder / "config.json").is_file():
        recipe = _stored_recipe(folder, args.recipe, changes)
    else:
        recipe = recipe_from(args.recipe or "classic", changes)
    from alexnet import train

    try:
        result = train.run(recipe, out=folder, resume=args.resume, quiet=args.quiet, profile=args.profile)
    except train.TrainingError as error:
        raise FailedError(str(error)) from error
    best = result.best if result.best.get("step") else {}  # before the first validation there is none
    document = {"folder": str(folder), "final": result.final, "best": best, "stopped_by": result.stopped_by}
    if result.stopped_by:
        steps = ["--max-steps", str(changes["max_steps"])] if changes.get("max_steps") else []
        again = f"{_program()} {shlex.join(['train', '--resume', '--out', str(folder), *steps])}"
        name = signal.Signals(result.stopped_by).name
        return Answer(document, "", 128 + result.stopped_by, f"stopped by {name}; to go on:\n  {again}")
    return Answer(document, _result_text(result, recipe))


def _result_text(result: Result, recipe: Recipe) -> str:
    """The figures, each with what it is worth, and what to do next."""

    def figures(row: Mapping[str, float], names: Sequence[str]) -> str:
        return "  ".join(f"{n} {row[n]:.2f}%" if n.endswith("acc") else f"{n} {row[n]:.4f}" for n in names if n in row)

    final, best, folder = result.final, result.best, result.folder
    told = figures(final, ["test_acc", "test_loss", "val_acc", "val_loss", "train_acc", "train_loss"])
    lines = [f"result, after step {final['step']:,.0f}: {told}"] if final else []
    if best.get("step"):
        where = f"{best['val_acc']:.2f}% at step {best['step']:,.0f}"
        lines.append(f"highest val_acc on the way: {where}; picked on the validation images, so not a result")
    picture, place = folder / "curves.png", shlex.quote(str(folder))
    viewer = {"darwin": "open", "win32": "start"}.get(sys.platform, "xdg-open")
    if recipe.name == "quickstart":
        example = _example(folder, recipe)
        lines += [
            "",
            "look at the curves:",
            f"  {viewer} {shlex.quote(str(picture))}",
            "classify an image:",
            f"  {_program()} predict {place} {shlex.quote(str(example)) if example else 'IMAGE'}",
        ]
    else:
        call = _program()
        lines += [f"curves: {picture}", f"next:\n  {call} evaluate {place}\n  {call} predict {place} IMAGE"]
    return "\n".join(lines)


def _program() -> str:
    """What to type for this command: as it was called, where its name alone would not be found."""
    called = Path(sys.argv[0])
    if shutil.which("alexnet"):
        return "alexnet"
    if called.name == "__main__.py" and called.parent.name == "alexnet":
        return shlex.join([sys.executable, "-m", "alexnet"])
    return shlex.quote(sys.argv[0]) if called.name == "alexnet" else "alexnet"


def _example(folder: Path, recipe: Recipe) -> Path | None:
    """A validation image as a file, for somebody who has no picture of a digit at hand."""
    if recipe.data != "digits":
        return None
    from alexnet.data import datasets

    dataset = datasets.load(recipe.data)
    path = folder / f"example-{dataset.classes[dataset.val.labels[0]]}.png"
    dataset.val.image(0).save(path)
    return path


def _evaluate(args: argparse.Namespace) -> Answer:
    path = Path(args.model)
    folder = path if path.is_dir() else path.parent
    spec, data_dir, is_run = args.data, args.data_dir, (folder / "config.json").is_file()
    from alexnet import hardware
    from alexnet.data import datasets
    from alexnet.report import plots
    from alexnet.run.runfolder import read_config
    from alexnet.use.evaluate import evaluate, format_evaluation
    from alexnet.weights import checkpoint

    hardware.keep_freed_memory()
    model = checkpoint.load_model(path)
    holdout = 0
    if is_run:
        recipe = read_config(folder).get("recipe", {})
        holdout = 0 if spec else recipe.get("holdout", 0)
        spec, data_dir = spec or recipe.get("data"), data_dir or recipe.get("data_dir")
    if not spec:
        raise UsageError(f"--data: needed, for {folder} has no config.json that says what {path.name} was trained on")
    dataset = datasets.load(spec, data_dir or "data")
    if holdout:
        dataset = dataset.with_holdout(holdout)
    if holdout and args.split == "test":
        print("opening the test images, which this run kept closed to its end: choose nothing by them", file=sys.stderr)
    if args.views == "ten-crop" and not dataset.flip:
        warning = f"warning: ten-crop mirrors the images, and a mirrored image of {dataset.name} is another thing"
        print(warning, file=sys.stderr)
    found = evaluate(model, dataset, args.views, args.split, device=args.device, precision=args.precision, watch=_bar)
    text = format_evaluation(found, args.views)
    if args.out or is_run:
        picture = Path(args.out or folder / "confusion.png")
        text += f"\n\nas a picture: {plots.confusion(found['confusion'], dataset.classes, picture)}"
    return Answer(found, text)


def _bar(batches: Any, count: int) -> Any:
    from tqdm import tqdm

    return tqdm(batches, total=count, unit="batch", leave=False, disable=None)  # None: only on a terminal


def _predict(args: argparse.Namespace) -> Answer:
    from alexnet import hardware
    from alexnet.use.predict import predict
    from alexnet.weights.checkpoint import load_model

    hardware.keep_freed_memory()
    model, document = load_model(args.model), []
    for answer in predict(model, args.images, args.top_k, device=args.device, precision=args.precision):
        top = [{"class": name, "probability": value} for name, value in answer.top]
        document.append({"file": answer.file, "top": top, "error": answer.error})
        if args.json:
            continue
        if answer.error:
            print(f"alexnet: {answer.error}", file=sys.stderr)
        else:
            print(
                f"{answer.file}: " + ", ".join(f"{name} {100 * value:.1f}%" for name, value in answer.top), flush=True
            )
    return Answer(document, "", 1 if any(entry["error"] for entry in document) else 0)


def _summary(args: argparse.Namespace) -> Answer:
    from alexnet.report.summary import format_summary, summarize

    document = summarize(args.variant, args.num_classes)
    return Answer(document, format_summary(document))


def _variants(args: argparse.Namespace) -> Answer:
    from alexnet.report.summary import format_variants, variants_table

    rows = variants_table()
    return Answer(rows, format_variants(rows))


def _export(args: argparse.Namespace) -> Answer:
    from alexnet.weights.export import export

    done = export(Path(args.model), args.format, Path(args.out))
    opset = f", opset {done['opset']}" if "opset" in done else ""
    return Answer(
        done,
        f"{done['file']}: {done['format']}{opset}, {done['bytes'] / 1e6:.1f} MB\n"
        f"checked with {done['checked_with']}: its logits differ by {done['checked']:.1e} of the largest",
    )


def _convert(args: argparse.Namespace) -> Answer:
    from alexnet.weights.convert import convert

    done = convert(Path(args.source), Path(args.out), args.variant)
    return Answer(
        done,
        f"{done['file']}: variant {done['variant']}, {done['num_classes']} classes ({done['classes']})\n"
        f"normalization: {done['normalization']}",
    )


def _doctor(args: argparse.Namespace) -> Answer:
    changes = _given(args)
    recipe = recipe_from(args.recipe or "classic", changes) if args.recipe or changes else None
    from alexnet.run.doctor import examine, report

    document = examine(recipe)
    return Answer(document, report(document))


def _report(args: argparse.Namespace) -> Answer:
    from alexnet.report.page import report

    done = report([Path(run) for run in args.runs], Path(args.out) if args.out else None)
    return Answer(done, "\n".join([*done["findings"], f"page: {done['out']}"]))


def _demo(args: argparse.Namespace) -> Answer:
    from alexnet import hardware
    from alexnet.use.demo.network import open_network
    from alexnet.use.demo.server import end_on_sigterm, serve

    hardware.keep_freed_memory()
    options = {"device": args.device, "precision": args.precision, "count": args.neighbours}
    network, note = open_network(args.model, args.data, args.data_dir, **options)
    aside = f"without examples and nearest training images: {note}" if note else ""
    if args.space:
        from alexnet.use.demo.space import write_space

        space = Path(args.space)
        files = write_space(network, space)
        told = f"{space}: {', '.join(files)}\nto push it:\n  hf upload USER/NAME {space} --repo-type space"
        return Answer({"space": str(space), "files": files}, told, aside=aside)
    end_on_sigterm()
    page = serve(network, args.host, args.port)
    return Answer({"url": page.url}, f"{page.url}\nCtrl-C ends it", aside=aside, then=page.wait)


_COMMANDS: dict[str, Callable[[argparse.Namespace], Answer]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "summary": _summary,
    "variants": _variants,
    "export": _export,
    "convert": _convert,
    "doctor": _doctor,
    "report": _report,
    "demo": _demo,
}
