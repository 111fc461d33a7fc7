"""Local response normalisation across channels.

Krizhevsky, Sutskever and Hinton (2012), section 3.3, with the division of α by the window's size that the
authors' released code, Caffe and PyTorch share:

    y_i = x_i / d_i^β        d_i = k + α/n · Σ_j x_j²        j in the window of n channels around i

The gradient, with g = ∂L/∂y and the window mirrored:

    ∂L/∂x_i = g_i / d_i^β  −  2αβ/n · x_i · Σ_j g_j · x_j / d_j^(β+1)

``torch.nn.functional.local_response_norm`` builds this from a 3-D average pooling and lets autograd differentiate
it: a dozen passes over memory, and no bfloat16 on a CPU. Here both directions are written out. On a CPU with a C++
compiler, where channels lie innermost, lrn.cpp does it in one pass; else, on a CPU, it goes over blocks that stay in
the cache; elsewhere, and under ``torch.compile`` and ``torch.export``, it is plain tensor expressions that a compiler
fuses.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

from alexnet import native

__all__ = ["ResponseNorm", "WithinMapNorm", "local_response_norm", "written_in"]

# Elements of a CPU block: its handful of float32 buffers fit the last-level cache together (2 MB each; measured).
_BLOCK = 1 << 19


def local_response_norm(x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> Tensor:
    """Divide each value by a power of the sum of squares over ``size`` neighbouring channels.

    Args:
        x: floating-point tensor ``[N, C, *]`` in any memory layout.
        size: channels in the window, n in the formula; odd or even. An even window holds one channel more below
            than above, as in PyTorch.
        alpha, beta, k: the constants of the formula; ``alpha`` is divided by ``size``.

    Returns:
        A tensor of ``x``'s shape, dtype and memory layout. 16-bit inputs are computed in float32 and rounded once.
        Equal to ``torch.nn.functional.local_response_norm`` in value and gradient, to rounding. Differentiable once.

    Raises:
        ValueError: ``x`` has fewer than two dimensions or is not floating point, or ``size`` is below 1.
    """
    if x.ndim < 2:
        raise ValueError(f"local_response_norm: expected [N, C, *], got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"local_response_norm: expected a floating-point tensor, got {x.dtype}")
    if size < 1:
        raise ValueError(f"local_response_norm: size must be 1 or more, got {size}")
    if torch.is_grad_enabled() and x.requires_grad:
        return _LocalResponseNorm.apply(x, size, alpha, beta, k)  # type: ignore[no-any-return]
    return _forward(x, size, alpha, beta, k)


class _LocalResponseNorm(torch.autograd.Function):
    """Keeps the input alone: recomputing d is cheaper than reading it back from memory."""

    @staticmethod
    def forward(ctx, x, size, alpha, beta, k):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.constants = size, alpha, beta, k
        return _forward(x, size, alpha, beta, k)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return _backward(x, grad, *ctx.constants), None, None, None, None


def _forward(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    if _in_blocks(x):
        return _forward_blocks(x, size, alpha, beta, k)
    wide = x.to(_wide(x.dtype))
    scale = _power(_denominator(wide, size, alpha, k), beta)
    return (wide * scale).to(x.dtype)


def _backward(x: Tensor, grad: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    if _in_blocks(x):
        return _backward_blocks(x, grad, size, alpha, beta, k)
    wide = x.to(_wide(x.dtype))
    d = _denominator(wide, size, alpha, k)
    through = grad * _power(d, beta)  # g / d^β
    across = _window_sum(through * wide / d, size, mirrored=True)
    return (through - (2 * alpha * beta / size) * wide * across).to(x.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _denominator(x: Tensor, size: int, alpha: float, k: float) -> Tensor:
    return _window_sum(x * x, size) * (alpha / size) + k


def _power(d: Tensor, beta: float) -> Tensor:
    """d^−β; for the paper's β two roots, which are several times faster than a general power."""
    if beta == 0.75:
        root = d.rsqrt()
        return root * root.sqrt()
    return d.pow(-beta)


def _window_sum(x: Tensor, size: int, mirrored: bool = False) -> Tensor:
    """Sum over the window of channels (dimension 1); a window is ``size // 2`` channels below and the rest above."""
    channels = x.shape[1]
    below, above = _reach(size, mirrored)
    padded = nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (below, above))
    total = padded.narrow(1, 0, channels)
    for shift in range(1, size):
        total = total + padded.narrow(1, shift, channels)
    return total


def _reach(size: int, mirrored: bool) -> tuple[int, int]:
    below, above = size // 2, (size - 1) // 2
    return (above, below) if mirrored else (below, above)


class ResponseNorm(nn.Module):
    """Local response normalisation as a layer. ``towers``: halves of the channels that do not see each other."""

    def __init__(self, alpha: float, k: float, towers: int = 1, size: int = 5, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k, self.towers = size, alpha, beta, k, towers

    def forward(self, x: Tensor) -> Tensor:
        if self.towers == 1:
            return local_response_norm(x, self.size, self.alpha, self.beta, self.k)
        # The towers as more pixels of fewer channels: where channels lie innermost in memory, nothing has to move.
        n, c, h, w = x.shape
        apart = x.permute(0, 2, 3, 1).reshape(n, h, w * self.towers, c // self.towers).permute(0, 3, 1, 2)
        y = local_response_norm(apart, self.size, self.alpha, self.beta, self.k)
        return y.permute(0, 2, 3, 1).reshape(n, h, w, c).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        towers = f", towers={self.towers}" if self.towers > 1 else ""
        return f"size={self.size}, alpha={self.alpha:g}, beta={self.beta}, k={self.k:g}{towers}"


class WithinMapNorm(nn.Module):
    """x / (1 + s/n² · Σ x²)^β over n×n pixels of the same map (the released code's ``rnorm``: s 0.001, n 5, β 0.75)."""

    def __init__(self, size: int = 5, scale: float = 1e-3, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.scale, self.beta = size, scale, beta

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean = nn.functional.avg_pool2d(wide * wide, self.size, stride=1, padding=self.size // 2)  # divides by n²
        return (wide * (1 + self.scale * mean).pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"size={self.size}, scale={self.scale:g}, beta={self.beta}"


# --- CPU: the same arithmetic, row by row in C++, or in blocks that stay in the cache --------------------------------

_SOURCE = Path(__file__).with_name("lrn.cpp")
_CPP_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_CPP_SIZES, _CPP_BETA, _CPP_CHANNELS = (5, 9), 0.75, 4096


def _in_blocks(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.numel() > 0 and not torch.compiler.is_compiling()


def written_in(device: torch.device) -> str:
    """What computes it for a network on ``device``: ``C++`` or ``torch``, which differ in their rounding."""
    return "C++" if device.type == "cpu" and native.load(_SOURCE) else "torch"


def _is_traced() -> bool:
    """Whether something records what is done to tensors: it sees torch's operations and no others."""
    return torch.jit.is_tracing() or _get_current_dispatch_mode() is not None  # type: ignore[attr-defined, no-untyped-call]


def _in_cpp(name: str, tensors: list[Tensor], size: int, alpha: float, beta: float, k: float) -> bool:
    """Let lrn.cpp's ``name`` fill the last of ``tensors``, all ``[outer, C, inner]``; False where it cannot."""
    outer, channels, inner = tensors[0].shape
    dtype = tensors[0].dtype
    if inner != 1 or size not in _CPP_SIZES or beta != _CPP_BETA or channels > _CPP_CHANNELS or dtype not in _CPP_TYPES:
        return False
    if _is_traced():
        return False
    if (library := native.load(_SOURCE)) is None:
        return False
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    constants = ctypes.c_float(alpha / size), ctypes.c_float(k)
    getattr(library, f"{name}_{_CPP_TYPES[dtype]}_{size}")(*pointers, ctypes.c_int64(outer), channels, *constants)
    return True


def _channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _as_blocks(x: Tensor, channels_last: bool) -> Tensor:
    """``x`` as contiguous [outer, C, inner]: a view of it, if it lies in memory so. inner is 1 with channels last."""
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
        return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1], 1)
    return x.contiguous().view(x.shape[0], x.shape[1], -1)


def _from_blocks(y: Tensor, like: Tensor, channels_last: bool) -> Tensor:
    if channels_last:
        n, c, h, w = like.shape
        return y.view(n, h, w, c).permute(0, 3, 1, 2)
    return y.view(like.shape)


class _Window:
    """Buffers for the window sums of a block of up to ``rows`` × C × inner values.

    The squares go into a buffer with zero channels around each row. A shift by one channel is then one and the same
    offset everywhere in memory, so the sums are additions of long contiguous runs; doubling the run's width takes
    about log2(size) of them. Sums that straddle two rows land in the padding and are not read.
    """

    def __init__(self, rows: int, channels: int, inner: int, size: int, dtype: torch.dtype) -> None:
        shape = (rows, channels + size - 1, inner)
        self.channels, self.inner, self.size = channels, inner, size
        self.padded = torch.zeros(shape, dtype=dtype)
        self.sums = [torch.empty(shape, dtype=dtype) for _ in range(2)]

    def inside(self, rows: int, mirrored: bool = False) -> Tensor:
        """The part of the padded buffer to fill: [rows, C, inner]. What lies around it is zero."""
        below, _ = _reach(self.size, mirrored)
        if self.size % 2 == 0:
            self.padded.zero_()  # an even window moves when mirrored
        return self.padded[:rows].narrow(1, below, self.channels)

    def sum(self, rows: int) -> Tensor:
        """The window sums of what was filled in: [rows, C, inner], a view that the next call overwrites."""
        flat = self.padded[:rows].reshape(-1)
        run, width = flat, 1  # run[i] sums `width` channels from i on
        target, other = (buffer.view(-1)[: flat.numel()] for buffer in self.sums)
        for bit in bin(self.size)[3:]:
            valid = flat.numel() - (2 * width - 1) * self.inner
            run = torch.add(run[:valid], run[width * self.inner :][:valid], out=target[:valid])
            target, other = other, target
            width *= 2
            if bit == "1":
                valid -= self.inner
                run = run[:valid].add_(flat[width * self.inner :][:valid])
                width += 1
        row = (self.channels + self.size - 1) * self.inner
        return run.as_strided((rows, self.channels, self.inner), (row, self.inner, 1))


def _blocks(x: Tensor, size: int) -> tuple[int, _Window]:
    outer, channels, inner = x.shape
    rows = max(1, min(outer, _BLOCK // (channels * inner)))
    return rows, _Window(rows, channels, inner, size, _wide(x.dtype))


def _forward_blocks(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    blocks = _as_blocks(x, channels_last := _channels_last(x))
    y = torch.empty_like(blocks)
    if _in_cpp("forward", [blocks, y], size, alpha, beta, k):
        return _from_blocks(y, x, channels_last)
    rows, window = _blocks(blocks, size)
    for source, target in zip(torch.split(blocks, rows), torch.split(y, rows), strict=True):
        n = source.shape[0]
        wide = source.to(window.padded.dtype)
        torch.mul(wide, wide, out=window.inside(n))
        d = window.sum(n) * (alpha / size)
        target.copy_(_power(d.add_(k), beta).mul_(wide))
    return _from_blocks(y, x, channels_last)


def _backward_blocks(x: Tensor, grad: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    blocks = _as_blocks(x, channels_last := _channels_last(x))
    grads = _as_blocks(grad, channels_last)
    dx = torch.empty_like(blocks)
    if _in_cpp("backward", [blocks, grads, dx], size, alpha, beta, k):
        return _from_blocks(dx, x, channels_last)
    rows, window = _blocks(blocks, size)
    parts = zip(torch.split(blocks, rows), torch.split(grads, rows), torch.split(dx, rows), strict=True)
    for source, incoming, target in parts:
        n = source.shape[0]
        wide = source.to(window.padded.dtype)
        torch.mul(wide, wide, out=window.inside(n))
        d = (window.sum(n) * (alpha / size)).add_(k)
        through = _power(d, beta).mul_(incoming)
        torch.mul(through, d.reciprocal_().mul_(wide), out=window.inside(n, mirrored=True))
        target.copy_(through.addcmul_(window.sum(n), wide, value=-2 * alpha * beta / size))
    return _from_blocks(dx, x, channels_last)
