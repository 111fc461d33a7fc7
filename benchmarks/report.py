"""Write RESULTS.md, and the table at the head of README.md, from the records in results/.

    python benchmarks/report.py [--check]

Every published number comes from a record, so none can be mistyped or outlive its measurement. ``--check`` writes
nothing and fails where a page differs from what the records say.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from record import between

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: made by benchmarks/report.py -->", "<!-- end of results -->"
MEASURES = {
    "train_step": "training step of 128, data included",
    "matrix_rate_share": "share of the bf16 matrix rate that a step reaches",
    "data_path": "data path alone",
    "lrn": "response normalisation, forward and backward, 128×96×55×55",
    "validation": "validation of 10,000 images",
    "classic_job": "the whole `classic` job, 13 epochs",
    "inference": "inference from 512 image files",
    "peak_memory": "peak memory",
}


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The records in ``folder`` by their kind."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        found[record["kind"]].append(record | {"file": path.name})
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns but the first are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def spread(values: Sequence[float], digits: int = 1) -> str:
    """``mean ± standard deviation``; of a single value, the value."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def figure(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def machine(record: dict[str, Any]) -> str:
    """Hardware and versions in a few words."""
    hardware, versions = record["hardware"], record["versions"]
    name = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['cores']} cores"
    return f"{name}; torch {versions['torch']}"


def origins(record: dict[str, Any]) -> str:
    """Machine and commit of each run in a growing record, each pair once."""
    return "; ".join(dict.fromkeys(f"{machine(run)}, commit {run['commit']}" for run in record["runs"]))


def groups(accuracy: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs that differ in nothing but their seed."""
    found = defaultdict(list)
    for record in accuracy:
        recipe = {key: value for key, value in record["recipe"].items() if key not in ("seed", "tracker", "save_every")}
        key = (
            json.dumps(recipe, sort_keys=True),
            record["steps"],
            record["precision"],
            record["loader"],
            machine(record),
        )
        found[key].append(record)
    return sorted(found.values(), key=lambda runs: (runs[0]["recipe"]["name"], runs[0]["steps"]))


def accuracy_rows(accuracy: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for runs in groups(accuracy):
        first = runs[0]
        finals = [run["final"] for run in runs]
        rows.append(
            [
                f"`{first['recipe']['name']}`",
                first["data"]["name"],
                f"{first['final']['epoch']:.3g} of {first['recipe']['epochs']}",
                str(len(runs)),
                spread([final.get("test_acc", final["val_acc"]) for final in finals], 2),
                spread([final.get("test_loss", final["val_loss"]) for final in finals], 3),
                spread([run["wall_seconds"] / 60 for run in runs if run["wall_seconds"]]),
                f"{first['device']}, {first['precision']}",
            ]
        )
    return rows


ACCURACY_HEAD = ["recipe", "data", "epochs", "runs", "test accuracy, %", "test loss", "minutes a run", "on"]


def compare_rows(record: dict[str, Any]) -> list[list[str]]:
    return [
        [
            MEASURES[row["name"]],
            *(
                f"{figure(row[side])} ({figure(min(row[side + '_all']))} to {figure(max(row[side + '_all']))})"
                for side in ("ours", "baseline")
            ),
            row["unit"] + (f"; {row['share_of_copy_pct']}% of a copy's rate" if "share_of_copy_pct" in row else ""),
            f"**{row['ratio']:.2f}**",
        ]
        for row in record["rows"]
    ]


def change_rows(record: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["name"],
            f"{statistics.median(row['seconds']):.3g} ({min(row['seconds']):.3g} to {max(row['seconds']):.3g})",
        ]
        for row in record["rows"]
    ]


def agreement_rows(record: dict[str, Any]) -> list[list[str]]:
    plain, rows = record["losses"]["plain"], []
    for name in ("fast", "plain, rounded images"):
        losses = record["losses"][name]
        gaps = [abs(a - b) for a, b in zip(losses, plain, strict=True)]
        rows.append([name, f"{statistics.mean(gaps):.4f}", f"{max(gaps):.4f}", f"{losses[-1]:.3f} ({plain[-1]:.3f})"])
    return rows


def learning_rows(record: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"`{run['input_scale']}`",
            f"`{run['init']}`",
            f"step {run['learned_at']}" if run["learned_at"] else "no",
            f"{run['losses'][0]:.3f}",
            f"{statistics.mean(run['losses'][-20:]):.3f}",
        ]
        for run in record["runs"]
    ]


def trial_rows(record: dict[str, Any]) -> list[list[str]]:
    names = list(dict.fromkeys(run["name"] for run in record["runs"]))
    by_name = {name: [run for run in record["runs"] if run["name"] == name] for name in names}
    return [
        [name, str(len(runs)), *(spread([run[key] for run in runs], 2) for key in ("val_acc", "val_loss"))]
        for name, runs in by_name.items()
    ]


def results_page(found: dict[str, list[dict[str, Any]]]) -> str:
    """The whole of RESULTS.md."""
    parts = [
        "# Results\n\nEvery number here is computed from a record in [results/](results/) by `make results`. "
        "Accuracies on “CIFAR-10 (JPEG q75 copy)” were measured on a lossy copy of CIFAR-10, train and test; they are "
        "compared with each other alone, not with figures on CIFAR-10.",
        "## Accuracy\n\nThe last step's figures, nothing picked; mean ± standard deviation over seeds where there are "
        "several runs. A row of fewer epochs than its schedule's shows the beginning of a run, not what it comes to. "
        "`classic` and `reference` validate on the test set, as the published run of `reference` did; "
        "`modern` and `paper` validate on 5,000 training images and open the test set once, at the end.\n\n"
        + table(ACCURACY_HEAD, accuracy_rows(found["accuracy"])),
    ]
    for runs in groups(found["accuracy"]):
        first = runs[0]
        files = ", ".join(f"[{run['file']}](results/{run['file']})" for run in runs)
        notes = f"; {first['notes']}" if "notes" in first else ""
        parts.append(
            f"- `{first['command']}` on {machine(first)}, {first['date']}, commit {first['commit']}{notes}: {files}"
        )
    for record in found["compare"]:
        head = ["measure", "ours", "baseline", "unit", "ratio"]
        rates = record | record["hardware"]
        parts.append(
            f"## Speed: {machine(record)}\n\n`{record['command']}`, {record['date']}, commit {record['commit']}. "
            f"Measured in the same run: {rates['matrix_tflops_bf16']} TFLOP/s in one large bf16 product, "
            f"{rates['copy_gb_per_s']} GB/s in a copy. Medians, and in brackets the least and the most. "
            f"{record['notes']}. Record: "
            f"[{record['file']}](results/{record['file']}).\n\n" + table(head, compare_rows(record))
        )
    for record in found["changes"]:
        parts.append(
            f"## What each change gives: {machine(record)}\n\n`{record['command']}`, {record['date']}, commit "
            f"{record['commit']}. Seconds of a training step of 128 without its data, median, and in brackets the "
            "least and the most; each line adds to the one before, until the last two. Record: "
            f"[{record['file']}](results/{record['file']}).\n\n" + table(["with", "seconds"], change_rows(record))
        )
    for record in found["agreement"]:
        head = ["against the plain path", "difference on average", "at most", "last loss"]
        parts.append(
            f"## The fast path computes what the plain one does: {machine(record)}\n\n`{record['command']}` on "
            f"{record['data']}, {record['precision']}, {record['date']}. Differences of the training loss, step by "
            "step, from a float32 run with torch's response normalisation; the second line is that run with only "
            f"its images rounded to bf16. Record: [{record['file']}](results/{record['file']}).\n\n"
            + table(head, agreement_rows(record))
        )
    for record in found["learning"]:
        head = ["input", "initialisation", "starts to learn", "first loss", "last 20 losses"]
        parts.append(
            f"## Starting to learn\n\n`{record['command']}` on {record['data']}, {record['precision']}, "
            f"{origins(record)}. {record.get('notes', '')} It has started when the mean of 20 training losses is "
            "below ln 10 − 0.05 = 2.253. "
            f"Record: [{record['file']}](results/{record['file']}).\n\n" + table(head, learning_rows(record))
        )
    for record in found["trials"]:
        data = record["runs"][0]["data"]
        parts.append(
            f"## From classic to modern\n\n`{record['command']}` on {data['name']}, {origins(record)}: "
            f"{data['train']:,} images to train on, {data['val']:,} of the training set held out to judge by, "
            f"{record['epochs']} epoch{'s' * (record['epochs'] > 1)}, learning rate to 0 within. "
            "Each line adds to the one before; those that begin with “modern” change it in one thing. "
            f"{record.get('notes', '')} Record: "
            f"[{record['file']}](results/{record['file']}).\n\n"
            + table(["with", "runs", "val_acc, %", "val_loss"], trial_rows(record))
        )
    return "\n\n".join(parts) + "\n"


def readme_table(found: dict[str, list[dict[str, Any]]]) -> str:
    """The measured figures that open the README."""
    parts = []
    if found["accuracy"]:
        parts.append(table(ACCURACY_HEAD, accuracy_rows(found["accuracy"])))
    for record in found["compare"]:
        rows = [
            [
                MEASURES[row["name"]],
                f"{figure(row['ours'])} {row['unit']}",
                f"{figure(row['baseline'])} {row['unit']}",
                f"{row['ratio']:.1f}×",
            ]
            for row in record["rows"]
            if row["name"] in ("train_step", "data_path", "lrn", "classic_job")
        ]
        parts.append(f"On {machine(record)}:\n\n" + table(["speed", "this project", "the usual way", "gain"], rows))
    return "\n\n".join(parts)


def draw_learning(record: dict[str, Any], path: Path) -> None:
    """The ten losses of the learning record: one panel an input scale, one line an initialisation."""
    import math

    from matplotlib.figure import Figure

    picture = Figure(figsize=(10, 4), layout="constrained")
    panels = picture.subplots(1, 2, sharey=True)
    colors = {"paper": "#1b6ca8", "zero-bias": "#d1495b", "source": "#2e8b57", "caffe": "#8a6fb0", "he": "#c98a1b"}
    for axes, scale in zip(panels, ("raw", "imagenet"), strict=True):
        for run in (run for run in record["runs"] if run["input_scale"] == scale):
            losses = run["losses"]
            smooth = [statistics.mean(losses[max(0, i - 19) : i + 1]) for i in range(len(losses))]
            axes.plot(range(1, len(smooth) + 1), smooth, color=colors[run["init"]], label=run["init"], linewidth=1.6)
        axes.axhline(math.log(10), color="0.5", linewidth=0.8, linestyle="--")
        title = {"raw": "input: 0..255 minus the mean", "imagenet": "input: scaled to a standard deviation of 1"}
        axes.set(title=title[scale], xlabel="step", xlim=(1, record["steps"]), ylim=(1.6, 3.2))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].text(0.03, 0.04, "dashed: guessing, ln 10 = 2.303", transform=panels[0].transAxes, fontsize=9)
    panels[0].set_ylabel("training loss, mean of 20 steps (nats)")
    panels[1].legend(title="initialisation", frameon=False, fontsize=9)
    picture.savefig(path, dpi=120, metadata={"Software": None})


def pages(root: Path) -> dict[Path, str]:
    """Each page that this script keeps, as it should be."""
    found = records(root / "results")
    readme = root / "README.md"
    return {
        root / "RESULTS.md": results_page(found),
        readme: between(readme.read_text(), readme_table(found), BEGIN, END),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is out of date")
    args = parser.parse_args()
    if not args.check:
        for record in records(ROOT / "results")["learning"]:
            if len(record["runs"]) == 10:
                draw_learning(record, ROOT / "docs" / "why-2.303.png")
    for path, text in pages(ROOT).items():
        if args.check and (not path.exists() or path.read_text() != text):
            sys.exit(f"{path.name} differs from the records; run `make results`")
        if not args.check:
            path.write_text(text)


if __name__ == "__main__":
    main()
