"""What may go wrong around a run, done on purpose, and how often it came out as it should.

    python benchmarks/faults.py [PART...] [--trials N] [--json results/faults-cpu.json]

Each part is done in chunks; the record grows with each, and a second call goes on with it. Needs Linux, and strace for
the parts that stop or fail a system call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from breaking import checkpoints, inputs, kills, trackers
from breaking.runs import KINDS
from record import Growing, origin

CALLS = {f"{what}, {kind}": (what, kind) for kind in KINDS for what in ("killed", *kills.ERRORS)}


def at_call(chunk: int) -> dict[str, Any]:
    what, kind = list(CALLS.values())[chunk]
    return kills.killed_at_each_call(kind) if what == "killed" else kills.failed_at_each_call(kind, what)


# name: what does a chunk, how many trials one has, how many there are to be
PARTS: dict[str, tuple[Callable[[int], dict[str, Any]], int, int]] = {
    "kills at random": (kills.at_random, kills.CHUNK, 1000),
    "kills of the whole network": (kills.of_the_whole_network, kills.WHOLE_CHUNK, 20),
    "kills and errors at each call": (at_call, 1, len(CALLS)),
    "cut checkpoints": (checkpoints.cut, checkpoints.CUTS, checkpoints.CUTS),
    "flipped bits": (checkpoints.flipped, checkpoints.CHUNK, 10_000),
    "trackers": (trackers.tracked, 1, len(trackers.STATES)),
    "bad inputs": (inputs.bad_inputs, inputs.CHUNK, 10_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: {'; '.join(PARTS)} (default all)")
    parser.add_argument("--trials", type=int, help="of each part, in place of its own number")
    parser.add_argument("--json", type=Path, help="the record, which grows")
    args = parser.parse_args()
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: the parts are {'; '.join(PARTS)}")
    head = {"kind": "faults", "command": "python benchmarks/faults.py"}
    record = Growing(args.json, head, ["part", "chunk"]) if args.json else None
    for part in args.parts or PARTS:
        do, size, trials = PARTS[part]
        for chunk in range(-(-(args.trials or trials) // size)):
            if record and record.has(part=part, chunk=chunk):
                continue
            began = time.monotonic()
            found = do(chunk)
            found = {"part": part, "chunk": chunk, **found, "seconds": round(time.monotonic() - began)}
            print(*(f"{name} {value}" for name, value in found.items() if name != "wrong"), sep="  ", flush=True)
            for each in found["wrong"]:
                print(f"  wrong: {each}", flush=True)
            if record:
                record.add(found | origin(torch.device("cpu")))


if __name__ == "__main__":
    main()
