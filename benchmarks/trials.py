"""From classic to modern, one change after another: what each gives to the accuracy on held-out training images.

    python benchmarks/trials.py --data FOLDER [--epochs 13] [--holdout 5000] [--seeds 0] [--only NAME ...] [--json FILE]

Each of ``LADDER`` adds to the one before, and the last is the recipe modern; each of ``OTHERS`` changes modern in one
thing. The test images are never touched. The record is written after each run, and a second call goes on where the
first one stopped.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from alexnet import hardware, recipes, train
from alexnet.run.runfolder import read_config
from record import Growing, origin

LADDER: list[tuple[str, dict[str, Any]]] = [
    ("classic", {}),
    ("He initialisation on standardised input", {"init": "he", "input_scale": "imagenet"}),
    ("random crops of 256, not resized ones", {"crop": "random"}),
    ("batches of 64", {"batch_size": 64}),
    ("Nesterov's momentum, warm-up over one epoch of 13, lr 0.04", {"nesterov": True, "warmup": 1.0, "lr": 0.04}),
    ("label smoothing 0.1, moving average of the weights 0.999", {"label_smoothing": 0.1, "ema": 0.999}),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("modern, lr 0.02", {"lr": 0.02}),
    ("modern, lr 0.02, batches of 128", {"lr": 0.02, "batch_size": 128}),
    ("modern, lr 0.08", {"lr": 0.08}),
    ("modern, resized crops", {"crop": "random-resized"}),
    ("modern, the paper's initialisation on raw input", {"init": "paper", "input_scale": "raw"}),
]


def trials() -> list[tuple[str, dict[str, Any]]]:
    """Each trial's name, and its recipe as changes to classic."""
    found, so_far = [], {}
    for name, changes in LADDER:
        so_far = so_far | changes
        found.append((name, so_far))
    return found + [(name, so_far | changes) for name, changes in OTHERS]


def measure(changes: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """Train once; the last validation is the result."""
    epochs = common["epochs"]
    if "warmup" in changes:
        changes = changes | {"warmup": changes["warmup"] * epochs / 13}
    recipe = recipes.classic(**changes, **common, val_every=10**9, save_every=10**9, tracker="none")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        final = train.run(recipe, out=Path(folder) / "run", quiet=True).final
        data = read_config(Path(folder) / "run")["data"]
    keep = ("val_acc", "val_loss", "train_acc", "train_loss", "step")
    spec = {"spec": "FOLDER"} if Path(recipe.data).is_dir() else {}
    return {key: final[key] for key in keep} | {"seconds": time.perf_counter() - began, "data": data | spec}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--holdout", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of trials; by default all")
    parser.add_argument("--json", type=Path, default=Path("results/trials.json"))
    args = parser.parse_args()
    names = [name for name, _ in trials()]
    if unknown := set(args.only or ()) - set(names):
        parser.error(f"--only {', '.join(unknown)}: allowed are {', '.join(names)}")
    head = {
        "kind": "trials",
        "command": f"python benchmarks/trials.py --data FOLDER --epochs {args.epochs} --holdout {args.holdout}",
        "epochs": args.epochs,
        "holdout": args.holdout,
    }
    try:
        record = Growing(args.json, head, ("name", "seed"))
    except ValueError as error:
        parser.error(str(error))
    for seed in args.seeds:
        for name, changes in trials():
            if record.has(name=name, seed=seed) or (args.only and name not in args.only):
                continue
            common = {"data": args.data, "epochs": args.epochs, "holdout": args.holdout, "seed": seed}
            found = measure(changes, common)
            record.add({"name": name, "seed": seed, "changes": changes, **found, **origin(hardware.pick_device())})
            print(f"{name:60} seed {seed}  val_acc {found['val_acc']:.2f}%  {found['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
