"""Write the table of docs/from-classic-to-modern.md from results/trials-*.json, the records of benchmarks/trials.py.

    python benchmarks/ladder.py [--check]

``--check`` writes nothing and fails where the page differs from what the records say.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import trials
from alexnet import recipes
from record import between, keep_pages
from tables import origins, spread, table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "from-classic-to-modern.md"
BEGIN, END = "<!-- trials: made by benchmarks/ladder.py -->", "<!-- end of trials -->"
RUNGS = [name for name, _ in trials.LADDER]


def page(records: Sequence[dict[str, Any]]) -> str:
    """The generated part: a line a trial, a column a record, and below where each column comes from."""
    tried = [name for name, _ in trials.trials() if any(_accuracies(record, name) for record in records)]
    rows = [[_told(name), *(_cell(each, name) for each in records)] for name in tried]
    return "\n\n".join([table(["with", *map(_length, records)], rows), *map(_source, records), *_by_views(records)])


def _by_views(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table of the networks that were judged by several views of each image."""
    runs = [(_length(record), run) for record in records for run in record["runs"] if "views" in run]
    if not runs:
        return
    names = [name for name, _ in trials.trials()]
    runs.sort(key=lambda each: names.index(each[1]["name"]))
    views = sorted({view for _, run in runs for view in run["views"]}, key=recipes.VIEWS.index)
    head = ["trial", "of", "center", *(f"`--views {view}`" for view in views)]
    rows = []
    for length, run in runs:
        found = [run["val_acc"], *(run["views"].get(view) for view in views)]
        rows.append([_told(run["name"]), length, *("–" if share is None else f"{share:.2f}" for share in found)])
    yield "The same networks, by the mean of their answers to several views of an image:"
    yield table(head, rows)


def _told(name: str) -> str:
    return name.removeprefix("modern, ") + " = `modern`" if name == RUNGS[-1] else name


def before(name: str) -> str | None:
    """The trial that a trial is compared with: of the ladder the one before, of the others modern."""
    if name not in RUNGS:
        return RUNGS[-1]
    return RUNGS[RUNGS.index(name) - 1] if name != RUNGS[0] else None


def _accuracies(record: dict[str, Any], name: str | None) -> dict[int, float]:
    return {run["seed"]: run["val_acc"] for run in record["runs"] if run["name"] == name}


def _cell(record: dict[str, Any], name: str) -> str:
    """The accuracy, and in brackets the gain over the trial before, seed by seed."""
    found, base = _accuracies(record, name), _accuracies(record, before(name))
    if not found:
        return "–"
    gains = [found[seed] - base[seed] for seed in found if seed in base]
    sign = "+" if gains and statistics.mean(gains) >= 0 else ""
    return spread(list(found.values()), 2) + (f" ({sign}{spread(gains, 2)})".replace("-", "−") if gains else "")


def _length(record: dict[str, Any]) -> str:
    data, epochs = record["runs"][0]["data"], record["epochs"]
    narrow = ", a fourth of the maps" * (record.get("widths") == "quarter")
    return f"{epochs} epoch{'s' * (epochs > 1)} of {data['train']:,} images{narrow}"


def _source(record: dict[str, Any]) -> str:
    data, seeds = record["runs"][0]["data"], {run["seed"] for run in record["runs"]}
    error = max((run["val_acc"] * (100 - run["val_acc"]) / data["val"]) ** 0.5 for run in record["runs"])
    notes = f"; {record['notes'].rstrip('.')}" if "notes" in record else ""
    return (
        f"- {_length(record)}, {len(seeds)} seed{'s' * (len(seeds) > 1)}; {data['val']:,} images held out, standard "
        f"error of an accuracy {error:.2f} points or less: `{record['command']}` on {data['name']}, {origins(record)}"
        f"{notes}: [{record['file']}](../results/{record['file']})"
    )


def records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("trials-*.json")):
        yield json.loads(path.read_text()) | {"file": path.name}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = between(PAGE.read_text(), page(list(records(ROOT / "results"))), BEGIN, END)
    return keep_pages({PAGE: text}, check=args.check)


if __name__ == "__main__":
    sys.exit(main())
