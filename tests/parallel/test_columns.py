"""Two columns on two processes compute what the one network does, and what does not fit them is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet import recipes
from alexnet.model import VARIANTS, AlexNet_2012, DropoutOf2012
from alexnet.parallel import columns
from alexnet.run.schedule import clip_gradient, sgd
from forked import SERVER
from tiny import tiny_variants

STEPS, BATCH, CLASSES = 10, 2, 7  # of an odd number of classes the first process has one more
LR = 1e-3  # with 0.01 a difference of 1e-6 grows tenfold in each step of the whole network


def make(variant: str) -> AlexNet_2012:
    """A network whose gradients are about 1 in every layer, so that an error in any of them shows."""
    torch.manual_seed(0)
    net = AlexNet_2012(CLASSES, variant, init="he")
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def ten_steps(
    net: AlexNet_2012, clip: Callable[[AlexNet_2012, float], Tensor], whole: Callable[[Any], Any]
) -> dict[str, Any]:
    """What ten steps of SGD with dropout come to; ``whole`` gives the whole network's state from this process's."""
    optimizer = sgd(net, recipes.paper(lr=LR, decay_biases=False), torch.device("cpu"))
    data = torch.Generator().manual_seed(1)
    torch.manual_seed(2)  # dropout's
    found: dict[str, Any] = {"losses": [], "norms": []}
    for step in range(STEPS):
        images = torch.randn(BATCH, 3, 224, 224, generator=data).contiguous(memory_format=torch.channels_last)
        logits = net(images)
        loss = F.cross_entropy(logits, torch.randint(CLASSES, (BATCH,), generator=data))
        loss.backward()
        if step == 0:
            found["logits"] = logits.detach().clone()
            found["gradient"] = whole({name: p.grad.clone() for name, p in net.named_parameters()})
        found["norms"].append(clip(net, 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        found["losses"].append(loss.item())
    found["weights"] = whole(net.state_dict())
    state = whole(optimizer.state_dict())["state"]
    found["momentum"] = {str(index): entry["momentum_buffer"] for index, entry in state.items()}
    found["judged"] = net.eval()(images).detach()
    return found


def in_one(variant: str) -> dict[str, Any]:
    net = make(variant)
    return ten_steps(net, clip_gradient, lambda state: state)


def in_two(rank: int, folder: str, variants: list[str], widths: str) -> None:
    """One of the two processes; the first one leaves what it found in ``folder``."""
    torch.set_num_threads(1)
    if widths == "tiny":
        VARIANTS.update(tiny_variants())  # type: ignore[attr-defined]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {variant: column_of(variant, columns.Pair(rank)) for variant in variants}
    if rank == 0:
        torch.save(found, f"{folder}/found")
    dist.destroy_process_group()


def column_of(variant: str, pair: columns.Pair) -> dict[str, Any]:
    column, sent = columns.split(make(variant), pair), []

    def clip(net: AlexNet_2012, max_norm: float) -> Tensor:
        found = clip_gradient(net, max_norm)
        sent.append(pair.sent)
        return found

    found = ten_steps(column, clip, lambda state: columns.gather(state, pair))
    found["sent"] = sent[2] - sent[1]  # of a step after the first, in which the gradient is gathered
    mine = columns.halve(found["weights"], pair)
    assert all(torch.equal(mine[name], value) for name, value in column.state_dict().items())
    assert mine["features.conv4.weight"].is_contiguous(memory_format=torch.channels_last)
    return found


def compare(variants: list[str], widths: str, folder: Path) -> None:
    processes = [SERVER.Process(target=in_two, args=(rank, str(folder), variants, widths)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = torch.load(folder / "found")
    for variant in variants:
        one, two = in_one(variant), found[variant]
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert two["norms"] == pytest.approx(one["norms"], rel=1e-5)
        for kind in ("gradient", "weights", "momentum"):
            assert list(two[kind]) == list(one[kind])
            for name, value in one[kind].items():
                assert_close(two[kind][name], value, f"{variant}: {kind} of {name}")
        for kind in ("logits", "judged"):
            assert_close(two[kind], one[kind], f"{variant}: {kind}")
        assert two["sent"] == sum(columns.bytes_a_step(VARIANTS[variant], CLASSES, BATCH).values())


def assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    """Equal to 1e-5 of the largest value."""
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-5 * expected.abs().max().item(), msg=lambda text: f"{what}: {text}"
    )


@pytest.mark.parametrize("variant", ["paper", pytest.param("source", marks=pytest.mark.slow)])
def test_two_columns_compute_what_the_one_network_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variant: str
) -> None:
    for name, small in tiny_variants().items():
        monkeypatch.setitem(VARIANTS, name, small)  # type: ignore[arg-type]
    compare([variant], "tiny", tmp_path)


@pytest.mark.slow
def test_two_columns_of_the_whole_network_compute_what_it_does(tmp_path: Path) -> None:
    compare(["paper"], "whole", tmp_path)


def test_what_a_step_exchanges_of_the_papers_network() -> None:
    sent = columns.bytes_a_step(VARIANTS["paper"], 1000, 128)
    assert sent["conv3"] == 2 * 128 * 128 * 13 * 13 * 4  # batch, maps of one tower, pixels
    assert sum(sent.values()) == 31_320_068


@pytest.mark.parametrize(
    ("variant", "processes", "message"),
    [
        ("classic", 2, "variant classic has one tower; allowed are paper and source"),
        ("caffe", 2, "variant caffe normalises across its towers; allowed are paper and source"),
        ("paper", 1, "takes two processes, not one process; torchrun --nproc-per-node 2 starts them"),
        ("source", 3, "takes two processes, not 3 processes"),
    ],
)
def test_what_does_not_fit_two_columns_is_refused(variant: str, processes: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"--parallel columns: {message}") as error:
        columns.check(VARIANTS[variant], processes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [nn.Dropout, DropoutOf2012])
def test_half_a_layer_of_dropout_is_half_of_what_the_whole_one_gives(kind: type[nn.Dropout]) -> None:
    whole, x = kind(0.3), torch.randn(5, 14)
    for rank in (0, 1):
        half = columns._half(whole, columns.Pair(rank))
        for training in (True, False):
            torch.manual_seed(rank)
            expected = whole.train(training)(x).tensor_split(2, 1)[rank]
            torch.manual_seed(rank)
            found = half.train(training)(x.tensor_split(2, 1)[rank])
            torch.testing.assert_close(found, expected)
