"""SGD, and Muon for the parameter groups that ask for it.

Muon (Jordan et al. 2024, github.com/KellerJordan/Muon) replaces the update of a weight matrix by a nearly orthogonal
one. ``torch.optim.Muon`` takes only matrices; here a convolution's weight ``[out, in, k, k]`` counts as the matrix
``[out, in · k · k]``, and one optimizer, with one state dict, serves all layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["SGDMuon", "orthogonalize"]


class SGDMuon(torch.optim.SGD):
    """``torch.optim.SGD``; groups with ``muon=True`` use Muon, with Nesterov momentum and decoupled weight decay.

    A step frees the gradients of Muon's weights.

    Args:
        dtype: of the matrix products of ``orthogonalize``. bfloat16 is for hardware that multiplies in it.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        fused: bool | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused)
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            is_muon = group.get("muon", False)
            for weight in group["params"]:
                if weight.grad is None or not (is_muon or group["momentum"]):
                    continue
                state = self.state[weight]
                if state.get("momentum_buffer") is None:  # fused SGD needs all or none; a layer may be unfrozen later
                    state["momentum_buffer"] = torch.zeros_like(weight)
                if is_muon:
                    momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
                    update = orthogonalize(weight.grad.add(momentum, alpha=group["momentum"]).flatten(1), self.dtype)
                    update *= max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update.view(weight.shape), alpha=-group["lr"])
                    weight.grad = None  # SGD leaves the weight alone
        super().step()


def orthogonalize(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Roughly the nearest orthogonal matrix, by five quintic Newton-Schulz steps in ``dtype``."""
    x: Tensor = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = (x / (x.norm() + 1e-7)).to(dtype)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.T if len(matrix) > matrix.shape[1] else x).to(matrix.dtype)
