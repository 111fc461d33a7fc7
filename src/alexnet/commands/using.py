"""Commands that put a trained network to work."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet.commands.answer import Answer, bar
from alexnet.flags import UsageError

if TYPE_CHECKING:
    from alexnet.data.splits import Dataset

__all__ = ["convert", "demo", "evaluate", "explain", "export", "predict"]


def evaluate(args: argparse.Namespace) -> Answer:
    from alexnet import hardware
    from alexnet.files import check_out
    from alexnet.report import plots
    from alexnet.use.evaluate import evaluate, format_evaluation
    from alexnet.weights import checkpoint

    hardware.keep_freed_memory()
    path = Path(args.model)
    if args.out:
        check_out(Path(args.out), ".png")
    model = checkpoint.load_model(path)
    run, recipe = _run_of(path)
    dataset = _data_of(args, recipe)
    if not args.data and dataset.test and args.split == "test":
        print("opening the test images, which this run kept closed: choose nothing by them", file=sys.stderr)
    elif args.data and recipe.get("holdout"):
        print("--data: all of its images to judge by, where this run held some out of its own", file=sys.stderr)
    found = evaluate(model, dataset, args.views, args.split, device=args.device, precision=args.precision, watch=bar)
    text, without = format_evaluation(found, args.views), ""
    if args.out or run:
        picture = Path(args.out or f"{run}/confusion.png")
        try:
            text += f"\n\nas a picture: {plots.confusion(found['confusion'], dataset.classes, picture)}"
        except OSError as error:  # what was found is not lost for want of a picture
            without = f"alexnet: without a picture: {error}"
    return Answer(found, text, 1 if without and args.out else 0, without)


def predict(args: argparse.Namespace) -> Answer:
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


def explain(args: argparse.Namespace) -> Answer:
    if (args.layer is None) != (args.channel is None):
        raise UsageError("--layer and --channel: allowed are both, such as --layer conv3 --channel 17, or neither")
    from alexnet import hardware
    from alexnet.use.explain.page import explain, format_explanation
    from alexnet.weights.checkpoint import load_model

    hardware.keep_freed_memory()
    path = Path(args.model)
    model, (run, recipe) = load_model(path), _run_of(path)
    if args.images:  # the run may have been brought here without its data
        dataset, without = _data_at_hand(args, recipe)
    elif args.data == "none":
        dataset, without = None, ""
    else:
        dataset, without = _data_of(args, recipe), ""
    place = path.resolve()
    found = explain(
        model,
        args.images,
        dataset,
        out=Path(args.out or (run or Path()) / "explain.html"),
        title=place.name if path.is_dir() else f"{place.parent.name}/{place.name}",
        run=run,
        without=without,
        patch=None if args.layer is None else (args.layer, args.channel),
        neighbours=args.neighbours,
        device=args.device,
        precision=args.precision,
        progress=lambda what: functools.partial(bar, desc=what),
    )
    errors = [f"alexnet: {entry['error']}" for entry in found["images"] if entry["error"]]
    notes = [] if dataset else [f"without accuracy, patches, errors and neighbours: {without}"]
    return Answer(found, format_explanation(found), 1 if errors else 0, "\n".join([*errors, *notes]))


def demo(args: argparse.Namespace) -> Answer:
    from alexnet import hardware
    from alexnet.use.demo.network import Network
    from alexnet.use.demo.server import end_on_sigterm, need_gradio, serve
    from alexnet.weights.checkpoint import load_model

    need_gradio()
    hardware.keep_freed_memory()
    path = Path(args.model)
    model, (_, recipe) = load_model(path), _run_of(path)
    dataset, without = _data_at_hand(args, recipe)
    network = Network(model, dataset, count=args.neighbours, device=args.device, precision=args.precision)
    note = "" if dataset else f"without examples and nearest training images: {without}"
    if args.space:
        from alexnet.use.demo.space import write_space

        space = Path(args.space)
        files = write_space(network, space)
        told = f"{space}: {', '.join(files)}\nto push it:\n  hf upload USER/NAME {space} --repo-type space"
        return Answer({"space": str(space), "files": files}, told, aside=note)
    end_on_sigterm()
    page = serve(network, args.host, args.port)
    return Answer({"url": page.url}, f"{page.url}\nCtrl-C ends it", aside=note, then=page.wait)


def export(args: argparse.Namespace) -> Answer:
    from alexnet.weights.export import export

    done = export(Path(args.model), args.format, Path(args.out))
    opset = f", opset {done['opset']}" if "opset" in done else ""
    return Answer(
        done,
        f"{done['file']}: {done['format']}{opset}, {done['bytes'] / 1e6:.1f} MB\n"
        f"checked with {done['checked_with']}: its logits differ by {done['checked']:.1e} of the largest",
    )


def convert(args: argparse.Namespace) -> Answer:
    from alexnet.weights.convert import convert

    done = convert(Path(args.source), Path(args.out), args.variant)
    return Answer(
        done,
        f"{done['file']}: variant {done['variant']}, {done['num_classes']} classes ({done['classes']})\n"
        f"normalization: {done['normalization']}",
    )


def _run_of(path: Path) -> tuple[Path | None, dict[str, Any]]:
    """The run's folder that a model lies in, and its recipe; None and nothing where there is none."""
    from alexnet.run.runfolder import read_config

    folder = path if path.is_dir() else path.parent
    config = read_config(folder) if (folder / "config.json").is_file() else None
    return (folder, config.get("recipe") or {}) if isinstance(config, dict) else (None, {})


def _data_of(args: argparse.Namespace, recipe: Mapping[str, Any]) -> Dataset:
    """The data set named on the command line, or else the run's own, with the images held out that it held out."""
    from alexnet.data import datasets

    path, spec = Path(args.model), args.data or recipe.get("data")
    if not spec:
        folder = path if path.is_dir() else path.parent
        raise UsageError(f"--data: needed, for {folder} has no config.json that says what {path.name} was trained on")
    dataset = datasets.load(spec, args.data_dir or recipe.get("data_dir") or "data")
    parts = () if args.data else (recipe.get("holdout", 0), recipe.get("images"))
    return dataset.as_in(*parts, flip=recipe.get("flip", True))


def _data_at_hand(args: argparse.Namespace, recipe: Mapping[str, Any]) -> tuple[Dataset | None, str]:
    """The data set as ``_data_of`` has it, or why there is none; the run's own is never downloaded."""
    from alexnet.data import datasets

    if args.data == "none":
        return None, "--data none"
    if not args.data:
        if not (spec := recipe.get("data")):
            return None, "no data set was named"
        found = datasets.describe(spec, args.data_dir or recipe.get("data_dir") or "data")
        if not found["found"]:
            how = found["how"]
            return None, how if how.startswith("--data") else f"{spec}: {how}; to use it: --data {spec}"
    return _data_of(args, recipe), ""
