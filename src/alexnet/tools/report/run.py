"""The page of one run: findings in words, curves, results, filters, settings and time; and the facts they come from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from markupsafe import Markup

from alexnet.checkpoint import Run
from alexnet.curves import COLOURS, Line, canvas, draw_lines, points
from alexnet.recipes import RECIPES, Recipe, command_line, runtime_for
from alexnet.tools.filters import conv1_filters, filter_changes, filter_order, filter_sheet, initial_model
from alexnet.tools.html import inline_svg, png_uri, render
from alexnet.tracking import duration

__all__ = [
    "Accuracy", "accuracies", "chart", "command_of", "diverged", "document", "facts", "findings", "page", "parts",
    "shown",
]  # fmt: skip

LEAST_WAITING = 10  # percent of the time of steps; above it, waiting for data is worth a sentence
LEAST_RISE = 0.05  # nats that the validation loss rises above its lowest value before it counts as overfitting
SPENT = {"computing": "training steps", "waiting": "waiting for data", "validating": "validation", "saving": "saving"}
SPLITS = {"test": "test", "val": "validation", "train": "training"}
# Title, unit, caption and metrics of each chart.
CHARTS = (
    (
        "Loss", "cross-entropy (nats)", "Lower is better. The network overfits where the validation loss rises while "
        "the training loss still falls.", "train_loss", "val_loss",
    ),
    (
        "Accuracy", "%", "Share of the images whose most probable class is right. Training images are augmented and "
        "dropout is on, so training accuracy may be the lower one.", "train_acc", "val_acc",
    ),
    ("Learning rate", "", "Size of the optimizer's steps, as the schedule sets it.", "lr"),
    ("Gradient norm", "before clipping", "Length of the gradient. A sudden jump shows unstable training.", "grad_norm"),
    ("Speed", "images/s", "Training images per second, validation not included.", "images_per_sec"),
    ("Waiting for data", "% of a step", f"Above {LEAST_WAITING}%, loading slows training down.", "data_wait_pct"),
)  # fmt: skip


@dataclass(frozen=True)
class Accuracy:
    """An accuracy of the last full row."""

    name: str
    value: float
    """Percent."""
    interval: tuple[float, float]
    """Its 95% interval in percent: how exact it is for so many images. Another seed changes it further."""
    images: str
    """What it was measured on, such as "10,000 test images"."""

    @property
    def range(self) -> str:
        return "{:.1f} to {:.1f}%".format(*self.interval)


def accuracies(run: Run) -> list[Accuracy]:
    """The accuracies of the last full row: on the test set if it was evaluated, then on the validation images.

    The interval is Wilson's (1927), as Brown, Cai and DasGupta recommend (Statistical Science 16, 2001, 101-133).
    """
    from scipy.stats import binomtest

    data, found = run.config["data"], []
    for key, split in (("test", "test"), ("val", data["val_split"])):
        value, count = run.final.get(f"{key}_acc"), data[key]
        if value is not None and count:
            low, high = binomtest(round(value * count / 100), count).proportion_ci(0.95, "wilson")
            name, _, origin = split.partition(" ")  # as in "val (a tenth of train, seed 0)"
            images = f"{count:,} {SPLITS.get(name, name.replace('holdout', 'held-out'))} images {origin}".strip()
            found.append(Accuracy(f"{key}_acc", value, (100 * float(low), 100 * float(high)), images))
    return found


def diverged(run: Run) -> bool:
    """Whether the loss or its gradient became NaN or infinite."""
    return "diverged" in run.config or any(run.final.get(name, 0.0) is None for name in ("train_loss", "val_loss"))


def parts(run: Run) -> list[dict[str, Any]]:
    """What each start or resume of the run recorded: ``step``, ``started``, ``commit``, ``hardware``, ``versions``."""
    return run.config.get("parts") or [{"step": 0} | run.config]


def facts(run: Run) -> dict[str, Any]:
    """What is recorded of a run's data and of how it was computed, without its recipe; None if it is not recorded."""
    config, data = run.config, run.config["data"]
    return {
        "data": data["name"],
        "images of data": ", ".join(f"{data[key]:,} {key}" for key in ("train", "val", "test") if data.get(key)),
        "fingerprint": data.get("fingerprint"),
        "validation split": data["val_split"],
        **{name: config.get(name) for name in ("device", "precision", "loader", "compiled", "lrn", "processes")},
    }


def command_of(run: Run) -> str:
    """The command that trains the run again; empty if it was given a network, or has a recipe of another version."""
    name = run.recipe.name
    if name not in RECIPES or run.config.get("given_model"):
        return ""
    own = {name: run.runtime[name] for name in ("max_steps", "tracker") if name in run.runtime}
    return command_line(run.recipe, runtime_for(name, **own))


def changes(run: Run) -> dict[str, dict[str, Any]]:
    """The fields in which the run differs from its named recipe: the value of the ``run`` and of the ``recipe``."""
    own, default = (dataclasses.asdict(each) for each in (run.recipe, RECIPES.get(run.recipe.name, Recipe)()))
    return {
        name: {"run": own[name], "recipe": default[name]}
        for name in own
        if name != "name" and own[name] != default[name]
    }


def seconds(run: Run) -> dict[str, float]:
    """Seconds up to the last full row, by what they were spent on: the keys of ``SPENT``. 0.1.0 did not record them."""
    spent = dict.fromkeys(SPENT, 0.0)
    for row in run.full_rows:
        if row.get("seconds") is None or (row["step"] % run.val_every and row is not run.final):
            continue  # a row at max_steps; the next one includes its time
        waiting = row.get("wait_seconds") or 0.0
        spent["computing"] += row["seconds"] - waiting
        spent["waiting"] += waiting
        spent["validating"] += row.get("val_seconds") or 0.0
        spent["saving"] += row.get("save_seconds") or 0.0
    return spent


# --- findings


def findings(run: Run) -> list[str]:
    """What the run shows, in sentences; the verdict first."""
    resumed = [f"{part['step']:,}" for part in parts(run)[1:]]
    commits = dict.fromkeys(part.get("commit") or "" for part in parts(run))
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
    if diverged(run):
        return f"{name} diverged: its loss is not a finite number at {at}."
    verdict = f"{name} was not validated."
    if found := accuracies(run):
        first = found[0]
        largest = run.config["data"].get("largest_class_pct", {}).get(first.name.removesuffix("_acc"), 0.0)
        chance, guess = 100 / len(run.classes), "guessing"
        if largest > 1.1 * chance:
            chance, guess = largest, "always answering the largest class"
        verdict = (
            f"{name} {'learned' if first.interval[0] > chance else 'did not leave chance'}: {first.value:.1f}% "
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
    spent = seconds(run)
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
    said, spent = findings(run), seconds(run)
    total = sum(spent.values())
    html = render(
        "run.html",
        name=run.folder.resolve().name,
        run=run,
        findings=said,
        command=command_of(run),
        charts=_charts(run),
        resumed=len(parts(run)) > 1,
        results=_results(run),
        filters=_filters(run),
        changes=changes(run),
        facts=facts(run),
        parts=[_part(part) for part in parts(run)],
        spent=[(SPENT[what], duration(s), 100 * s / total) for what, s in spent.items() if total],
        data={"runs": [document(run)], "findings": said},
        shown=shown,
        made=time.strftime("%Y-%m-%d %H:%M"),
    )
    return html, said


def document(run: Run) -> dict[str, Any]:
    """All of a run that a page shows, for programs."""
    return {
        "folder": str(run.folder),
        "recipe": run.recipe.name,
        "seed": run.recipe.seed,
        "changes": changes(run),
        "last_step": run.last_step,
        "finished": run.final.get("step") == run.last_step,
        "final": run.final,
        "figures": [dataclasses.asdict(accuracy) for accuracy in accuracies(run)],
        "best_picked": run.best,
        "seconds": seconds(run),
        "config": run.config,
        "rows": run.rows,
    }


def _charts(run: Run) -> list[dict[str, str]]:
    resumed, charts = [part["step"] for part in parts(run)[1:]], []
    for title, unit, caption, *metrics in CHARTS:
        lines = []
        for metric in metrics:
            split = metric.partition("_")[0]
            if found := points(run.rows, "step", metric):
                colour = COLOURS["validation" if split == "val" else "train"]
                lines.append(Line(found, colour, SPLITS.get(split, "")))
        if lines:
            svg = chart(title, lines, "step", metrics[0], len(run.classes), resumed)
            charts.append({"title": title, "unit": unit, "caption": caption, "svg": svg})
    return charts


def chart(
    title: str, lines: Sequence[Line], against: str, metric: str, classes: int, resumed: Iterable[int] = ()
) -> Markup:
    """An ``<svg>`` of a metric, with a dotted upright line at each step in ``resumed``; the rest as ``draw_lines``."""
    with canvas(4.8, 3.1) as figure:
        ax = figure.subplots()
        draw_lines(ax, lines, against, metric, classes)
        for step in resumed:
            ax.axvline(step, color=COLOURS["soft"], linewidth=0.9, linestyle="dotted", zorder=1)
        ends = ", ".join(f"{line.label} ends at {line.points[-1][1]:.3g}".strip() for line in lines)
        return inline_svg(figure, f"chart-{metric}", f"{title} against {against}; {ends}")


def _results(run: Run) -> list[dict[str, str]]:
    """The metrics of the last full row, each with its unit, its interval and what it was measured on."""
    measured = {accuracy.name: accuracy for accuracy in accuracies(run)}
    rows = []
    for split, name in SPLITS.items():
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


def shown(value: Any) -> str:
    """The value of a setting as text."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
