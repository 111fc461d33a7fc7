"""What the two columns exchange in a step and what memory a process needs, beside the network in one process.

    python benchmarks/columns.py [--batch-size 128] [--steps 3] [--json FILE]

Variant ``paper`` with 1,000 classes in float32 on CPUs, SGD with momentum, made-up images. Bytes are counted where they
are sent, and computed from the network's shape; with data parallelism each process would send its gradients instead.
Memory is the peak of what a process holds beyond what it held with all libraries loaded. Nothing here is timed.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn.functional import cross_entropy

from alexnet import hardware, recipes
from alexnet.model import VARIANTS, AlexNet_2012
from alexnet.parallel import columns
from alexnet.run.schedule import clip_gradient, sgd
from record import origin

CLASSES = 1000


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def train(rank: int, world: int, batch: int, steps: int, folder: str) -> None:
    """Be one process: train, and leave what was found in ``folder``."""
    hardware.keep_freed_memory()
    torch.set_num_threads(1)
    if world == 2:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    warm_up = torch.nn.Linear(1, 1)
    torch.optim.SGD(warm_up.parameters()).step()  # which loads what it needs
    before, sent = resident(), []
    net = AlexNet_2012(CLASSES, "paper").to(memory_format=torch.channels_last)
    pair = columns.Pair(rank)
    if world == 2:
        net = columns.split(net, pair)
    optimizer = sgd(net, recipes.paper(), torch.device("cpu"))
    for _ in range(steps):
        images = 60 * torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
        cross_entropy(net(images), torch.arange(batch) % CLASSES).backward()
        clip_gradient(net, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        sent.append(pair.sent)
    found = {
        "weights": sum(p.numel() for p in net.parameters()),
        "peak_memory_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6),
        "sent_a_step": sent[-1] - (sent[-2] if steps > 1 else 0),
    }
    Path(folder, str(rank)).write_text(json.dumps(found))
    if world == 2:
        dist.destroy_process_group()


def measure(world: int, batch: int, steps: int) -> list[dict[str, Any]]:
    """What each of ``world`` processes found."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (world, batch, steps, folder), nprocs=world)
        return [json.loads(Path(folder, str(rank)).read_text()) for rank in range(world)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the record here")
    args = parser.parse_args()
    computed = columns.bytes_a_step(VARIANTS["paper"], CLASSES, args.batch_size)
    (one,), two = (measure(world, args.batch_size, args.steps) for world in (1, 2))
    record = {
        "kind": "columns",
        "command": f"python benchmarks/columns.py --batch-size {args.batch_size} --steps {args.steps}",
        **origin(torch.device("cpu")),
        "computed_bytes_a_step": computed,
        "gradient_bytes": 4 * one["weights"],
        "one_process": one,
        "columns": two,
    }
    for name, count in computed.items():
        print(f"{name:14} {count:12,} bytes")
    print(f"{'together':14} {sum(computed.values()):12,} bytes computed, {two[0]['sent_a_step']:,} counted")
    print(f"{'gradients':14} {record['gradient_bytes']:12,} bytes, which data parallelism sends")
    for name, side in (("one process", one), ("column 0", two[0]), ("column 1", two[1])):
        print(f"{name:14} {side['weights']:12,} weights, {side['peak_memory_mb']:,} MB at the peak")
    if args.json:
        args.json.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
