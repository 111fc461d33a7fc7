"""SGD, and Muon for the parameter groups that ask for it.

Muon (Jordan et al. 2024, github.com/KellerJordan/Muon) replaces the update of a weight matrix by a nearly orthogonal
one. ``torch.optim.Muon`` takes only matrices; here a convolution's weight ``[out, in, k, k]`` counts as the matrix
``[out, in · k · k]``, and one optimizer, with one state dict, serves all layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["SGDMuon", "orthogonalize"]


class SGDMuon(torch.optim.SGD):
    """``torch.optim.SGD``; groups with ``muon=True`` use Muon, with Nesterov momentum and decoupled weight decay.

    Args:
        dtype: of the matrix products of ``orthogonalize``. bfloat16 is for hardware that multiplies in it.

    Raises:
        ValueError: ``dampening`` is not 0.
        RuntimeError: ``fused=True`` with a gradient scaler, which then leaves scaling the gradients to the optimizer.
    """

    def __init__(self, params: Any, *, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        super().__init__(params, **options)
        if any(group["dampening"] for group in self.param_groups):
            raise ValueError("dampening must be 0")
        self.dtype = dtype

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"dtype": self.dtype}  # torch copies only its own attributes

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        if getattr(self, "grad_scale", None) is not None:
            raise RuntimeError("SGDMuon does not scale gradients; use fused=False with a gradient scaler")
        with torch.enable_grad():
            loss = closure() if closure else None
        done: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for weight in group["params"] if group.get("muon") else ():
                if weight.grad is None:
                    continue
                grad = -weight.grad if group["maximize"] else weight.grad
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(grad)
                update = orthogonalize(grad.add(momentum, alpha=group["momentum"]).flatten(1), self.dtype)
                update *= max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view(weight.shape), alpha=-group["lr"])
                done.append((weight, weight.grad))
                weight.grad = None  # SGD leaves it alone
            for weight in group["params"] if group["momentum"] else ():
                # fused SGD needs the buffers of all or of none, and a layer may be unfrozen later than others
                if weight.grad is not None and self.state[weight].get("momentum_buffer") is None:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        inspect.unwrap(torch.optim.SGD.step)(self)  # without the hooks, which run around this whole step
        for weight, grad in done:
            weight.grad = grad
        return loss


def orthogonalize(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Roughly the nearest orthogonal matrix, by five quintic Newton-Schulz steps in ``dtype``."""
    x: Tensor = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = (x / (x.norm() + 1e-7)).to(dtype)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.T if len(matrix) > matrix.shape[1] else x).to(matrix.dtype)
