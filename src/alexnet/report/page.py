"""``alexnet report``: a page of one run, or of several side by side, in one file that needs nothing else."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from alexnet.files import check_out, finite
from alexnet.model import ABLATIONS, VARIANTS
from alexnet.report import charts, compare
from alexnet.report.filters import filter_sheet
from alexnet.report.findings import findings
from alexnet.report.html import png_uri, render, write_page
from alexnet.report.record import Record, read, shown
from alexnet.run.tracking import METRICS
from alexnet.weights.checkpoint import LAST, load_checkpoint

__all__ = ["default_out", "report"]

PAGE = "report.html"
_SPENT = {"computing": "computing steps", "waiting": "waiting for data", "validating": "validating", "saving": "saving"}
# Of the last row, in this order, and what each was measured on.
_FIGURES = ("test_acc", "test_loss", "val_acc", "val_loss", "train_acc", "train_loss")


def default_out(folders: Sequence[Path]) -> Path:
    """Where the page goes if nothing else is said: into the run's folder, or into the one that holds all runs.

    Raises:
        ValueError: the runs lie in several folders.
    """
    if len(folders) == 1:
        return folders[0] / PAGE
    parents = {folder.resolve().parent for folder in folders}
    if len(parents) > 1:
        raise ValueError("--out: needed, for the runs lie in several folders")
    near, parent = folders[0].parent, parents.pop()
    return (near if near.resolve() == parent else parent) / PAGE  # as it was typed, where that is the same place


def report(folders: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """Write the page of these runs, and return what ``alexnet report --json`` prints.

    Args:
        folders: run folders; nothing in them is changed but the page itself.
        out: the page, a file that ends in ``.html``; by default ``default_out``.

    Returns:
        ``out``, ``runs`` (for each ``folder``, ``recipe``, ``seed`` and ``final``, its last full row) and ``findings``.

    Raises:
        ValueError: a broken or foreign run, a run named twice, or a place for the page that is none.
        OSError: no such folder, or the page cannot be written.
    """
    folders = [Path(folder) for folder in folders]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice")
    if out is not None:
        check_out(out, ".html", ".htm")
    records = [read(folder) for folder in folders]
    out = out or default_out(folders)
    html, said = _of_run(records[0]) if len(records) == 1 else _of_several(records)
    write_page(out, html)
    runs = [{"folder": r.folder, "recipe": r.recipe, "seed": r.seed, "final": r.final} for r in records]
    return {"out": out, "runs": runs, "findings": said}


def _of_run(record: Record) -> tuple[str, list[str]]:
    said = findings(record)
    filters = _filters(record)
    html = render(
        "run.html",
        run=record,
        said=said,
        charts=charts.of_run(record),
        figures=_figure_rows(record),
        spent=_spent(record),
        facts=_facts(record),
        filters=filters,
        data=finite({"runs": [_document(record)], "findings": said}),
        shown=shown,
        made=_now(),
    )
    return html, said


def _of_several(records: Sequence[Record]) -> tuple[str, list[str]]:
    settings = compare.settings_of(records)
    comparisons = compare.compare(settings)
    said = compare.findings(settings, comparisons)
    differences = compare.differences(settings)
    data = {
        "runs": [_document(record) for record in records],
        "settings": [{"label": s.label, "runs": [run.folder for run in s.runs], "values": s.values} for s in settings],
        "differences": differences,
        "comparisons": [
            {
                "first": c.first.label,
                "second": c.second.label,
                "seeds": list(c.seeds),
                "difference": c.difference and dataclasses.asdict(c.difference),
                "text": c.text,
            }
            for c in comparisons
        ],
        "findings": said,
    }
    html = render(
        "runs.html",
        settings=settings,
        said=said,
        differences=differences,
        charts=charts.of_several([setting.runs for setting in settings]),
        colour=charts.place_in_cycle,
        data=finite(data),
        shown=shown,
        made=_now(),
    )
    return html, said


def _document(record: Record) -> dict[str, Any]:
    """All of a run that its page shows, for programs."""
    return {
        "folder": record.folder,
        "recipe": record.recipe,
        "seed": record.seed,
        "command": record.command(),
        "changes": {name: {"run": run, "recipe": recipe} for name, (run, recipe) in record.changes().items()},
        "step": record.step,
        "last_step": record.last_step,
        "total_steps": record.total_steps,
        "finished": record.finished,
        "final": record.final,
        "figures": [dataclasses.asdict(figure) for figure in record.figures()],
        "best_picked": record.best,
        "seconds": record.seconds(),
        "parts": [dataclasses.asdict(part) for part in record.parts],
        "config": record.config,
        "rows": record.rows,
    }


def _figure_rows(record: Record) -> list[dict[str, str]]:
    """The figures of the last full row, each with its interval and what it was measured on."""
    known = {figure.name.partition("_")[0]: figure for figure in record.figures()}
    rows = []
    for name in _FIGURES:
        if name not in record.final:
            continue
        value, figure = record.final[name], known.get(name.partition("_")[0])
        share = name.endswith("acc")
        number = "no number" if value is None else f"{value:.2f}%" if share else f"{value:.4f}"
        interval = "{:.2f} to {:.2f}".format(*figure.interval) if share and figure and figure.interval else ""
        on = figure.images if figure else "batches since the row before, as they were learned" if name[0] == "t" else ""
        rows.append({"name": name, "value": number, "interval": interval, "on": on})
    return rows


def _spent(record: Record) -> list[dict[str, Any]]:
    spent = record.seconds()
    total = sum(spent.values())
    return [
        {"name": _SPENT[name], "share": 100 * seconds / total, "time": _duration(seconds)}
        for name, seconds in spent.items()
        if total > 0
    ]


def _duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def _facts(record: Record) -> dict[str, str]:
    """Where, with what and on what the run was made; what its config does not say is left out."""
    data, config = record.data, record.config
    images = {"train": "to train on", "val": "to validate on", "test": "to test on at the end"}
    counts = ", ".join(
        f"{data[key]:,} {what}" for key, what in images.items() if isinstance(data.get(key), int) and data[key]
    )
    how = [str(config[key]) for key in ("device", "precision") if config.get(key)]
    how += [f"{config['loader']} data"] if config.get("loader") else []
    how += ["compiled"] if config.get("compiled") else []
    how += [f"{config['processes']} processes"] if config.get("processes") not in (None, 1) else []
    first = record.parts[0]
    metrics = record.folder / METRICS
    written = _time(metrics.stat().st_mtime) if metrics.is_file() else ""
    facts = {
        "data": str(data.get("name") or ""),
        "images": counts,
        "validated on": str(data.get("val_split") or ""),
        "fingerprint of the data": str(data.get("fingerprint") or "not recorded"),
        "computed on": ", ".join(how),
        "hardware": first.machine,
        "commit": first.commit,
        "versions": first.versions,
        "started": first.started,
        "last row written": written,
    }
    return {name: value for name, value in facts.items() if value}


@dataclass(frozen=True)
class _Filters:
    note: str
    sheets: tuple[str, ...] = ()


def _filters(record: Record) -> _Filters:
    """Pictures of conv1's filters in the last checkpoint, one a tower, or a note why there are none."""
    path = record.folder / LAST
    if not path.is_file():
        return _Filters(f"The folder holds no {LAST}, so there are no filters to show.")
    try:
        state = load_checkpoint(path, mmap=True)
    except ValueError as error:
        return _Filters(f"No filters: {error}.")
    weight, step = state.get("average", state.get("model", {})).get("features.conv1.weight"), state["progress"]["step"]
    if not isinstance(weight, Tensor):
        return _Filters(f"No filters: {LAST} has no conv1.")
    towers = {**VARIANTS, **ABLATIONS}[state["card"].variant].groups
    sheets = tuple(png_uri(filter_sheet(half)) for half in weight.chunk(towers))
    count, _, side, _ = weight.shape
    note = f"The {count} filters of {side}×{side}×3 at step {step:,}, each scaled by itself"
    note += ": the first tower's, then the second's." if towers > 1 else "."
    return _Filters(note, sheets)


def _now() -> str:
    return _time(datetime.datetime.now().timestamp())


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %z")
