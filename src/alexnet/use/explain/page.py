"""The page of ``alexnet explain``: what ``alexnet.use.explain`` finds, drawn into one HTML file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from alexnet import hardware
from alexnet.data.splits import Dataset
from alexnet.files import check_out
from alexnet.model import AlexNet_2012
from alexnet.report.filters import filter_sheet
from alexnet.report.html import png_uri, render, write_page
from alexnet.use.evaluate import card_of, check_classes
from alexnet.use.explain.answers import answers
from alexnet.use.explain.attribution import convolutions
from alexnet.use.explain.filters import conv1_filters, untrained
from alexnet.use.explain.images import (
    add_neighbours,
    document,
    explain_subjects,
    fixed_choice,
    from_data,
    from_files,
)
from alexnet.use.explain.neighbours import features
from alexnet.use.explain.receptive import receptive_field
from alexnet.use.explain.split import COUNTED, layers, look_at_split

__all__ = ["JUDGED", "MOST", "explain", "format_explanation"]

MOST = 12  # images a page: of those that compress least it stays under 10 MB
JUDGED = 5_000  # validation images that are looked at: two slow cores take half a minute for them
COLUMNS = 12  # of filters

Watch = Callable[[Iterable[Any], int], Iterable[Any]]


def explain(
    model: AlexNet_2012,
    files: Sequence[str | Path] = (),
    dataset: Dataset | None = None,
    *,
    out: Path,
    title: str,
    run: Path | None = None,
    without: str = "no data set was named",
    patch: tuple[str, int] | None = None,
    neighbours: int = 10_000,
    device: str = "auto",
    precision: str = "auto",
    progress: Callable[[str], Watch] = lambda _what: lambda batches, _count: batches,
) -> dict[str, Any]:
    """Explain a loaded model in one HTML file, and return what ``alexnet explain --json`` prints.

    Args:
        files: the images, 12 at most; without any, ten of the data set's validation images, always the same ones.
        dataset: what the model was trained on; without it, the page has only what needs no data.
        title: what the page calls the model.
        run: its folder, from whose config.json the network before training is drawn again.
        without: why there is no data set, for the page to say.
        patch: a convolution and a channel of it whose strongest patches are shown, in place of the one chosen.
        neighbours: training images among which the nearest are looked for; of more, a fixed choice; 0: none.
        device, precision: as a recipe has them. Grad-CAM and maps are always computed in float32.
        progress: given a few words, gives what the batches are handed through; for a progress bar.

    Raises:
        ValueError: neither images nor data; too many images; classes that are not the model's; no such channel, device
            or folder to write to; a damaged image of the data set.
    """
    _check(model, files, dataset, patch, out)
    model.to(hardware.pick_device(device)).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    subjects = from_data(dataset) if dataset and not files else from_files(files)
    explain_subjects(model, subjects)
    filters, missing = _filters(model, run)
    split, validation = None, fixed_choice(dataset.val, JUDGED) if dataset else None
    if validation:
        found = answers(model, validation, precision=precision, watch=progress("validation images"))
        split = look_at_split(model, validation, found, patch)
    shown = any(subject.picture for subject in subjects)
    training = fixed_choice(dataset.train, neighbours) if dataset and neighbours and shown else None
    if training:
        known = features(model, training, precision=precision, watch=progress("training images"))
        add_neighbours(model, subjects, training, known, precision)
    page = render(
        "explain.html",
        title=title,
        card=card_of(model),
        variant=model.variant.name,
        dataset=dataset,
        without=without,
        field=receptive_field(model, "relu5"),
        filters=filters,
        missing=missing,
        subjects=subjects,
        split=split,
        training=training,
        counted=COUNTED,
        made=time.strftime("%Y-%m-%d"),
    )
    write_page(out, page)
    seen = {"data": dataset.name, "split": dataset.val_split, **split.figures} if split and dataset else None
    entries = [document(subject, card_of(model).classes) for subject in subjects]
    return {"out": str(out), "layers": layers(model, split), "images": entries, "validation": seen}


def _check(
    model: AlexNet_2012,
    files: Sequence[str | Path],
    dataset: Dataset | None,
    patch: tuple[str, int] | None,
    out: Path,
) -> None:
    """What is refused before any work."""
    classes = card_of(model).classes
    if not files and dataset is None:
        raise ValueError("--data: needed where no image is named")
    if len(files) > MOST:
        raise ValueError(f"--out {out}: {len(files)} images are named, and a page holds up to {MOST}")
    if dataset:
        check_classes(dataset, classes)
    check_out(out, ".html", ".htm")
    if patch is None:
        return
    name, channel = patch
    if name not in (allowed := convolutions(model)):
        raise ValueError(f"--layer {name}: allowed is one of {', '.join(allowed)}")
    maps = model.get_parameter(f"features.{name}.weight").shape[0]
    if not 0 <= channel < maps:
        raise ValueError(f"--channel {channel}: allowed is 0 to {maps - 1}, the channels of {name}")


def _filters(model: AlexNet_2012, run: Path | None) -> tuple[list[dict[str, Any]], str]:
    """conv1 as pictures, a tower each, after training and before it; and why the latter are not there, if so."""
    fresh, missing = None, "there is no run folder whose config.json would say from which seed it began"
    if run:
        try:
            fresh = untrained(run)
        except (ValueError, OSError) as error:
            missing = str(error)
        if fresh and (fresh.variant, fresh.num_classes) != (model.variant, model.num_classes):
            fresh, missing = None, f"{run}/config.json is of another network"
    towers = model.variant.groups
    after, before = (conv1_filters(each).chunk(towers) if each else None for each in (model, fresh))
    assert after
    spread = [
        float(each.get_parameter("features.conv1.weight").float().std()) if each else None for each in (model, fresh)
    ]
    drawn = [
        {
            "tower": tower + 1 if towers > 1 else None,
            "count": len(after[tower]),
            "after": png_uri(filter_sheet(after[tower], COLUMNS)),
            "before": png_uri(filter_sheet(before[tower], COLUMNS)) if before else None,
            "spread": spread,
        }
        for tower in range(towers)
    ]
    return drawn, "" if fresh else missing


def format_explanation(found: dict[str, Any]) -> str:
    """What ``explain`` returned, as text."""
    lines = []
    for entry in found["images"]:
        if entry["error"]:
            continue
        answer = entry["top"][0]
        truth = f", truth {entry['truth']}" if entry["truth"] is not None else ""
        lines.append(f"{entry['file']}: {answer['class']} {100 * answer['probability']:.1f}%{truth}")
    if seen := found["validation"]:
        told = f"top1 {seen['top1']:.2f}%  loss {seen['loss']:.4f}  expected calibration error"
        lines.append(f"{seen['data']}, {seen['split']}, {seen['count']:,} images: {told} {seen['expected_error']:.1f}%")
    size = Path(found["out"]).stat().st_size
    return "\n".join([*lines, f"the page: {found['out']} ({size / 1e6:.1f} MB)"])
