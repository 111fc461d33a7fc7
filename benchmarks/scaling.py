"""How much faster several devices train, on paper: computing, and exchanging gradients.

    python benchmarks/scaling.py [--record results/compare-cpu-fast-host.json] [--card-tflops 396]

A step of 128 takes one device what the record says (``train_step``), or the time of its 842 GFLOP at a rate. Gradients
are 243,860,896 bytes in float32, of the paper's network with 1,000 classes. To sum them each of n devices sends and
receives 2 · (n − 1) / n of that (a ring: Patarasuk and Yuan 2009, who show that it cannot be less), at its link's rate;
the latency is left out. DDP exchanges while the backward pass still computes, the last layers first, and the last
three have 96% of the weights: a step takes between the longer of the two, all hidden, and their sum, nothing hidden.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

GRADIENTS = 243_860_896  # bytes in float32
GFLOP_A_STEP = 842  # of 128 images; docs/performance.md
CARD_TFLOPS = 396  # 40% of an H100's 989, as in the docstring of the recipe imagenet
LINKS = {"1 Gbit/s": 0.125e9, "10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9, "NVLink, 450 GB/s": 450e9}  # bytes/s, each way
DEVICES = (2, 4, 8, 16, 32, 64)


def exchange(devices: int, rate: float, gradients: float = GRADIENTS) -> float:
    """Seconds to sum ``gradients`` bytes over ``devices``, each with a link of ``rate`` bytes a second."""
    return 2 * (devices - 1) / devices * gradients / rate


def speedup(devices: int, step: float, sent: float, *, each: bool) -> tuple[float, float]:
    """Images a second beside one device's: nothing of the exchange hidden, all of it hidden.

    Args:
        step: seconds that one device computes for 128 images.
        sent: seconds of the exchange.
        each: every device has 128 images; otherwise they share 128.
    """
    compute, work = (step, devices * step) if each else (step / devices, step)
    return work / (compute + sent), work / max(compute, sent)


def table(step: float, *, each: bool, gradients: float = GRADIENTS) -> str:
    """Markdown: a row for each number of devices, a column for each link."""
    rows = ["| devices | " + " | ".join(LINKS) + " |", "|---:|" + "---:|" * len(LINKS)]
    for devices in DEVICES:
        found = [speedup(devices, step, exchange(devices, rate, gradients), each=each) for rate in LINKS.values()]
        rows.append(f"| {devices} | " + " | ".join(f"{low:.2g} to {high:.2g}" for low, high in found) + " |")
    return "\n".join(rows)


def steps(record: Path, card_tflops: float) -> dict[str, float]:
    """Seconds of a step of 128 on one device, by what it is."""
    rows = json.loads(record.read_text())["rows"]
    (measured,) = (row["ours"] for row in rows if row["name"] == "train_step")
    return {"CPU of the record": measured, "card": GFLOP_A_STEP / 1e3 / card_tflops}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--record", type=Path, default=Path(__file__).parents[1] / "results" / "compare-cpu-fast-host.json"
    )
    parser.add_argument("--card-tflops", type=float, default=CARD_TFLOPS, help="what a card reaches in training")
    args = parser.parse_args()
    for device, step in steps(args.record, args.card_tflops).items():
        for each in (False, True):
            for form, gradients in (("float32", GRADIENTS), ("bf16", GRADIENTS / 2)):
                batch = "128 images a device" if each else "128 images together"
                print(f"{device}, {1e3 * step:,.1f} ms a step alone; {batch}; gradients in {form}\n")
                print(table(step, each=each, gradients=gradients) + "\n")


if __name__ == "__main__":
    main()
