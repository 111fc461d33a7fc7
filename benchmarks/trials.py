"""Trials: how one change to a recipe affects accuracy on held-out training images.

    python benchmarks/trials.py --data FOLDER [--epochs 13] [--holdout 5000] [--width-mult 1] [--seeds 0]
                                [--only NAME ...] [--tta flip ...] [--json FILE]

A trial is a dict of recipe fields, applied on top of another trial's. The first ones lead from ``classic`` to
``modern``; the others each change one thing. The runs do not get the test images. The record is written after each run,
and a second call continues it; calls with different ``--only`` may run at the same time.

An augmentation that no recipe has is a function below; if it helps, it moves to ``alexnet.data.augment``. Not in the
list, because no recipe field expresses them: another momentum for Muon, Muon on conv1 or fc8, whitened first filters, a
linear schedule.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from alexnet import recipes, train
from alexnet.checkpoint import load_run
from alexnet.data import datasets
from alexnet.data.augment import Boxes, Draws, augmentation, random_crop, random_resized_crop
from alexnet.data.datasets import Dataset
from alexnet.errors import check_choice
from alexnet.evaluate import evaluate
from alexnet.system import pick_device
from alexnet.tools.reproduce.record import published
from record import RESULTS, GrowingRecord, origin

RUNTIME = recipes.Runtime(save_every=1e9, tracker="none", quiet=True)
MODERN, MUON = "modern, lr 0.08", "Muon 0.01, dropout ramp"
CROP_FLIP = ("random_crop", "flip")


@augmentation("crop")
def reflected_shift(images: Tensor, draws: Draws, most: int = 28) -> Tensor:
    """Shift by up to 28 pixels of 224, 4 of 32, filled by reflection (airbench)."""
    size, padded = images.shape[-1], pad(images, (most,) * 4, mode="reflect")
    tops, lefts = draws.randint(2 * most + 1).tolist(), draws.randint(2 * most + 1).tolist()
    for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        images[i] = padded[i, :, top : top + size, left : left + size]
    return images


@augmentation("box")
def resized_crop_at_first(boxes: Boxes, draws: Draws) -> Boxes:
    """``random_resized_crop`` in the first half of the epochs, ``random_crop`` in the second."""
    crop = random_resized_crop if 2 * draws.epoch < draws.recipe.epochs else random_crop
    return crop(boxes, draws)


# name: the trial that it is compared with, and what it changes in that trial's recipe
TRIALS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "classic": (None, {}),
    "He initialisation on standardised input": ("classic", {"init": "he", "input_scale": "imagenet"}),
    "random crops of 256, not resized ones": (
        "He initialisation on standardised input",
        {"augment": CROP_FLIP},
    ),
    "batches of 64": ("random crops of 256, not resized ones", {"batch_size": 64}),
    "Nesterov's momentum, warm-up over one epoch of 13, lr 0.04": (
        "batches of 64",
        {"nesterov": True, "warmup": 1.0, "lr": 0.04},
    ),
    "label smoothing 0.1, moving average of the weights 0.999": (
        "Nesterov's momentum, warm-up over one epoch of 13, lr 0.04",
        {"label_smoothing": 0.1, "ema": 0.999},
    ),
    MODERN: ("label smoothing 0.1, moving average of the weights 0.999", {"lr": 0.08}),
    "modern, lr 0.02": (MODERN, {"lr": 0.02}),
    "modern, lr 0.02, batches of 128": (MODERN, {"lr": 0.02, "batch_size": 128}),
    "modern, lr 0.16": (MODERN, {"lr": 0.16}),
    "modern, clipped at norm 4": (MODERN, {"clip_norm": 4.0}),
    "modern, resized crops": (MODERN, {"augment": ("random_resized_crop", "flip")}),
    "modern, the paper's initialisation on raw input": (MODERN, {"init": "paper", "input_scale": "raw"}),
    # dropout
    "dropout ramp": (MODERN, {"dropout_ramp": True}),
    "dropout ramp to 0.3": (MODERN, {"dropout_ramp": True, "dropout": 0.3}),
    "dropout 0.25": (MODERN, {"dropout": 0.25}),
    "dropout 0.1": (MODERN, {"dropout": 0.1}),
    # Muon
    "Muon 0.03": (MODERN, {"muon_lr": 0.03}),
    "Muon 0.03, dropout ramp": ("dropout ramp", {"muon_lr": 0.03}),
    MUON: ("dropout ramp", {"muon_lr": 0.01}),
    "Muon 0.005": (MUON, {"muon_lr": 0.005}),
    "Muon 0.003": (MUON, {"muon_lr": 0.003}),
    "Muon, dropout ramp to 0.3": (MUON, {"dropout": 0.3}),
    # learning rate of SGD and batch size
    **{
        f"Muon, lr {lr}, batches of {batch}": (MUON, {"lr": lr, "batch_size": batch})
        for lr in (0.06, 0.08, 0.12)
        for batch in (32, 64, 128)
        if (lr, batch) != (0.08, 64)
    },
    "Muon, momentum 0.95 of SGD": (MUON, {"momentum": 0.95}),
    **{f"Muon, weight decay {decay:g}": (MUON, {"weight_decay": decay}) for decay in (1e-4, 2e-3)},
    "Muon, biases not decayed": (MUON, {"decay_biases": False}),
    "Muon, not clipped": (MUON, {"clip_norm": 0.0}),
    # augmentation and labels
    "Muon, alternating flip": (MUON, {"augment": ("random_crop", "alternating_flip")}),
    "Muon, crops by reflection": (MUON, {"augment": ("flip", "reflected_shift")}),
    "Muon, resized crops in the first half": (MUON, {"augment": ("resized_crop_at_first", "flip")}),
    "Muon, cutout": (MUON, {"augment": (*CROP_FLIP, "cutout")}),
    "Muon, resized crops": (MUON, {"augment": ("random_resized_crop", "flip")}),
    "Muon, label smoothing 0.05": (MUON, {"label_smoothing": 0.05}),
    "Muon, label smoothing 0.2": (MUON, {"label_smoothing": 0.2}),
    # moving average and biases
    "Muon, moving average 0.99": (MUON, {"ema": 0.99}),
    "Muon, moving average 0.9995": (MUON, {"ema": 0.9995}),
    "Muon, biases' rate × 8": (MUON, {"bias_lr": 8.0}),
    "Muon, biases' rate × 64": (MUON, {"bias_lr": 64.0}),
}


def changes_of(name: str | None) -> dict[str, Any]:
    """All fields in which a trial differs from ``classic``."""
    if name is None:
        return {}
    before, changes = TRIALS[name]
    return changes_of(before) | changes


def measure(recipe: recipes.Recipe, dataset: Dataset, tta: Sequence[str] = ()) -> dict[str, Any]:
    """Train once on a data set without test images; return the metrics after the last step, by each of ``tta`` too."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = train.run(recipe, dataset, f"{folder}/run", runtime=RUNTIME)
        seconds = time.perf_counter() - began
        if result.stopped_by:
            raise KeyboardInterrupt
        run = load_run(result.folder)
        by_tta = {each: evaluate(run.model(), dataset, each)["top1"] for each in tta}
    kept = ("val_acc", "val_loss", "train_acc", "train_loss", "grad_norm", "step")
    return {
        **{key: run.final[key] for key in kept},
        "seconds": round(seconds, 1),
        "data": run.config["data"] | {"spec": published(dataset.spec)},
        **({"tta": by_tta} if by_tta else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--holdout", type=int, default=5000)
    parser.add_argument("--width-mult", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of trials; by default all")
    parser.add_argument("--tta", nargs="+", default=[], choices=recipes.TTA, help="also evaluate with these")
    parser.add_argument("--json", type=Path, default=RESULTS / "trials.json")
    parser.add_argument("--list", action="store_true", help="print the trials and end")
    args = parser.parse_args()
    if args.list:
        print(*(f"{name:60} {changes_of(name)}" for name in TRIALS), sep="\n")
        return
    common = {"epochs": args.epochs, "width_mult": args.width_mult}
    words = [f"--{key.replace('_', '-')} {value}" for key, value in (common | {"holdout": args.holdout}).items()]
    words += ["--tta", *args.tta] if args.tta else []
    dataset = datasets.load(args.data)
    head = {
        "kind": "trials",
        "command": " ".join(["python benchmarks/trials.py --data FOLDER", *words]),
        "data": dataset.name,
        "fingerprint": dataset.fingerprint(),
        **common,
        "holdout": args.holdout,
    }
    try:
        dataset = replace(dataset.with_holdout(args.holdout), test=None)
        record = GrowingRecord(args.json, head, ("name", "seed"))
        chosen = [check_choice("trial", name, TRIALS) for name in args.only or TRIALS]
        for seed in args.seeds:
            for name in chosen:
                if record.find(name=name, seed=seed):
                    continue
                changes = changes_of(name)
                warmup = changes.get("warmup", 0.0) * args.epochs / 13
                recipe = recipes.classic(**changes | common | {"seed": seed, "warmup": warmup, "val_every": 10**9})
                found = measure(recipe, dataset, args.tta)
                record.add({"name": name, "seed": seed, "changes": changes, **found, **origin(pick_device())})
                print(f"{name:60} seed {seed}  val_acc {found['val_acc']:.2f}%  {found['seconds']:.0f} s", flush=True)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
