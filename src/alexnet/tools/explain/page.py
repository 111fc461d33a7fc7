"""The page of ``alexnet explain``: one HTML file about a trained network."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
from markupsafe import Markup

from alexnet.checkpoint import load_run
from alexnet.curves import canvas
from alexnet.data.datasets import Dataset, Images
from alexnet.data.images import ImageError, open_image
from alexnet.evaluate import Metrics, check_classes, info_of
from alexnet.model import AlexNet_2012
from alexnet.recipes import FieldError
from alexnet.system import pick_device
from alexnet.tools.explain import analysis
from alexnet.tools.explain.analysis import Explanation, Outputs, Watch, check_channel, convolutions, receptive_field
from alexnet.tools.explain.draw import draw_explanation, draw_neighbours, patch_image, thumbnail
from alexnet.tools.filters import conv1_filters, filter_sheet, initial_model
from alexnet.tools.html import inline_svg, png_uri, render, write_page

__all__ = ["MAX_IMAGES", "explain", "format_explanation"]

MAX_IMAGES = 12  # the page stays below 10 MB even if they do not compress
VALIDATION = 5_000  # images that are evaluated: half a minute on two slow cores
NEIGHBOURS, PATCHES, ERRORS = 6, 9, 8  # shown
COLUMNS = 12  # of filters; 8 if there are few


@dataclass
class Subject:
    """An image to explain, and the results."""

    file: str
    label: int | None = None
    error: str | None = None
    """Why it could not be read."""
    found: Explanation | None = None
    neighbours: dict[str, list[dict[str, Any]]] | None = None
    """``fc7`` and ``pixels``: file, class, distance and picture, the nearest first."""

    @property
    def name(self) -> str:
        """The file without its folders."""
        file, row, rest = self.file.partition(" row ")
        return PurePath(file).name + row + rest


def explain(
    model: AlexNet_2012,
    files: Sequence[str | Path] = (),
    dataset: Dataset | None = None,
    *,
    out: Path,
    title: str,
    run: Path | None = None,
    note: str = "no data set was named",
    layer: str | None = None,
    channel: int | None = None,
    neighbours: int = 10_000,
    device: str = "auto",
    precision: str = "auto",
    progress: Callable[[str], Watch] = lambda _what: lambda batches, _count: batches,
) -> dict[str, Any]:
    """Explain a trained network in one HTML file, and return what ``alexnet explain --json`` prints.

    Args:
        files: image files, at most 12; if there are none, ten validation images, always the same ones.
        dataset: the data that the model was trained on; without it, the page shows only what needs no data.
        out: the page.
        title: the model's name on the page.
        run: its run folder, from whose seed the filters before training are drawn again.
        note: why there is no data set, for the page.
        layer, channel: a convolution and one of its channels, whose strongest patches replace the chosen ones.
        neighbours: number of training images among which the nearest ones are searched; of more, a fixed choice.
        device, precision: as in ``Runtime``. Single images are always computed in float32.
        progress: called with a description; returns what the batches pass through, for a progress bar.

    Returns:
        ``out``, ``layers``, ``images`` and ``validation``.

    Raises:
        ValueError: neither files nor a data set, too many files, other classes than the model's, no such layer, channel
            device or folder, or a damaged image of the data set.
    """
    classes = info_of(model).classes
    patch = _check(model, files, dataset, out, layer, channel)
    model.to(pick_device(device)).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    subjects = _explained(model, files, dataset)
    split, validation = None, analysis.fixed_choice(dataset.val, VALIDATION) if dataset else None
    if validation:
        outputs = analysis.collect_outputs(model, validation, precision=precision, watch=progress("validation images"))
        split = _split(model, validation, outputs, patch)
    training = None
    if dataset and neighbours and any(subject.found for subject in subjects):
        training = analysis.fixed_choice(dataset.train, neighbours)
        known = analysis.collect_outputs(model, training, precision=precision, watch=progress("training images"))
        _add_neighbours(model, subjects, training, known, precision)
    page = render(
        "explain.html",
        title=title,
        info=info_of(model),
        weights=sum(weight.numel() for weight in model.parameters()),
        dataset=dataset,
        note=note,
        filters=_filters(model, run),
        subjects=[(each, each.found and draw_explanation(model, each.found, classes)) for each in subjects],
        field=receptive_field(model, "relu5").size,
        split=split,
        training=training,
        date=time.strftime("%Y-%m-%d"),
    )
    write_page(out, page)
    shown = {each["name"]: each["channel"] for each in split["patches"]} if split else {}
    layers = []
    for name in convolutions(model):
        field, maps = receptive_field(model, name), len(model.get_parameter(f"features.{name}.bias"))
        place = {"size": field.size, "stride": field.stride, "start": field.start}
        layers.append({"name": name, "maps": maps, "channel": shown.get(name), "receptive_field": place})
    measured = {"data": dataset.name, "split": dataset.val_split, **split["metrics"]} if split and dataset else None
    images = [_entry(subject, classes) for subject in subjects]
    return {"out": str(out), "layers": layers, "images": images, "validation": measured}


def _check(
    model: AlexNet_2012,
    files: Sequence[str | Path],
    dataset: Dataset | None,
    out: Path,
    layer: str | None,
    channel: int | None,
) -> tuple[str, int] | None:
    """Refuse wrong arguments before any work. Returns the layer and the channel if they were given."""
    if not files and dataset is None:
        raise FieldError("data", "named if no image is", None)
    if len(files) > MAX_IMAGES:
        raise FieldError("images", f"at most {MAX_IMAGES} files", len(files))
    if dataset:
        check_classes(dataset, info_of(model).classes)
    if out.suffix not in (".html", ".htm"):
        raise FieldError("out", "a file name that ends in .html", str(out))
    if not out.parent.is_dir():
        raise FieldError("out", "in a folder that exists", str(out))
    if layer is None and channel is None:
        return None
    if layer is None or channel is None:
        raise FieldError("channel" if channel is None else "layer", "given together with the other", None)
    check_channel(model, layer, channel)
    return layer, channel


def _explained(model: AlexNet_2012, files: Sequence[str | Path], dataset: Dataset | None) -> list[Subject]:
    """The files, or validation images if there are none, each with its explanation or its error."""
    subjects, pictures = [], []
    for file in files:
        subjects.append(Subject(str(file)))
        try:
            pictures.append(open_image(file))
        except ImageError as error:
            subjects[-1].error = str(error)
    if dataset and not files:
        for index in analysis.choose_examples(dataset):
            subjects.append(Subject(dataset.val.name(index), int(dataset.val.labels[index])))
            pictures.append(dataset.val.image(index))
    readable = [subject for subject in subjects if not subject.error]
    for subject, found in zip(readable, analysis.explain_images(model, pictures), strict=True):
        subject.found = found
    return subjects


def _add_neighbours(
    model: AlexNet_2012, subjects: Sequence[Subject], training: Images, known: Outputs, precision: str
) -> None:
    found = [(subject, subject.found.input) for subject in subjects if subject.found]
    x = torch.stack([image for _, image in found]).to(next(model.parameters()).device)
    own, classes = analysis.outputs_of(model, x, precision=precision), info_of(model).classes
    spaces = {
        "fc7": analysis.nearest(own.fc7, known.fc7, NEIGHBOURS),
        "pixels": analysis.nearest(own.pixels, known.pixels, NEIGHBOURS),
    }
    for i, (subject, _) in enumerate(found):
        subject.neighbours = {
            space: draw_neighbours(training, classes, distances[i], indices[i])
            for space, (distances, indices) in spaces.items()
        }


def _entry(subject: Subject, classes: Sequence[str]) -> dict[str, Any]:
    """What stands under ``images`` of ``alexnet explain --json``."""
    found = subject.found
    return {
        "file": subject.file,
        "truth": None if subject.label is None else classes[subject.label],
        "top": [{"class": classes[index], "probability": share} for index, share in found.top] if found else [],
        "cam_peak": float(found.evidence[0].max()) if found else None,
        "neighbours": subject.neighbours
        and {
            space: [{key: near[key] for key in ("file", "class", "distance")} for near in images]
            for space, images in subject.neighbours.items()
        },
        "error": subject.error,
    }


def _filters(model: AlexNet_2012, run: Path | None) -> dict[str, Any]:
    """The filters of conv1, sorted; before training too, if the run's seed and network are known."""
    initial, problem = None, "there is no run folder with the seed that training started from"
    if run:
        try:
            initial = initial_model(load_run(run))
        except (ValueError, OSError) as error:
            problem = str(error)
        if initial and (initial.variant, initial.num_classes) != (model.variant, model.num_classes):
            initial, problem = None, f"{run} is the folder of another network"
    after, before = conv1_filters(model), conv1_filters(initial) if initial else None
    scores = analysis.filter_smoothness(after) if before is None else analysis.filter_changes(after, before)
    towers, size = [], len(after) // model.variant.groups
    columns = COLUMNS if size > 36 else 8
    for first in range(0, len(after), size):
        order = first + scores[first : first + size].argsort(descending=True, stable=True)
        sheets = [each if each is None else png_uri(filter_sheet(each[order], columns)) for each in (after, before)]
        towers.append({"after": sheets[0], "before": sheets[1], "count": size})
    most, median = float(scores.max()), float(scores.median())
    return {"towers": towers, "most": most, "median": median, "problem": None if initial else problem}


def _split(model: AlexNet_2012, images: Images, outputs: Outputs, patch: tuple[str, int] | None) -> dict[str, Any]:
    """What the page shows of the validation images."""
    classes, labels = info_of(model).classes, torch.from_numpy(images.labels)
    metrics = Metrics(len(classes), torch.device("cpu"))
    metrics.add(outputs.logits, labels)
    result, probabilities = metrics.result(expected=len(images)), outputs.logits.softmax(1)
    found = analysis.calibration(probabilities, labels)
    result["expected_error"] = 100 * found.expected_error
    return {
        "metrics": result,
        "errors": [
            {
                "uri": png_uri(thumbnail(images.image(index))),
                "file": images.name(index),
                "truth": classes[labels[index]],
                "answer": classes[int(probabilities[index].argmax())],
                "probability": float(probabilities[index].max()),
            }
            for index in analysis.confident_errors(probabilities, labels, ERRORS)
        ],
        "chart": _calibration_chart(found),
        "patches": [_patches(model, images, outputs.peaks[name], name, patch) for name in convolutions(model)],
    }


def _patches(
    model: AlexNet_2012, images: Images, peaks: torch.Tensor, name: str, patch: tuple[str, int] | None
) -> dict[str, Any]:
    channel = patch[1] if patch and patch[0] == name else analysis.salient_channel(peaks)
    strongest = analysis.strongest_patches(model, images, peaks, name, channel, PATCHES)
    classes = [info_of(model).classes[images.labels[each.index]] for each in strongest]
    return {
        "name": name,
        "channel": channel,
        "field": receptive_field(model, name).size,
        "classes": Counter(classes).most_common(3),
        "shown": [
            {
                "uri": png_uri(patch_image(analysis.network_view(model, images.image(each.index)), each.box)),
                "class": name_of,
                "value": each.value,
                "file": images.name(each.index),
            }
            for each, name_of in zip(strongest, classes, strict=True)
        ],
    }


def _calibration_chart(found: analysis.Calibration) -> Markup:
    """Accuracy against confidence, one point a bin, above the number of images in each bin."""
    with canvas(5.2, 4.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
        above.plot([0, 100], [0, 100], color="#6b7280", linewidth=1, linestyle=(0, (4, 3)))
        confidence, accuracy = ([100 * value for value in each] for each in (found.confidence, found.accuracy))
        above.plot(confidence, accuracy, color="#2f6690", marker="o", markersize=5, linewidth=1.6)
        above.set(xlim=[0, 100], ylim=[0, 100], ylabel="correct (%)")
        below.bar(confidence, found.counts, width=5, color="#2f6690")
        below.set(xlabel="probability of the answer (%)", ylabel="images")
        label = (
            f"Accuracy against confidence in {len(found.counts)} bins; "
            f"expected calibration error {100 * found.expected_error:.1f} percentage points"
        )
        return inline_svg(figure, "calibration", label)


def format_explanation(found: dict[str, Any]) -> str:
    """What ``explain`` returned, as text."""
    lines = []
    for image in found["images"]:
        if image["error"]:
            continue
        answer, truth = image["top"][0], f", label {image['truth']}" if image["truth"] is not None else ""
        lines.append(f"{image['file']}: {answer['class']} {100 * answer['probability']:.1f}%{truth}")
    if seen := found["validation"]:
        measured = f"top1 {seen['top1']:.2f}%  loss {seen['loss']:.4f}  calibration error {seen['expected_error']:.1f}%"
        lines.append(f"{seen['data']}, {seen['split']}, {seen['count']:,} images: {measured}")
    size = Path(found["out"]).stat().st_size
    return "\n".join([*lines, f"page: {found['out']} ({size / 1e6:.1f} MB)"])
