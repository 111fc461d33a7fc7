"""The pictures that report.py draws, from records."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet.report import plots


def draw_learning(record: dict[str, Any], path: Path) -> None:
    """The losses of the learning record: one panel an input scale, one line an initialisation."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(10, 4), layout="constrained")
    panels = picture.subplots(1, 2, sharey=True)
    colors = {
        "paper": "#1b6ca8", "zero-bias": "#d1495b", "source": "#2e8b57", "caffe": "#8a6fb0", "caffenet": "#777777",
        "he": "#c98a1b",
    }  # fmt: skip
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


def draw_run(record: dict[str, Any], path: Path) -> None:
    """The six charts of a run, from the rows of its record."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / record["command"].replace("/", "-")
        folder.mkdir()
        rows = "".join(json.dumps(row) + "\n" for row in record["rows"])
        (folder / "metrics.jsonl").write_text(rows)
        (folder / "config.json").write_text(json.dumps({"classes": record["classes"]}))
        plots.curves(folder).replace(path)


COLOURS = {"classic": "#1b6ca8", "modern": "#2e8b57", "reference": "#d1495b", "source": "#8a6fb0", "paper": "#c98a1b"}


def draw_whole_runs(whole: Sequence[dict[str, Any]], path: Path) -> None:
    """Training loss and validation accuracy of whole runs over epochs: a colour a recipe, a line a seed."""
    with plots.canvas(11, 4.2) as figure:
        loss, accuracy = figure.subplots(1, 2)
        for record in sorted(whole, key=lambda each: (each["recipe"]["name"], each["recipe"]["seed"])):
            recipe, final = record["recipe"], record["final"]
            judged = "held-out images" if recipe.get("holdout") else "test images"
            style = {"color": COLOURS.get(recipe["name"], "#4b5563"), "linewidth": 1.5}
            named = {"label": f"{recipe['name']}, {judged}"} if recipe["seed"] == 0 else {}
            rows = [row for row in record["rows"] if "val_acc" in row]
            for ax, key, told in ((loss, "train_loss", {}), (accuracy, "val_acc", named)):
                ax.plot([row["epoch"] for row in rows], [row[key] for row in rows], **style, **told)
            accuracy.annotate(
                f"{final['val_acc']:.1f}", (final["epoch"], final["val_acc"]), (4, 0), textcoords="offset points",
                va="center", color=style["color"], fontsize=9,
            )  # fmt: skip
            if recipe.get("label_smoothing") and named:
                middle = rows[len(rows) // 2]
                loss.annotate(
                    f"{recipe['name']}: labels smoothed", (middle["epoch"], middle["train_loss"]), (2, 5),
                    textcoords="offset points", color=style["color"], fontsize=9,
                )  # fmt: skip
        for ax, title, unit in (
            (loss, "train_loss", "cross-entropy (nats)"),
            (accuracy, "val_acc", "top-1 accuracy (%)"),
        ):
            ax.set(title=title, xlabel="epoch (passes over the training images)", ylabel=unit)
            plots.ticks(ax.xaxis, whole=True, thousands=False)
            plots.chance(ax, len(whole[0]["classes"]), loss=ax is loss)
        accuracy.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.08))
        plots.save(figure, path)
