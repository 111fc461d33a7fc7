"""Whether the fast path computes what the plain one does: their losses on the same batches, step by step.

    python benchmarks/agreement.py [--data digits] [--batch-size 32] [--steps 50] [--json FILE]

Fast is what ``alexnet train`` does: our response normalisation, channels last, bf16 where the machine has it. Plain is
float32, channels first, torch's response normalisation, and a second plain run on images rounded to bf16 shows what
that rounding alone does. Weights, batches and dropout's masks begin alike; then each follows its own gradients.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from alexnet import hardware, lrn, recipes
from alexnet.data import datasets
from alexnet.data.splits import Dataset
from alexnet.run.session import open_session
from alexnet.train import train_step
from record import origin
from sides import make_plain


class Way:
    """One way to compute a step of a recipe."""

    def __init__(self, recipe: recipes.Recipe, dataset: Dataset, device: torch.device, *, fast: bool, rounded: bool):
        self.plain, self.rounded = not fast, rounded
        precision = "auto" if fast else "fp32"
        self.s = open_session(dataclasses.replace(recipe, precision=precision, compile=False), Path(), dataset, device)
        self.precision = precision if precision == "fp32" else hardware.pick_precision("auto", device)
        if self.plain:
            make_plain(self.s.net)
        self.s.model.train()

    def step(self, images: torch.Tensor, labels: torch.Tensor, seed: int) -> float:
        if self.rounded:
            images = images.bfloat16().float()
        if self.plain:
            images = images.contiguous()
        torch.manual_seed(seed)  # the same dropout
        return train_step(self.s, images, labels).item()


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
    kinds = {"fast": (True, False), "plain": (False, False), "plain, rounded images": (False, True)}
    ways = {name: Way(recipe, dataset, device, fast=fast, rounded=rounded) for name, (fast, rounded) in kinds.items()}
    losses: dict[str, list[float]] = {name: [] for name in ways}
    for step, (images, labels) in zip(range(args.steps), ways["fast"].s.batches_from_here(), strict=False):
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
        "response_norm": lrn.written_in(device),
        **origin(device),
        "losses": losses,
    }
    for name in ("fast", "plain, rounded images"):
        gaps = [abs(a - b) for a, b in zip(losses[name], losses["plain"], strict=True)]
        print(f"{name}: {sum(gaps) / len(gaps):.4f} from plain on average, {max(gaps):.4f} at most")
    if args.json:
        args.json.write_text(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
