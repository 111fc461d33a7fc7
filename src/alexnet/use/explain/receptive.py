"""Which pixels a cell of a feature map looks at, and the patches of images that excite a map most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet.data.splits import Images
from alexnet.lrn import WithinMapNorm
from alexnet.model import AlexNet_2012, RoundUpPad
from alexnet.use.explain.attribution import activations, convolutions, inputs

__all__ = ["Patch", "ReceptiveField", "receptive_field", "strongest_patches", "telling_channel"]


@dataclass(frozen=True)
class ReceptiveField:
    """The square of input pixels that the cells of a layer look at, in pixels of the network's input."""

    size: int
    """Its side."""
    stride: int
    """How far it moves from one cell to the next."""
    start: int
    """Its first row, and its first column, for cell 0; below 0 where it reaches into the padding."""

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what a cell looks at, as PIL's ``crop`` takes them; it may leave the image."""
        top, left = self.start + row * self.stride, self.start + column * self.stride
        return left, top, left + self.size, top + self.size

    def cell(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the cell's own place: a square as wide as the stride around the centre."""
        left, top, right, bottom = self.box(row, column)
        x, y, half = (left + right) / 2, (top + bottom) / 2, self.stride / 2
        return x - half, y - half, x + half, y + half


def receptive_field(model: AlexNet_2012, layer: str) -> ReceptiveField:
    """The receptive field of a part of ``features``, such as ``conv3``: 99 pixels every 16 in the classic network.

    Layer by layer: a window of k cells at stride s and padding p, over cells that look at ``size`` pixels every
    ``stride``, looks at size + (k − 1)·stride pixels every s·stride, and begins p·stride earlier.

    Raises:
        ValueError: no such layer.
    """
    size, stride, start = 1, 1, 0
    names = [name for name, _ in model.features.named_children()]
    if layer not in names:
        raise ValueError(f"layer {layer}: allowed is one of {', '.join(names)}")
    for name, part in model.features.named_children():
        window, step, padding = _window(part)
        size, start, stride = size + (window - 1) * stride, start - padding * stride, stride * step
        if name == layer:
            break
    return ReceptiveField(size, stride, start)


def _window(part: nn.Module) -> tuple[int, int, int]:
    """Window, stride and padding at the left and top, in cells."""
    if isinstance(part, nn.Conv2d):
        return part.kernel_size[0], part.stride[0], int(part.padding[0])
    if isinstance(part, nn.MaxPool2d):
        window, step, padding = part.kernel_size, part.stride, part.padding
        assert isinstance(window, int)
        assert isinstance(step, int)
        assert isinstance(padding, int)
        return window, step, padding
    if isinstance(part, WithinMapNorm):
        return part.size, 1, part.size // 2
    assert isinstance(part, nn.ReLU | RoundUpPad) or not list(part.parameters())  # pixel by pixel, or at the far sides
    return 1, 1, 0


@dataclass(frozen=True)
class Patch:
    """A place in an image that excites a feature map."""

    index: int
    """The image's place in its split."""
    value: float
    """The convolution's answer there, before its ReLU."""
    row: int
    column: int
    """The cell of the map."""
    box: tuple[int, int, int, int]
    """Left, top, right and bottom of the receptive field, in pixels of the network's input; it may leave the image."""


def strongest_patches(
    model: AlexNet_2012, images: Images, peaks: Tensor, layer: str, channel: int, count: int = 9
) -> list[Patch]:
    """The places in ``images`` that excite a channel most, the strongest first, at most one an image.

    Args:
        peaks: ``[N, channels]``: each image's highest answer, as ``answers(model, images).peaks[layer]`` has them.
        layer: one of ``convolutions(model)``.

    Raises:
        ValueError: no such layer or channel.
    """
    if layer not in (allowed := convolutions(model)):
        raise ValueError(f"--layer {layer}: allowed is one of {', '.join(allowed)}")
    if not 0 <= channel < peaks.shape[1]:
        raise ValueError(f"--channel {channel}: allowed is 0 to {peaks.shape[1] - 1}, the channels of {layer}")
    chosen = peaks[:, channel].topk(min(count, len(peaks))).indices.tolist()
    maps = activations(model, inputs(model, [images.image(index) for index in chosen]))[layer][:, channel]
    field = receptive_field(model, layer)
    patches = [_patch(index, answer, field) for index, answer in zip(chosen, maps.cpu(), strict=True)]
    return sorted(patches, key=lambda patch: -patch.value)


def _patch(index: int, answer: Tensor, field: ReceptiveField) -> Patch:
    row, column = divmod(int(answer.argmax()), answer.shape[1])
    return Patch(index, float(answer[row, column]), row, column, field.box(row, column))


def telling_channel(peaks: Tensor) -> int:
    """The channel whose strongest images stand out most from the others: int, of ``peaks`` ``[N, channels]``.

    How far the mean of its nine highest peaks lies above the mean of all, in standard deviations; of equals the first.
    """
    top = peaks.topk(min(9, len(peaks)), dim=0).values.mean(0)
    spread = peaks.std(0, correction=0)
    return int(torch.where(spread > 0, (top - peaks.mean(0)) / spread, torch.zeros_like(top)).argmax())
