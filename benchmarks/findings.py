"""Write docs/findings.md, its pictures and the README's table, from the records results/reproduce-*.json.

    python benchmarks/findings.py [--check]

An experiment without a record is told as "not run", with its command. ``--check`` writes nothing and fails where a page
differs from what the records say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alexnet.reproduce.catalogue import EXPERIMENTS
from alexnet.reproduce.experiment import Experiment
from alexnet.reproduce.pictures import draw
from alexnet.reproduce.told import spread
from record import between, keep_pages

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- findings: made by benchmarks/findings.py -->", "<!-- end of findings -->"


def records() -> dict[str, dict[str, Any]]:
    """The record of each experiment that has one."""
    paths = {name: ROOT / "results" / f"reproduce-{name}.json" for name in EXPERIMENTS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def page(found: dict[str, dict[str, Any]]) -> str:
    """The generated part of docs/findings.md: the table, then a section for each experiment."""
    lines = ["| claim | the paper | here: mean ± SD (runs) | verdict |", "|---|---|---|---|"]
    for name, experiment in EXPERIMENTS.items():
        record = found.get(name)
        paper = "; ".join(dict.fromkeys(comparison.paper for comparison in experiment.rule if comparison.decides))
        told = f"**{record['verdict']}**" if record else f"not run: `alexnet reproduce {name}`"
        lines.append(f"| [`{name}`](#{name}) {experiment.claim} | {paper} | {_figures(record)} | {told} |")
    for name, experiment in EXPERIMENTS.items():
        lines += ["", f"## {name}", "", *_section(experiment, found.get(name))]
    return "\n".join(lines)


def _figures(record: dict[str, Any] | None) -> str:
    if record is None:
        return "–"
    return f"{record['measure']}: " + "; ".join(f"{arm['name']} {spread(arm)}" for arm in record["arms"])


def _section(experiment: Experiment, record: dict[str, Any] | None) -> Iterable[str]:
    yield f"{experiment.claim}. {experiment.source}."
    yield ""
    if record is None:
        yield f"Not run yet; {experiment.cost}."
        return
    yield f"**{record['verdict']}**: {record['reason']}"
    yield ""
    yield f"![{experiment.name}: {record['measure']}](findings/{experiment.name}.png)"
    yield ""
    machine, versions = record["hardware"], record["versions"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    notes = f"; {record['notes']}" if "notes" in record else ""
    yield (
        f"`{record['command']}`: {record['seconds'] / 60:.0f} minutes on {where}, {record['precision']}, torch "
        f"{versions['torch']}; commit {record['commit']}, {record['date']}{notes}."
    )
    sweeps = [arm for arm in record["arms"] if "sweep" in arm]
    if sweeps:
        yield ""
        yield "| arm | rate: " + record["measure"] + ", or the training error where the run ended |"
        yield "|---|---|"
        for arm in sweeps:
            points = "; ".join(f"{point['rate']:g}: {_point(point)}" for point in arm["sweep"])
            yield f"| {arm['name']} | {points} |"


def _point(point: dict[str, Any]) -> str:
    if point["value"] is not None:
        return f"{point['value']:.1f}"
    return f"{point['training_error']:.0f}% after {point['epochs']:g}"


def readme_lines(found: dict[str, dict[str, Any]]) -> str:
    """The README's table: what held, in part or whole, what did not, what is open."""
    words = {"reproduced": "held", "partly": "held in part", "not reproduced": "did not hold"}
    groups: dict[str, list[str]] = {told: [] for told in (*words.values(), "open")}
    for name in EXPERIMENTS:
        verdict = found[name]["verdict"] if name in found else ""
        groups[words.get(verdict, "open")].append(f"[`{name}`](docs/findings.md#{name})")
    rows = [f"| {group} | {', '.join(names) or '–'} |" for group, names in groups.items()]
    return "\n".join(["| of the paper's eight claims about its parts | |", "|---|---|", *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    found = records()
    parts = {ROOT / "docs" / "findings.md": page(found), ROOT / "README.md": readme_lines(found)}
    pages = {path: between(path.read_text(), part, BEGIN, END) for path, part in parts.items()}
    status = keep_pages(pages, check=args.check)
    if args.check:
        return status
    folder = ROOT / "docs" / "findings"
    for name, record in found.items():
        folder.mkdir(exist_ok=True)
        draw(record, folder / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
