"""The parts of a run: the plateau's bookkeeping, the optimiser's groups, the moving average."""

import copy

import pytest
import torch

from alexnet import recipes, session
from alexnet.model import AlexNet_2012

CPU = torch.device("cpu")


def test_the_rate_drops_after_epochs_without_progress_and_three_times_at_most() -> None:
    progress, drops = session.Progress(), []
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


@pytest.mark.parametrize(("decay", "steps"), [(0.5, 4), (0.9, 40)])
def test_the_average_is_one_and_forgets_the_start(decay: float, steps: int) -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=session._moving_average(decay))
    expected = copy.deepcopy(net.weight.data)
    for step in range(steps):
        with torch.no_grad():
            net.weight += torch.randn(2, 3)
        average.update_parameters(net)
        share = min(decay, (1 + step) / (10 + step)) if step else 0.0  # the first takes the place of the beginning
        expected = share * expected + (1 - share) * net.weight.data
    assert torch.allclose(average.module.weight, expected, atol=1e-6)
