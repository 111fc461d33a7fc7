"""Images one by one: the answer, what the convolutions say, what speaks for the answer, and what lies near."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alexnet.data.images import ImageError, open_image
from alexnet.data.splits import Dataset, Images
from alexnet.model import AlexNet_2012
from alexnet.report.html import png_uri
from alexnet.use.evaluate import card_of
from alexnet.use.explain.attribution import activations, correlation, grad_cam, inputs, seen, with_new_fc8
from alexnet.use.explain.neighbours import Features, features_of_inputs, nearest
from alexnet.use.explain.pictures import map_picture, over_picture, thumbnail
from alexnet.use.explain.receptive import receptive_field

__all__ = [
    "SEED",
    "Subject",
    "add_neighbours",
    "document",
    "explain_subjects",
    "fixed_choice",
    "from_data",
    "from_files",
]

SHOWN = 10  # images chosen where none are named
CLASSES, MAPS, NEIGHBOURS = 5, 6, 6  # an image
SEED = 0  # of every choice: two who explain one run see the same


@dataclass
class Subject:
    """An image to explain, and what was found."""

    file: str
    picture: Image.Image | None = None
    """None where it could not be read, and ``error`` says why."""
    truth: int | None = None
    error: str | None = None
    top: list[tuple[int, float]] = field(default_factory=list)
    """Classes and probabilities (0 to 1), the most probable first."""
    truth_probability: float | None = None
    cam: Tensor | None = None
    """Grad-CAM of the most probable class, with its sign; ``redrawn`` the same with fc8 drawn anew."""
    redrawn: Tensor | None = None
    neighbours: dict[str, list[dict[str, Any]]] | None = None
    """``fc7`` and ``pixels``: file, class, distance and picture of each, the nearest first."""
    drawn: dict[str, Any] = field(default_factory=dict)
    """Pictures as addresses, and their figures, by name; for the page."""

    @property
    def label(self) -> str:
        """The file without its folders; of a row in a file of many, with the row."""
        file, row, rest = self.file.partition(" row ")
        return PurePath(file).name + row + rest


def from_files(files: Sequence[str | Path]) -> list[Subject]:
    """The files, each with its picture or with why it has none."""
    subjects = []
    for file in files:
        try:
            subjects.append(Subject(str(file), open_image(file)))
        except ImageError as error:
            subjects.append(Subject(str(file), error=str(error)))
    return subjects


def fixed_choice(images: Images, count: int) -> Images:
    """``count`` of the images, always the same ones, in their order; all where there are no more."""
    if len(images) <= count:
        return images
    return images.subset(np.sort(np.random.RandomState(SEED).permutation(len(images))[:count]))


def from_data(dataset: Dataset, count: int = SHOWN, draw: int = 0) -> list[Subject]:
    """Validation images, always the same ones, of as many classes as there are, in the order of the classes.

    Args:
        draw: a number for other ones.
    """
    val = dataset.val
    order = np.random.RandomState(SEED + draw).permutation(len(val))
    seen_of: dict[int, int] = {}
    turns = []  # how many of its class come before each
    for index in order:
        label = int(val.labels[index])
        turns.append(seen_of.get(label, 0))
        seen_of[label] = turns[-1] + 1
    chosen = sorted(order[np.argsort(turns, kind="stable")][:count].tolist(), key=lambda index: int(val.labels[index]))
    return [Subject(val.name(index), val.image(index), int(val.labels[index])) for index in chosen]


def explain_subjects(model: AlexNet_2012, subjects: Sequence[Subject]) -> None:
    """Fill in answers, Grad-CAM and maps, in float32, of the subjects that have a picture."""
    subjects = [subject for subject in subjects if subject.picture]
    if not subjects:
        return
    x = inputs(model, [subject.picture for subject in subjects if subject.picture])
    with torch.no_grad():
        probabilities = model(x).float().softmax(1).cpu()
    found = probabilities.topk(min(CLASSES, model.num_classes), dim=1)
    answer = found.indices[:, 0]
    cams, redrawn = grad_cam(model, x, answer).cpu(), grad_cam(with_new_fc8(model, SEED), x, answer).cpu()
    maps = {name: values.cpu() for name, values in activations(model, x).items()}
    for i, subject in enumerate(subjects):
        subject.top = list(zip(found.indices[i].tolist(), found.values[i].tolist(), strict=True))
        subject.truth_probability = None if subject.truth is None else float(probabilities[i, subject.truth])
        subject.cam, subject.redrawn = cams[i], redrawn[i]
        subject.drawn = _drawn(model, subject, {name: values[i] for name, values in maps.items()})


def _drawn(model: AlexNet_2012, subject: Subject, maps: dict[str, Tensor]) -> dict[str, Any]:
    assert subject.picture
    assert subject.cam is not None
    assert subject.redrawn is not None
    crop, where = seen(model, subject.picture), receptive_field(model, "relu5")
    return {
        "photo": png_uri(crop),
        "cam": png_uri(over_picture(crop, subject.cam, where)),
        "cam_range": (float(subject.cam.min()), float(subject.cam.max())),
        "redrawn": png_uri(over_picture(crop, subject.redrawn, where)),
        "redrawn_range": (float(subject.redrawn.min()), float(subject.redrawn.max())),
        "correlation": correlation(subject.cam, subject.redrawn),
        "layers": [{"name": name, **_loudest(maps[name])} for name in maps],
    }


def _loudest(maps: Tensor) -> dict[str, Any]:
    """The maps ``[channels, H, W]`` with the highest peaks, on one scale."""
    channels = maps.amax((1, 2)).topk(min(MAPS, len(maps))).indices
    scale = float(maps[channels].abs().max())
    shown = [{"channel": int(k), "uri": png_uri(map_picture(maps[k], scale))} for k in channels]
    return {"count": len(maps), "cells": maps.shape[1], "scale": scale, "maps": shown}


def add_neighbours(
    model: AlexNet_2012, subjects: Sequence[Subject], training: Images, known: Features, precision: str
) -> None:
    """Fill in the training images nearest to each subject; ``known`` are the vectors of ``training``."""
    subjects = [subject for subject in subjects if subject.picture]
    x = inputs(model, [subject.picture for subject in subjects if subject.picture])
    own, names = features_of_inputs(model, x, precision=precision), card_of(model).classes
    spaces = {
        "fc7": nearest(own.fc7, known.fc7, NEIGHBOURS),
        "pixels": nearest(own.pixels, known.pixels, NEIGHBOURS),
    }
    for i, subject in enumerate(subjects):
        subject.neighbours = {
            space: [
                {
                    "file": training.name(index),
                    "class": names[training.labels[index]],
                    "distance": distance,
                    "uri": png_uri(thumbnail(training.image(index))),
                }
                for distance, index in zip(distances[i].tolist(), places[i].tolist(), strict=True)
            ]
            for space, (distances, places) in spaces.items()
        }


def document(subject: Subject, classes: Sequence[str]) -> dict[str, Any]:
    """A subject's entry under ``images`` of ``alexnet explain --json``."""
    near = subject.neighbours and {
        space: [{key: one[key] for key in ("file", "class", "distance")} for one in found]
        for space, found in subject.neighbours.items()
    }
    return {
        "file": subject.file,
        "truth": None if subject.truth is None else classes[subject.truth],
        "top": [{"class": classes[index], "probability": value} for index, value in subject.top],
        "cam_peak": None if subject.cam is None else float(subject.cam.max()),
        "neighbours": near,
        "error": subject.error,
    }
