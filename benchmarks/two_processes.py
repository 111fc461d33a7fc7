"""The reckoning of ``scaling.py`` held against two processes of this machine.

    python benchmarks/two_processes.py [--images 64] [--steps 5] [--json FILE]

Two processes of one thread each train variant ``classic`` with 1,000 classes in bf16, each on ``--images`` images, by
turns: each for itself at the same time; with all gradients summed by gloo over the loopback, which DDP does; and that
sum alone. By the reckoning a step with DDP takes between the longer of the other two and their sum.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from alexnet import hardware, recipes
from alexnet.model import AlexNet_2012
from alexnet.run.schedule import sgd
from record import origin

CLASSES = 1000


def train(rank: int, images: int, steps: int, folder: str) -> None:
    """Be one of the two processes; the first one leaves the seconds of each turn in ``folder``."""
    hardware.keep_freed_memory()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    net = AlexNet_2012(CLASSES).to(memory_format=torch.channels_last)
    both = DistributedDataParallel(net)
    optimizer = sgd(net, recipes.classic(), torch.device("cpu"))
    batch = 60 * torch.randn(images, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    gradients = torch.zeros(sum(each.numel() for each in net.parameters()))

    def step(model: nn.Module) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(batch).float(), torch.arange(images) % CLASSES)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    turns = {"alone": lambda: step(net), "sum": lambda: dist.all_reduce(gradients), "ddp": lambda: step(both)}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for i in range(2 + steps):  # DDP lays out its buckets in the first two
        for name, turn in turns.items():
            dist.barrier()
            began = time.perf_counter()
            turn()
            dist.barrier()
            if i >= 2:
                seconds[name].append(time.perf_counter() - began)
    if rank == 0:
        Path(folder, "seconds").write_text(json.dumps(seconds))
    dist.destroy_process_group()


def measure(images: int, steps: int) -> dict[str, Any]:
    """Seconds of each turn, least, median and most, and what the reckoning makes of them."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (images, steps, folder), nprocs=2)
        seconds = json.loads(Path(folder, "seconds").read_text())
    found = {name: [round(of(each), 3) for of in (min, median, max)] for name, each in seconds.items()}
    alone, summed = found["alone"][1], found["sum"][1]
    return found | {"reckoned": [round(max(alone, summed), 3), round(alone + summed, 3)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="of each process")
    parser.add_argument("--steps", type=int, default=5, help="of each kind, after two")
    parser.add_argument("--json", type=Path, help="write the record here")
    args = parser.parse_args()
    found = measure(args.images, args.steps)
    for name, words in (("alone", "each for itself"), ("sum", "the sum alone"), ("ddp", "with DDP")):
        least, middle, most = found[name]
        print(f"{words:16} {middle:.3f} s ({least:.3f} to {most:.3f})")
    print(f"{'reckoned':16} {found['reckoned'][0]:.3f} to {found['reckoned'][1]:.3f} s with DDP")
    if args.json:
        command = f"python benchmarks/two_processes.py --images {args.images} --steps {args.steps}"
        record = {"kind": "two-processes", "command": command, **origin(torch.device("cpu")), "seconds": found}
        args.json.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
