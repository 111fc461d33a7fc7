"""What each change to a training step gives: one added after another, each in a process of its own.

    python benchmarks/changes.py [--json FILE] [--steps 5]

The step is the network's alone, on a batch of 128 that is already there: forward, loss, backward, clipping, SGD.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from pathlib import Path
from typing import Any

import torch

from alexnet import hardware, native, recipes
from alexnet.data import datasets
from alexnet.run.session import open_session
from alexnet.train import train_step
from record import origin
from sides import BATCH, clock, make_plain

STAGES = [
    ("float32, channels first, torch's response normalisation", set()),
    ("freed memory kept, huge pages", {"memory"}),
    ("our response normalisation (on a CPU in torch's operations where channels are first)", {"memory", "lrn"}),
    ("channels last (on a CPU response normalisation in C++)", {"memory", "lrn", "layout"}),
    ("bf16 autocast", {"memory", "lrn", "layout", "bf16"}),
    ("fused SGD", {"memory", "lrn", "layout", "bf16", "fused"}),
    ("torch.compile", {"memory", "lrn", "layout", "bf16", "fused", "compile"}),
    ("all but memory kept", {"lrn", "layout", "bf16", "fused"}),
    (
        "all but C++: our response normalisation in torch's operations",
        {"memory", "lrn in torch", "layout", "bf16", "fused"},
    ),
    ("all but our response normalisation, which bf16 needs on a CPU", {"memory", "layout", "fused"}),
]


def step_seconds(changes: set[str], device_name: str, steps: int, pipe: Any) -> None:
    """Send the seconds of each of ``steps`` steps after two that do not count."""
    if "memory" in changes:
        hardware.keep_freed_memory()
    device = torch.device(device_name)
    recipe = recipes.quickstart(
        batch_size=BATCH, precision="bf16" if "bf16" in changes else "fp32", compile="compile" in changes
    )
    s = open_session(recipe, Path(), datasets.load("digits"), device)
    layout = torch.channels_last if "layout" in changes else torch.contiguous_format
    s.net.to(memory_format=layout)
    if "lrn in torch" in changes:
        native.load = lambda source: None
    elif "lrn" not in changes:
        make_plain(s.net, layout)
    if "fused" not in changes:
        for group in s.optimizer.param_groups:
            group["fused"] = None
    images = (torch.randn(BATCH, 3, 224, 224, device=device) * 60).to(memory_format=layout)
    labels = torch.randint(10, (BATCH,), device=device)
    s.model.train()
    pipe.send([clock(device, lambda: train_step(s, images, labels)) for _ in range(steps + 2)][2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    args = parser.parse_args()
    device = hardware.pick_device(args.device)
    context = multiprocessing.get_context("spawn")
    rows = []
    for name, changes in STAGES:
        if device.type == "cuda" and "lrn in torch" in changes:
            continue  # it is never in C++ there
        mine, theirs = context.Pipe()
        process = context.Process(target=step_seconds, args=(changes, device.type, args.steps, theirs))
        process.start()
        theirs.close()  # the process has it: if that ends, so does the waiting
        seconds = mine.recv()
        process.join()
        rows.append({"name": name, "seconds": [round(s, 4) for s in seconds]})
        print(f"{name:76} {statistics.median(seconds):8.4f} s  ({min(seconds):.4f} to {max(seconds):.4f})", flush=True)
    record = {
        "kind": "changes",
        "command": f"python benchmarks/changes.py --steps {args.steps}",
        **origin(device),
        "rows": rows,
    }
    if args.json:
        args.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
