"""The page of one run: findings in words, curves, results, filters, settings and time; and the facts they come from."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from alexnet.checkpoint import METRICS, Run
from alexnet.curves import COLOURS, canvas
from alexnet.recipes import RECIPES, Recipe, command, runtime_for
from alexnet.tools.filters import conv1_filters, filter_changes, filter_sheet, initial_model
from alexnet.tools.html import Chart, inline_svg, png_uri, render
from alexnet.tools.plots import Line, draw_lines, points

__all__ = ["Accuracy", "accuracies", "command_of", "diverged", "document", "findings", "last_step", "page", "parts"]

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
    split: str
    value: float
    """Percent."""
    count: int
    """Number of images it was measured on."""
    interval: tuple[float, float]
    """Its 95% interval in percent: how exact it is for so many images. Another seed changes it further."""

    @property
    def images(self) -> str:
        """What it was measured on, such as "10,000 test images"."""
        name, _, origin = self.split.partition(" ")  # as in "val (a tenth of train, seed 0)"
        return f"{self.count:,} {SPLITS.get(name, name.replace('holdout', 'held-out'))} images {origin}".strip()

    def __str__(self) -> str:
        return f"{self.value:.1f}%"


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
            found.append(Accuracy(f"{key}_acc", split, value, count, (100 * float(low), 100 * float(high))))
    return found


def diverged(run: Run) -> bool:
    """Whether a loss of the last full row is NaN or infinite."""
    return any(run.final.get(name, 0.0) is None for name in ("train_loss", "val_loss"))


def last_step(run: Run) -> int:
    """The step at which the run ends: the last of its schedule, or ``max_steps``."""
    stored = run.config.get("runtime") or run.config["recipe"]  # 0.1.0 had one for both
    return min(run.total_steps, stored.get("max_steps") or run.total_steps)


def parts(run: Run) -> list[dict[str, Any]]:
    """What each start or resume of the run recorded: ``step``, ``started``, ``commit``, ``hardware``, ``versions``."""
    return run.config.get("parts") or [{"step": 0} | run.config]


def command_of(run: Run) -> str:
    """The command that trains the run again; empty if its recipe has no name in this version."""
    limit = last_step(run) if last_step(run) < run.total_steps else None
    name = run.recipe.name
    return command(run.recipe, runtime_for(name, max_steps=limit)) if name in RECIPES else ""


def changes(run: Run) -> dict[str, tuple[Any, Any]]:
    """The fields in which the run differs from its named recipe: the run's value and the recipe's."""
    own, default = (dataclasses.asdict(each) for each in (run.recipe, RECIPES.get(run.recipe.name, Recipe)()))
    return {name: (own[name], default[name]) for name in own if name != "name" and own[name] != default[name]}


def seconds(run: Run) -> dict[str, float]:
    """Seconds up to the last full row, by what they were spent on: the keys of ``SPENT``."""
    spent, before = dict.fromkeys(SPENT, 0.0), 0
    for row in run.full_rows:
        if row["step"] % run.recipe.val_every and row is not run.final:
            continue  # a row at max_steps; the next one includes its time
        steps, before = row["step"] - before, row["step"]
        if "seconds" in row:
            stepping, waiting = row["seconds"], row["wait_seconds"]
        else:  # 0.1.0 stored rates
            rate = row.get("images_per_sec")
            stepping = steps * run.recipe.batch_size / rate if rate else 0.0
            waiting = stepping * (row.get("data_wait_pct") or 0.0) / 100
        spent["computing"] += stepping - waiting
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
    if not final:
        return f"{name} has not logged a validation yet."
    at = f"step {final['step']:,} of {total:,}, epoch {final['epoch']:.3g}"
    if diverged(run):
        return f"{name} diverged: its loss is not a finite number at {at}."
    verdict = f"{name} was not validated."
    if found := accuracies(run):
        first, chance = found[0], 100 / len(run.classes)
        verdict = (
            f"{name} {'learned' if first.interval[0] > chance else 'did not leave chance'}: {first} accuracy on the "
            f"{first.images} of {run.config['data']['name']} (95% interval {first.interval[0]:.1f} to "
            f"{first.interval[1]:.1f}%), where guessing gives {chance:.3g}%."
        )
    if final["step"] == total:
        return f"{verdict} Training is complete ({at})."
    if final["step"] == last_step(run):
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
        facts=_facts(run),
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
        "command": command_of(run),
        "changes": {name: {"run": own, "recipe": default} for name, (own, default) in changes(run).items()},
        "step": run.step,
        "last_step": last_step(run),
        "total_steps": run.total_steps,
        "finished": run.final.get("step") == last_step(run),
        "final": run.final,
        "figures": [dataclasses.asdict(accuracy) for accuracy in accuracies(run)],
        "best_picked": {name: run.best[name] for name in ("val_acc", "step") if run.best},
        "seconds": seconds(run),
        "parts": parts(run),
        "config": run.config,
        "rows": run.rows,
    }


def _charts(run: Run) -> list[Chart]:
    charts: list[Chart] = []
    for title, unit, caption, *metrics in CHARTS:
        lines = []
        for metric in metrics:
            split = metric.partition("_")[0] if len(metrics) > 1 else ""
            colour = COLOURS["validation" if split == "val" else "train"]
            if found := points(run.rows, "step", metric):
                lines.append(Line(found, colour, SPLITS.get(split, "")))
        if lines:
            with canvas(4.6, 3.0) as figure:
                ax = figure.subplots()
                draw_lines(ax, lines, "step", metrics[0], len(run.classes))
                for part in parts(run)[1:]:
                    ax.axvline(part["step"], color=COLOURS["soft"], linewidth=0.9, linestyle="dotted", zorder=1)
                ends = ", ".join(f"{line.label} ends at {line.points[-1][1]:.3g}".strip() for line in lines)
                svg = inline_svg(figure, f"chart-{len(charts)}", f"{title} up to step {run.step:,}; {ends}")
            charts.append(Chart(title, unit, caption, svg))
    return charts


def _results(run: Run) -> list[dict[str, Any]]:
    """The metrics of the last full row, each with its unit, its interval and what it was measured on."""
    measured = {accuracy.name: accuracy for accuracy in accuracies(run)}
    rows = []
    for split, name in SPLITS.items():
        on = measured.get(f"{split}_acc")
        images = on.images if on else "training batches since the row before" if split == "train" else ""
        for kind, word, form in (("acc", "accuracy", "{:.1f}%"), ("loss", "loss", "{:.3g} nats")):
            if (metric := f"{split}_{kind}") in run.final:
                value = run.final[metric]
                rows.append(
                    {
                        "name": f"{name} {word}",
                        "value": "not finite" if value is None else form.format(value),
                        "interval": "{:.1f} to {:.1f}%".format(*on.interval) if on and kind == "acc" else "",
                        "images": images,
                    }
                )
    return rows


def _filters(run: Run) -> dict[str, Any]:
    """conv1 as pictures, one for each tower, and their caption; or a caption that says why there are none."""
    try:
        model = run.model()
    except (OSError, ValueError) as error:
        return {"caption": f"No filters to show: {error}.", "sheets": []}
    after, before = conv1_filters(model), conv1_filters(initial_model(run))
    count, side, towers = len(after), after.shape[-1], model.variant.groups
    sheets = [
        png_uri(filter_sheet(tower[filter_changes(tower, first).argsort(descending=True, stable=True)]))
        for tower, first in zip(after.chunk(towers), before.chunk(towers), strict=True)
    ]
    caption = (
        f"The {count} filters of conv1, {side}×{side} pixels{' (tower 1, then tower 2)' * (towers > 1)}, "
        "sorted by how much training changed them, the most changed first (the network before training was drawn again "
        "from the run's seed). Look for edges, stripes and spots of colour at the top; filters that still look like "
        "noise learned little. Each filter is scaled by itself, so the picture shows its form, not its strength."
    )
    return {"caption": caption, "sheets": sheets}


def _facts(run: Run) -> dict[str, str]:
    """What the run used, without what its config does not say. A new row of the page's table is one line here."""
    config, data, metrics = run.config, run.config["data"], run.folder / METRICS
    processes = config.get("processes") or 1
    how = [config.get("device"), config.get("precision"), config.get("loader") and f"{config['loader']} images"]
    how += ["compiled" if config.get("compiled") else "", f"{processes} processes" if processes > 1 else ""]
    written = time.localtime(metrics.stat().st_mtime) if metrics.is_file() else None
    facts = {
        "data": data["name"],
        "images": ", ".join(f"{data[key]:,} {SPLITS[key]}" for key in ("train", "val", "test") if data.get(key)),
        "validation split": data["val_split"],
        "data fingerprint": data.get("fingerprint"),
        "computed on": ", ".join(filter(None, how)),
        "response normalisation": config.get("lrn"),
        "last row written": written and time.strftime("%Y-%m-%d %H:%M", written),
    }
    return {name: value for name, value in facts.items() if value}


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
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Such as ``12.3 s``, ``5 min 20 s`` or ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"
