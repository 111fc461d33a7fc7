"""From classic to modern, one change after another: what each gives to the accuracy on held-out training images.

    python benchmarks/trials.py --data FOLDER [--epochs 13] [--holdout 5000] [--widths full] [--seeds 0]
                                [--only NAME ...] [--views VIEWS ...] [--json FILE]

Each of ``LADDER`` adds to the one before, and the last is the recipe modern; each of ``OTHERS`` changes modern in one
thing. What no recipe has (``TRIED``) replaces a part of the code while a run lasts: it becomes a field if it gains. The
test images are never touched. The record is written after each run, and a second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from alexnet import hardware, load_model, recipes, train
from alexnet.data import datasets, loaders
from alexnet.data.resident import Boxes, CropMatrices
from alexnet.run import schedule
from alexnet.run.runfolder import read_config
from alexnet.run.session import Session
from alexnet.use.evaluate import evaluate
from record import Growing, origin

LADDER: list[tuple[str, dict[str, Any]]] = [
    ("classic", {}),
    ("He initialisation on standardised input", {"init": "he", "input_scale": "imagenet"}),
    ("random crops of 256, not resized ones", {"crop": "random"}),
    ("batches of 64", {"batch_size": 64}),
    ("Nesterov's momentum, warm-up over one epoch of 13, lr 0.04", {"nesterov": True, "warmup": 1.0, "lr": 0.04}),
    ("label smoothing 0.1, moving average of the weights 0.999", {"label_smoothing": 0.1, "ema": 0.999}),
    ("modern, lr 0.08", {"lr": 0.08}),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("modern, lr 0.02", {"lr": 0.02}),
    ("modern, lr 0.02, batches of 128", {"lr": 0.02, "batch_size": 128}),
    ("modern, lr 0.16", {"lr": 0.16}),
    ("modern, clipped at norm 4", {"clip_norm": 4.0}),
    ("modern, resized crops", {"crop": "random-resized"}),
    ("modern, the paper's initialisation on raw input", {"init": "paper", "input_scale": "raw"}),
]


@contextlib.contextmanager
def alternating_mirrors() -> Iterator[None]:
    """Half of the images are mirrored in even epochs, the others in odd ones."""
    boxes = loaders.ResidentBatches._boxes

    def alternate(self: loaders.ResidentBatches, epoch: int) -> Boxes:
        count, seed = len(self.images), self.recipe.seed
        first = torch.rand(count, generator=loaders._generator(seed, 0, stream=4)) < 0.5
        return replace(boxes(self, epoch), flip=first[loaders.epoch_order(count, seed, epoch)] ^ bool(epoch % 2))

    with mock.patch.object(loaders.ResidentBatches, "_boxes", alternate):
        yield


@contextlib.contextmanager
def cutout(side: int = 64) -> Iterator[None]:
    """A square of ``side`` pixels of each crop is the mean of ImageNet, which is 0; its centre lies anywhere."""
    apply, own = CropMatrices.apply, torch.Generator().manual_seed(0)  # dropout keeps its draws

    def cut(self: CropMatrices, images: Tensor, boxes: Boxes) -> Tensor:
        crops = apply(self, images, boxes)
        pixels = torch.arange(crops.shape[-1], device=crops.device)
        centres = torch.randint(crops.shape[-1], (2, len(crops), 1), generator=own).to(crops.device)
        rows, columns = (((pixels - centre + side // 2) // side) == 0 for centre in centres)
        return crops.masked_fill_((rows[:, :, None] & columns[:, None])[:, None], 0.0)

    with mock.patch.object(CropMatrices, "apply", cut):
        yield


@contextlib.contextmanager
def growing_dropout() -> Iterator[None]:
    """Dropout of 0 at the first step and of 0.5 at the last."""
    step = train.train_step

    def grown(s: Session, images: Tensor, labels: Tensor) -> Tensor:
        for layer in s.net.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.5 * s.progress.step / s.total_steps
        return step(s, images, labels)

    uncompiled = mock.patch.object(hardware, "can_compile", return_value=False)  # else anew for each probability
    with uncompiled, mock.patch.object(train, "train_step", grown):
        yield


@contextlib.contextmanager
def straight_line() -> Iterator[None]:
    """The learning rate falls to 0 in a straight line, not in a cosine."""
    with mock.patch.object(schedule, "cosine", lambda step, total, lr: lr * (1 - step / total)):
        yield


TRIED: list[tuple[str, Callable[[], contextlib.AbstractContextManager[None]]]] = [
    ("modern, mirrors that alternate by epoch", alternating_mirrors),
    ("modern, cutout of 64 pixels", cutout),
    ("modern, dropout that grows from 0", growing_dropout),
    ("modern, a rate that falls in a straight line", straight_line),
]


def trials() -> list[tuple[str, dict[str, Any]]]:
    """Each trial's name, and its recipe as changes to classic."""
    found, so_far = [], {}
    for name, changes in LADDER:
        so_far = so_far | changes
        found.append((name, so_far))
    return found + [(name, so_far | changes) for name, changes in OTHERS] + [(name, so_far) for name, _ in TRIED]


def measure(name: str, changes: dict[str, Any], common: dict[str, Any], views: Sequence[str] = ()) -> dict[str, Any]:
    """Train once; the last validation is the result. ``views``: judge the same images by these, too."""
    epochs = common["epochs"]
    if "warmup" in changes:
        changes = changes | {"warmup": changes["warmup"] * epochs / 13}
    often = {"val_every": 10**9, "save_every": 10**9, "tracker": "none", "loader": "resident"}
    recipe = recipes.classic(**changes, **common, **often)
    replaced = dict(TRIED).get(name, contextlib.nullcontext)
    unopened = mock.patch.object(train, "_test", return_value={})
    with tempfile.TemporaryDirectory() as folder, replaced(), unopened:
        began = time.perf_counter()
        result = train.run(recipe, out=Path(folder) / "run", quiet=True)
        seconds = time.perf_counter() - began
        if result.stopped_by:
            raise KeyboardInterrupt
        data = read_config(result.folder)["data"]
        held = datasets.load(recipe.data).as_in(recipe.holdout, recipe.images, flip=recipe.flip)
        by_views = {each: evaluate(load_model(result.folder), held, each)["top1"] for each in views}
    final = result.final
    keep = ("val_acc", "val_loss", "train_acc", "train_loss", "grad_norm", "step")
    spec = {"spec": "FOLDER"} if Path(recipe.data).is_dir() else {}
    told = {"seconds": seconds, "data": data | spec} | ({"views": by_views} if views else {})
    return {key: final[key] for key in keep} | told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--holdout", type=int, default=5000)
    parser.add_argument("--widths", default="full", choices=["full", "quarter"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of trials; by default all")
    parser.add_argument("--views", nargs="+", default=[], choices=recipes.VIEWS, help="judge by these, too, at the end")
    parser.add_argument("--json", type=Path, default=Path("results/trials.json"))
    args = parser.parse_args()
    names = [name for name, _ in trials()]
    if unknown := set(args.only or ()) - set(names):
        parser.error(f"--only {', '.join(unknown)}: allowed are {', '.join(names)}")
    dataset = datasets.load(args.data)
    head = {
        "kind": "trials",
        "data": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "command": f"python benchmarks/trials.py --data FOLDER --epochs {args.epochs} --holdout {args.holdout}"
        + f" --widths {args.widths}" * (args.widths != "full")
        + f" --views {' '.join(args.views)}" * bool(args.views),
        "epochs": args.epochs,
        "holdout": args.holdout,
    } | ({"widths": args.widths} if args.widths != "full" else {})
    try:
        record = Growing(args.json, head, ("name", "seed"))
    except ValueError as error:
        parser.error(str(error))
    for seed in args.seeds:
        for name, changes in trials():
            if record.has(name=name, seed=seed) or (args.only and name not in args.only):
                continue
            common = {"data": args.data, "epochs": args.epochs, "holdout": args.holdout, "seed": seed}
            found = measure(name, changes, common | {"widths": args.widths}, args.views)
            record.add({"name": name, "seed": seed, "changes": changes, **found, **origin(hardware.pick_device())})
            print(f"{name:60} seed {seed}  val_acc {found['val_acc']:.2f}%  {found['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
