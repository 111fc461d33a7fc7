"""Learning rates, as pure functions of the recipe and the step; the optimiser they are for; gradients clipped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.model import AlexNet_2012
from alexnet.parallel import columns
from alexnet.recipes import Recipe

__all__ = ["clip_gradient", "cosine", "learning_rate", "set_rates", "sgd", "source"]


MUON = ("conv2", "conv3", "conv4", "conv5")


def cosine(step: int, total: int, lr: float) -> float:
    """Learning rate of step ``step``, from 0, of ``total``: cosine annealing to 0, as PyTorch's scheduler gives it."""
    return lr * (1 + math.cos(math.pi * step / total)) / 2


def source(step: int, total: int, lr: float, layer: str = "") -> float:
    """Learning rate of the weights at step ``step``, from 0, of ``total``, as the released code's run had it.

    That run began with 0.01 and was stopped at epoch 91. The rate was divided by 10 at epochs 25, 51 and 79; in
    ``conv1`` at 67 too, and there it was 0 from 72 on (layers/layer-params-145.cfg, lines 169 to 181). Its epochs,
    which were counted from 1, so that each note may mean one pass less, are shares of the run here.
    """
    epoch = 91 * step / total
    if layer == "conv1" and epoch >= 72:
        return 0.0
    drops = [25, 51, 67, 79] if layer == "conv1" else [25, 51, 79]
    return lr * 0.1 ** sum(epoch >= drop for drop in drops)


def learning_rate(
    recipe: Recipe, step: int, steps_per_epoch: int, drops: int = 0, *, layer: str = "", bias: bool = False
) -> float:
    """Learning rate of step ``step``, from 0.

    Args:
        drops: how often the schedule ``plateau`` has divided it by 10.
        layer: a layer that the schedule treats by itself.
        bias: of the biases, not of the weights.
    """
    warm, total = round(recipe.warmup * steps_per_epoch), recipe.epochs * steps_per_epoch
    highest = recipe.lr * recipe.bias_lr if bias else recipe.lr
    if step < warm:
        return highest * (step + 1) / (warm + 1)
    match recipe.schedule:
        case "plateau":
            return highest * 0.1**drops
        case "source":
            rate = source(step, total, recipe.lr, layer)
            return highest if bias and rate > 0 else rate  # biases keep theirs, until their layer stands still
    return cosine(step - warm, total - warm, highest)


def set_rates(optimizer: Any, recipe: Recipe, step: int, steps_per_epoch: int, drops: int) -> None:
    """Give each group of an optimiser that ``sgd`` made its learning rate of step ``step``."""
    for group in optimizer.param_groups:
        whose = {"layer": group.get("layer", ""), "bias": group.get("bias", False)}
        rate = learning_rate(recipe, step, steps_per_epoch, drops, **whose)
        group["lr"] = rate * recipe.muon_lr / recipe.lr if group.get("muon") else rate


def sgd(net: AlexNet_2012, recipe: Recipe, device: torch.device) -> torch.optim.SGD:
    """The optimiser of a recipe, in one pass over weights, gradients and momentum where torch can."""
    return Muon(
        list(_groups(net, recipe)),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )


class Muon(torch.optim.SGD):
    """SGD with momentum; in groups marked ``muon`` each step is the nearest orthogonal matrix (Jordan et al. 2024).

    A convolution's weight counts as the matrix ``[out, in · k · k]``. Nesterov's momentum, five steps of Newton and
    Schulz in float32, times √max(1, out / (in · k · k)); weight decay outside the gradient.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"] if group.get("muon") else ():
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                momentum.mul_(group["momentum"]).add_(p.grad)
                update = orthogonal(p.grad.add(momentum, alpha=group["momentum"]).flatten(1))
                update *= max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view(p.shape), alpha=-group["lr"])
                p.grad = None
        super().step()


def orthogonal(matrix: Tensor) -> Tensor:
    """Roughly the nearest orthogonal matrix, float32: five steps of a quintic Newton-Schulz iteration."""
    x = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


def _groups(net: AlexNet_2012, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """One group where all parameters are treated alike; else the weights and the biases, and conv1's own."""
    if recipe.muon_lr:
        by_muon = {id(layer.weight) for name, layer in net.weight_layers() if name in MUON}
        yield {"params": [p for p in net.parameters() if id(p) not in by_muon]}
        own = {"params": [p for p in net.parameters() if id(p) in by_muon]}
        yield own | {"muon": True, "momentum": 0.9, "weight_decay": 0.01}
        return
    by_layer = recipe.schedule == "source"
    if recipe.decay_biases and recipe.bias_lr == 1 and not by_layer:
        yield {"params": list(net.parameters())}
        return
    decay = recipe.weight_decay if recipe.decay_biases else 0.0
    for name in ("", "conv1") if by_layer else ("",):
        layers = [layer for own, layer in net.weight_layers() if not by_layer or (own == "conv1") == (name == "conv1")]
        yield {"params": [layer.weight for layer in layers], "layer": name, "bias": False}
        yield {"params": [layer.bias for layer in layers], "layer": name, "bias": True, "weight_decay": decay}


def clip_gradient(net: AlexNet_2012 | columns.Column, max_norm: float) -> Tensor:
    """Scale the whole network's gradient down to ``max_norm`` where it is longer. Gives its norm before, float32.

    On a CPU torch 2.15 adds a tensor's squares one to the next in float32, which made the norm of 58 million random
    numbers, one for each weight, 0.18% short. So there the norms of rows come first, as fast and to 1e-6.
    """
    parameters = list(net.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    if all(each.is_cpu for each in gradients):
        gradients = [torch.linalg.vector_norm(each.flatten(1), dim=1) if each.ndim > 1 else each for each in gradients]
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(net, columns.Column):
        norm = columns.joint_norm(norm, net.pair)
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
