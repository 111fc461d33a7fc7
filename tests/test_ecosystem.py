"""What people do with a torchvision model works with this one, and gives the plain network's values and gradients.

The plain network is PyTorch's own layers alone, with ``F.local_response_norm``. torchvision's ``alexnet`` goes through
the same tests: what fails for it too is PyTorch's limit. The quick part runs one variant; ``pytest -m slow`` the rest.

    python tests/test_ecosystem.py      # run all of it, and write docs/ecosystem.md
"""

import copy
import dataclasses
import io
import os
import pickle
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torchvision.models.feature_extraction import create_feature_extractor

from alexnet import AlexNet_2012
from alexnet.lrn import ResponseNorm, WithinMapNorm
from alexnet.model import VARIANTS
from alexnet.system import can_compile

ROOT = Path(__file__).parents[1]
QUICK = ("source",)  # it has every kind of layer
BOTH = ("classic", "source")  # one tower and two
CONTROL = "torchvision"
MARKER = "<!-- outcomes: written by tests/test_ecosystem.py -->\n"

pytestmark = pytest.mark.filterwarnings("ignore")  # of deprecated exporters and of others' packages


class Row(NamedTuple):
    group: str
    what: str
    package: str


ROWS: dict[str, Row] = {}  # by the test's name


def row(
    group: str, what: str, package: str = "torch", *, variants: tuple[str, ...] = tuple(VARIANTS), slow: bool = False,
    control: bool = True,
) -> Callable[[Callable[..., None]], Callable[..., None]]:  # fmt: skip
    """A row of docs/ecosystem.md: a test of each variant, and of torchvision's network as the control.

    ``slow``: the test belongs to the slow part for every variant. ``control=False``: this
    project's network alone.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        ROWS[test.__name__] = Row(group, what, package)
        quick = () if slow else QUICK
        params = [pytest.param(name, marks=() if name in quick else pytest.mark.slow, id=name) for name in variants]
        if control and "ECOSYSTEM_TABLE" in os.environ:  # what fails for torchvision's network fails no test
            params.append(pytest.param(CONTROL, marks=(pytest.mark.slow, pytest.mark.xfail), id=CONTROL))
        return pytest.mark.parametrize("net", params, indirect=True)(test)

    return decorate


# --- the networks


class TorchNorm(nn.Module):
    """Response normalisation by PyTorch's own function."""

    def __init__(self, norm: ResponseNorm) -> None:
        super().__init__()
        self.towers, self.norm = norm.towers, nn.LocalResponseNorm(norm.size, norm.alpha, norm.beta, norm.k)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.norm(tower) for tower in x.chunk(self.towers, 1)], 1)


class TorchWithin(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + 1e-3 * F.avg_pool2d(x.square(), 5, 1, 2)) ** 0.75


class Plain(nn.Module):
    """The same network in evaluation mode, of PyTorch's layers alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = (self._part(model, name) for name in ("features", "classifier"))

    @staticmethod
    def _part(model: nn.Module, name: str) -> nn.Sequential:
        part = copy.deepcopy(model.get_submodule(name))
        for name, layer in part.named_children():
            match layer:
                case ResponseNorm():
                    setattr(part, name, TorchNorm(layer))
                case WithinMapNorm():
                    setattr(part, name, TorchWithin())
        return part

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


class Net(NamedTuple):
    name: str
    model: nn.Module
    plain: nn.Module
    side: int

    def images(self, count: int = 2, seed: int = 0, dtype: torch.dtype | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        own = next(self.plain.parameters()).dtype
        return torch.randn(count, 3, self.side, self.side, generator=generator).to(dtype or own)

    def double(self) -> None:
        """Make both networks float64: in float32, rounding may change which cell of a pooling window is the largest."""
        self.model.double()
        self.plain.double()

    def names(self) -> list[str]:
        """Of two layers to look into: the last of the maps, and the last hidden layer."""
        return ["features.12", "classifier.5"] if self.name == CONTROL else ["features.pool5", "classifier.relu7"]


def new_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == CONTROL:
        return torchvision.models.alexnet(num_classes=10).eval()
    return AlexNet_2012(10, name, init="he", width_mult=0.25).eval()


@pytest.fixture
def net(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Net:
    for name, variant in VARIANTS.items():  # an α with which response normalisation makes more of a difference
        monkeypatch.setitem(VARIANTS, name, dataclasses.replace(variant, lrn_alpha=0.5))
    model = new_network(request.param)
    plain = copy.deepcopy(model) if request.param == CONTROL else Plain(model)
    return Net(request.param, model, plain, 224 if request.param == CONTROL else model.variant.image_sizes[0])


def assert_near(got: Any, expected: Any, relative: float = 1e-4) -> None:
    """Tensors, or lists of them: the largest difference at most ``relative`` times the largest value."""
    if isinstance(expected, list | tuple):
        for ours, theirs in zip(got, expected, strict=True):
            assert_near(ours, theirs, relative)
        return
    assert got.shape == expected.shape
    if expected.numel():
        difference = (got.detach().double() - expected.detach().double()).abs().max()
        assert float(difference) <= relative * float(expected.detach().double().abs().max())


def gradients(model: nn.Module, images: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(images).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


# --- tracing


@row("Tracing", "`torch.fx.symbolic_trace`, value and gradient")
def test_fx(net: Net) -> None:
    traced = torch.fx.symbolic_trace(net.model.train()).eval()
    assert_near(traced(net.images(3)), net.plain(net.images(3)))
    assert_near(gradients(traced, net.images()), gradients(net.plain, net.images()), 1e-3)


def layer_outputs(net: Net) -> list[Tensor]:
    found: dict[str, Tensor] = {}
    for name in net.names():
        net.plain.get_submodule(name).register_forward_hook(lambda *args, name=name: found.update({name: args[2]}))
    net.plain(net.images(3))
    return [found[name] for name in net.names()]


@row("Tracing", "`create_feature_extractor`", "torchvision")
def test_feature_extraction(net: Net) -> None:
    got = create_feature_extractor(net.model, net.names())(net.images(3))
    assert_near([got[name] for name in net.names()], layer_outputs(net))


@row("Tracing", "`timm.models.create_feature_extractor`", "timm", slow=True)
def test_timm_feature_extraction(net: Net) -> None:
    timm = pytest.importorskip("timm")
    got = timm.models.create_feature_extractor(net.model, net.names())(net.images(3))
    assert_near([got[name] for name in net.names()], layer_outputs(net))


@row("Tracing", "`torch.jit.trace`, at another batch size, saved and loaded")
def test_jit_trace(net: Net) -> None:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(net.model, net.images(2)), file)
    file.seek(0)
    assert_near(torch.jit.load(file)(net.images(5)), net.plain(net.images(5)))


@row("Tracing", "`torch.jit.script`")
def test_jit_script(net: Net) -> None:
    if net.name != CONTROL:  # torch.jit.script compares modules, and could confuse two variants
        for name in ("caffe", "caffenet"):
            torch.jit.script(new_network(name))
    scripted = torch.jit.script(net.model)
    assert_near(scripted(net.images(5)), net.plain(net.images(5)))
    assert_near(gradients(scripted, net.images()), gradients(net.plain, net.images()), 1e-3)


@row("Tracing", "`torch.jit.script` of what `torch.fx.symbolic_trace` gives")
def test_jit_script_of_a_symbolic_trace(net: Net) -> None:
    scripted = torch.jit.script(torch.fx.symbolic_trace(net.model))
    assert_near(scripted(net.images(5)), net.plain(net.images(5)))


@row("Tracing", "`SummaryWriter.add_graph`", "tensorboard")
def test_tensorboard_graph(net: Net, tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(net.model, net.images(1))
    assert list(tmp_path.iterdir())


@row("Tracing", "`torch.export` with a dynamic batch, saved and loaded")
def test_export(net: Net) -> None:
    batch, file = torch.export.Dim("batch"), io.BytesIO()
    torch.export.save(torch.export.export(net.model, (net.images(2),), dynamic_shapes=({0: batch},)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for count in (1, 5):
        assert_near(loaded(net.images(count)), net.plain(net.images(count)))


@row("Tracing", "`torch.compile(fullgraph=True)`, by Inductor (classic, source) or AOT eager (the others)", slow=True)
def test_compile(net: Net) -> None:
    inductor = net.name in (*BOTH, CONTROL) and can_compile(torch.device("cpu"))
    backend = "inductor" if inductor else "aot_eager"
    torch.compiler.reset()  # else the networks of the other variants count towards the limit of recompilations
    compiled = torch.compile(net.model, fullgraph=True, backend=backend)
    assert_near(compiled(net.images()), net.plain(net.images()))
    assert_near(gradients(compiled, net.images()), gradients(net.plain, net.images()), 1e-3)


def check_onnx(net: Net, tmp_path: Path, **options: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "net.onnx"
    torch.onnx.export(net.model, (net.images(2),), file, input_names=["images"], verbose=False, **options)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        (logits,) = session.run(None, {"images": net.images(count).numpy()})
        assert_near(torch.from_numpy(logits), net.plain(net.images(count)))


@row("Tracing", "`torch.onnx.export(dynamo=True)`, run by ONNX Runtime at other batch sizes", "onnxruntime", slow=True)
def test_onnx_dynamo(net: Net, tmp_path: Path) -> None:
    check_onnx(net, tmp_path, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},))


@row("Tracing", "`torch.onnx.export(dynamo=False)`, run by ONNX Runtime at other batch sizes", "onnxruntime")
def test_onnx_trace(net: Net, tmp_path: Path) -> None:
    check_onnx(net, tmp_path, dynamo=False, dynamic_axes={"images": {0: "batch"}})


# --- functional


LABELS = torch.tensor([1, 2])


def loss_of(model: nn.Module) -> Callable[..., Tensor]:
    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (image[None],)), label[None])

    return loss


@row("Functional", "`functional_call` and `torch.func.grad`")
def test_functional_gradient(net: Net) -> None:
    ours, theirs = (
        grad(loss_of(model))(dict(model.named_parameters()), net.images()[0], LABELS[0])
        for model in (net.model, net.plain)
    )
    assert_near([ours[name] for name in theirs], list(theirs.values()), 1e-3)


@row("Functional", "gradients of each image, `vmap(grad(…))`")
def test_per_sample_gradients(net: Net) -> None:
    ours, theirs = (
        vmap(grad(loss_of(model)), (None, 0, 0))(dict(model.named_parameters()), net.images(), LABELS)
        for model in (net.model, net.plain)
    )
    assert_near([ours[name] for name in theirs], list(theirs.values()), 1e-3)


@row("Functional", "`vmap` over images, and over the weights of an ensemble")
def test_vmap(net: Net) -> None:
    assert_near(vmap(net.model)(net.images(3)[:, None])[:, 0], net.plain(net.images(3)))
    weights = {name: torch.stack([1.1 * value, value]) for name, value in net.model.named_parameters()}
    images = net.images()
    ensemble = vmap(lambda own: functional_call(net.model, own, (images,)))(weights)
    assert_near(ensemble[1], net.plain(images))


@row("Functional", "`jacrev` of the logits to an image")
def test_jacobian(net: Net) -> None:
    ours, theirs = (jacrev(lambda x, model=model: model(x))(net.images(1)) for model in (net.model, net.plain))
    assert_near(ours, theirs, 1e-3)


@row("Functional", "forward-mode differentiation, `jvp`")
def test_forward_mode(net: Net) -> None:
    ours, theirs = (jvp(model, (net.images(),), (net.images(seed=1),)) for model in (net.model, net.plain))
    assert_near(ours, theirs, 1e-3)


@row("Functional", "double backward (a penalty on the gradient)")
def test_double_backward(net: Net) -> None:
    def penalty(model: nn.Module) -> list[Tensor]:
        images = net.images().requires_grad_()
        (first,) = torch.autograd.grad(model(images).square().sum(), images, create_graph=True)
        return list(torch.autograd.grad(first.square().sum(), [p for p in model.parameters() if p.ndim > 1]))

    assert_near(penalty(net.model), penalty(net.plain), 1e-3)


@row("Functional", "`torch.utils.checkpoint`")
def test_activation_checkpointing(net: Net) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net.model

        def forward(self, images: Tensor) -> Tensor:
            return checkpoint(self.model, images, use_reentrant=False)

    assert_near(gradients(Checkpointed(), net.images()), gradients(net.plain, net.images()), 1e-3)


# --- hooks and tools


@row("Hooks and tools", "full backward hooks on every layer")
def test_backward_hooks(net: Net) -> None:
    if net.name == CONTROL:  # its ReLUs work in place: a hook on the layer in front of one is an error
        net = net._replace(model=new_network(CONTROL))
    seen: list[str] = []
    for name, layer in net.model.named_modules():
        if not list(layer.children()):
            layer.register_full_backward_hook(lambda *_, name=name: seen.append(name))
    got = gradients(net.model, net.images().requires_grad_())
    assert_near(got, gradients(net.plain, net.images()), 1e-3)
    assert sorted(seen) == sorted(name for name, layer in net.model.named_modules() if not list(layer.children()))


def attributions(net: Net, attribute: Callable[[nn.Module], Tensor]) -> None:
    assert_near(attribute(net.model), attribute(net.plain), 1e-3)


@row("Hooks and tools", "Captum, `IntegratedGradients`", "captum")
def test_captum_integrated_gradients(net: Net) -> None:
    from captum.attr import IntegratedGradients

    attributions(net, lambda model: IntegratedGradients(model).attribute(net.images(1), target=1, n_steps=4))


@row("Hooks and tools", "Captum, `DeepLift`", "captum")
def test_captum_deep_lift(net: Net) -> None:
    from captum.attr import DeepLift

    attributions(net, lambda model: DeepLift(model).attribute(net.images(1), target=1))


@row("Hooks and tools", "Captum, `LayerGradCam`", "captum")
def test_captum_grad_cam(net: Net) -> None:
    from captum.attr import LayerGradCam

    name = "features.10" if net.name == CONTROL else "features.conv5"
    attributions(net, lambda model: LayerGradCam(model, model.get_submodule(name)).attribute(net.images(1), target=1))


@row("Hooks and tools", "pytorch-grad-cam, `GradCAM`", "grad-cam", slow=True)
def test_pytorch_grad_cam(net: Net) -> None:
    cam = pytest.importorskip("pytorch_grad_cam")
    targets = [cam.utils.model_targets.ClassifierOutputTarget(1)] * 2

    def heat(model: nn.Module) -> Tensor:
        with cam.GradCAM(model=model, target_layers=[model.get_submodule(net.names()[0])]) as found:
            return torch.from_numpy(np.asarray(found(input_tensor=net.images(), targets=targets)))

    attributions(net, heat)


def own_counts(net: Net) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image: those of ``alexnet summary``."""
    from alexnet.tools.summary import summarize

    summary = summarize(net.name, 10, 0.25)
    return summary["parameters"], summary["multiply_adds"]


@row("Hooks and tools", "torchinfo's counts", "torchinfo", control=False)
def test_torchinfo(net: Net) -> None:
    torchinfo = pytest.importorskip("torchinfo")
    found = torchinfo.summary(net.model, input_data=net.images(1), verbose=0)
    parameters, multiply_adds = own_counts(net)
    biases = sum(out.numel() // out.shape[1] * out.shape[1] for out in outputs_of_weight_layers(net))
    assert found.total_params == parameters
    assert multiply_adds <= found.total_mult_adds <= multiply_adds + biases  # it counts an addition of each bias


@row("Hooks and tools", "thop's counts", "ultralytics-thop", control=False)
def test_thop(net: Net) -> None:
    thop = pytest.importorskip("thop")
    found, parameters = thop.profile(net.model, inputs=(net.images(1),), verbose=False)
    assert (int(parameters), own_counts(net)[0]) == (own_counts(net)[0],) * 2
    others = sum(out.numel() for out in outputs_of_weight_layers(net))  # it counts pooling too
    assert own_counts(net)[1] <= found <= own_counts(net)[1] + 10 * others


@row("Hooks and tools", "fvcore's counts", "fvcore", control=False)
def test_fvcore(net: Net) -> None:
    fvcore = pytest.importorskip("fvcore.nn")
    found = fvcore.FlopCountAnalysis(net.model, net.images(1)).unsupported_ops_warnings(False)
    counted = found.by_operator()
    assert (fvcore.parameter_count(net.model)[""], counted["conv"] + counted["linear"]) == own_counts(net)


def outputs_of_weight_layers(net: Net) -> list[Tensor]:
    found: list[Tensor] = []
    for _, layer in net.model.weight_layers():
        layer.register_forward_hook(lambda *args: found.append(args[2]))
    net.model(net.images(1))
    return found


# --- precision and memory


@row("Precision and memory", "`gradcheck` in float64")
def test_gradcheck(net: Net) -> None:
    images = net.images(1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(net.model.double(), images, fast_mode=True, atol=1e-4)
    assert_near(net.model(images), net.plain.double()(images), 1e-9)


def check_precision(net: Net, dtype: torch.dtype, tolerance: float) -> None:
    logits = net.model.to(dtype)(net.images(dtype=dtype))
    assert logits.dtype == dtype
    assert_near(logits, net.plain(net.images()), tolerance)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(net.model, net.images(dtype=dtype)))


@row("Precision and memory", "weights in float16")
def test_float16(net: Net) -> None:
    check_precision(net, torch.float16, 0.01)


@row("Precision and memory", "weights in bfloat16")
def test_bfloat16(net: Net) -> None:
    check_precision(net, torch.bfloat16, 0.05)


@row("Precision and memory", "autocast to bfloat16, value and gradient")
def test_autocast(net: Net) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = net.model(net.images())
        got = gradients(net.model, net.images())
    assert_near(logits, net.plain(net.images()), 0.05)
    for ours, theirs in zip(got, gradients(net.plain, net.images()), strict=True):
        assert F.cosine_similarity(ours.flatten().float(), theirs.flatten(), dim=0) > 0.9


@row("Precision and memory", "`channels_last`, value and gradient")
def test_channels_last(net: Net) -> None:
    model = net.model.to(memory_format=torch.channels_last)
    images = net.images(3).to(memory_format=torch.channels_last)
    assert_near(model(images), net.plain(net.images(3)))
    assert_near(gradients(model, images), gradients(net.plain, net.images(3)), 5e-3)


@row("Precision and memory", "a batch of 0 and of 1")
def test_batch_of_0_and_1(net: Net) -> None:
    for count in (0, 1):
        assert_near(net.model(net.images(count)), net.plain(net.images(count)))
    assert all((gradient == 0).all() for gradient in gradients(net.model, net.images(0)))


@row("Precision and memory", "the `meta` device, weights loaded or drawn later")
def test_deferred_initialisation(net: Net) -> None:
    with torch.device("meta"):
        model = type(net.model)(10, net.name, width_mult=0.25) if net.name != CONTROL else torchvision.models.alexnet(
            num_classes=10
        )  # fmt: skip
    model.eval()
    assert model(net.images(3).to("meta")).shape == (3, 10)
    model.to_empty(device="cpu").load_state_dict(net.model.state_dict())
    assert_near(model(net.images()), net.plain(net.images()))


@row("Precision and memory", "`FakeTensorMode`")
def test_fake_tensors(net: Net) -> None:
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        assert net.model(torch.empty(3, 3, net.side, net.side)).shape == (3, 10)


# --- training


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def steps(model: nn.Module, net: Net, optimizer: Any = None, backward: Any = None) -> list[Tensor]:
    """Two steps of SGD; the losses."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    losses = []
    for seed in range(2):
        loss = F.cross_entropy(model(net.images(2, seed)), LABELS)
        optimizer.zero_grad()
        (backward or torch.Tensor.backward)(loss)
        optimizer.step()
        losses.append(loss.detach())
    return losses


@row("Training", "`DistributedDataParallel`")
def test_ddp(net: Net, process_group: None) -> None:
    assert_near(steps(nn.parallel.DistributedDataParallel(net.model), net), steps(net.plain, net))


@row("Training", "FSDP2, `fully_shard` on every layer with weights")
def test_fsdp2(net: Net, process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    for layer in net.model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(net.model, mesh=mesh)
    assert_near(steps(net.model, net), steps(net.plain, net))


@row("Training", "a Lightning module", "pytorch-lightning", slow=True)
def test_lightning(net: Net, tmp_path: Path) -> None:
    lightning = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.losses = net.model, []

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.losses.append(loss.detach())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)

    net.double()
    module = Module()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    module.eval()  # Lightning keeps the mode: no dropout, so that the losses can be compared
    batches = [[net.images(2, seed), LABELS] for seed in range(2)]
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    assert_near(module.losses, steps(net.plain, net))
    again = new_network(net.name).double()
    checkpoint = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    again.load_state_dict({name.removeprefix("net."): value for name, value in checkpoint["state_dict"].items()})
    assert_near(again(net.images()), net.plain(net.images()))


@row("Training", "a Hugging Face Accelerate loop", "accelerate")
def test_accelerate(net: Net) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(net.model, torch.optim.SGD(net.model.parameters(), lr=1e-3, momentum=0.9))
    assert_near(steps(model, net, optimizer, accelerator.backward), steps(net.plain, net))


@row("Training", "`nn.utils.prune`")
def test_pruning(net: Net) -> None:
    from torch.nn.utils import prune

    net.double()
    for model in (net.model, net.plain):
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                prune.l1_unstructured(layer, "weight", 0.5)
    assert_near(gradients(net.model, net.images()), gradients(net.plain, net.images()), 1e-3)
    for layer in net.model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            prune.remove(layer, "weight")
            assert (layer.weight == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert_near(net.model(net.images()), net.plain(net.images()))


@row("Training", "`nn.utils.parametrizations.weight_norm`")
def test_parametrizations(net: Net) -> None:
    for model in (net.model, net.plain):
        for layer in list(model.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.utils.parametrizations.weight_norm(layer)
    assert_near(steps(net.model, net), steps(net.plain, net))


@row("Training", "a moving average by `AveragedModel`")
def test_averaged_model(net: Net) -> None:
    net.double()
    averages = [
        torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
        for model in (net.model, net.plain)
    ]
    for average in averages:
        average.update_parameters(average.module)
        steps(average.module, net)
        average.update_parameters(average.module)
    assert_near(averages[0](net.images()), averages[1](net.images()))


def digits(side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits at ``side`` pixels, standardised: 1,437 training images, 360 others."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(data.images).float()[:, None] / 16
    images = F.interpolate((pixels - pixels.mean()) / pixels.std(), side, mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.from_numpy(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return images[order[360:]], labels[order[360:]], images[order[:360]], labels[order[:360]]


def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        found = torch.cat([model(batch).argmax(1) for batch in images.split(60)])
    return (found == labels).float().mean().item()


def check_int8(net: Net, quantise: Callable[[nn.Module, Tensor], nn.Module]) -> None:
    """Trained on digits for three epochs, the int8 network is as good to one point."""
    images, labels, test_images, test_labels = digits(net.side)
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(3):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(32):
            optimizer.zero_grad()
            F.cross_entropy(net.model(images[batch]), labels[batch]).backward()
            optimizer.step()
    exact = top1(net.model, test_images, test_labels)
    assert exact > 0.8
    assert abs(top1(quantise(net.model.eval(), images[:60]), test_images, test_labels) - exact) <= 0.01


@row("Training", "fx quantisation to int8: top-1 on digits within 1 point", variants=BOTH, slow=True, control=False)
def test_fx_quantisation(net: Net) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    def quantise(model: nn.Module, images: Tensor) -> nn.Module:
        engine = "x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack"
        torch.backends.quantized.engine = engine
        prepared = prepare_fx(model, get_default_qconfig_mapping(engine), (images,))
        prepared(images)
        return convert_fx(prepared)

    check_int8(net, quantise)


@row(
    "Training",
    "PT2E quantisation to int8: top-1 on digits within 1 point",
    "torchao",
    variants=BOTH,
    slow=True,
    control=False,
)
def test_pt2e_quantisation(net: Net) -> None:
    pytest.importorskip("torchao")
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    def quantise(model: nn.Module, images: Tensor) -> nn.Module:
        batch = torch.export.Dim("batch")
        program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},)).module()
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(program, quantizer)
        prepared(images)
        return move_exported_model_to_eval(convert_pt2e(prepared))

    check_int8(net, quantise)


# --- files


@row("Files", "`copy.deepcopy` and `pickle`")
def test_deepcopy_and_pickle(net: Net) -> None:
    for again in (copy.deepcopy(net.model), pickle.loads(pickle.dumps(net.model))):
        assert torch.equal(again(net.images()), net.model(net.images()))


@row("Files", "`torch.save` of the whole model")
def test_torch_save(net: Net) -> None:
    file = io.BytesIO()
    torch.save(net.model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(net.images()), net.model(net.images()))


@row("Files", "`state_dict`, strict, to and from the plain network")
def test_state_dict(net: Net) -> None:
    for source, target in ((net.model, net.plain), (net.plain, net.model)):
        torch.manual_seed(1)
        for parameter in source.parameters():
            nn.init.normal_(parameter, std=0.02)
        target.load_state_dict(source.state_dict(), strict=True)
        assert_near(net.model(net.images()), net.plain(net.images()))


def saved(net: Net, folder: Path) -> Path:
    """The network's weights as safetensors: this project's own file, or safetensors' of torchvision's network."""
    import safetensors.torch

    from alexnet.checkpoint import save_weights
    from alexnet.data.normalization import IMAGENET
    from alexnet.model import ModelInfo

    path = folder / "model.safetensors"
    if net.name == CONTROL:
        safetensors.torch.save_file(net.model.state_dict(), path, {"format": "pt"})
    else:
        info = ModelInfo(net.name, tuple("abcdefghij"), IMAGENET, "noise", width_mult=0.25)
        save_weights(path, net.model.state_dict(), info)
    return path


@row("Files", "safetensors by Accelerate's `load_checkpoint_in_model`", "accelerate")
def test_safetensors_by_accelerate(net: Net, tmp_path: Path) -> None:
    from accelerate import load_checkpoint_in_model

    load_checkpoint_in_model(net.plain.apply(zero), str(saved(net, tmp_path)))
    assert_near(net.plain(net.images()), net.model(net.images()))


@row("Files", "safetensors by `safetensors.torch.load_model`", "safetensors")
def test_safetensors_by_safetensors(net: Net, tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.load_model(net.plain.apply(zero), saved(net, tmp_path))
    assert_near(net.plain(net.images()), net.model(net.images()))


def zero(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        nn.init.zeros_(parameter)


@row("Files", "`save_pretrained` and `from_pretrained`", "huggingface-hub", control=False)
def test_pretrained(net: Net, tmp_path: Path) -> None:
    net.model.save_pretrained(tmp_path)
    assert_near(AlexNet_2012.from_pretrained(tmp_path)(net.images()), net.plain(net.images()))


@row("Files", "`torch.hub.load`", control=False)
def test_torch_hub(net: Net) -> None:
    torch.manual_seed(0)
    arguments = {"variant": net.name, "init": "he", "width_mult": 0.25}
    model = torch.hub.load(str(ROOT), "alexnet_2012", source="local", **arguments).eval()
    assert_near(model(net.images()), net.plain(net.images()))


# --- the table


class Outcomes:
    """A plugin of pytest: the first line of each failure, empty for a success, by test and network."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test, _, name = report.nodeid.rpartition("::")[2].partition("[")
        if report.when == "call" or report.outcome != "passed":
            crash = getattr(report.longrepr, "reprcrash", None)
            message = (crash.message if crash else str(report.longrepr)).splitlines()[0].split(". ")[0]
            outcome = {"passed": "", "failed": message, "skipped": f"not run: {message}"}[report.outcome]
            outcome = message if hasattr(report, "wasxfail") and report.outcome == "skipped" else outcome
            self.found[test][name.rstrip("]")] = outcome.replace("|", "\\|")


def test_the_page_has_a_line_for_each_test():
    page = (ROOT / "docs/ecosystem.md").read_text(encoding="utf-8").partition(MARKER)[2]
    assert all(f"| {entry.what}" in page for entry in ROWS.values())
    assert page.count("\n| ") == len(ROWS) + len({entry.group for entry in ROWS.values()})  # and the heads


def table(found: dict[str, dict[str, str]]) -> str:
    lines = []
    for group in dict.fromkeys(row.group for row in ROWS.values()):
        lines += [
            f"\n### {group}\n",
            "| what works | tried with |",
            "|---|---|",
        ]
        for test, entry in ROWS.items():
            if entry.group == group:
                results = dict(found[test])
                control = results.pop(CONTROL, None)
                exceptions = [f"with torchvision's: {control}"] if control else []
                if len(results) < len(VARIANTS):
                    exceptions.append(f"tried with {', '.join(results)}")
                if trouble := dict.fromkeys(message for message in results.values() if message):
                    failed = ", ".join(name for name, message in results.items() if message)
                    exceptions.append(f"**fails** for {failed}: {'; '.join(trouble)}")
                cell = "; ".join([entry.what, *exceptions])
                lines.append(f"| {cell} | {entry.package} {version(entry.package)} |")
    return "\n".join(lines)


def main() -> int:
    os.environ["ECOSYSTEM_TABLE"] = "1"
    outcomes = Outcomes()
    arguments = ["-m", "", "-n", "0", "-p", "no:cacheprovider", "--timeout", "3600"]
    code = pytest.main([__file__, *arguments], plugins=[outcomes])
    page = ROOT / "docs/ecosystem.md"
    text = page.read_text(encoding="utf-8").partition(MARKER)[0]
    page.write_text(text + MARKER + table(outcomes.found) + "\n", encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    sys.exit(main())
