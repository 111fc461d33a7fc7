"""The paper's two towers on two processes, as on its two cards (section 3.2 and figure 2).

    torchrun --nproc-per-node 2 -m alexnet train paper --parallel columns

Each process holds one half of every layer's outputs, hence one half along dimension 0 of every weight, bias, gradient
and momentum, and nothing is held twice. conv2, conv4, conv5 and response normalisation stay within a tower. The towers
meet before conv3, fc6, fc7 and fc8, which see both halves of what came before, and in the logits, from which both
processes compute the same loss. (In 2012 fc8 was whole, on the first card.) Together they compute what the one network
does, dropout included: each draws the whole network's masks, from the same random state, and takes its half.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from alexnet.lrn import ResponseNorm
from alexnet.model import AlexNet_2012, DropoutOf2012, Variant

__all__ = ["Column", "Pair", "bytes_a_step", "check", "gather", "halve", "joint_norm", "split"]

MEET_BEFORE = ("conv3", "fc6", "fc7", "fc8")


def check(variant: Variant, processes: int) -> None:
    """ValueError, in one line, where ``variant`` or the number of processes does not allow two columns."""
    if variant.groups != 2 or variant.lrn_towers != 2:
        why = "has one tower" if variant.groups != 2 else "normalises across its towers"
        raise ValueError(f"--parallel columns: variant {variant.name} {why}; allowed are paper and source")
    if processes != 2:
        here = "one process" if processes == 1 else f"{processes} processes"
        raise ValueError(
            f"--parallel columns: takes two processes, not {here}; torchrun --nproc-per-node 2 starts them"
        )


def bytes_a_step(variant: Variant, num_classes: int, batch: int) -> dict[str, int]:
    """What each process sends in a training step in float32, and receives, by where the towers meet.

    Half of the maps or of the units go forward, and as many gradients back; of the logits, forward alone.
    """
    _, maps2, _, _, maps5, hidden6, hidden7 = variant.widths
    halves = {"conv3": maps2 * 13 * 13, "fc6": maps5 * 6 * 6, "fc7": hidden6, "fc8": hidden7}
    there_and_back = {layer: 2 * batch * (values // 2) * 4 for layer, values in halves.items()}
    return there_and_back | {"logits": batch * -(-num_classes // 2) * 4, "gradient norm": 4}


@dataclass
class Pair:
    """The two processes of torch.distributed's default group, as one of them, ``rank``, sees them."""

    rank: int
    sent: int = 0
    """Bytes sent to the other process so far."""

    def own(self, whole: Tensor, dim: int = 0) -> Tensor:
        """This column's half of ``whole`` along ``dim``, a view; of an odd length the first has one more."""
        return whole.tensor_split(2, dim)[self.rank]

    def swap(self, mine: Tensor, dim: int = 0, length: int | None = None) -> Tensor:
        """What the other process has where this one has ``mine``: as large, or of ``length`` along ``dim``.

        Both processes call it together. Maps and filters travel channels last, and arrive so.
        """
        shape = list(mine.shape)
        if length is not None:
            shape[dim] = length
        layout = torch.channels_last if mine.ndim == 4 else torch.contiguous_format
        outgoing = mine.contiguous(memory_format=layout)
        incoming = torch.empty(shape, dtype=mine.dtype, device=mine.device, memory_format=layout)
        as_sent = [t.permute(0, 2, 3, 1) if t.ndim == 4 else t for t in (outgoing, incoming)]  # contiguous either way
        other = 1 - self.rank
        both = [dist.P2POp(dist.isend, as_sent[0], other), dist.P2POp(dist.irecv, as_sent[1], other)]
        for request in dist.batch_isend_irecv(both):
            request.wait()
        self.sent += outgoing.nbytes
        return incoming

    def join(self, mine: Tensor, dim: int, whole: int) -> Tensor:
        """Both halves along ``dim``, the first process's first; ``whole`` is their length together."""
        theirs = self.swap(mine, dim, whole - mine.shape[dim])
        return torch.cat([theirs, mine] if self.rank else [mine, theirs], dim)


def split(net: AlexNet_2012, pair: Pair) -> Column:
    """This process's column of ``net``, whose weights are copied. ValueError where the variant has no two towers."""
    check(net.variant, processes=2)
    return Column(net, pair)


def halve(state: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
    """This column's half, along dimension 0, of each tensor in a state of the whole network or of its optimiser."""
    return {name: _mapped(inner, lambda whole: pair.own(whole).clone()) for name, inner in state.items()}


def gather(state: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
    """The state of the whole network or of its optimiser from both columns' halves: the inverse of ``halve``.

    Both processes call it together, and both get it.
    """

    def whole(mine: Tensor) -> Tensor:
        length = torch.tensor([len(mine)], device=mine.device)  # the classes may be odd in number
        return pair.join(mine, 0, int(length + pair.swap(length)))

    return {name: _mapped(inner, whole) for name, inner in state.items()}


def _mapped(tree: Any, work: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Mapping):
        return {name: _mapped(inner, work) for name, inner in tree.items()}
    return work(tree) if isinstance(tree, Tensor) else tree


@torch.no_grad()
def joint_norm(norm: Tensor, pair: Pair) -> Tensor:
    """The norm of both columns' gradients, from that of this one's."""
    squared = norm.square()
    return (squared + pair.swap(squared)).sqrt()


class Column(AlexNet_2012):
    """One tower of a two-tower network, with the weights of ``net`` that belong to it.

    Takes the same images as ``net``, in both processes, and gives the same ``[N, num_classes]`` logits in both. Its
    state dict has the whole network's names; each tensor is one half, along dimension 0, of the whole one's.
    """

    def __init__(self, net: AlexNet_2012, pair: Pair) -> None:
        nn.Module.__init__(self)
        self.card, self.variant, self.num_classes, self.pair = net.card, net.variant, net.num_classes, pair
        self.features = nn.Sequential(OrderedDict(_column(net.features, pair)))  # ends at [N, 128, 6, 6]
        logits = ("join_logits", Join(pair, net.num_classes, loss_of_both=True))
        self.classifier = nn.Sequential(OrderedDict([*_column(net.classifier, pair), logits]))


def _column(layers: nn.Module, pair: Pair) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in layers.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear) and name in MEET_BEFORE:
            yield f"join_{name}", Join(pair, layer.weight.shape[1])
        yield name, _half(layer, pair)


def _half(layer: nn.Module, pair: Pair) -> nn.Module:
    with torch.device("meta"):
        match layer:
            case nn.Conv2d():
                outputs, inputs = pair.own(layer.weight).shape[:2]  # a grouped filter's inputs are those of its group
                half: nn.Module = nn.Conv2d(inputs, outputs, layer.kernel_size, layer.stride, layer.padding)  # type: ignore[arg-type]
            case nn.Linear():
                half = nn.Linear(layer.in_features, len(pair.own(layer.weight)))
            case ResponseNorm():
                return ResponseNorm(layer.alpha, layer.k, 1, layer.size, layer.beta)
            case nn.Dropout():
                return HalfDropout(pair, layer.p, 1 - layer.p if isinstance(layer, DropoutOf2012) else 1.0)
            case _:
                return layer  # without weights, and each map by itself
    half.load_state_dict(halve(layer.state_dict(), pair), assign=True)
    return half


class Join(nn.Module):
    """Both columns' halves ``[N, C/2, *]`` side by side: ``[N, C, *]``, the same in both processes.

    Backwards, each half gets the sum of what both processes want of it. With ``loss_of_both`` the two have computed one
    and the same loss from it, so that this process's gradient is the whole one.
    """

    def __init__(self, pair: Pair, width: int, *, loss_of_both: bool = False) -> None:
        super().__init__()
        self.pair, self.width, self.loss_of_both = pair, width, loss_of_both

    def forward(self, half: Tensor) -> Tensor:
        return _Join.apply(half, self.pair, self.width, self.loss_of_both)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"width={self.width}, loss_of_both={self.loss_of_both}"


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx, half, pair, width, loss_of_both):  # type: ignore[no-untyped-def]
        ctx.pair, ctx.loss_of_both = pair, loss_of_both
        return pair.join(half, 1, width)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        halves, rank = grad.tensor_split(2, 1), ctx.pair.rank
        own = halves[rank]
        if not ctx.loss_of_both:
            own = own + ctx.pair.swap(halves[1 - rank])
        return own, None, None, None


class HalfDropout(nn.Module):
    """Dropout on one half of ``[N, C]``: draws the whole network's mask, as it would, and applies this half of it."""

    def __init__(self, pair: Pair, p: float, scale: float) -> None:
        super().__init__()
        self.pair, self.p, self.scale = pair, p, scale

    def forward(self, half: Tensor) -> Tensor:
        if not self.training:
            return half * self.scale
        mask = nn.functional.dropout(half.new_ones(len(half), 2 * half.shape[1]), self.p)  # zeros and 1 / (1 − p)
        return half * self.pair.own(mask, 1) * self.scale

    def extra_repr(self) -> str:
        return f"p={self.p}, scale={self.scale}"
