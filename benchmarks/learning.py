"""Which networks start to learn: every input scale with every initialisation, the same steps on real images.

    python benchmarks/learning.py --data FOLDER [--batch-size 128] [--steps 300] [--json results/learning.json]

Each of them trains as the recipe ``classic`` does, from the same seed, with the first steps of its 13-epoch
schedule. It has started to learn when its training loss, the mean over 20 steps, falls below ln(classes) − 0.05. The
record is written after each run, and a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import time
from pathlib import Path

import torch

from alexnet import hardware, recipes
from alexnet.data import datasets
from alexnet.data.splits import Dataset
from alexnet.model import INITS
from alexnet.run.session import open_session
from alexnet.train import train_step
from record import Growing, origin

SMOOTH = 20  # steps of the running mean that is compared with the bar


def first_losses(recipe: recipes.Recipe, dataset: Dataset, device: torch.device, steps: int) -> list[float]:
    """The losses of the first ``steps`` steps, up to one that is not finite."""
    losses: list[float] = []
    with contextlib.closing(open_session(recipe, Path(), dataset, device)) as s:
        s.model.train()
        for _, (images, labels) in zip(range(steps), s.batches.train(0), strict=False):
            losses.append(round(train_step(s, images, labels).item(), 4))
            if not math.isfinite(losses[-1]):
                break
    return losses


def learned_at(losses: list[float], classes: int) -> int | None:
    """The first step at which the mean of the last 20 losses is below ln(classes) − 0.05."""
    bar = math.log(classes) - 0.05
    for step in range(SMOOTH, len(losses) + 1):
        if sum(losses[step - SMOOTH : step]) / SMOOTH < bar:
            return step
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path, default=Path("results/learning.json"))
    args = parser.parse_args()

    hardware.keep_freed_memory()
    device = hardware.pick_device()
    dataset = datasets.load(args.data)
    head = {
        "kind": "learning",
        "command": f"python benchmarks/learning.py --batch-size {args.batch_size} --steps {args.steps}",
        "data": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "batch_size": args.batch_size,
        "steps": args.steps,
        "precision": hardware.pick_precision("auto", device),
    }
    try:
        record = Growing(args.json, head, ("input_scale", "init"))
    except ValueError as error:
        parser.error(str(error))
    for input_scale, init in itertools.product(("raw", "imagenet"), INITS):
        if record.has(input_scale=input_scale, init=init):
            continue
        recipe = recipes.classic(input_scale=input_scale, init=init, batch_size=args.batch_size)
        began = time.perf_counter()
        losses = first_losses(recipe, dataset, device, args.steps)
        seconds = (time.perf_counter() - began) / len(losses)
        step = learned_at(losses, len(dataset.classes))
        names = {"input_scale": input_scale, "init": init}
        record.add(
            names | {"learned_at": step, "seconds_per_step": round(seconds, 3)} | origin(device) | {"losses": losses}
        )
        print(
            f"{input_scale:9} {init:10} learned at {step}, last loss {losses[-1]:.3f}, {seconds:.2f} s a step",
            flush=True,
        )


if __name__ == "__main__":
    main()
