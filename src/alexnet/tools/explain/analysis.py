"""What a trained network computes, as tensors: for its layers, for single images, and for all images of a split.

References:
    Grad-CAM        Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2.
    sanity checks   Adebayo et al. 2018, arXiv 1810.03292: a map that stays the same when weights are replaced by random
                    ones does not explain the network.
    calibration     Guo et al. 2017, arXiv 1706.04599, section 2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.data.datasets import Dataset, Images
from alexnet.data.loaders import eval_batches
from alexnet.data.normalization import central_pixels, normalized
from alexnet.errors import FieldError, check_choice
from alexnet.evaluate import info_of, progress_bar
from alexnet.lrn import WithinMapNorm
from alexnet.model import AlexNet_2012
from alexnet.system import autocast, pick_precision

__all__ = [
    "Calibration", "Explanation", "Outputs", "Patch", "ReceptiveField", "activations", "calibration",
    "check_channel", "choose_examples", "collect_outputs", "concatenated", "confident_errors", "convolutions",
    "correlation", "explain_images", "filter_smoothness", "fixed_choice", "grad_cam", "inputs",
    "layers", "nearest", "network_view", "outputs_of", "receptive_field", "salient_channel", "strongest_patches",
    "with_new_fc8",
]  # fmt: skip

SEED = 0  # of random choices: the same run gives everyone the same page
TOP, EVIDENCE = 5, 2  # classes listed, and those of them with a Grad-CAM
BINS = 15  # of probability, as in the reference
SIDE = 32  # of the images whose pixels are compared


# --- the network


def convolutions(model: AlexNet_2012) -> tuple[str, ...]:
    """The names of the convolutions in order: conv1 to conv5, without those that an ablation removes."""
    return tuple(name for name, layer in model.weight_layers() if isinstance(layer, nn.Conv2d))


def layers(model: AlexNet_2012) -> list[tuple[str, nn.Module]]:
    """The layers by name. Applied in this order to images ``[N, 3, S, S]``, they give the logits.

    Raises:
        ValueError: the model is in training mode, in which dropout is random.
    """
    if model.training:
        raise ValueError("model must be in evaluation mode; call model.eval()")
    return [*model.features.named_children(), ("flatten", nn.Flatten()), *model.classifier.named_children()]


@dataclass(frozen=True)
class ReceptiveField:
    """The square of input pixels that each cell of a layer depends on, in pixels of the network's input."""

    size: int
    """Side of the square."""
    stride: int
    """Distance between the squares of neighbouring cells."""
    start: int
    """First row and column of the square of cell (0, 0); negative if it reaches into the padding."""

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a cell's square, as PIL's ``crop`` takes them; it may leave the image."""
        top, left = self.start + row * self.stride, self.start + column * self.stride
        return left, top, left + self.size, top + self.size


def receptive_field(model: AlexNet_2012, layer: str) -> ReceptiveField:
    """The receptive field of a layer of ``features``: 99 pixels every 16 pixels for ``conv3`` of the classic network.

    A window of k cells with stride s and padding p, over cells that depend on ``size`` pixels every ``stride`` pixels,
    depends on size + (k − 1)·stride pixels every s·stride pixels, and starts p·stride pixels earlier.

    Raises:
        ValueError: no such layer.
    """
    check_choice("layer", layer, [name for name, _ in model.features.named_children()])
    size, stride, start = 1, 1, 0
    for name, part in model.features.named_children():
        window, step, padding = 1, 1, 0  # a layer that works cell by cell, or pads at the right and bottom
        if isinstance(part, WithinMapNorm):
            window, padding = part.size, part.size // 2
        elif isinstance(part, nn.Conv2d | nn.MaxPool2d):
            window, step, padding = (int(np.max(each)) for each in (part.kernel_size, part.stride, part.padding))  # type: ignore[arg-type]
        size, start, stride = size + (window - 1) * stride, start - padding * stride, stride * step
        if name == layer:
            break
    return ReceptiveField(size, stride, start)


def filter_smoothness(filters: Tensor) -> Tensor:
    """How similar neighbouring weights are: their correlation, −1 to 1, ``[N]`` for filters ``[N, 3, side, side]``.

    Independent random weights have a correlation near 0; an edge or a patch of colour has one near 1.
    """
    w = filters - filters.mean((1, 2, 3), keepdim=True)
    products = (w[..., 1:] * w[..., :-1]).mean((1, 2, 3)) + (w[..., 1:, :] * w[..., :-1, :]).mean((1, 2, 3))
    return (products / 2 / w.square().mean((1, 2, 3))).nan_to_num()  # a constant filter has no correlation


# --- single images


@dataclass(frozen=True)
class Explanation:
    """What the network computes for one image, in float32 on the CPU."""

    view: Image.Image
    """The part of the picture that the network sees, S×S pixels."""
    input: Tensor
    """The same as the network's input, ``[3, S, S]``."""
    top: list[tuple[int, float]]
    """The five most probable classes with their probabilities (0 to 1), the most probable first."""
    evidence: Tensor
    """Grad-CAM of the two most probable classes at conv5, ``[2, 13, 13]``."""
    evidence_random: Tensor
    """Grad-CAM of the most probable class in the same network with random weights in fc8, ``[13, 13]``."""
    maps: dict[str, Tensor]
    """The output of each convolution before its ReLU, ``[channels, H, W]``."""


def explain_images(model: AlexNet_2012, pictures: Sequence[Image.Image]) -> list[Explanation]:
    """Explain RGB pictures of any size, computed in float32 on the model's device.

    Raises:
        ValueError: a model without ``info``, or in training mode.
    """
    if not pictures:
        return []
    x = inputs(model, pictures)
    with torch.no_grad():
        top = model(x).softmax(1).cpu().topk(min(TOP, model.num_classes))
    asked = top.indices[:, :EVIDENCE]
    evidence = torch.stack([grad_cam(model, x, classes).cpu() for classes in asked.unbind(1)], 1)
    evidence_random = grad_cam(with_new_fc8(model, SEED), x, asked[:, 0]).cpu()
    maps = {name: output.cpu() for name, output in activations(model, x).items()}
    found = []
    for i, picture in enumerate(pictures):
        classes = list(zip(top.indices[i].tolist(), top.values[i].tolist(), strict=True))
        own = {name: output[i] for name, output in maps.items()}
        view = network_view(model, picture)
        found.append(Explanation(view, x[i].cpu(), classes, evidence[i], evidence_random[i], own))
    return found


def network_view(model: AlexNet_2012, picture: Image.Image) -> Image.Image:
    """The part of a picture that the network sees: the central S×S pixels, after resizing.

    The shorter side is resized to 256, or both sides if ``resize`` of the normalization is ``warp``.
    """
    size, resize = model.variant.image_sizes[0], info_of(model).normalization.resize
    return Image.fromarray(central_pixels(picture, size, resize))


def inputs(model: AlexNet_2012, pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of any size as the network's input: float32 ``[N, 3, S, S]``, normalised, on the model's device."""
    pixels = [np.asarray(network_view(model, picture)) for picture in pictures]
    return normalized(pixels, info_of(model).normalization, next(model.parameters()).device)


@torch.no_grad()
def activations(model: AlexNet_2012, images: Tensor) -> dict[str, Tensor]:
    """The output of each convolution, before its ReLU and so with its sign.

    Args:
        images: ``[N, 3, S, S]``, as ``inputs`` returns them.

    Returns:
        By name: ``conv1`` ``[N, 96, 55, 55]``, ``conv2`` ``[N, 256, 27, 27]``, ``conv3`` and ``conv4``
        ``[N, 384, 13, 13]``, ``conv5`` ``[N, 256, 13, 13]``.
    """
    outputs = {}
    for name, layer in model.features.named_children():
        outputs[name] = images = layer(images)
    return {name: outputs[name] for name in convolutions(model)}


def grad_cam(model: AlexNet_2012, images: Tensor, classes: Tensor, layer: str = "relu5") -> Tensor:
    """Evidence for a class in each part of an image: Grad-CAM, with its sign.

    Each map A of ``layer`` is weighted by the mean over its cells of ∂logit/∂A, and the weighted maps are added. The
    published method keeps only the positive part: ``grad_cam(…).clamp(min=0)``.

    Args:
        images: ``[N, 3, S, S]``, as ``inputs`` returns them.
        classes: int64 ``[N]``, the class asked about for each image.
        layer: a layer of ``features``. The default, ``relu5``, is conv5 after its ReLU.

    Returns:
        float32, in logits, one value for each cell of the layer: ``[N, 13, 13]`` for the default. ``receptive_field``
        gives a cell's place in the image.

    Raises:
        ValueError: no such layer, or a model in training mode.
    """
    check_choice("layer", layer, [name for name, _ in model.features.named_children()])
    with torch.inference_mode(False), torch.enable_grad():
        x = maps = images.clone()  # a tensor made in inference mode has no gradient
        for name, module in layers(model):
            x = module(x)
            if name == layer:
                x = maps = x.detach().requires_grad_()  # the layers below need no gradient
        score = x.gather(1, classes.to(x.device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, maps)
    return (gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1).float()


def with_new_fc8(model: AlexNet_2012, seed: int = 0) -> AlexNet_2012:
    """The same network, sharing its weights, but with random weights in fc8: N(0, std of the trained ones).

    If its Grad-CAM looks like that of the trained network, the map says nothing about the class.
    """
    weights = dict(model.state_dict())
    trained = weights["classifier.fc8.weight"]
    drawn = torch.randn(trained.shape, generator=torch.Generator().manual_seed(seed))
    weights["classifier.fc8.weight"] = (drawn * trained.float().std(correction=0).cpu()).to(trained)
    return AlexNet_2012.from_weights(weights, info_of(model)).requires_grad_(False)


def correlation(one: Tensor, other: Tensor) -> float | None:
    """Pearson's correlation of two maps of the same shape, −1 to 1; None if one of them is constant."""
    found = float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1])
    return None if math.isnan(found) else found


# --- all images of a split


@dataclass(frozen=True)
class Outputs:
    """What the network computes for N images: float32, on the CPU, in the images' order."""

    logits: Tensor
    """``[N, classes]``."""
    peaks: dict[str, Tensor]
    """The maximum of each feature map of each convolution, before its ReLU: ``[N, channels]``."""
    fc7: Tensor
    """``[N, 4096]``: the last hidden layer, after its ReLU (the paper, section 6.1)."""
    pixels: Tensor
    """``[N, 3072]``: the network's view reduced to 32×32, scaled so that the Euclidean distance of two images is the
    root of their mean squared difference in grey levels, 0 to 255."""


def collect_outputs(
    model: AlexNet_2012,
    images: Images,
    *,
    precision: str = "auto",
    progress: str | None = None,
) -> Outputs:
    """The outputs for all images of a split, computed on the model's device.

    Args:
        precision: as in ``Runtime``.
        progress: the title of a progress bar, shown on a terminal.

    Raises:
        ValueError: a damaged image; a model without ``info``, or in training mode.
    """
    device = next(model.parameters()).device
    batches = eval_batches(images, info_of(model).normalization, model.variant.image_sizes[0], device)
    if progress:
        batches = progress_bar(batches, len(images), device, progress)
    return concatenated([outputs_of(model, x, precision=precision) for x, _ in batches])


@torch.inference_mode()
def outputs_of(model: AlexNet_2012, images: Tensor, *, precision: str = "auto") -> Outputs:
    """The outputs for a batch ``[N, 3, S, S]``, as ``inputs`` returns it."""
    x, peaks, fc7 = images, {}, images
    with autocast(images.device, pick_precision(precision, images.device)):
        for name, layer in layers(model):
            x = layer(x)
            if name in convolutions(model):
                peaks[name] = x.amax((2, 3)).float().cpu()
            elif name == "relu7":
                fc7 = x
    grey_levels = 255 * torch.tensor(info_of(model).normalization.std)[:, None, None]
    small = F.adaptive_avg_pool2d(images.cpu(), SIDE) * grey_levels  # MPS cannot if 32 does not divide the side
    return Outputs(x.float().cpu(), peaks, fc7.float().cpu(), small.flatten(1) / math.sqrt(small[0].numel()))


def concatenated(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of several batches as one."""
    logits, fc7, pixels = (torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "fc7", "pixels"))
    peaks = {name: torch.cat([part.peaks[name] for part in parts]) for name in parts[0].peaks}
    return Outputs(logits, peaks, fc7, pixels)


def fixed_choice(images: Images, count: int) -> Images:
    """``count`` random images, always the same ones, in order; all if there are no more."""
    if len(images) <= count:
        return images
    return images.subset(np.sort(np.random.RandomState(SEED).permutation(len(images))[:count]))


def choose_examples(dataset: Dataset, count: int = 10) -> list[int]:
    """Indices of random validation images, as many of each class as possible, sorted by class; always the same ones."""
    labels, seen, ranks = dataset.val.labels, Counter[int](), {}
    for index in np.random.RandomState(SEED).permutation(len(labels)).tolist():
        ranks[index] = seen[labels[index]]  # how many of its class come before
        seen[labels[index]] += 1
    return sorted(sorted(ranks, key=ranks.__getitem__)[:count], key=lambda index: int(labels[index]))


@torch.inference_mode()
def nearest(queries: Tensor, candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The candidates with the smallest Euclidean distance to each query, the nearest first.

    Args:
        queries: float32 ``[Q, D]``; candidates: float32 ``[N, D]``, on the same device.
        count: how many; fewer if there are fewer candidates.

    Returns:
        Distances float32 ``[Q, count]`` and indices of the candidates int64 ``[Q, count]``.
    """
    exact = "donot_use_mm_for_euclid_dist"  # a matrix product loses the digits of small distances
    distances = torch.cdist(queries, candidates, compute_mode=exact)
    found = distances.topk(min(count, len(candidates)), largest=False)
    return found.values, found.indices


def confident_errors(probabilities: Tensor, labels: Tensor, count: int = 8) -> list[int]:
    """Indices of the wrong answers with the highest probability, the most confident first."""
    confidence, answer = probabilities.max(1)
    order: list[int] = confidence.argsort(descending=True, stable=True).tolist()
    return [index for index in order if answer[index] != labels[index]][:count]


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy of the answers in bins of equal width; empty bins are left out."""

    confidence: list[float]
    """Mean probability of the answers in each bin, 0 to 1."""
    accuracy: list[float]
    """Share of correct answers in each bin, 0 to 1."""
    counts: list[int]
    """Images in each bin."""
    expected_error: float
    """Mean over the images of |accuracy − confidence| of their bin, 0 to 1 (the reference, equation 3)."""


def calibration(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> Calibration:
    """The calibration of ``probabilities`` ``[N, classes]`` for ``labels`` ``[N]``."""
    confidence, answer = probabilities.double().max(1)
    correct = (answer == labels).double()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins (0, 1/15], (1/15, 2/15], …
    counts = torch.bincount(bin_of, minlength=bins)
    sums = [torch.bincount(bin_of, each, minlength=bins)[counts > 0] for each in (confidence, correct)]
    counts = counts[counts > 0]
    mean, accuracy = (each / counts for each in sums)
    error = float(((accuracy - mean).abs() * counts).sum() / len(labels))
    return Calibration(mean.tolist(), accuracy.tolist(), counts.tolist(), error)


@dataclass(frozen=True)
class Patch:
    """A part of an image that activates a channel strongly."""

    index: int
    """The image's index in its split."""
    value: float
    """The convolution's output there, before its ReLU."""
    box: tuple[int, int, int, int]
    """Left, top, right and bottom of its receptive field, in pixels of the network's input; it may leave the image."""


def strongest_patches(
    model: AlexNet_2012, images: Images, peaks: Tensor, layer: str, channel: int, count: int = 9
) -> list[Patch]:
    """The patches of ``images`` that activate a channel most, the strongest first, at most one in each image.

    Args:
        peaks: ``[N, channels]``, ``collect_outputs(model, images).peaks[layer]``.
        layer: one of ``convolutions(model)``.

    Raises:
        ValueError: no such layer or channel.
    """
    check_channel(model, layer, channel)
    chosen = peaks[:, channel].topk(min(count, len(peaks))).indices.tolist()
    maps = activations(model, inputs(model, [images.image(index) for index in chosen]))[layer][:, channel].cpu()
    field, patches = receptive_field(model, layer), []
    for index, cells in zip(chosen, maps, strict=True):
        row, column = divmod(int(cells.argmax()), cells.shape[1])
        patches.append(Patch(index, float(cells[row, column]), field.box(row, column)))
    return sorted(patches, key=lambda patch: -patch.value)


def check_channel(model: AlexNet_2012, layer: str, channel: int | None) -> None:
    """``FieldError`` if the network has no such convolution, or the convolution no such channel."""
    check_choice("layer", layer, convolutions(model))
    count = len(model.get_parameter(f"features.{layer}.bias"))
    if channel is None or not 0 <= channel < count:
        raise FieldError("channel", f"0 to {count - 1} for {layer}", channel)


def salient_channel(peaks: Tensor) -> int:
    """The channel whose strongest images stand out most, of ``peaks`` ``[N, channels]``.

    For this channel, the mean of the nine highest peaks exceeds the mean of all by the most standard deviations.
    """
    top = peaks.topk(min(9, len(peaks)), dim=0).values.mean(0)
    return int(((top - peaks.mean(0)) / peaks.std(0, correction=0)).nan_to_num(0.0, 0.0).argmax())
