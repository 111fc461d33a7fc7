"""Write RESULTS.md, the table at the head of README.md, and the pictures of both, from the records in results/.

    python benchmarks/report.py [--check]

Every published number comes from a record, so none can be mistyped or outlive its measurement. ``--check`` writes
nothing and fails where a page differs from what the records say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pictures import draw_learning, draw_run, draw_whole_runs
from record import between, keep_pages
from tables import (
    MEASURES,
    accuracy_table,
    agreement_rows,
    change_rows,
    class_rows,
    compare_rows,
    decode_rows,
    figure,
    groups,
    learning_rows,
    machine,
    origins,
    table,
    test_accuracy,
    whole_runs,
)  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: made by benchmarks/report.py -->", "<!-- end of results -->"
WHOLE = "thirteen-epochs.png"
CURVES = ("<!-- curves: made by benchmarks/report.py -->", "<!-- end of curves -->")


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The records in ``folder`` by their kind."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        found[record["kind"]].append(record | {"file": path.name})
    return found


def results_page(found: dict[str, list[dict[str, Any]]]) -> str:
    """The whole of RESULTS.md."""
    parts = [
        "# Results\n\nEvery number here is computed from a record in [results/](results/) by `make results`. "
        "Accuracies on “CIFAR-10 (JPEG q75 copy)” were measured on a lossy copy of CIFAR-10, train and test; they are "
        "compared with each other alone, not with figures on CIFAR-10. Other records have pages of their own: "
        "[what each change from classic to modern gives](docs/from-classic-to-modern.md), [the paper's findings]"
        "(docs/findings.md), [faults](docs/reliability.md).",
        "## Accuracy\n\nThe last step's figures, nothing picked; mean ± standard deviation over seeds where there are "
        "several runs; of a single one, in brackets, Wilson's 95% interval, which answers for the images that were "
        "drawn and not for another seed. A row of fewer epochs than its schedule's shows the beginning of a run, not "
        "what it comes to. `classic` and `reference` validate on the test set, as the published run of `reference` "
        "did; `modern` and `paper` validate on 5,000 training images and open the test set once, at the end.\n\n"
        + accuracy_table(groups(found["accuracy"])),
    ]
    for runs in groups(found["accuracy"]):
        first = runs[0]
        files = ", ".join(f"[{run['file']}](results/{run['file']})" for run in runs)
        notes = f"; {first['notes']}" if "notes" in first else ""
        parts.append(f"- `{first['command']}` on {machine(first)}, {first['date']}, {commits(runs)}{notes}: {files}")
    first_seeds = [record for record in whole_runs(found["accuracy"]) if record["recipe"]["seed"] == 0]
    if first_seeds:
        record = max(first_seeds, key=test_accuracy)
        head = ["true class", "right, %", *record["classes"]]
        parts.append(
            f"## Class by class\n\nThe {sum(map(sum, record['confusion'])):,} test images by the last step of the "
            f"recipe that gets most of them right, `{record['recipe']['name']}`, with seed 0 "
            f"([{record['file']}](results/{record['file']})): a row a true class, a column an answer.\n\n"
            + table(head, class_rows(record))
        )
    for record in found["compare"]:
        head = ["measure", "ours", "baseline", "unit", "ratio"]
        rates = record | record["hardware"]
        images = "noise of CIFAR-10's shape" if record["data"].startswith("synthetic") else record["data"]
        parts.append(
            f"## Speed: {machine(record)}, {rates['matrix_tflops_bf16']} TFLOP/s\n\n"
            f"`{record['command']}`, {record['date']}, commit {record['commit']}. "
            f"Measured in the same run: {rates['matrix_tflops_bf16']} TFLOP/s in one large bf16 product, "
            f"{rates['copy_gb_per_s']} GB/s in a copy. The images are {images}. Medians, and in "
            "brackets the least and the most. "
            f"{record['notes']}. Record: "
            f"[{record['file']}](results/{record['file']}).\n\n" + table(head, compare_rows(record))
        )
    for record in found["changes"]:
        parts.append(
            f"## What each change gives: {machine(record)}\n\n`{record['command']}`, {record['date']}, commit "
            f"{record['commit']}. Seconds of a training step of 128 without its data, median, and in brackets the "
            "least and the most; each line adds to the one before; the last three leave one out of what “fused SGD” "
            "has. Record: "
            f"[{record['file']}](results/{record['file']}).\n\n" + table(["with", "seconds"], change_rows(record))
        )
    for record in found["decode"]:
        head = ["images/s a core", "decoded", "cut to 256×256 by Pillow", "by torch", "against Pillow's pixels"]
        gap = record["torch's resizing beside Pillow's"]
        parts.append(
            f"## Decoding photographs: {machine(record)}\n\n`{record['command']}`, {record['date']}, commit "
            f"{record['commit']}. JPEGs of 500×375 made by the script, {record['bytes']:,} bytes each; medians, and in "
            f"brackets the least and the most. Cut by torch and by Pillow, {gap['equal_pct']:.4g}% of the values are "
            f"equal, and none is more than {gap['largest_difference']} off. Record: "
            f"[{record['file']}](results/{record['file']}).\n\n" + table(head, decode_rows(record))
        )
    for record in found["agreement"]:
        head = ["against the plain path", "difference on average", "at most", "last loss"]
        parts.append(
            f"## The fast path computes what the plain one does: {machine(record)}\n\n`{record['command']}` on "
            f"{record['data']}, {record['precision']}, response normalisation in {record['response_norm']}, "
            f"{record['date']}, commit {record['commit']}. Differences of the training loss, step by step, from a "
            "float32 run with torch's response normalisation; the second line is that run with only its images rounded "
            f"to bf16. Record: [{record['file']}](results/{record['file']}).\n\n" + table(head, agreement_rows(record))
        )
    for record in found["learning"]:
        head = ["input", "initialisation", "starts to learn", "first loss", "last 20 losses"]
        parts.append(
            f"## Starting to learn\n\n`{record['command']}` on {record['data']}, {record['precision']}, "
            f"{origins(record)}. {record.get('notes', '')} It has started when the mean of 20 training losses is "
            "below ln 10 − 0.05 = 2.253. "
            f"Record: [{record['file']}](results/{record['file']}).\n\n" + table(head, learning_rows(record))
        )
    return "\n\n".join(parts) + "\n"


def commits(runs: Sequence[dict[str, Any]]) -> str:
    """The commits of some runs; of a run that was resumed by another one, each with the step it began at."""
    told = []
    for run in runs:
        parts = [part for part in run.get("parts", ()) if part.get("commit")]
        starts = [f"{b['commit']} from step {b['step']}" for a, b in pairwise(parts) if a["commit"] != b["commit"]]
        told.append(", ".join([f"commit {run['commit']}", *starts]))
    return "; ".join(dict.fromkeys(told))


def readme_table(found: dict[str, list[dict[str, Any]]]) -> str:
    """The measured figures that open the README."""
    settings = groups(found["accuracy"])
    whole = groups(whole_runs(found["accuracy"]))
    parts = [accuracy_table(whole or settings)] if settings else []
    if found["compare"]:
        parts.append(speed_table(found["compare"]))
    return "\n\n".join(parts)


def shown(accuracy: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The run whose six charts README shows: seed 0 of classic, once it is whole."""
    wanted = ("classic", 0)
    return next(
        (each for each in whole_runs(accuracy) if (each["recipe"]["name"], each["recipe"]["seed"]) == wanted), None
    )


def readme_curves(accuracy: Sequence[dict[str, Any]]) -> str:
    """The curves in README, with what they are of."""
    six = "![Six charts of a training run: losses and accuracies over steps](docs/curves.png)"
    if not (record := shown(accuracy)):
        return f"{six}\n\nWhat every run leaves in its folder; here seven epochs of digits."
    recipe, data = record["recipe"], record["data"]["name"]
    told = (
        f"{six}\n\nWhat every run leaves in its folder; here `{recipe['name']}` on {data}, {recipe['epochs']} epochs, "
        f"seed {recipe['seed']}."
    )
    if len(whole_runs(accuracy)) == 1:
        return told
    return (
        f"{told}\n\n![Training loss and validation accuracy of whole runs over epochs](docs/{WHOLE})\n\n"
        "Whole runs, a line a seed; a point of `train_loss` is the mean since the one before."
    )


def speed_table(found: Sequence[dict[str, Any]]) -> str:
    """The measures that open the README, a column a record: the usual way, this project, and the gain."""
    rates = [(record | record["hardware"])["matrix_tflops_bf16"] for record in found]
    head = ["the usual way → this project, gain", *(f"{rate:.2f} TFLOP/s" for rate in rates)]
    by_name = [{row["name"]: row for row in record["rows"]} for record in found]
    rows = [
        [MEASURES[name], *(_gain(each[name]) if name in each else "–" for each in by_name)]
        for name in ("train_step", "data_path", "lrn", "classic_job", "classic_job_one_pass")
    ]
    machines = "; ".join(dict.fromkeys(map(machine, found)))
    return f"Speed on {machines}; a column a host, by its rate in a large bf16 product:\n\n" + table(head, rows)


def _gain(row: dict[str, Any]) -> str:
    ours, baseline, unit = row["ours"], row["baseline"], row["unit"]
    if unit == "s" and ours >= 3600:
        ours, baseline, unit = ours / 3600, baseline / 3600, "h"
    ratios = [row["ratio"], *row.get("other_runs", ())]
    gain = "×** to **".join(dict.fromkeys(f"{ratio:.1f}" for ratio in sorted({min(ratios), max(ratios)})))
    return f"{figure(baseline)} → {figure(ours)} {unit}, **{gain}×**"


def pages(root: Path) -> dict[Path, str]:
    """Each page that this script keeps, as it should be."""
    found = records(root / "results")
    readme = root / "README.md"
    text = between(readme.read_text(), readme_table(found), BEGIN, END)
    return {
        root / "RESULTS.md": results_page(found),
        readme: between(text, readme_curves(found["accuracy"]), *CURVES),
    }


def draw(found: dict[str, list[dict[str, Any]]], docs: Path) -> None:
    """Each picture for which there are records."""
    for record in found["learning"]:
        if len(record["runs"]) >= 10:  # all of them, of a record that grows
            draw_learning(record, docs / "why-2.303.png")
    if record := shown(found["accuracy"]):
        draw_run(record, docs / "curves.png")
        if len(whole := whole_runs(found["accuracy"])) > 1:
            draw_whole_runs(whole, docs / WHOLE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is out of date")
    args = parser.parse_args()
    if not args.check:
        draw(records(ROOT / "results"), ROOT / "docs")
    return keep_pages(pages(ROOT), check=args.check)


if __name__ == "__main__":
    sys.exit(main())
