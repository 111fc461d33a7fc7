"""Response normalisation against PyTorch's, which nobody here wrote, and against numerical gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from alexnet import hardware, local_response_norm, lrn, native
from alexnet.lrn import WithinMapNorm

PAPER = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}
needs_compiler = pytest.mark.skipif(not hardware.can_compile(torch.device("cpu")), reason="needs a C++ compiler")


@pytest.fixture(params=["cpp", "torch"])
def way(request, monkeypatch):
    """Where channels lie innermost: in C++, as on a machine with a compiler, and without."""
    if request.param == "torch":
        monkeypatch.setattr(native, "load", lambda _: None)
    elif native.load(lrn._SOURCE) is None:
        pytest.skip("needs a C++ compiler with OpenMP")
    return request.param


def theirs(x, size, alpha, beta, k):
    if x.ndim == 2:  # PyTorch takes three dimensions or more
        return F.local_response_norm(x[..., None], size, alpha, beta, k)[..., 0]
    return F.local_response_norm(x, size, alpha, beta, k)


def assert_near(ours, expected, scale=0.0):
    """Largest difference at most 1e-5 of the largest value, or of ``scale`` where that is larger."""
    assert ours.shape == expected.shape
    if expected.numel():
        assert float((ours - expected).abs().max()) <= 1e-5 * max(float(expected.abs().max()), scale)


def with_gradient(function, x, grad):
    x = x.detach().requires_grad_()  # keeps the strides
    y = function(x)
    (dx,) = torch.autograd.grad(y, x, grad)
    return y.detach(), dx


def check(x, size, alpha, beta, k, grad=None):
    grad = torch.randn(x.shape) if grad is None else grad
    ours = with_gradient(lambda t: local_response_norm(t, size, alpha, beta, k), x, grad)
    expected = with_gradient(lambda t: theirs(t, size, alpha, beta, k), x, grad)
    assert_near(ours[0], expected[0])
    # The gradient is a difference; where its terms cancel, as for β = 1/2 and large inputs, the first sets the scale.
    first_term = (grad * expected[0] / x).nan_to_num()
    assert_near(ours[1], expected[1], float(first_term.abs().max()) if x.numel() else 0.0)
    assert torch.equal(local_response_norm(x, size, alpha, beta, k), ours[0])  # without a gradient too


constants = st.fixed_dictionaries(
    {
        "size": st.integers(1, 8),
        "alpha": st.floats(1e-5, 2.0),
        "beta": st.sampled_from([0.75]) | st.floats(0.1, 2.0),
        "k": st.floats(0.5, 3.0),
    }
)


@settings(max_examples=120, deadline=None)
@given(
    batch=st.integers(1, 4),
    channels=st.integers(1, 12),
    pixels=st.lists(st.integers(1, 5), max_size=3),
    spread=st.sampled_from([0.1, 1.0, 60.0]),
    channels_last=st.booleans(),
    block=st.sampled_from([None, 1, 50, 1 << 19]),
    constants=constants,
    seed=st.integers(0, 99),
)
@example(1, 1, [], 60.0, False, 50, {"size": 1, "alpha": 2.0, "beta": 0.5, "k": 0.5}, 0)  # the gradient's terms cancel
def test_equals_torch_in_value_and_gradient(batch, channels, pixels, spread, channels_last, block, constants, seed):
    torch.manual_seed(seed)
    x = torch.randn(batch, channels, *pixels) * spread
    if channels_last and x.ndim > 2:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    with pytest.MonkeyPatch.context() as patch:
        if block is None:
            patch.setattr(lrn, "_in_blocks", lambda _: False)  # as on an accelerator and in compiled code
        else:
            patch.setattr(lrn, "_BLOCK", block)  # a few values a block: the boundaries fall everywhere
        check(x, **constants)


@pytest.mark.parametrize("size", range(1, 9))
def test_numerical_gradient(size):
    torch.manual_seed(size)
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: local_response_norm(t, size, 0.7, 0.75, 1.3), x)
    assert torch.autograd.gradcheck(lambda t: local_response_norm(t, size, 0.7, 1.1, 0.8), x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_networks_own_shapes_over_several_blocks(memory_format, way):
    torch.manual_seed(0)
    for channels, side in ((96, 55), (256, 27)):
        x = (torch.randn(4 if channels == 96 else 7, channels, side, side) * 60).to(memory_format=memory_format)
        assert x.numel() > 2 * lrn._BLOCK
        check(x, **PAPER)
        assert local_response_norm(x, **PAPER).is_contiguous(memory_format=memory_format)


def test_one_value_by_hand():
    """Channel 2 of 5 ones sees them all: 1 / (2 + 1e-4/5 · 5)^0.75; channel 0 sees three."""
    y = local_response_norm(torch.ones(1, 5, 1), **PAPER).flatten()
    assert y[2].item() == pytest.approx((2 + 1e-4) ** -0.75, rel=1e-6)
    assert y[0].item() == pytest.approx((2 + 1e-4 * 3 / 5) ** -0.75, rel=1e-6)


@pytest.mark.parametrize("size", [5, 9])
@pytest.mark.parametrize("channels", [1, 3, 16, 37, 96, 4096])
def test_rows_of_any_length_in_cpp(channels, size, way):
    torch.manual_seed(channels)
    for dtype in (torch.float32, torch.bfloat16):
        x = (torch.randn(3, channels, 5, 2) * 60).to(dtype).contiguous(memory_format=torch.channels_last)
        grad = torch.randn(x.shape).to(dtype)
        got = with_gradient(lambda t: local_response_norm(t, size, 0.3, 0.75, 1.5), x, grad)
        wanted = with_gradient(lambda t: theirs(t, size, 0.3, 0.75, 1.5), x.double(), grad.double())
        for ours, exact in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=1e-5 if dtype == torch.float32 else 2**-8, atol=1e-5)


def test_what_is_no_number_stays_none(way):
    x = torch.ones(1, 7, 1, 1, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    x[0, 3] = torch.nan
    assert local_response_norm(x, **PAPER).isnan().flatten().tolist() == [False, True, True, True, True, True, False]
    x[0, 3] = torch.inf  # inf / inf
    assert local_response_norm(x, **PAPER).isnan().flatten().tolist() == [False] * 3 + [True] + [False] * 3


def test_one_channel_cut_out_of_several():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)[:, :1].requires_grad_()
    (found,) = torch.autograd.grad(local_response_norm(x).sum(), x)
    (wanted,) = torch.autograd.grad(torch.nn.functional.local_response_norm(x, 5, 1e-4, 0.75, 2.0).sum(), x)
    torch.testing.assert_close(found, wanted)


def test_more_window_than_channels():
    check(torch.randn(3, 2, 4), size=8, alpha=0.5, beta=0.75, k=1.0)
    check(torch.randn(3, 1, 4), size=7, alpha=0.5, beta=0.75, k=1.0)


def test_non_contiguous_input_and_gradient():
    torch.manual_seed(1)
    base = torch.randn(4, 7, 6, 10) * 60
    for x in (base[:, :, ::2], base[:, 1:6], base.transpose(2, 3), base.transpose(0, 1), base[::2, ::2]):
        check(x, **PAPER)
        check(x, **PAPER, grad=torch.randn(1).expand(x.shape))
        check(x, **PAPER, grad=torch.randn(x.shape[::-1]).permute(3, 2, 1, 0))


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3), (0, 5, 3, 3), (2, 5, 0, 3)])
def test_empty(shape):
    check(torch.empty(shape), **PAPER)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_16_bits_are_computed_in_float32_and_rounded_once(dtype, memory_format, way):
    if way == "cpp" and dtype == torch.float16 and memory_format == torch.channels_last:
        pytest.skip("lrn.cpp has no float16")
    torch.manual_seed(2)
    x = (torch.randn(3, 16, 5, 5) * 20).to(dtype).to(memory_format=memory_format)
    grad = torch.randn(x.shape).to(dtype)
    ours = with_gradient(lambda t: local_response_norm(t, **PAPER), x, grad)
    exact = with_gradient(lambda t: local_response_norm(t, **PAPER), x.float(), grad.float())
    for got, wanted in zip(ours, exact, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got, wanted.to(dtype), rtol=0, atol=0)


def test_autocast_changes_nothing():
    torch.manual_seed(3)
    for dtype in (torch.float32, torch.bfloat16):
        x = (torch.randn(2, 8, 4, 4) * 60).to(dtype)
        plain = with_gradient(lambda t: local_response_norm(t, **PAPER), x, torch.ones_like(x))
        with torch.autocast("cpu", torch.bfloat16):
            cast = with_gradient(lambda t: local_response_norm(t, **PAPER), x, torch.ones_like(x))
        for got, wanted in zip(cast, plain, strict=True):
            assert got.dtype == dtype
            assert torch.equal(got, wanted)


def test_input_is_left_alone():
    x = torch.randn(2, 8, 3, 3)
    before = x.clone()
    check(x, **PAPER)
    assert torch.equal(x, before)


def test_second_derivative_is_refused():
    x = torch.randn(1, 5, 2, requires_grad=True)
    (dx,) = torch.autograd.grad(local_response_norm(x, **PAPER).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def make_fx_of_fakes(norm, x):
    return make_fx(norm, tracing_mode="fake")(x)


class Norm(nn.Module):
    def forward(self, x):
        return local_response_norm(x, **PAPER)


@needs_compiler
def test_compiles_in_one_graph():
    torch.manual_seed(4)
    compiled = torch.compile(local_response_norm, fullgraph=True)
    x, grad = torch.randn(2, 8, 6, 6) * 60, torch.randn(2, 8, 6, 6)
    ours = with_gradient(lambda t: compiled(t, **PAPER), x, grad)
    expected = with_gradient(lambda t: theirs(t, **PAPER), x, grad)
    for got, wanted in zip(ours, expected, strict=True):
        assert_near(got, wanted)


def test_exports_for_batches_of_any_size():
    batch = torch.export.Dim("batch")
    program = torch.export.export(Norm(), (torch.randn(2, 8, 3, 3),), dynamic_shapes=({0: batch},))
    for count in (1, 7):
        x = torch.randn(count, 8, 3, 3) * 60
        assert_near(program.module()(x), theirs(x, **PAPER))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("trace", [torch.jit.trace, lambda norm, x: make_fx(norm)(x), make_fx_of_fakes])
def test_a_trace_holds_for_other_images(trace):
    torch.manual_seed(5)
    x, other = (
        (torch.randn(2, 8, 6, 6) * 60).contiguous(memory_format=torch.channels_last) for _ in range(2)
    )  # rows of channels: what goes to C++ and no tracer sees
    assert_near(trace(Norm(), x)(other), theirs(other, **PAPER))


@pytest.mark.parametrize(
    ("x", "size", "message"),
    [
        (torch.zeros(5), 5, r"expected \[N, C, \*\], got \(5,\)"),
        (torch.zeros(1, 5, 2, dtype=torch.int64), 5, "expected a floating-point tensor, got torch.int64"),
        (torch.zeros(1, 5, 2), 0, "size must be 1 or more, got 0"),
    ],
)
def test_errors(x, size, message):
    with pytest.raises(ValueError, match=message):
        local_response_norm(x, size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_within_a_map_16_bits_are_computed_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(2, 3, 9, 9) * 60).to(dtype)
    assert torch.equal(WithinMapNorm()(x), WithinMapNorm()(x.float()).to(dtype))


def test_more_channels_than_cpp_takes() -> None:
    torch.manual_seed(0)
    x = (torch.randn(2, 8000, 2, 1) * 60).contiguous(memory_format=torch.channels_last)
    check(x, **PAPER)
