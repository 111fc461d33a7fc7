"""Local response normalisation across channels.

Krizhevsky, Sutskever and Hinton (2012), section 3.3, with α divided by the window's size, as in the authors' released
code, Caffe and PyTorch:

    y_i = x_i / d_i^β        d_i = k + α/n · Σ_j x_j²        j in the window of n channels around i

Gradient, with g = ∂L/∂y and the window mirrored:

    ∂L/∂x_i = g_i / d_i^β  −  2αβ/n · x_i · Σ_j g_j · x_j / d_j^(β+1)

``torch.nn.functional.local_response_norm`` computes the same with a 3-D average pooling, which takes a dozen passes
over memory and does not support bfloat16 on a CPU. Here it is plain tensor code for whatever compiles, traces or
transforms a function, and in eager mode the operator ``alexnet::local_response_norm``, which keeps only its input for
the gradient. On a CPU with a C++ compiler, where channels lie innermost, the operator is lrn.cpp, which takes one pass.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function_unary

from alexnet import native

__all__ = ["ResponseNorm", "WithinMapNorm", "local_response_norm", "lrn_backend"]


def local_response_norm(x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> Tensor:
    """Divide each value by a power of the sum of squares over ``size`` neighbouring channels.

    Equal to ``torch.nn.functional.local_response_norm`` in value and gradient, up to rounding.

    Args:
        x: floating-point tensor ``[N, C, *]`` in any memory layout.
        size: number of channels in the window, n in the formula. An even window has one channel more below than above,
            as in PyTorch.
        alpha, beta, k: constants of the formula. ``alpha`` is divided by ``size``.

    Returns:
        A tensor of ``x``'s shape, dtype and memory layout. 16-bit inputs are computed in float32 and rounded once.

    Raises:
        ValueError: ``x`` has fewer than two dimensions or is not floating point, or ``size`` is below 1.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        if has_torch_function_unary(x):  # for example torch.fx, which records this function as one node
            return handle_torch_function(local_response_norm, (x,), x, size, alpha, beta, k)  # type: ignore[no-any-return]
        if x.ndim < 2:
            raise ValueError(f"x must be [N, C, *], got {list(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"x must be floating point, got {x.dtype}")
        if size < 1:
            raise ValueError(f"size must be 1 or more, got {size}")
        if _is_eager(x):
            return torch.ops.alexnet.local_response_norm(x, size, alpha, beta, k)  # type: ignore[no-any-return]
    return _plain(x, size, alpha, beta, k)


def _is_eager(x: Tensor) -> bool:
    """Whether this is eager mode. Compilers, tracers and transforms of functions get plain tensor code."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if recorded or type(x) not in (Tensor, nn.Parameter) or torch._C._are_functorch_transforms_active():
        return False
    return forward_ad.unpack_dual(x).tangent is None  # type: ignore[no-any-return, no-untyped-call]


def _plain(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # 16 bits would be rounded several times
    return (wide * _power(_denominator(wide, size, alpha, k), beta)).to(x.dtype)


def _plain_gradient(x: Tensor, grad: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    d = _denominator(wide, size, alpha, k)
    first = grad * _power(d, beta)  # g / d^β
    across = _window_sum(first * wide / d, (size - 1) // 2, size // 2)
    return (first - (2 * alpha * beta / size) * wide * across).to(x.dtype)


def _denominator(x: Tensor, size: int, alpha: float, k: float) -> Tensor:
    return _window_sum(x * x, size // 2, (size - 1) // 2) * (alpha / size) + k


def _power(d: Tensor, beta: float) -> Tensor:
    """d^−β. For the paper's β two roots are several times faster than a general power."""
    if beta == 0.75:
        root = d.rsqrt()
        return root * root.sqrt()
    return d.pow(-beta)


def _window_sum(x: Tensor, below: int, above: int) -> Tensor:
    """The sum over the channels from ``below`` to ``above`` around each, in dimension 1."""
    channels = x.shape[1]
    padded = F.pad(x, [0, 0] * (x.ndim - 2) + [below, above])
    total = padded.narrow(1, 0, channels)
    for shift in range(1, below + above + 1):
        total = total + padded.narrow(1, shift, channels)
    return total


class ResponseNorm(nn.Module):
    """Local response normalisation as a layer.

    Args:
        alpha, k, size, beta: as in ``local_response_norm``.
        towers: number of equal groups of channels that are normalised separately.
    """

    def __init__(self, alpha: float, k: float, towers: int = 1, size: int = 5, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k, self.towers = size, alpha, beta, k, towers

    def forward(self, x: Tensor) -> Tensor:
        if self.towers == 1:
            return local_response_norm(x, self.size, self.alpha, self.beta, self.k)
        # [N, C / towers, H, W, towers]: in channels_last layout this needs no copy
        apart = torch.unflatten(x, 1, (self.towers, -1)).permute(0, 2, 3, 4, 1)
        y = local_response_norm(apart, self.size, self.alpha, self.beta, self.k)
        return y.permute(0, 4, 1, 2, 3).flatten(1, 2)

    def extra_repr(self) -> str:
        towers = f", towers={self.towers}" if self.towers > 1 else ""
        return f"size={self.size}, alpha={self.alpha:g}, beta={self.beta}, k={self.k:g}{towers}"


class WithinMapNorm(nn.Module):
    """x / (1 + s/n² · Σ x²)^β over n×n pixels of the same map (the released code's ``rnorm``: s 0.001, n 5, β 0.75)."""

    def __init__(self, size: int = 5, scale: float = 1e-3, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.scale, self.beta = size, scale, beta

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = F.avg_pool2d(wide * wide, self.size, stride=1, padding=self.size // 2)  # divides by n²
        return (wide * (1 + self.scale * mean).pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"size={self.size}, scale={self.scale:g}, beta={self.beta}"


# --- the operator of eager mode

_SOURCE = Path(__file__).with_name("lrn.cpp")
_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_SIZES, _BETA, _MAX_CHANNELS = (5, 9), 0.75, 4096  # what lrn.cpp is written for


def lrn_backend(device: torch.device) -> str:
    """``C++`` or ``torch``: what computes it in eager training on ``device``. The two round differently."""
    return "C++" if device.type == "cpu" and native.load(_SOURCE) else "torch"


def _forward(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    y = torch.empty_like(x)
    if not _in_cpp("forward", [x], y, size, alpha, beta, k):
        for images, target in _parts(x, y):
            target.copy_(_plain(images, size, alpha, beta, k))
    return y


def _backward(x: Tensor, grad: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    dx = torch.empty_like(x)
    if not _in_cpp("backward", [x, grad], dx, size, alpha, beta, k):
        for images, incoming, target in _parts(x, grad, dx):
            target.copy_(_plain_gradient(images, incoming, size, alpha, beta, k))
    return dx


def _parts(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Two images at a time on a CPU, where they stay in the cache: several times as fast as all at once."""
    step = 2 if tensors[0].device.type == "cpu" else max(1, len(tensors[0]))
    return zip(*(torch.split(tensor, step) for tensor in tensors), strict=True)


def _in_cpp(name: str, inputs: list[Tensor], out: Tensor, size: int, alpha: float, beta: float, k: float) -> bool:
    """Fill ``out`` by lrn.cpp's ``name``; False if that is not possible. Channels must lie innermost in memory."""
    channels, rows = out.shape[1], [tensor.movedim(1, -1) for tensor in (*inputs, out)]
    if beta != _BETA or size not in _SIZES or channels > _MAX_CHANNELS or out.dtype not in _TYPES:
        return False
    if out.device.type != "cpu" or out.numel() == 0 or not (rows[0].is_contiguous() and rows[-1].is_contiguous()):
        return False
    assert all(tensor.dtype == out.dtype and tensor.shape == out.shape for tensor in inputs)
    if (library := native.load(_SOURCE)) is None:
        return False
    rows = [row.contiguous() for row in rows]
    pointers = [ctypes.c_void_p(row.data_ptr()) for row in rows]
    constants = ctypes.c_float(alpha / size), ctypes.c_float(k)
    function = getattr(library, f"{name}_{_TYPES[out.dtype]}_{size}")
    function(*pointers, ctypes.c_int64(out.numel() // channels), channels, *constants)
    return True


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)  # alone: recomputing d is faster than reading it from memory


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    # tensor code if this gradient is itself differentiated or batched
    is_plain = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
    gradient = _plain_gradient if is_plain else torch.ops.alexnet.local_response_norm_backward
    return gradient(x, grad, *ctx.constants), None, None, None, None


def _register() -> None:
    constants = "int size, float alpha, float beta, float k"
    for name, tensors, kernel in (
        ("local_response_norm", "Tensor x", _forward),
        ("local_response_norm_backward", "Tensor x, Tensor grad", _backward),
    ):
        full = f"alexnet::{name}"
        torch.library.define(full, f"({tensors}, {constants}) -> Tensor")
        torch.library.impl(full, "default", kernel)
        torch.library.register_fake(full, lambda x, *_: torch.empty_like(x))
    torch.library.register_autograd("alexnet::local_response_norm", _differentiate, setup_context=_setup_context)


if not hasattr(torch.ops.alexnet, "local_response_norm"):  # this module may be loaded again, as notebooks do
    _register()
