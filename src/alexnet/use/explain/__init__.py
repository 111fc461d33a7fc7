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

from alexnet.use.explain.answers import Answers, Calibration, answers, calibration, confident_errors
from alexnet.use.explain.attribution import (
    activations,
    convolutions,
    correlation,
    grad_cam,
    inputs,
    seen,
    with_new_fc8,
)
from alexnet.use.explain.filters import conv1_filters, untrained
from alexnet.use.explain.neighbours import Features, features, features_of_inputs, nearest
from alexnet.use.explain.receptive import Patch, ReceptiveField, receptive_field, strongest_patches, telling_channel

__all__ = [
    "Answers", "Calibration", "Features", "Patch", "ReceptiveField", "activations", "answers", "calibration",
    "confident_errors", "conv1_filters", "convolutions", "correlation", "features", "features_of_inputs", "grad_cam",
    "inputs", "nearest", "receptive_field", "seen", "strongest_patches", "telling_channel", "untrained", "with_new_fc8",
]  # fmt: skip
