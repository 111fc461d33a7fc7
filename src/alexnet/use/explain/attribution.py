"""What a network's layers answer to an image, and which part of the image speaks for a class.

References:
    Grad-CAM        Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2.
    sanity checks   Adebayo et al. 2018, arXiv 1810.03292: a map that stays the same when weights are drawn anew does
                    not explain the network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from alexnet.data.normalization import normalized
from alexnet.data.transforms import EvalTransform
from alexnet.model import AlexNet_2012
from alexnet.use.evaluate import card_of

__all__ = [
    "activations", "convolutions", "correlation", "grad_cam", "hooked", "inputs", "seen", "with_new_fc8",
]  # fmt: skip


def convolutions(model: AlexNet_2012) -> tuple[str, ...]:
    """The names of its convolutions in their order: conv1 to conv5, less what an ablation leaves out."""
    return tuple(name for name, _ in model.features.named_children() if name.startswith("conv"))


def seen(model: AlexNet_2012, picture: Image.Image) -> Image.Image:
    """The part of a picture that the network is given: its shorter side at 256, the central S×S pixels of that."""
    return Image.fromarray(EvalTransform(model.variant.image_sizes[0], card_of(model).normalization).pixels(picture))


def inputs(model: AlexNet_2012, pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of any size as the network's input: float32 ``[N, 3, S, S]``, normalised, on the model's device.

    Raises:
        ValueError: a model that did not come from ``load_model``.
    """
    pixels = [np.asarray(seen(model, picture)) for picture in pictures]
    return normalized(pixels, card_of(model).normalization, next(model.parameters()).device)


def activations(model: AlexNet_2012, images: Tensor) -> dict[str, Tensor]:
    """What each convolution answers, before its ReLU and so with its sign.

    Args:
        images: ``[N, 3, S, S]``, such as ``inputs`` gives.

    Returns:
        By name, float32: ``conv1`` ``[N, 96, 55, 55]``, ``conv2`` ``[N, 256, 27, 27]``, ``conv3`` and ``conv4``
        ``[N, 384, 13, 13]``, ``conv5`` ``[N, 256, 13, 13]``.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda output: found.update({name: output.float().clone()})  # the ReLU behind it works in place

    with torch.no_grad(), hooked(model, {f"features.{name}": keep(name) for name in convolutions(model)}):
        model(images)
    return found


def grad_cam(model: AlexNet_2012, images: Tensor, classes: Tensor, layer: str = "relu5") -> Tensor:
    """Where an image speaks for a class, and where against it: Grad-CAM with its sign.

    Each map A of ``layer`` is weighted with the mean over its places of ∂logit/∂A, and the maps are summed. Grad-CAM
    proper keeps only what is positive: ``grad_cam(…).clamp(min=0)``.

    Args:
        images: ``[N, 3, S, S]``, such as ``inputs`` gives.
        classes: int64 ``[N]``, the class asked about for each image.
        layer: the name of a part of ``features``. ``relu5``, the default, is conv5 after its ReLU.

    Returns:
        float32, a value for each cell of the layer: ``[N, 13, 13]`` for the default. The unit is that of the logits, as
        if each cell were the whole map; where a cell lies in the image, ``receptive_field`` says.
    """
    kept: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())  # nothing below this layer needs a gradient
        return kept[0].clone()  # which the ReLU behind may overwrite, not what is kept

    with torch.inference_mode(False), torch.enable_grad(), _evaluating(model):
        with model.get_submodule(f"features.{layer}").register_forward_hook(cut):  # for as long as this
            logits = model(images.clone())
        asked = logits.gather(1, classes.to(logits.device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(asked, kept)
    maps = kept[0].detach()
    return (gradient.mean((2, 3), keepdim=True) * maps).sum(1).float()


def with_new_fc8(model: AlexNet_2012, seed: int = 0) -> AlexNet_2012:
    """The same network, its weights shared, but for an fc8 drawn at random as wide as the trained one: N(0, its std).

    What Grad-CAM shows of both alike comes from the layers below and says nothing of the class.
    """
    random = torch.Generator().manual_seed(seed)
    weights = dict(model.state_dict())
    trained = weights["classifier.fc8.weight"]
    drawn = torch.randn(trained.shape, generator=random) * trained.float().std(correction=0).cpu()
    weights["classifier.fc8.weight"] = drawn.to(trained)
    variant = model.variant.name
    other = AlexNet_2012.from_weights(weights, model.card, num_classes=model.num_classes, variant=variant)
    return other.requires_grad_(False)


def correlation(one: Tensor, other: Tensor) -> float | None:
    """Pearson's correlation of two maps of one shape, −1 to 1; None where one of them is the same everywhere."""
    a, b = (each.double().flatten() - each.double().mean() for each in (one, other))
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else None


@contextlib.contextmanager
def hooked(model: nn.Module, takers: Mapping[str, Callable[[Tensor], object]]) -> Iterator[None]:
    """While the block lasts, each named part of ``model`` gives its output to its taker, before anything overwrites it.

    The model answers as in evaluation; its mode is put back.
    """
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _module, _inputs, output, take=take: _hand(take, output))
        for name, take in takers.items()
    ]
    try:
        with _evaluating(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _hand(take: Callable[[Tensor], object], output: Tensor) -> None:
    take(output)  # and return None, for what a hook returns takes the output's place


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
