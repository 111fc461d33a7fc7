"""This project beside the usual way to train AlexNet at 224×224, measured in turn on one machine.

    python benchmarks/compare.py [--json FILE] [--repeats 3] [--data SPEC]

The baseline is what the code of the published run does (github.com/ajheshbasnet/ClassicCNNs): torchvision's transforms
on PIL images, a DataLoader (here with a worker for each core, up to 4), float32, channels first,
torch.nn.LocalResponseNorm, .item() every step, and at every 100 steps two passes over the validation images, for
accuracy and for loss. Each side lives in a process of its own, so that neither allocator, threads nor caches touch the
other; the sides work in turn, never at once. A ratio above 1 always means that this project is better.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from alexnet import hardware
from alexnet.report.summary import summarize
from record import origin
from sides import BATCH, LRN_SHAPE, Baseline, Ours, load

FILES = 512  # images that inference reads
STEPS, HUNDREDS, EPOCHS = 5083, 50, 13  # of the classic job, which validates at every 100 steps and each epoch's end
MEASURES = ("train_step", "validation", "peak_memory", "data_path", "lrn", "lrn_float32", "inference")
UNITS = {
    "train_step": "s",
    "matrix_rate_share": "%",
    "data_path": "images/s",
    "lrn": "ms",
    "lrn_float32": "ms",
    "validation": "s",
    "classic_job": "s",
    "classic_job_one_pass": "s",
    "inference": "images/s",
    "peak_memory": "GiB",
}
MORE_IS_BETTER = {"matrix_rate_share", "data_path", "inference"}
# What this project holds itself to, on two recent CPU cores and on one H200: row, figure, at least or at most.
BARS = {
    "cpu": [
        ("train_step", "ratio", "≥", 3.6),
        ("matrix_rate_share", "ours", "≥", 60),
        ("data_path", "ratio", "≥", 2),
        ("lrn", "ratio", "≥", 5),
        ("classic_job", "ratio", "≥", 4.5),
        ("peak_memory", "ratio", "≥", 1),
    ],
    "cuda": [
        ("train_step", "ratio", "≥", 8),
        ("matrix_rate_share", "ours", "≥", 45),
        ("data_path", "ratio", "≥", 100),
        ("lrn", "ratio", "≥", 4),
        ("lrn", "share_of_copy_pct", "≥", 50),
        ("classic_job", "ratio", "≥", 25),
        ("classic_job", "ours", "≤", 20),
        ("peak_memory", "ours", "≤", 8),
    ],
}


def serve(kind: type, pipe: Connection, *arguments: Any) -> None:
    """Be one side: take the name of a measure, answer with its figure."""
    side = kind(*arguments)
    pipe.send("ready")
    while (name := pipe.recv()) != "stop":
        pipe.send(getattr(side, name)())


def measure(spec: str, device: torch.device, repeats: int, files: list[Path]) -> dict[str, dict[str, list[float]]]:
    """Every measure of both sides, ``repeats`` times in turn after one that does not count."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, kind in (("baseline", Baseline), ("ours", Ours)):
        pipes[name], other = context.Pipe()
        processes.append(context.Process(target=serve, args=(kind, other, spec, device, files)))
        processes[-1].start()
        other.close()  # the process has it: if that ends, so does the waiting
        assert pipes[name].recv() == "ready"

    def ask(side: str, what: str) -> float:
        pipes[side].send(what)
        value = float(pipes[side].recv())
        print(f"  {what:12} {side:9} {value:10.4g}", flush=True)
        return value

    figures: dict[str, dict[str, list[float]]] = {what: {"ours": [], "baseline": []} for what in MEASURES}
    figures |= {rate: {"ours": [], "baseline": []} for rate in ("matrix_rate", "copy_rate")}
    for what in MEASURES:
        times = 1 if what == "peak_memory" else repeats
        warm_up = what in ("train_step", "validation", "inference")
        for repeat in range(times + warm_up):
            for side in ("ours", "baseline"):
                value = ask(side, what)
                if repeat >= warm_up:
                    figures[what][side].append(value)
            if what == "train_step":
                figures["matrix_rate"]["ours"].append(ask("ours", "matrix_rate"))
            if what == "lrn":
                figures["copy_rate"]["ours"].append(ask("ours", "copy_rate"))
    for pipe in pipes.values():
        pipe.send("stop")
    for process in processes:
        process.join(30)
        process.kill()
    return figures


def training_flop() -> float:
    """Operations to train on one image: forward, and both backward products but conv1's for its input."""
    layers = summarize("classic", 10)["layers"]
    total = sum(layer["multiply_adds"] for layer in layers)
    first = next(layer["multiply_adds"] for layer in layers if layer["multiply_adds"])
    return 2.0 * (3 * total - first)


def copy_share(figures: dict[str, dict[str, list[float]]], value: int) -> float:
    """Percent of the copy bandwidth that our response normalisation reaches: it cannot do with less than 5 passes.

    ``value``: bytes of one, 2 in bf16 and 4 in float32.
    """
    count = LRN_SHAPE[0] * LRN_SHAPE[1] * LRN_SHAPE[2] * LRN_SHAPE[3]
    seconds = statistics.median(figures["lrn"]["ours"]) / 1000
    moved = 5 * value * count  # x read, y written; x and the gradient read, the other gradient written
    return 100 * moved / seconds / 1e9 / statistics.median(figures["copy_rate"]["ours"])


def full_job(spec: str, device: torch.device) -> float:
    """Seconds of ``alexnet train classic``, start to end, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "alexnet", "train", "classic", "--data", spec, "--tracker", "none"]
        began = time.perf_counter()
        subprocess.run([*command, "--device", device.type, "--out", f"{folder}/run"], check=True)
        return time.perf_counter() - began


def to_rows(figures: dict[str, dict[str, list[float]]], job: list[float], value: int = 2) -> list[dict[str, Any]]:
    """One row a measure: medians, spreads, and the ratio that is above 1 where ours is better."""
    flop, rate = training_flop() * BATCH, statistics.median(figures["matrix_rate"]["ours"]) * 1e12
    all_figures = {name: dict(sides) for name, sides in figures.items() if name in MEASURES}
    all_figures["matrix_rate_share"] = {
        side: [100 * flop / seconds / rate for seconds in figures["train_step"][side]] for side in ("ours", "baseline")
    }
    for name, passes in (("classic_job", 2 * HUNDREDS + EPOCHS), ("classic_job_one_pass", HUNDREDS + EPOCHS)):
        validations = {"ours": HUNDREDS + EPOCHS, "baseline": passes / 2}  # the baseline's is timed over two passes
        all_figures[name] = {
            side: [
                STEPS * step + validations[side] * validation
                for step, validation in zip(figures["train_step"][side], figures["validation"][side], strict=True)
            ]
            for side in ("ours", "baseline")
        }
        if job:
            all_figures[name]["ours"] = job[1:]
    more = {"lrn": {"share_of_copy_pct": round(copy_share(figures, value), 1)}}
    rows = []
    for name, unit in UNITS.items():
        ours, baseline = (statistics.median(all_figures[name][side]) for side in ("ours", "baseline"))
        ratio = ours / baseline if name in MORE_IS_BETTER else baseline / ours
        rows.append(
            {
                "name": name,
                "unit": unit,
                "ours": round(ours, 4),
                "baseline": round(baseline, 4),
                "ratio": round(ratio, 2),
                **more.get(name, {}),
                "ours_all": [round(value, 4) for value in all_figures[name]["ours"]],
                "baseline_all": [round(value, 4) for value in all_figures[name]["baseline"]],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", default="synthetic", help="images to measure with: a folder; by default noise")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    args = parser.parse_args()
    device = hardware.pick_device(args.device)
    if device.type not in BARS:
        parser.error(f"--device {args.device}: comes to {device.type} here; allowed are {', '.join(BARS)}")
    dataset = load(args.data)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i in range(FILES):
            files.append(Path(folder) / f"{i}.png")
            dataset.val.image(i % len(dataset.val)).resize((256, 256)).save(files[-1])
        figures = measure(args.data, device, args.repeats, files)
    in_full = device.type == "cuda" and args.data != "synthetic"
    job = [full_job(args.data, device) for _ in range(3)] if in_full else []  # the first one compiles
    rows = to_rows(figures, job, 2 if hardware.pick_precision("auto", device) == "bf16" else 4)
    record = {
        "kind": "compare",
        "command": f"python benchmarks/compare.py --repeats {args.repeats}"
        + " --data FOLDER" * (args.data != "synthetic"),
        "data": dataset.name,
        **origin(device),
        "matrix_tflops_bf16": round(statistics.median(figures["matrix_rate"]["ours"]), 3),
        "copy_gb_per_s": round(statistics.median(figures["copy_rate"]["ours"]), 1),
        "notes": "classic_job is 5,083 steps and 63 validations, the usual way's of 113 passes, from the measured parts"
        + (
            f", ours run in full, start and imports included; the first one, with its compilation, took {job[0]:.1f} s"
            if job
            else ""
        ),
        "rows": rows,
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{'':18}{'ours':>12}{'baseline':>12}{'ratio':>8}   spread of ours, of baseline")
    for row in rows:
        spreads = ", ".join(f"{min(v):.4g} to {max(v):.4g}" for v in (row["ours_all"], row["baseline_all"]))
        figures = f"{row['ours']:>12.4g}{row['baseline']:>12.4g}{row['ratio']:>8.2f}"
        print(f"{row['name']:18}{figures}   {row['unit']}; {spreads}")
    print()
    for name, figure, sign, bar in BARS[device.type]:
        value = next(row[figure] for row in rows if row["name"] == name)
        met = value >= bar if sign == "≥" else value <= bar
        print(f"{name} {figure} {value:.4g} {sign} {bar}: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
