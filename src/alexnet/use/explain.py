"""Look inside a trained network: what ``alexnet explain`` draws, as tensors, for notebooks and for the demo.

from alexnet import load_model
from alexnet.data.images import open_image
from alexnet.use import explain

model = load_model("runs/x")
explain.conv1_filters(model)                               # [96, 3, 11, 11] in 0..1
x = explain.inputs(model, [open_image("cat.jpg")])         # [1, 3, 224, 224]
explain.activations(model, x)["conv3"]                     # [1, 384, 13, 13], before the ReLU
explain.grad_cam(model, x, model(x).argmax(1))             # [1, 13, 13], signed
training = explain.features(model, dataset.train)          # fc7 and pixels of a split, as vectors
explain.nearest(explain.features_of_inputs(model, x).fc7, training.fc7, 5)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from alexnet.model import AlexNet_2012
from alexnet.recipes import Recipe
from alexnet.run.runfolder import read_config
from alexnet.use.answers import Answers, Calibration, answers, calibration, confident_errors
from alexnet.use.attribution import (
    CONVOLUTIONS,
    activations,
    conv1_filters,
    correlation,
    grad_cam,
    inputs,
    seen,
    with_new_fc8,
)
from alexnet.use.neighbours import Features, features, features_of_inputs, nearest
from alexnet.use.receptive import Patch, ReceptiveField, receptive_field, strongest_patches, telling_channel

__all__ = [
    "CONVOLUTIONS", "Answers", "Calibration", "Features", "Patch", "ReceptiveField", "activations", "answers",
    "calibration", "confident_errors", "conv1_filters", "correlation", "features", "features_of_inputs", "grad_cam",
    "inputs", "nearest", "receptive_field", "seen", "strongest_patches", "telling_channel", "untrained", "with_new_fc8",
]  # fmt: skip


def untrained(folder: str | Path) -> AlexNet_2012:
    """The network of a run before its first step: drawn again from the seed in its config.json.

    Raises:
        FileNotFoundError: not a run's folder.
        ValueError: a config.json that is broken or does not say what is needed.
    """
    config = read_config(Path(folder))
    try:
        recipe, classes = dataclasses.asdict(Recipe()) | config["recipe"], config["classes"]
    except (KeyError, TypeError):
        raise ValueError(f"{folder}/config.json: does not name the recipe and the classes of a run") from None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe["seed"])  # as the session does; weights are drawn on the CPU
        model = AlexNet_2012(len(classes), recipe["variant"], recipe["init"])
    return model.eval().requires_grad_(False)
