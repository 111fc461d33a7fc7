"""What ``alexnet doctor`` finds out: the machine, the data, and whether a network will start to learn.

A network starts to learn when different images give different logits: the part of the signal that differs between
images has to survive eight layers. ``probe`` pushes one batch through a fresh network and measures that part after each
of them, and the gradient on the way back. tests/run/test_doctor.py holds the verdict against 300 real training steps.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet import hardware
from alexnet.data import datasets, loaders
from alexnet.data.statistics import normalization
from alexnet.lrn import written_in
from alexnet.model import AlexNet_2012
from alexnet.recipes import Recipe, classic
from alexnet.run import trackers

if TYPE_CHECKING:
    from alexnet.run.session import Session

__all__ = ["Layer", "examine", "probe", "remedies", "report", "verdict", "warn_of_plateau"]

# What the logits of different images may differ by. Below, the signal has to grow for hundreds of steps first; above,
# the first steps break the network. And the least that this may be beside what the logits of all images share: below,
# the gradient speaks of the shared part alone. Set between what stalls and what learns in docs/why-2.303.md.
LEAST_SIGNAL, MOST_SIGNAL = 2e-3, 3.0
LEAST_SHARE = 0.02
PROBE_BATCH = 64
CHECKPOINTS_GB = 0.7  # last.ckpt and best.safetensors


@dataclass(frozen=True)
class Layer:
    """One of the eight layers with weights, at initialisation."""

    name: str
    signal_std: float
    """Of the layer's output across images, root mean square over its values: what tells images apart."""
    signal_mean: float
    """Root mean square of the output's mean over images: what all images share."""
    grad_std: float
    """Of the loss's gradient with respect to the layer's weights."""


def probe(net: AlexNet_2012, images: Tensor, labels: Tensor) -> list[Layer]:
    """Push ``images`` ``[N, 3, S, S]`` (float32) through ``net`` and back; dropout is off, so only images differ."""
    net.eval()
    outputs: dict[str, Tensor] = {}
    hooks = [  # copies, for the ReLU behind a layer works in place
        layer.register_forward_hook(lambda _m, _i, out, name=name: outputs.__setitem__(name, out.detach().clone()))
        for name, layer in net.weight_layers()
    ]
    net.zero_grad()
    F.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
    for hook in hooks:
        hook.remove()
    found = []
    for name, layer in net.weight_layers():
        out = outputs[name].float()
        assert layer.weight.grad is not None
        found.append(
            Layer(
                name,
                signal_std=math.sqrt(out.var(0).mean().item()),
                signal_mean=math.sqrt(out.mean(0).square().mean().item()),
                grad_std=layer.weight.grad.std().item(),
            )
        )
    net.zero_grad()
    return found


def verdict(layers: list[Layer], recipe: Recipe) -> tuple[bool, str]:
    """Whether the training loss will fall below ln(classes) − 0.05 within 300 steps, and why or why not."""
    first, last = layers[0].signal_std, layers[-1].signal_std
    if last > MOST_SIGNAL:
        return False, (
            f"the logits of different images differ by {last:.2g} before any training (at most {MOST_SIGNAL:g} is "
            f"good): the first steps drive the ReLUs to zero. Likely cause: {remedies(recipe)}"
        )
    if last < LEAST_SIGNAL:
        return False, (
            f"the signal that tells images apart shrinks from {first:.2g} after conv1 to {last:.2g} in the logits "
            f"(at least {LEAST_SIGNAL:g} is needed). Likely cause: {remedies(recipe)}"
        )
    share = last / layers[-1].signal_mean
    if share < LEAST_SHARE:
        return False, (
            f"the logits of different images differ by {last:.2g}, only {share:.1%} of what all images share (at least "
            f"{LEAST_SHARE:.0%} is needed). Likely cause: {remedies(recipe)}"
        )
    return True, f"the logits of different images differ by {last:.2g}: enough for the gradient to tell them apart"


def remedies(recipe: Recipe) -> str:
    """The likely cause of a loss that stays at ln(classes), and what to change. The training loop says the same."""
    pair = f"{recipe.init!r} initialisation on {recipe.input_scale!r} input"
    small, raw = recipe.init not in ("source", "he"), recipe.input_scale != "imagenet"
    if recipe.variant != "classic" and small and raw:
        return (
            f"{pair} in variant {recipe.variant!r}, whose towers see half of the maps. Remedy: --init source, "
            "which has larger weights in conv3 to conv5"
        )
    if (recipe.init == "he") != raw:
        return f"not {pair}, which starts well; look at the labels. Remedy to try: another --lr"
    if recipe.init == "he":
        return f"{pair}; weights this large want standardised input. Remedies: --input-scale imagenet, or --init paper"
    return f"{pair}; weights this small are made for raw pixels. Remedies: --input-scale raw, or --init he"


def warn_of_plateau(s: Session, say: Callable[[str], None]) -> None:
    """Say once, from step 200 on, that the loss has not left the plateau of guessing, and why that may be."""
    guessing, loss = math.log(s.card.num_classes), s.progress.row["train_loss"]
    if s.progress.warned or s.progress.step < 200 or loss < guessing - 0.05:
        return
    s.progress.warned = True
    say(
        f"warning: after {s.progress.step} steps the loss is {loss:.3f}, no better than guessing (ln "
        f"{s.card.num_classes} = {guessing:.3f}). Likely cause: {remedies(s.recipe)}"
    )


def examine(recipe: Recipe | None = None) -> dict[str, Any]:
    """Everything that ``alexnet doctor`` shows. With a recipe also ``layers``, ``will_learn`` and ``reason``.

    Downloads nothing and asks nobody. Data that are not on disk leave the verdict out and say so in ``reason``.
    """
    asked = recipe or classic()
    device = hardware.pick_device(asked.device)
    precision = hardware.pick_precision(asked.precision, device)
    mode, why = trackers.wandb_mode()
    found: dict[str, Any] = {
        "device": hardware.describe(device),
        "precision": precision,
        "matrix_tflops": round(matrix_rate(device, precision), 3),
        "compiler": hardware.can_compile(device),
        "lrn": written_in(device),
        "trackers": {"wandb": f"{mode} ({why})", **_installed("trackio", "tensorboard")},
        "data": datasets.describe(asked.data, asked.data_dir),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "versions": hardware.versions(),
    }
    if recipe is None:
        return found
    if not found["data"]["found"]:
        return found | {"layers": [], "will_learn": None, "reason": f"the data are needed: {found['data']['how']}"}
    layers = _probe_recipe(recipe)
    will_learn, reason = verdict(layers, recipe)
    return found | {"layers": [asdict(layer) for layer in layers], "will_learn": will_learn, "reason": reason}


def _probe_recipe(recipe: Recipe) -> list[Layer]:
    dataset = datasets.load(recipe.data, recipe.data_dir)
    torch.manual_seed(recipe.seed)
    net = AlexNet_2012(len(dataset.classes), recipe.variant, recipe.init, recipe.widths)
    norm = normalization(recipe.input_scale, dataset.train)
    order = loaders.epoch_order(len(dataset.train), recipe.seed, epoch=0)[:PROBE_BATCH].tolist()
    sample = dataset.train.subset(order)
    return probe(net, *next(loaders.eval_batches(sample, norm, net.variant.image_sizes[0], torch.device("cpu"))))


def matrix_rate(device: torch.device, precision: str) -> float:
    """TFLOP/s of a large matrix product in ``precision``: what a training step is held against."""
    side = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def product() -> float:
        began = time.perf_counter()
        (a @ b).sum().item()  # waits for the device
        return time.perf_counter() - began

    product()
    return 2 * side**3 / min(product() for _ in range(3)) / 1e12


def _installed(*names: str) -> dict[str, str]:
    import importlib.util

    return {name: "installed" if importlib.util.find_spec(name) else "not installed" for name in names}


def report(found: dict[str, Any]) -> str:
    """What ``examine`` found, for people."""
    machine = found["device"]
    where = machine.get("gpu", machine["cpu"])
    lines = [
        f"device     {machine['device']}: {where}, {machine['cores']} cores, {machine.get('memory_gb', '?')} GB",
        f"precision  {found['precision']}: {found['matrix_tflops']:.3g} TFLOP/s in a large matrix product",
        f"compiler   {'found' if found['compiler'] else 'none: torch.compile is left out'}; response normalisation in "
        f"{found['lrn']}",
        *(f"tracker    {name}: {state}" for name, state in found["trackers"].items()),
        f"data       {found['data']['how']}",
        f"disk       {found['disk_free_gb']} GB free; a run needs {CHECKPOINTS_GB}, and as much again while it saves",
        "versions   " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    ]
    if "will_learn" not in found:
        return "\n".join(lines)
    if found["layers"]:
        lines += ["", f"{'layer':8}{'differs':>12}{'shared':>12}{'gradient':>12}"]
    for layer in found["layers"]:
        lines.append(
            f"{layer['name']:8}{layer['signal_std']:>12.2g}{layer['signal_mean']:>12.2g}{layer['grad_std']:>12.2g}"
        )
    answer = {True: "will start to learn", False: "will not start to learn", None: "cannot tell"}[found["will_learn"]]
    return "\n".join([*lines, "", f"{answer}: {found['reason']}"])
