"""The page of one run: findings in words, curves, results, filters, settings and time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from markupsafe import Markup

from alexnet.checkpoint import Run
from alexnet.curves import COLOURS, Line, canvas, draw_lines, points
from alexnet.tools.filters import conv1_filters, filter_changes, filter_order, filter_sheet, initial_model
from alexnet.tools.html import inline_svg, png_uri, render
from alexnet.tools.report import facts
from alexnet.tracking import duration

__all__ = ["chart", "findings", "page"]

LEAST_WAITING = 10  # percent of the time of steps; above it, waiting for data is worth a sentence
LEAST_RISE = 0.05  # nats that the validation loss rises above its lowest value before it counts as overfitting
# Title, unit, caption and metrics of each chart.
CHARTS = (
    (
        "Loss", "cross-entropy (nats)", "Lower is better. The network overfits where the validation loss rises while "
        "the training loss still falls.", "train_loss", "val_loss",
    ),
    (
        "Accuracy", "%", "Share of the images whose most probable class is correct. Training images are augmented and "
        "dropout is on, so training accuracy may be the lower one.", "train_acc", "val_acc",
    ),
    ("Learning rate", "", "Size of the optimizer's steps, as the schedule sets it.", "lr"),
    ("Gradient norm", "before clipping", "Length of the gradient. A sudden jump shows unstable training.", "grad_norm"),
    ("Speed", "images/s", "Training images per second, validation not included.", "images_per_sec"),
    ("Waiting for data", "% of a step", f"Above {LEAST_WAITING}%, loading slows training down.", "data_wait_pct"),
)  # fmt: skip


def findings(run: Run) -> list[str]:
    """What the run shows, in sentences; the verdict first."""
    resumed = [f"{part['step']:,}" for part in facts.parts(run)[1:]]
    commits = dict.fromkeys(part.get("commit") or "" for part in facts.parts(run))
    return [
        _verdict(run),
        *_overfitting(run),
        *_time(run),
        *([f"It was resumed at step {', '.join(resumed)}."] if resumed else []),
        *(f"Its code was commit {c[:-1]} with changes that were not committed." for c in commits if c.endswith("+")),
    ]


def _verdict(run: Run) -> str:
    name, total, final = run.folder.resolve().name, run.total_steps, run.final
    if reason := run.config.get("diverged"):
        return f"{name} diverged: {reason}."
    if not final:
        return f"{name} has not logged a full row yet; one comes every {run.val_every:,} steps."
    at = f"step {final['step']:,} of {total:,}, epoch {final['epoch']:.3g}"
    if facts.diverged(run):
        return f"{name} diverged: its loss is not a finite number at {at}."
    verdict = f"{name} was not validated."
    if found := facts.accuracies(run):
        first = found[0]
        largest = run.config["data"].get("largest_class_pct", {}).get(first.name.removesuffix("_acc"), 0.0)
        chance, guess = 100 / len(run.classes), "guessing"
        if largest > 1.1 * chance:
            chance, guess = largest, "always answering the largest class"
        verdict = (
            f"{name} {'learned' if first.interval[0] > chance else 'is not above chance'}: {first.value:.1f}% "
            f"accuracy on the {first.images} of {run.config['data']['name']} (95% interval {first.range}), where "
            f"{guess} gives {chance:.3g}%."
        )
    if final["step"] == total:
        return f"{verdict} Training is complete ({at})."
    if final["step"] == run.last_step:
        return f"{verdict} Training stopped at its max_steps ({at}), before the end of the schedule."
    return f"{verdict} This is not the final result: the run is still training, was stopped, or failed ({at})."


def _overfitting(run: Run) -> list[str]:
    rows = [row for row in run.full_rows if row["train_loss"] is not None and row.get("val_loss") is not None]
    if len(rows) < 3:
        return []
    best, last = min(rows, key=lambda row: row["val_loss"]), rows[-1]
    if last["val_loss"] - best["val_loss"] < LEAST_RISE or last["train_loss"] >= best["train_loss"]:
        return []
    return [
        f"It overfits: from step {best['step']:,} to {last['step']:,} the validation loss rose from "
        f"{best['val_loss']:.3g} to {last['val_loss']:.3g}, while the training loss fell from {best['train_loss']:.3g} "
        f"to {last['train_loss']:.3g}."
    ]


def _time(run: Run) -> list[str]:
    spent = facts.seconds(run)
    total, stepping = sum(spent.values()), spent["computing"] + spent["waiting"]
    if not stepping:
        return []
    said = [f"It took {duration(total)}, {100 * spent['validating'] / total:.0f}% of it for validation."]
    if (waited := 100 * spent["waiting"] / stepping) >= LEAST_WAITING:
        said.append(f"Its training steps waited for data {waited:.0f}% of their time.")
    return said


# --- the page


def page(run: Run) -> tuple[str, list[str]]:
    """The HTML of the page, and the findings."""
    said, spent = findings(run), facts.seconds(run)
    total = sum(spent.values())
    html = render(
        "run.html",
        name=run.folder.resolve().name,
        run=run,
        findings=said,
        command=facts.command_of(run),
        charts=_charts(run),
        resumed=len(facts.parts(run)) > 1,
        results=_results(run),
        filters=_filters(run),
        changes=facts.changes(run),
        facts=facts.origin_of(run),
        parts=[_part(part) for part in facts.parts(run)],
        spent=[(facts.SPENT[what], duration(s), 100 * s / total) for what, s in spent.items() if total],
        data={"runs": [facts.document(run)], "findings": said},
        shown=facts.shown,
        made=time.strftime("%Y-%m-%d %H:%M"),
    )
    return html, said


def _charts(run: Run) -> list[dict[str, str]]:
    resumed, charts = [part["step"] for part in facts.parts(run)[1:]], []
    for title, unit, caption, *metrics in CHARTS:
        lines = []
        for metric in metrics:
            split = metric.partition("_")[0]
            if found := points(run.rows, "step", metric):
                colour = COLOURS["validation" if split == "val" else "train"]
                lines.append(Line(found, colour, facts.SPLITS.get(split, "")))
        if lines:
            svg = chart(title, lines, "step", metrics[0], len(run.classes), resumed)
            charts.append({"title": title, "unit": unit, "caption": caption, "svg": svg})
    return charts


def chart(
    title: str, lines: Sequence[Line], against: str, metric: str, classes: int, resumed: Iterable[int] = ()
) -> Markup:
    """An ``<svg>`` of a metric, with a dotted vertical line at each step in ``resumed``; the rest as ``draw_lines``."""
    with canvas(4.8, 3.1) as figure:
        ax = figure.subplots()
        draw_lines(ax, lines, against, metric, classes)
        for step in resumed:
            ax.axvline(step, color=COLOURS["soft"], linewidth=0.9, linestyle="dotted", zorder=1)
        ends = ", ".join(f"{line.label} ends at {line.points[-1][1]:.3g}".strip() for line in lines)
        return inline_svg(figure, f"chart-{metric}", f"{title} against {against}; {ends}")


def _results(run: Run) -> list[dict[str, str]]:
    """The metrics of the last full row, each with its unit, its interval and what it was measured on."""
    measured = {accuracy.name: accuracy for accuracy in facts.accuracies(run)}
    rows = []
    for split, name in facts.SPLITS.items():
        on = measured.get(f"{split}_acc")
        images = on.images if on else "training batches since the row before" if split == "train" else ""
        for kind, word, form in (("acc", "accuracy", "{:.1f}%"), ("loss", "loss", "{:.3g} nats")):
            if (metric := f"{split}_{kind}") in run.final:
                value = "not finite" if run.final[metric] is None else form.format(run.final[metric])
                interval = on.range if on and kind == "acc" else ""
                rows.append({"name": f"{name} {word}", "value": value, "interval": interval, "images": images})
    return rows


def _filters(run: Run) -> dict[str, Any]:
    """conv1 as pictures, one for each tower, with the number and the side of its filters; or why there are none."""
    try:
        model = run.model()
    except (OSError, ValueError) as error:
        return {"error": str(error), "sheets": []}
    after, given = conv1_filters(model), run.config.get("given_model", False)
    scores = torch.zeros(len(after)) if given else filter_changes(after, conv1_filters(initial_model(run)))
    sheets = [png_uri(filter_sheet(after[order])) for order in filter_order(scores, model.variant.groups)]
    return {"count": len(after), "side": after.shape[-1], "sheets": sheets, "sorted": not given}


def _part(part: dict[str, Any]) -> dict[str, str]:
    hardware = part.get("hardware") or {}
    return {
        "step": f"{part['step']:,}",
        "started": (part.get("started") or "").replace("T", " "),
        "commit": part.get("commit") or "not recorded",
        "hardware": hardware.get("gpu") or f"{hardware.get('cpu', '')}, {hardware.get('cores', '?')} cores",
        "versions": ", ".join(f"{name} {version}" for name, version in (part.get("versions") or {}).items()),
    }
