"""Learning rates: pure functions of the recipe and the step."""

from __future__ import annotations

import math

from alexnet.recipes import Recipe

__all__ = ["cosine", "learning_rate"]


def cosine(step: int, total: int, lr: float) -> float:
    """Learning rate of step ``step``, from 0, of ``total``: cosine annealing to 0, as PyTorch's scheduler gives it."""
    return lr * (1 + math.cos(math.pi * step / total)) / 2


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int, drops: int = 0) -> float:
    """Learning rate of step ``step``, from 0; ``drops``: how often the schedule ``plateau`` has divided it by 10."""
    warm, total = round(recipe.warmup * steps_per_epoch), recipe.epochs * steps_per_epoch
    if step < warm:
        return recipe.lr * (step + 1) / (warm + 1)
    if recipe.schedule == "plateau":
        return recipe.lr * 0.1**drops
    return cosine(step - warm, total - warm, recipe.lr)
