"""Metrics against a computation by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.run.metrics import Metrics, Running, measure

CPU = torch.device("cpu")


def test_metrics_by_hand() -> None:
    metrics = Metrics(3, CPU)
    metrics.add(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 5.0]]), torch.tensor([0, 1]))
    metrics.add(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([1]))
    result = metrics.result(expected=3)
    losses = [math.log(math.e**2 + 2) - 2, math.log(2 + math.e**5), math.log(2 + math.e) - 1]
    assert result["loss"] == pytest.approx(sum(losses) / 3)
    assert result["top1"] == pytest.approx(200 / 3)
    assert result["top5"] == 100.0
    assert result["confusion"] == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert result["count"] == 3


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5), classes=st.integers(2, 12), seed=st.integers(0, 99))
def test_batches_do_not_matter(sizes: list[int], classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(sum(sizes), classes, generator=generator)
    labels = torch.randint(classes, (sum(sizes),), generator=generator)
    metrics = Metrics(classes, CPU)
    for x, y in zip(logits.split(sizes), labels.split(sizes), strict=True):
        metrics.add(x, y)
    result = metrics.result(expected=len(labels))
    assert result["loss"] == pytest.approx(F.cross_entropy(logits.double(), labels).item(), rel=1e-5)
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert result["top1"] == pytest.approx(100 * (ranks < 1).double().mean().item())
    assert result["top5"] == pytest.approx(100 * (ranks < 5).double().mean().item())


def test_a_missing_image_is_an_error() -> None:
    metrics = Metrics(2, CPU)
    metrics.add(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="saw 3 images, but the split holds 4"):
        metrics.result(expected=4)


def test_evaluate_uses_evaluation_mode_and_puts_it_back() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Dropout(0.9))
    batches = [(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64))] * 2
    first, second = Metrics(2, CPU), Metrics(2, CPU)
    assert measure(model, batches, first)
    assert measure(model, batches, second)
    assert first.result(10) == second.result(10)  # dropout was off
    assert model.training
    assert not measure(model, batches, Metrics(2, CPU), interrupted=lambda: True)


def own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def test_running_sums_by_hand() -> None:
    running = Running(CPU)
    running.add(torch.tensor(2.0), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]), torch.tensor(3.0), 1)
    running.add(torch.tensor(1.0), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.tensor(4.0), 2)
    assert running.read(own) == {
        "train_loss": pytest.approx(5 / 3),
        "train_acc": pytest.approx(200 / 3),
        "grad_norm": 4.0,
        "images": 3.0,
    }
    copy = Running(CPU)
    copy.load_state_dict(running.state_dict(own))
    assert copy.read(own) == running.read(own)


def test_running_remembers_the_first_bad_step() -> None:
    running = Running(CPU)
    for step, loss in enumerate((1.0, math.inf, 1.0, math.nan), start=1):
        running.add(torch.tensor(loss), torch.zeros(1, 2), torch.tensor([0]), torch.tensor(1.0), step)
    assert int(running.bad_step) == 2


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_a_bad_step(norm: float) -> None:
    running = Running(CPU)
    running.add(torch.tensor(1.0), torch.zeros(1, 2), torch.tensor([0]), torch.tensor(norm), 1)
    assert int(running.bad_step) == 1
