"""Write the table of docs/reliability.md from results/faults-cpu.json, the record of benchmarks/faults.py.

    python benchmarks/reliability.py [--check]

``--check`` writes nothing and fails where the page differs from what the record says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from record import between, keep_pages

ROOT = Path(__file__).resolve().parent.parent
PAGE, RECORD = ROOT / "docs" / "reliability.md", ROOT / "results" / "faults-cpu.json"
BEGIN, END = "<!-- faults: made by benchmarks/reliability.py -->", "<!-- end of faults -->"
Runs = list[dict[str, Any]]


def page(runs: Runs) -> str:
    """The generated part: what was done, how often, and how often it came out as it should."""
    kinds: dict[tuple[str, str], Runs] = {}
    for run in runs:
        kinds.setdefault((run["part"], run.get("what", "")), []).append(run)
    lines = ["| what was done | trials | wrong | what came of it |", "|---|---:|---:|---|"]
    for (part, what), some in kinds.items():
        trials, wrong = sum(run["trials"] for run in some), sum(len(run["wrong"]) for run in some)
        name = f"{part}: {what}" if what else part
        lines.append(f"| {name} | {trials:,} | {wrong} | {'; '.join(_told(some))} |")
    commits = ", ".join(dict.fromkeys(str(run["commit"]) for run in runs))
    machine, versions = runs[0]["hardware"], runs[0]["versions"]
    return "\n".join(
        [
            *lines,
            "",
            f"`make faults` on {machine['cpu']}, {machine['cores']} cores, torch {versions['torch']}; "
            f"commit {commits}, the last on {max(run['date'] for run in runs)}.",
        ]
    )


def _told(runs: Runs) -> Iterable[str]:
    for name, word in (("runs", "runs"), ("refused", "refused"), ("harmless", "read as they were")):
        if name in runs[0]:
            yield f"{sum(run[name] for run in runs):,} {word}"
    if runs[0].get("outlived"):
        yield f"{sum(run['outlived'] for run in runs)} went on all the same"
    if "calls" in runs[0]:
        yield ", ".join(f"{count} {name}" for name, count in runs[0]["calls"].items())
    if "answers" in runs[0]:
        whole = [run for run in runs if "answers" in run]  # of one whose process has ended there is only what was wrong
        codes = sum((Counter(codes) for run in whole for codes in run["answers"].values()), Counter[str]())
        yield ", ".join(f"{count:,} {code}" for code, count in sorted(codes.items()))
        yield f"{len(runs[0]['answers'])} kinds; {max(run['megabytes'] for run in whole)} MB at the peak"
    if "milliseconds_a_row" in runs[0]:
        (run,) = runs
        yield (
            f"{run['seconds_to_start']:.0f} s to start, {run['milliseconds_a_row']:.0f} ms a row, "
            f"{run['seconds_to_finish']:.0f} s to finish"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = between(PAGE.read_text(), page(json.loads(RECORD.read_text())["runs"]), BEGIN, END)
    return keep_pages({PAGE: text}, check=args.check)


if __name__ == "__main__":
    sys.exit(main())
