"""The parts of a run: the plateau's bookkeeping, the optimiser's groups, the moving average."""

from types import SimpleNamespace

import pytest
import torch

from alexnet import recipes
from alexnet.model import AlexNet_2012
from alexnet.run import session
from alexnet.run.progress import Progress

CPU = torch.device("cpu")


def test_the_rate_drops_after_epochs_without_progress_and_three_times_at_most() -> None:
    progress, drops = Progress(), []
    for val_acc in (30, 40, 40, 39, 41, 41, 41, 41, 41, 41, 41, 41, 41):
        progress.note_epoch(val_acc, patience=2)
        drops.append(progress.drops)
    assert drops == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3]


def test_biases_without_decay_are_all_the_biases() -> None:
    net = AlexNet_2012(10)
    weights, biases = session.sgd(net, recipes.classic(decay_biases=False), CPU).param_groups
    assert (weights["weight_decay"], biases["weight_decay"]) == (5e-4, 0)
    assert [p.ndim for p in biases["params"]] == [1] * 8
    assert len(weights["params"]) + len(biases["params"]) == len(list(net.parameters()))
    (whole,) = session.sgd(net, recipes.classic(), CPU).param_groups
    assert whole["weight_decay"] == 5e-4
    assert not whole["nesterov"]
    assert session.sgd(net, recipes.classic(nesterov=True), CPU).param_groups[0]["nesterov"]


@pytest.mark.parametrize(("ema", "steps"), [(0.5, 14), (0.9, 100)])
def test_the_average_is_one_and_forgets_the_start(ema: float, steps: int) -> None:
    torch.manual_seed(0)
    net, average = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    parts = SimpleNamespace(recipe=recipes.classic(ema=ema), net=net, average=average, progress=Progress())
    expected, of_the_start = average.weight.data.clone(), 1.0
    for step in range(1, steps + 1):
        with torch.no_grad():
            net.weight += torch.randn(2, 3)
        parts.progress.step = step
        session.Session.update_average(parts)  # type: ignore[arg-type]
        share = min(ema, step / (9 + step))
        expected, of_the_start = share * expected + (1 - share) * net.weight.data, share * of_the_start
    assert torch.allclose(average.weight, expected, atol=1e-5)
    assert share == ema
    assert of_the_start < 1e-4
