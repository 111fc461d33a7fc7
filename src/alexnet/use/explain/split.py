"""A split as a whole: how often the answers are right, how sure they are, and what excites a channel."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from markupsafe import Markup

from alexnet.data.splits import Images
from alexnet.model import AlexNet_2012
from alexnet.report.html import inline_svg, png_uri
from alexnet.report.plots import CSS, canvas
from alexnet.run.metrics import Metrics
from alexnet.use.evaluate import card_of
from alexnet.use.explain.answers import Answers, Calibration, calibration, confident_errors
from alexnet.use.explain.attribution import convolutions, seen
from alexnet.use.explain.pictures import patch_picture, share_picture, thumbnail
from alexnet.use.explain.receptive import receptive_field, strongest_patches, telling_channel

__all__ = ["COUNTED", "Split", "layers", "look_at_split"]

COUNTED = 20  # classes; a table of more would not be read
PATCHES, ERRORS = 9, 8


@dataclass(frozen=True)
class Split:
    """What was found in the validation images, drawn for the page."""

    figures: dict[str, Any]
    """``count``, ``loss``, ``top1``, ``top5`` (percent), ``confusion`` and ``expected_error`` (percent)."""
    rows: list[dict[str, Any]]
    """The classes: name, images, percent right, what they were most often taken for, and the confusion matrix's row."""
    matrix: str | None
    """The confusion matrix as a picture, where it is too large for a table."""
    errors: list[dict[str, Any]]
    chart: Markup
    patches: list[dict[str, Any]]
    """For each convolution: its channel and the patches that excite it most."""


def look_at_split(model: AlexNet_2012, images: Images, found: Answers, patch: tuple[str, int] | None) -> Split:
    """Draw what ``answers(model, images)`` found. ``patch``: a convolution and its channel, in place of a choice."""
    classes = card_of(model).classes
    metrics = Metrics(len(classes), torch.device("cpu"))
    metrics.add(found.logits, found.labels)
    figures = metrics.result(expected=len(images))
    sure = calibration(found.probabilities, found.labels)
    figures["expected_error"] = 100 * sure.expected_error
    confusion = figures["confusion"]
    return Split(
        figures=figures,
        rows=[_row(i, row, classes) for i, row in enumerate(confusion)],
        matrix=png_uri(share_picture(confusion)) if len(classes) > COUNTED else None,
        errors=_errors(model, images, found),
        chart=_chart(sure),
        patches=[_patches(model, images, found, name, patch) for name in convolutions(model)],
    )


def layers(model: AlexNet_2012, split: Split | None) -> list[dict[str, Any]]:
    """What stands under ``layers`` of ``alexnet explain --json``."""
    shown = {each["name"]: each["channel"] for each in split.patches} if split else {}
    entries = []
    for name in convolutions(model):
        field, maps = receptive_field(model, name), model.get_parameter(f"features.{name}.weight").shape[0]
        place = {"size": field.size, "stride": field.stride, "start": field.start}
        entries.append({"name": name, "maps": maps, "channel": shown.get(name), "receptive_field": place})
    return entries


def _row(i: int, row: list[int], classes: tuple[str, ...]) -> dict[str, Any]:
    total = sum(row)
    wrong = max((j for j in range(len(row)) if j != i), key=lambda j: row[j], default=i)
    return {
        "name": classes[i],
        "images": total,
        "right": 100 * row[i] / total if total else None,
        "taken": (classes[wrong], 100 * row[wrong] / total) if wrong != i and row[wrong] else None,
        "cells": [(count, 100 * count / total if total else 0.0) for count in row],
    }


def _errors(model: AlexNet_2012, images: Images, found: Answers) -> list[dict[str, Any]]:
    classes, probabilities = card_of(model).classes, found.probabilities
    return [
        {
            "uri": png_uri(thumbnail(images.image(index))),
            "file": images.name(index),
            "truth": classes[int(found.labels[index])],
            "answer": classes[int(probabilities[index].argmax())],
            "probability": float(probabilities[index].max()),
        }
        for index in confident_errors(probabilities, found.labels, ERRORS)
    ]


def _patches(
    model: AlexNet_2012, images: Images, found: Answers, name: str, patch: tuple[str, int] | None
) -> dict[str, Any]:
    peaks = found.peaks[name]
    channel = patch[1] if patch and patch[0] == name else telling_channel(peaks)
    strongest = strongest_patches(model, images, peaks, name, channel, PATCHES)
    classes = [card_of(model).classes[images.labels[each.index]] for each in strongest]
    return {
        "name": name,
        "maps": peaks.shape[1],
        "channel": channel,
        "asked": bool(patch and patch[0] == name),
        "field": receptive_field(model, name),
        "range": (strongest[0].value, strongest[-1].value),
        "classes": Counter(classes).most_common(3),
        "shown": [
            {
                "uri": png_uri(patch_picture(seen(model, images.image(each.index)), each.box)),
                "class": name_of,
                "value": each.value,
                "file": images.name(each.index),
            }
            for each, name_of in zip(strongest, classes, strict=True)
        ],
    }


def _chart(sure: Calibration) -> Markup:
    """How often right against how sure, a point a bin, and below how many images a bin holds."""
    with canvas(5.2, 4.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
        ends = [0, 100]
        above.plot(ends, ends, color="#6b7280", linewidth=1, linestyle=(0, (4, 3)))
        confidence, accuracy = ([100 * value for value in each] for each in (sure.confidence, sure.accuracy))
        above.plot(confidence, accuracy, color="#2f6690", marker="o", markersize=5, linewidth=1.6)
        above.set(xlim=ends, ylim=ends, ylabel="right (%)")
        below.bar(confidence, sure.counts, width=5, color="#2f6690")
        below.set(xlabel="probability of the answer (%)", ylabel="images")
        label = (
            f"Share of right answers against their probability, in {len(sure.counts)} bins; "
            f"expected calibration error {100 * sure.expected_error:.1f} percentage points"
        )
        return inline_svg(figure, "calibration", label, CSS)
