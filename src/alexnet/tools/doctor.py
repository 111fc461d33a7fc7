"""``alexnet doctor``: check the machine and the data, and whether a recipe's network will start to learn.

A network starts to learn if different images give different logits: the part of the signal that differs between images
has to survive eight layers. ``probe`` passes one batch through a fresh network and measures that part after each layer,
and the gradient on the way back. tests/tools/test_doctor.py compares the verdict with 300 real training steps.
"""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet import system, tracking
from alexnet.data import datasets
from alexnet.data.datasets import Dataset
from alexnet.data.loaders import check_batch_size, eval_batches
from alexnet.data.normalization import make_normalization
from alexnet.errors import FieldError
from alexnet.lrn import lrn_backend
from alexnet.model import AlexNet_2012
from alexnet.recipes import Recipe, Runtime, classic
from alexnet.tools.explain import analysis
from alexnet.train import stuck_hint

__all__ = ["examine", "format_report", "probe", "probe_recipe", "verdict"]

# Limits of how much the logits of different images may differ (standard deviation). Below the least, the signal first
# has to grow for hundreds of steps; above the most, the first steps break the network. The least share is relative to
# what the logits of all images have in common: below it, the gradient describes only the common part. The values lie
# between the settings that learn and those that do not in docs/why-2.303.md.
LEAST_SIGNAL, MOST_SIGNAL, LEAST_SHARE = 2e-3, 3.0, 0.02
PROBE_BATCH = 64
CHECKPOINTS_GB = 0.95  # last.ckpt with EMA and best.safetensors
SAVING_GB = 0.7  # of a new last.ckpt, until it replaces the old one


def probe(model: AlexNet_2012, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Measure the signal and the gradient of the eight layers on one batch, without dropout.

    Args:
        images: ``[N, 3, S, S]`` float32.
        labels: ``[N]`` int64.

    Returns:
        For each layer ``name``; ``signal_std``, the standard deviation of its output across images (root mean square
        over its values): what tells images apart; ``signal_mean``, the root mean square of the output's mean over
        images: what they have in common; ``grad_std``, the standard deviation of the gradient of its weights.
    """
    model.eval().zero_grad()
    outputs, x = {}, images
    for name, part in analysis.layers(model):
        outputs[name] = x = part(x)
    F.cross_entropy(x, labels).backward()  # type: ignore[no-untyped-call]
    layers = []
    for name, layer in model.weight_layers():
        output, gradient = outputs[name].detach().float(), layer.weight.grad
        assert gradient is not None
        deviation, common = output.var(0).mean().sqrt().item(), output.mean(0).square().mean().sqrt().item()
        layers.append({"name": name, "signal_std": deviation, "signal_mean": common, "grad_std": gradient.std().item()})
    model.zero_grad()
    return layers


def verdict(layers: list[dict[str, Any]], recipe: Recipe) -> tuple[bool, str]:
    """Predict whether the training loss falls below ln(classes) − 0.05 within 300 steps, and give the reason."""
    first, last, common = layers[0]["signal_std"], layers[-1]["signal_std"], layers[-1]["signal_mean"]
    differ = f"the logits of different images differ by {last:.2g}"
    if last > MOST_SIGNAL:
        problem = f"{differ} before training, which is more than {MOST_SIGNAL:g}: the first steps turn the ReLUs off"
    elif last < LEAST_SIGNAL:
        problem = (
            f"the signal that tells images apart shrinks from {first:.2g} after conv1 to {last:.2g} in the logits, "
            f"which is less than {LEAST_SIGNAL:g}"
        )
    elif last < LEAST_SHARE * common:
        problem = f"{differ}, only {last / common:.1%} of what they have in common; {LEAST_SHARE:.0%} is needed"
    else:
        return True, f"{differ}, enough for the gradient to tell them apart"
    return False, f"{problem}. Likely cause: {stuck_hint(recipe)}"


def examine(recipe: Recipe | None = None, runtime: Runtime | None = None) -> dict[str, Any]:
    """Collect what ``alexnet doctor --json`` prints. With a recipe also ``layers``, ``will_learn`` and ``reason``.

    Nothing is downloaded. If the data are not on disk, ``will_learn`` is None and ``reason`` says why.
    """
    runtime = runtime or Runtime()
    device = system.pick_device(runtime.device)
    precision = system.pick_precision(runtime.precision, device)
    mode, why = tracking.wandb_mode()
    found: dict[str, Any] = {
        "device": system.describe(device),
        "precision": precision,
        "matrix_tflops": round(matrix_rate(device, precision), 3),
        "compiler": system.can_compile(device),
        "lrn": lrn_backend(device),
        "trackers": {
            "wandb": f"{mode} ({why})",
            "tensorboard": "installed" if find_spec("tensorboard") else "not installed",
        },
        "data": datasets.describe((recipe or classic()).data, runtime.data_dir),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "versions": system.versions(),
    }
    if recipe is None:
        return found
    if not found["data"]["found"]:
        return found | {"layers": [], "will_learn": None, "reason": f"the data were not read: {found['data']['how']}"}
    try:
        dataset = datasets.load(recipe.data, runtime.data_dir).prepare(recipe)
        check_batch_size(recipe, dataset)
    except FieldError as error:
        reason = f"{recipe.name} cannot train on these data: {error}"
        return found | {"layers": [], "will_learn": False, "reason": reason}
    layers = probe_recipe(recipe, dataset)
    will_learn, reason = verdict(layers, recipe)
    return found | {"layers": layers, "will_learn": will_learn, "reason": reason}


def probe_recipe(recipe: Recipe, dataset: Dataset) -> list[dict[str, Any]]:
    """``probe`` the recipe's fresh network on a batch of the training images, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)  # the network is on the CPU
        model = AlexNet_2012(len(dataset.classes), recipe.variant, recipe.init, recipe.width_mult, recipe.dropout)
        order = torch.randperm(len(dataset.train))[:PROBE_BATCH].tolist()
    normalization = make_normalization(recipe.input_scale, dataset.train)
    size = model.variant.image_sizes[0]
    return probe(model, *next(eval_batches(dataset.train.subset(order), normalization, size, torch.device("cpu"))))


def matrix_rate(device: torch.device, precision: str) -> float:
    """The rate of a large matrix product in TFLOP/s, the best of three: an upper bound for a training step."""
    side = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(4):  # the first is the warm-up
        start = time.perf_counter()
        (a @ b).sum().item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds[1:]) / 1e12


def format_report(found: dict[str, Any]) -> str:
    """Format the result of ``examine`` as text."""
    machine = found["device"]
    name = machine.get("gpu", machine["cpu"])
    compiler = "found" if found["compiler"] else "not found, so torch.compile is not used"
    lines = [
        f"device     {machine['device']}: {name}, {machine['cores']} cores, {machine.get('memory_gb', '?')} GB",
        f"precision  {found['precision']}: {found['matrix_tflops']:.3g} TFLOP/s in a large matrix product",
        f"compiler   {compiler}; local response normalisation runs in {found['lrn']}",
        *(f"tracker    {name}: {state}" for name, state in found["trackers"].items()),
        f"data       {found['data']['how']}",
        f"disk       {found['disk_free_gb']} GB free; a run needs {CHECKPOINTS_GB} GB, and {SAVING_GB} GB more to save",
        "versions   " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    ]
    if "will_learn" not in found:
        return "\n".join(lines)
    if found["layers"]:
        lines += ["", f"{'layer':8}{'differs':>12}{'in common':>12}{'gradient':>12}"]
        for layer in found["layers"]:
            numbers = (f"{layer[key]:>12.2g}" for key in ("signal_std", "signal_mean", "grad_std"))
            lines.append(f"{layer['name']:8}{''.join(numbers)}")
    answers = {True: "will start to learn", False: "will not start to learn within 300 steps", None: "cannot tell"}
    answer = answers[found["will_learn"]] if found["layers"] or found["will_learn"] is None else "will not run"
    return "\n".join([*lines, "", f"{answer}: {found['reason']}"])
