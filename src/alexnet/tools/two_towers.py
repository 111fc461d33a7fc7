"""The paper's two towers on two processes, as on its two GPUs (section 3.2 and figure 2).

    torchrun --nproc-per-node 2 -m alexnet train paper --parallel towers

Each process holds one tower: half of the outputs of every layer, which is half of every weight, bias, gradient and
momentum buffer along dimension 0. conv2, conv4, conv5 and response normalisation stay within a tower. The towers
exchange activations before conv3, fc6, fc7 and fc8, and after fc8, so that both compute the loss from all logits. (In
2012, fc8 ran on the first GPU alone.) Together they compute what the one network computes. This includes dropout: both
processes draw the mask of the whole layer from the same random state.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from alexnet.data.loaders import Shard
from alexnet.errors import FieldError
from alexnet.lrn import ResponseNorm
from alexnet.model import AlexNet_2012
from alexnet.train import DataParallel

__all__ = ["Join", "TwoTowers"]

JOINED_INPUT = ("conv3", "fc6", "fc7", "fc8")


class TwoTowers(DataParallel):
    """For ``train.run(..., parallel=TwoTowers())``: this process's tower of a network with two of them.

    Needs ``torch.distributed`` with two processes; each method is called by both. Raises ``FieldError`` if the number
    of processes (``WORLD_SIZE``) is not 2.
    """

    kind = "towers"

    def __init__(self) -> None:
        processes = os.environ.get("WORLD_SIZE", "1")
        if processes != "2":
            hint = f" with {processes} process{'es' * (processes != '1')}; start two: torchrun --nproc-per-node 2"
            raise FieldError("parallel", "data", "towers", hint)

    def shard(self) -> Shard:
        """Both towers take all images of a batch."""
        return Shard()

    def prepare(self, model: AlexNet_2012) -> AlexNet_2012:  # type: ignore[override]
        """Reduce ``model`` in place to this process's tower, and return it.

        It maps the same images to the same ``[N, num_classes]`` logits as before, in both processes. Its state dict
        keeps its names; each tensor is half of the original along dimension 0. ``FieldError`` if the variant does not
        have two towers.
        """
        variant = model.variant
        if variant.groups != 2 or variant.lrn_towers != 2:
            reason = "has one tower" if variant.groups != 2 else "normalises across its towers"
            raise FieldError("parallel", "data", "towers", f": variant {variant.name} {reason}; use paper or source")
        join_logits = Join(model.num_classes, same_loss=True)
        model.features = nn.Sequential(OrderedDict(_tower(model.features)))
        model.classifier = nn.Sequential(OrderedDict(_tower(model.classifier)))
        model.classifier.add_module("join_logits", join_logits)
        return model

    def grad_norm(self, norm: Tensor) -> Tensor:
        """The norm of both towers' gradients, from that of this one's."""
        squared = norm.square()
        dist.all_reduce(squared)
        return squared.sqrt()

    def full_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state dict of the whole network or of its optimizer, on the CPU, in both processes."""
        halves: list[Any] = [None, None]
        dist.all_gather_object(halves, _map(lambda half: half.cpu(), state))
        return _map(lambda *both: torch.cat(both) if both[0].ndim else both[0], *halves)  # type: ignore[no-any-return]

    def own_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """This tower's half of the state dict of the whole network or of its optimizer."""
        return _map(lambda whole: _own(whole).clone() if whole.ndim else whole, state)  # type: ignore[no-any-return]


def _map(work: Callable[..., Any], *trees: Any) -> Any:
    """``work`` on the tensors at each place of nested dicts; anything else is taken from the first."""
    if isinstance(trees[0], Mapping):
        return {name: _map(work, *(tree[name] for tree in trees)) for name in trees[0]}
    return work(*trees) if isinstance(trees[0], Tensor) else trees[0]


def _own(whole: Tensor, dim: int = 0) -> Tensor:
    """This process's half along ``dim``, a view. Of an odd length, the first half is longer by one."""
    return whole.tensor_split(2, dim)[dist.get_rank()]


def _tower(layers: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in layers.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if name in JOINED_INPUT:
                yield f"join_{name}", Join(layer.weight.shape[1])
            for kind, parameter in list(layer.named_parameters()):
                own = _own(parameter.detach()).clone()
                setattr(layer, kind, nn.Parameter(own, requires_grad=parameter.requires_grad))
            if isinstance(layer, nn.Conv2d):
                layer.out_channels, layer.in_channels, layer.groups = *layer.weight.shape[:2], 1
            else:
                layer.out_features = len(layer.weight)
            yield name, layer
        elif isinstance(layer, ResponseNorm):
            layer.towers = 1
            yield name, layer
        else:
            yield name, HalfDropout(layer) if isinstance(layer, nn.Dropout) else layer


class HalfDropout(nn.Module):
    """Dropout on half of the units, ``[N, C/2]``: draws the mask of all units, and applies this process's half."""

    def __init__(self, whole: nn.Dropout) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, half: Tensor) -> Tensor:
        return half * _own(self.whole(half.new_ones(len(half), 2 * half.shape[1])), 1)


class Join(nn.Module):
    """Both towers' halves ``[N, C/2, *]`` side by side: ``[N, C, *]``, the same in both processes.

    Backward, each half gets the sum of both processes' gradients; with ``same_loss``, where both compute the same loss
    from the output, its own process's gradient alone.
    """

    def __init__(self, width: int, *, same_loss: bool = False) -> None:
        super().__init__()
        self.width, self.same_loss = width, same_loss

    def forward(self, half: Tensor) -> Tensor:
        return _Join.apply(half, self.width, self.same_loss)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"width={self.width}, same_loss={self.same_loss}"


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, half: Tensor, width: int, same_loss: bool) -> Tensor:  # type: ignore[override]
        ctx.same_loss = same_loss
        mine = half.movedim(1, -1)  # contiguous, as maps are channels last
        if width % 2:  # of the logits; what is sent must have the same shape in both processes
            mine = F.pad(mine, (0, (width + 1) // 2 - mine.shape[-1]))
        return torch.cat(_exchange(mine), -1)[..., :width].movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        rank, halves = dist.get_rank(), grad.movedim(1, -1).tensor_split(2, -1)
        own = halves[rank]
        if not ctx.same_loss:
            own = own + _exchange(halves[1 - rank])[1 - rank]
        return own.movedim(-1, 1), None, None


def _exchange(mine: Tensor) -> list[Tensor]:
    """Both processes' tensors of one shape."""
    mine = mine.contiguous()
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    return both
