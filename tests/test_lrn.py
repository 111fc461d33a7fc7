"""Response normalisation against PyTorch's own, and against numerical gradients."""

import importlib
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from alexnet import local_response_norm, lrn, native, system
from alexnet.lrn import ResponseNorm, WithinMapNorm

PAPER = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}
STRONG = {"size": 5, "alpha": 0.3, "beta": 0.75, "k": 1.5}  # a denominator that varies
needs_compiler = pytest.mark.skipif(not system.can_compile(torch.device("cpu")), reason="needs a C++ compiler")


@pytest.fixture(params=["C++", "tensor code"])
def kernel(request, monkeypatch):
    """What the operator runs for channels that lie innermost: lrn.cpp, or tensor code as without a compiler."""
    if request.param == "tensor code":
        monkeypatch.setattr(native, "load", lambda _: None)
    elif lrn.lrn_backend(torch.device("cpu")) != "C++":
        pytest.skip("needs a C++ compiler with OpenMP")
    return request.param


def torchs(x, size, alpha, beta, k):
    if x.ndim == 2:  # PyTorch takes three dimensions or more
        return F.local_response_norm(x[..., None], size, alpha, beta, k)[..., 0]
    return F.local_response_norm(x, size, alpha, beta, k)


def innermost(x):
    """The same values with channels innermost in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def assert_near(ours, expected, scale=0.0):
    """Largest difference at most 1e-5 of the largest value, or of ``scale`` if that is larger."""
    assert ours.shape == expected.shape
    if expected.numel():
        assert float((ours - expected).abs().max()) <= 1e-5 * max(float(expected.abs().max()), scale)


def with_gradient(function, x, grad):
    x = x.detach().requires_grad_()  # keeps the strides
    y = function(x)
    (dx,) = torch.autograd.grad(y, x, grad)
    return y.detach(), dx


def check(x, size, alpha, beta, k, grad=None, norm=local_response_norm):
    grad = torch.randn(x.shape) if grad is None else grad
    ours = with_gradient(lambda t: norm(t, size, alpha, beta, k), x, grad)
    expected = with_gradient(lambda t: torchs(t, size, alpha, beta, k), x, grad)
    assert_near(ours[0], expected[0])
    # The gradient is a difference of two terms, which may cancel: the first sets the scale.
    first_term = (grad * expected[0] / x).nan_to_num()
    assert_near(ours[1], expected[1], float(first_term.abs().max()) if x.numel() else 0.0)
    assert torch.equal(norm(x, size, alpha, beta, k), ours[0])  # without a gradient too
    assert ours[0].stride() == torch.empty_like(x).stride()


# --- values and gradients


@settings(max_examples=60)
@given(
    shape=array_shapes(min_dims=2, max_dims=5, max_side=8),
    spread=st.sampled_from([0.1, 1.0, 60.0]),
    channels_last=st.booleans(),
    traced=st.booleans(),
    constants=st.tuples(
        st.integers(1, 9), st.floats(1e-5, 2.0), st.sampled_from([0.75]) | st.floats(0.1, 2.0), st.floats(0.5, 3.0)
    ),
    seed=st.integers(0, 99),
)
@example((1, 1), 60.0, False, False, (1, 2.0, 0.5, 0.5), 0)  # the two terms cancel
def test_equals_torch_in_value_and_gradient(shape, spread, channels_last, traced, constants, seed):
    torch.manual_seed(seed)
    x = torch.randn(shape) * spread
    with pytest.MonkeyPatch.context() as patch:
        if traced:
            patch.setattr(lrn, "_is_eager", lambda _: False)
        check(innermost(x) if channels_last else x, *constants)


def test_one_value_by_hand():
    """Channel 2 of 5 ones sees all of them: 1 / (2 + 1e-4/5 · 5)^0.75; channel 0 sees three."""
    y = local_response_norm(torch.ones(1, 5, 1), **PAPER).flatten()
    assert y[2].item() == pytest.approx((2 + 1e-4) ** -0.75, rel=1e-6)
    assert y[0].item() == pytest.approx((2 + 1e-4 * 3 / 5) ** -0.75, rel=1e-6)


@pytest.mark.parametrize("size", [5, 9])
@pytest.mark.parametrize("channels", [1, 3, 37, 96, 4096, 5000])
def test_any_number_of_channels(channels, size, kernel):
    torch.manual_seed(channels)
    constants = {**STRONG, "size": size}
    for dtype in (torch.float32, torch.bfloat16):
        x = innermost((torch.randn(3, channels, 5, 2) * 60).to(dtype))
        grad = torch.randn(x.shape).to(dtype)
        got = with_gradient(lambda t: local_response_norm(t, **constants), x, grad)
        exact = with_gradient(lambda t: torchs(t, **constants), x.double(), grad.double())
        for ours, wanted in zip(got, exact, strict=True):
            torch.testing.assert_close(ours.double(), wanted, rtol=1e-5 if dtype == torch.float32 else 2**-8, atol=1e-5)


@pytest.mark.parametrize("kernel", ["C++"], indirect=True)
def test_the_compiled_code_is_used(kernel, monkeypatch):
    for name in ("_plain", "_plain_gradient"):
        monkeypatch.setattr(lrn, name, mock.Mock(side_effect=AssertionError("tensor code ran")))
    check(innermost(torch.randn(2, 8, 3, 3)), **PAPER)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_16_bits_are_computed_in_float32_and_rounded_once(dtype, memory_format, kernel):
    if kernel == "C++" and dtype == torch.float16 and memory_format == torch.channels_last:
        pytest.skip("lrn.cpp has no float16")
    torch.manual_seed(2)
    x = (torch.randn(3, 16, 5, 5) * 20).to(dtype).to(memory_format=memory_format)
    grad = torch.randn(x.shape).to(dtype)
    ours = with_gradient(lambda t: local_response_norm(t, **PAPER), x, grad)
    exact = with_gradient(lambda t: local_response_norm(t, **PAPER), x.float(), grad.float())
    for got, wanted in zip(ours, exact, strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, wanted.to(dtype))
    assert torch.equal(WithinMapNorm()(x), WithinMapNorm()(x.float()).to(dtype))


def test_nan_and_infinity(kernel):
    x = innermost(torch.ones(1, 7, 1, 1, dtype=torch.bfloat16))
    x[0, 3] = torch.nan
    assert local_response_norm(x, **PAPER).isnan().flatten().tolist() == [False, True, True, True, True, True, False]
    x[0, 3] = torch.inf  # inf / inf
    assert local_response_norm(x, **PAPER).isnan().flatten().tolist() == [False] * 3 + [True] + [False] * 3


def test_layouts_of_input_and_gradient():
    torch.manual_seed(1)
    base = torch.randn(4, 7, 6, 10) * 60
    views = (base[:, :, ::2], base[:, 1:6], base[:, :1], base.transpose(2, 3), base.transpose(0, 1), base[::2, ::2])
    for x in (*views, innermost(base), innermost(base)[1:], innermost(base)[..., 1:]):
        before = x.clone()
        check(x, **PAPER)
        check(x, **PAPER, grad=torch.randn(1).expand(x.shape))
        check(x, **PAPER, grad=torch.randn(x.shape[::-1]).permute(3, 2, 1, 0))
        assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3), (0, 5, 3, 3), (2, 5, 0, 3), (3, 2, 4), (3, 1, 4)])
def test_empty_tensors_and_windows_wider_than_the_channels(shape):
    check(torch.randn(shape), size=8, alpha=0.5, beta=0.75, k=1.0)


@pytest.mark.parametrize("towers", [1, 2, 4])
def test_towers_are_normalised_separately(towers):
    x = torch.randn(2, 16, 3, 5)
    expected = torch.cat([torchs(part, 5, 0.3, 0.75, 1.5) for part in x.chunk(towers, 1)], 1)
    assert_near(ResponseNorm(0.3, 1.5, towers)(x), expected)


def test_autocast_changes_nothing():
    torch.manual_seed(3)
    for dtype in (torch.float32, torch.bfloat16):
        x = (torch.randn(2, 8, 4, 4) * 60).to(dtype)
        plain = with_gradient(lambda t: local_response_norm(t, **PAPER), x, torch.ones_like(x))
        with torch.autocast("cpu", torch.bfloat16):
            cast = with_gradient(lambda t: local_response_norm(t, **PAPER), x, torch.ones_like(x))
        for got, wanted in zip(cast, plain, strict=True):
            assert torch.equal(got, wanted)


# --- derivatives of every kind

DERIVATIVES = {
    "grad": lambda f, x: torch.func.grad(lambda t: f(t).pow(2).sum())(x),
    "vmap": lambda f, x: torch.func.vmap(f, in_dims=2)(x[:, :, None]),
    "vmap of grad": lambda f, x: torch.func.vmap(torch.func.grad(lambda t: f(t).pow(2).sum()))(x[:, None]),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,))[1],
    "jacfwd of jacfwd": lambda f, x: torch.func.jacfwd(torch.func.jacfwd(lambda t: f(t).pow(2).sum()))(x),
    "hessian": lambda f, x: torch.func.hessian(lambda t: f(t).pow(2).sum())(x),
    "functionalize": lambda f, x: torch.func.functionalize(f)(x),
    "double backward": lambda f, x: torch.autograd.functional.hvp(lambda t: f(t).pow(2).sum(), x, x)[1],
    "batched backward": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    "forward mode": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True, strategy="forward-mode"),
    "vmap, weights outside": lambda f, x: with_gradient(
        lambda w: torch.func.vmap(lambda scale: scale * f(w))(torch.arange(3.0)), x, torch.ones(3, *x.shape)
    )[1],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DERIVATIVES)
def test_derivatives(kind):
    torch.manual_seed(4)
    x = innermost(torch.randn(2, 6, 2, 2))
    ours = DERIVATIVES[kind](lambda t: local_response_norm(t, **STRONG), x)
    assert_near(ours, DERIVATIVES[kind](lambda t: torchs(t, **STRONG), x))


@pytest.mark.parametrize(("size", "beta"), [(1, 1.1), (4, 0.75), (5, 0.75)])
def test_numerical_derivatives(size, beta):
    torch.manual_seed(size)
    x = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    function = lambda t: local_response_norm(t, size, 0.7, beta, 1.3)  # noqa: E731
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, x)


# --- compilers and tracers


class Norm(nn.Module):
    def forward(self, x):
        return local_response_norm(x, 5, 0.3, 0.75, 1.5)


def exported(strict):
    batch = torch.export.Dim("batch")
    return lambda norm, x: torch.export.export(norm, (x,), dynamic_shapes=({0: batch},), strict=strict).module()


TRACERS = {
    "jit.trace": torch.jit.trace,
    "jit.script": lambda norm, x: torch.jit.script(norm),
    "fx": lambda norm, x: torch.fx.symbolic_trace(norm),
    "export": exported(strict=False),
    "strict export": exported(strict=True),
    "make_fx, symbolic": lambda norm, x: make_fx(norm, tracing_mode="symbolic")(x),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tracer", TRACERS)
def test_a_trace_holds_for_another_batch_size(tracer):
    torch.manual_seed(5)
    x, other = (innermost(torch.randn(n, 8, 6, 6)) for n in (2, 5))
    traced = TRACERS[tracer](Norm(), x)
    assert_near(traced(other), torchs(other, **STRONG))
    if tracer.startswith("jit"):  # its file must load where this package is not installed
        assert "alexnet::" not in str(traced.inlined_graph)


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_make_fx_records_what_can_be_differentiated(mode):
    torch.manual_seed(5)
    x, other, grad = (innermost(torch.randn(3, 8, 6, 6)) for _ in range(3))
    ours = with_gradient(make_fx(Norm(), tracing_mode=mode)(x), other, grad)
    for got, wanted in zip(ours, with_gradient(Norm(), other, grad), strict=True):
        assert_near(got, wanted)


@pytest.mark.slow
@needs_compiler
def test_compiles_in_one_graph():
    torch.manual_seed(4)
    check(torch.randn(2, 8, 6, 6) * 60, **PAPER, norm=torch.compile(local_response_norm, fullgraph=True))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_torchs_own_check_of_operators(memory_format):
    x, grad = (torch.randn(2, 8, 6, 6).to(memory_format=memory_format) for _ in range(2))
    operators = torch.ops.alexnet
    torch.library.opcheck(operators.local_response_norm.default, (x.requires_grad_(), *STRONG.values()))
    torch.library.opcheck(operators.local_response_norm_backward.default, (x.detach(), grad, *STRONG.values()))


def test_the_module_can_be_loaded_again():
    importlib.reload(lrn)
    check(torch.randn(2, 8, 3, 3), **PAPER)


@pytest.mark.parametrize(
    ("x", "size", "named"),
    [
        (torch.zeros(5), 5, "x must be .*5"),
        (torch.zeros(1, 5, 2, dtype=torch.int64), 5, "x must be .*int64"),
        (torch.zeros(1, 5, 2), 0, "size must be .*0"),
    ],
)
def test_errors(x, size, named):
    with pytest.raises(ValueError, match=named):
        local_response_norm(x, size)
