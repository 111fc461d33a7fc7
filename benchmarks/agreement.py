"""Whether the fast path computes what the plain one does: their losses on the same batches, step by step.

    python benchmarks/agreement.py [--data digits] [--batch-size 32] [--steps 50] [--json FILE]

Fast is what ``alexnet train`` does: our response normalisation, channels last, bf16 where the machine has it. Plain is
float32, channels first, torch's response normalisation, and a second plain run on images rounded to bf16 shows what
that rounding alone does. Weights, batches and dropout's masks begin alike; then each follows its own gradients.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from alexnet import hardware, recipes
from alexnet.data import datasets, loaders
from alexnet.data.statistics import normalization
from alexnet.files import git_commit
from alexnet.model import AlexNet_2012


class Way:
    """One way to compute a step."""

    def __init__(
        self, recipe: recipes.Recipe, classes: int, device: torch.device, *, fast: bool, rounded: bool
    ) -> None:
        self.recipe, self.device, self.rounded = recipe, device, rounded
        self.precision = hardware.pick_precision("auto", device) if fast else "fp32"
        torch.manual_seed(recipe.seed)
        self.net = AlexNet_2012(classes, recipe.variant, recipe.init).to(device)
        if fast:
            self.net.to(memory_format=torch.channels_last)
        else:
            for name in ("norm1", "norm2"):
                setattr(self.net.features, name, nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0))
        options = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay, "fused": True if fast else None}
        self.optimizer = torch.optim.SGD(self.net.parameters(), recipe.lr, **options)

    def step(self, images: torch.Tensor, labels: torch.Tensor, seed: int) -> float:
        if self.rounded:
            images = images.bfloat16().float()
        if self.precision == "fp32":
            images = images.contiguous()
        torch.manual_seed(seed)  # the same dropout
        with hardware.autocast(self.device, self.precision):
            logits = self.net(images)
        loss = cross_entropy(logits.float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def endless(batches: loaders.Batches) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch after another."""
    return itertools.chain.from_iterable(batches.train(epoch) for epoch in itertools.count())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the record here")
    args = parser.parse_args()
    hardware.keep_freed_memory()
    device = hardware.pick_device()
    dataset = datasets.load(args.data)
    recipe = recipes.classic(batch_size=args.batch_size)
    norm = normalization(recipe.input_scale, dataset.train)
    batches = loaders.open_batches(dataset, recipe, norm, 224, device)
    kinds = {"fast": (True, False), "plain": (False, False), "plain, rounded images": (False, True)}
    ways = {
        name: Way(recipe, len(dataset.classes), device, fast=fast, rounded=rounded)
        for name, (fast, rounded) in kinds.items()
    }
    losses: dict[str, list[float]] = {name: [] for name in ways}
    for step, (images, labels) in zip(range(args.steps), endless(batches), strict=False):
        for name, way in ways.items():
            losses[name].append(round(way.step(images, labels, seed=step), 5))
        if step % 10 == 9:
            print(
                f"step {step + 1}: " + ", ".join(f"{name} {values[-1]:.4f}" for name, values in losses.items()),
                flush=True,
            )
    record = {
        "kind": "agreement",
        "command": f"python benchmarks/agreement.py --batch-size {args.batch_size} --steps {args.steps}",
        "data": dataset.name,
        "precision": ways["fast"].precision,
        "hardware": hardware.describe(device),
        "versions": hardware.versions(),
        "commit": git_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "losses": losses,
    }
    for name in ("fast", "plain, rounded images"):
        gaps = [abs(a - b) for a, b in zip(losses[name], losses["plain"], strict=True)]
        print(f"{name}: {sum(gaps) / len(gaps):.4f} from plain on average, {max(gaps):.4f} at most")
    if args.json:
        args.json.write_text(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
