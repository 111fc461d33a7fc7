"""The filters of the first convolution, after training and before it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from alexnet.model import AlexNet_2012
from alexnet.recipes import Recipe
from alexnet.run.runfolder import read_config

__all__ = ["conv1_filters", "untrained"]


def conv1_filters(model: AlexNet_2012) -> Tensor:
    """The filters of conv1 as pictures: float32 ``[96, 3, 11, 11]``, each scaled by itself from 0 to 1.

    Of a two-tower variant the first half of them is the first tower's (the paper, figure 3).
    """
    weights = model.get_parameter("features.conv1.weight").detach().float().cpu()
    least, most = weights.amin((1, 2, 3), keepdim=True), weights.amax((1, 2, 3), keepdim=True)
    return (weights - least) / (most - least).clamp(min=torch.finfo(torch.float32).tiny)


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
        model = AlexNet_2012(len(classes), recipe["variant"], recipe["init"], recipe["widths"])
    return model.eval().requires_grad_(False)
