"""The page of ``alexnet explain``: one HTML file about a trained network."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from markupsafe import Markup
from PIL import Image

from alexnet.checkpoint import load_run, write_atomically
from alexnet.curves import COLOURS, canvas
from alexnet.data.datasets import Dataset, Images
from alexnet.data.images import ImageError, open_image
from alexnet.errors import FieldError
from alexnet.evaluate import Metrics, check_classes, info_of
from alexnet.model import AlexNet_2012
from alexnet.system import pick_device
from alexnet.tools.explain import analysis
from alexnet.tools.explain.analysis import BINS, Outputs, convolutions, receptive_field
from alexnet.tools.explain.draw import draw_explanation, draw_neighbours, patch_image, thumbnail
from alexnet.tools.filters import conv1_filters, filter_changes, filter_order, filter_sheet, initial_model
from alexnet.tools.html import check_page, inline_svg, png_uri, render

__all__ = ["MAX_IMAGES", "explain", "format_explanation"]

MAX_IMAGES = 12  # the page stays below 10 MB even if they do not compress
VALIDATION = 5_000  # images that are evaluated: half a minute on two slow cores
PATCHES, ERRORS = 9, 8  # shown


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
    progress: bool = False,
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
        progress: show progress bars on a terminal.

    Returns:
        ``out``, ``layers``, ``images`` and ``validation``.

    Raises:
        ValueError: neither files nor a data set, too many files, none that can be read, other classes than the
            model's, no such layer, channel, device or folder, or a damaged image of the data set.
    """
    info, place = info_of(model), pick_device(device)
    _check_arguments(model, files, dataset, out, layer, channel, neighbours)
    model.to(place).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    entries, pictures = _open(files, dataset, info.classes)
    if not pictures:
        raise ValueError("; ".join(entry["error"] for entry in entries))
    shown = [entry for entry in entries if not entry["error"]]
    explanations = analysis.explain_images(model, pictures)
    if any(math.isnan(share) for found in explanations for _, share in found.top):
        raise ValueError("the network's outputs are not finite numbers; its weights are damaged")
    for entry, found in zip(shown, explanations, strict=True):
        entry["top"] = [{"class": info.classes[index], "probability": share} for index, share in found.top]
        entry["cam_peak"] = float(found.evidence[0].max())
    split = training = None
    titles = ("validation images", "training images") if progress else (None, None)
    if dataset:
        images = analysis.fixed_choice(dataset.val, VALIDATION)
        outputs = analysis.collect_outputs(model, images, precision=precision, progress=titles[0])
        split = _split(model, images, outputs, layer, channel)
    if dataset and neighbours:
        training = analysis.fixed_choice(dataset.train, neighbours)
        known = analysis.collect_outputs(model, training, precision=precision, progress=titles[1])
        x = torch.stack([found.input for found in explanations]).to(place)
        own = analysis.outputs_of(model, x, precision=precision)
        for entry, near in zip(shown, draw_neighbours(training, info.classes, known, own), strict=True):
            entry["neighbours"] = near
    drawn = iter([draw_explanation(model, found, info.classes) for found in explanations])
    page = render(
        "explain.html",
        title=title,
        info=info,
        weights=sum(weight.numel() for weight in model.parameters()),
        dataset=dataset,
        note=note,
        filters=_filters(model, run),
        subjects=[(entry, _base_name(entry["file"]), None if entry["error"] else next(drawn)) for entry in entries],
        field=receptive_field(model, "relu5").size,
        split=split,
        training=training,
        date=time.strftime("%Y-%m-%d"),
    )
    write_atomically(out, lambda file: file.write_text(page, encoding="utf-8"))
    return {"out": str(out), **_document(model, dataset, entries, split)}


def _check_arguments(
    model: AlexNet_2012,
    files: Sequence[str | Path],
    dataset: Dataset | None,
    out: Path,
    layer: str | None,
    channel: int | None,
    neighbours: int,
) -> None:
    """ValueError as ``explain``, before the work begins."""
    if not files and dataset is None:
        raise ValueError("name image files, or the data that the network was trained on")
    if len(files) > MAX_IMAGES:
        raise FieldError("images", f"at most {MAX_IMAGES} files", len(files))
    if neighbours < 0:
        raise FieldError("neighbours", "0 or more", neighbours)
    if dataset:
        check_classes(dataset, info_of(model).classes)
    check_page(out)
    if layer is not None or channel is not None:
        analysis.check_channel(model, layer or "", channel)


def _document(
    model: AlexNet_2012, dataset: Dataset | None, entries: list[dict[str, Any]], split: dict[str, Any] | None
) -> dict[str, Any]:
    """What ``explain`` returns: the layers, the entries of ``images`` without the page's pictures, the metrics."""
    for entry in entries:
        for near in (entry["neighbours"] or {}).values():
            for each in near:
                del each["uri"]
    channels = {each["name"]: each["channel"] for each in split["patches"]} if split else {}
    layers = []
    for name in convolutions(model):
        field, maps = receptive_field(model, name), len(model.get_parameter(f"features.{name}.bias"))
        cells = {"size": field.size, "stride": field.stride, "start": field.start}
        layers.append({"name": name, "maps": maps, "channel": channels.get(name), "receptive_field": cells})
    measured = {"data": dataset.name, "split": dataset.val_split, **split["metrics"]} if split and dataset else None
    return {"layers": layers, "images": entries, "validation": measured}


def _open(
    files: Sequence[str | Path], dataset: Dataset | None, classes: Sequence[str]
) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """The entries of ``images`` of ``alexnet explain --json``, without results yet, and the readable pictures.

    They are the files, or validation images if there are none.
    """
    entry: dict[str, Any] = dict.fromkeys(("file", "truth", "top", "cam_peak", "neighbours", "error")) | {"top": []}
    entries, pictures = [entry | {"file": str(file)} for file in files], []
    for each in entries:
        try:
            pictures.append(open_image(each["file"]))
        except ImageError as error:
            each["error"] = str(error)
    if dataset and not files:
        for index in analysis.choose_examples(dataset):
            entries.append(entry | {"file": dataset.val.name(index), "truth": classes[dataset.val.labels[index]]})
            pictures.append(dataset.val.image(index))
    return entries, pictures


def _base_name(name: str) -> str:
    """The name of an image without its folders; a row of a Parquet file keeps its number."""
    file, row, rest = name.partition(" row ")
    return PurePath(file).name + row + rest


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
    scores = analysis.filter_smoothness(after) if before is None else filter_changes(after, before)
    towers = []
    for order in filter_order(scores, model.variant.groups):
        sheets = [
            None if each is None else png_uri(filter_sheet(each[order], columns=12 if len(order) > 36 else 8))
            for each in (after, before)
        ]
        towers.append({"after": sheets[0], "before": sheets[1], "count": len(order)})
    most, median = float(scores.max()), float(scores.median())
    return {"towers": towers, "most": most, "median": median, "problem": None if initial else problem}


def _split(
    model: AlexNet_2012, images: Images, outputs: Outputs, layer: str | None, channel: int | None
) -> dict[str, Any]:
    """What the page shows of the validation images. ``channel`` is the one that was asked for in ``layer``."""
    classes, labels = info_of(model).classes, torch.from_numpy(images.labels)
    metrics = Metrics(len(classes), torch.device("cpu"))
    metrics.add(outputs.logits, labels)
    result, probabilities = metrics.result(expected=len(images)), outputs.logits.softmax(1)
    found = analysis.calibration(probabilities, labels)
    errors = [
        {
            "uri": png_uri(thumbnail(images.image(index))),
            "file": images.name(index),
            "truth": classes[labels[index]],
            "answer": classes[int(probabilities[index].argmax())],
            "probability": float(probabilities[index].max()),
        }
        for index in analysis.confident_errors(probabilities, labels, ERRORS)
    ]
    patches = []
    for name in convolutions(model):
        peaks = outputs.peaks[name]
        chosen = channel if name == layer and channel is not None else analysis.salient_channel(peaks)
        strongest = analysis.strongest_patches(model, images, peaks, name, chosen, PATCHES)
        shown = [
            {
                "uri": png_uri(patch_image(analysis.network_view(model, images.image(each.index)), each.box)),
                "class": classes[images.labels[each.index]],
                "value": each.value,
                "file": images.name(each.index),
            }
            for each in strongest
        ]
        common = Counter(each["class"] for each in shown).most_common(3)
        field = receptive_field(model, name).size
        patches.append({"name": name, "channel": chosen, "field": field, "classes": common, "shown": shown})
    return {
        "metrics": result | {"expected_error": 100 * found.expected_error},
        "errors": errors,
        "chart": _calibration_chart(found),
        "patches": patches,
    }


def _calibration_chart(found: analysis.Calibration) -> Markup:
    """Accuracy against confidence, one point a bin, above the number of images in each bin."""
    with canvas(5.2, 4.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
        above.plot([0, 100], [0, 100], color=COLOURS["soft"], linewidth=1, linestyle=(0, (4, 3)))
        confidence, accuracy = ([100 * value for value in each] for each in (found.confidence, found.accuracy))
        above.plot(confidence, accuracy, color=COLOURS["train"], marker="o", markersize=5, linewidth=1.6)
        above.set(xlim=[0, 100], ylim=[0, 102], ylabel="correct (%)")
        middles = [(math.ceil(value * BINS) - 0.5) / BINS for value in found.confidence]
        below.bar([100 * value for value in middles], found.counts, width=90 / BINS, color=COLOURS["train"])
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
