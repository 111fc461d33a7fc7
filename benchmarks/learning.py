"""Which networks start to learn: every input scale with every initialisation, the same steps on real images.

    python benchmarks/learning.py --data FOLDER [--batch-size 128] [--steps 300] [--json results/learning.json]

Each of them trains as the recipe ``classic`` does, from the same seed, with the first steps of its 13-epoch
schedule. It has started to learn when its training loss, the mean over 20 steps, falls below ln(classes) − 0.05. The
record is written after each run, and a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from alexnet import hardware, recipes
from alexnet.data import datasets, loaders
from alexnet.data.statistics import normalization
from alexnet.files import git_commit, write_atomically
from alexnet.model import INITS, AlexNet_2012
from alexnet.run.schedule import cosine

SMOOTH = 20  # steps of the running mean that is compared with the bar


def train(
    recipe: recipes.Recipe, dataset: datasets.Dataset, device: torch.device, steps: int
) -> tuple[list[float], float]:
    """The losses of the first ``steps`` steps, and seconds a step (median)."""
    precision = hardware.pick_precision(recipe.precision, device)
    norm = normalization(recipe.input_scale, dataset.train)
    batches = loaders.open_batches(dataset, recipe, norm, 224, device)
    torch.manual_seed(recipe.seed)
    net = AlexNet_2012(len(dataset.classes), recipe.variant, recipe.init).to(device, memory_format=torch.channels_last)
    net.train()
    optimizer = torch.optim.SGD(
        net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )
    total = recipe.epochs * batches.steps_per_epoch
    losses, seconds = [], []
    for step, (images, labels) in zip(range(steps), batches.train(0), strict=False):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, total, recipe.lr)
        with hardware.autocast(device, precision):
            logits = net(images)
        loss = cross_entropy(logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))
        seconds.append(time.perf_counter() - began)
        if not math.isfinite(losses[-1]):
            break
    return losses, sorted(seconds)[len(seconds) // 2]


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
    precision = hardware.pick_precision("auto", device)
    record = {
        "kind": "learning",
        "command": f"python benchmarks/learning.py --batch-size {args.batch_size} --steps {args.steps}",
        "data": dataset.name,
        "batch_size": args.batch_size,
        "steps": args.steps,
        "precision": precision,
        "hardware": hardware.describe(device),
        "versions": hardware.versions(),
        "commit": git_commit(),
        "runs": [],
    }
    if args.json.exists():
        before = json.loads(args.json.read_text())
        if all(before[key] == record[key] for key in ("data", "batch_size", "steps", "precision", "versions")):
            record["runs"] = before["runs"]
    done = {(run["input_scale"], run["init"]) for run in record["runs"]}
    for input_scale, init in itertools.product(("raw", "imagenet"), INITS):
        if (input_scale, init) in done:
            continue
        recipe = recipes.classic(input_scale=input_scale, init=init, batch_size=args.batch_size)
        losses, seconds = train(recipe, dataset, device, args.steps)
        step = learned_at(losses, len(dataset.classes))
        record["runs"].append(
            {
                "input_scale": input_scale,
                "init": init,
                "learned_at": step,
                "seconds_per_step": seconds,
                "losses": losses,
            }
        )
        text = json.dumps(record, indent=None, ensure_ascii=False).replace('{"input_scale"', '\n  {"input_scale"')
        write_atomically(args.json, lambda file, text=text: file.write_text(text + "\n"))
        print(
            f"{input_scale:9} {init:10} learned at {step}, last loss {losses[-1]:.3f}, {seconds:.2f} s a step",
            flush=True,
        )


if __name__ == "__main__":
    main()
