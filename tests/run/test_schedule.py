"""Learning rates: against PyTorch's own, against what each source did, and whose they are."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from alexnet import recipes
from alexnet.model import AlexNet_2012
from alexnet.run.schedule import clip_gradient, cosine, learning_rate, set_rates, sgd

CPU = torch.device("cpu")


def test_cosine_is_pytorchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        assert cosine(step, 50, 0.01) == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        schedule.step()
    assert cosine(50, 50, 0.01) == pytest.approx(0)


def test_warm_up_and_plateau() -> None:
    rates = [learning_rate(recipes.classic(warmup=0.5, epochs=2), step, 10) for step in range(20)]
    assert rates[:5] == pytest.approx([0.01 * n / 6 for n in range(1, 6)])
    assert rates[5] == 0.01
    assert rates[5:] == pytest.approx([cosine(step, 15, 0.01) for step in range(15)])
    recipe = recipes.classic(schedule="plateau", warmup=0.2)
    assert [learning_rate(recipe, step, 10) for step in (1, 2, 129)] == pytest.approx([0.02 / 3, 0.01, 0.01])
    assert [learning_rate(recipe, 5, 10, drops) for drops in (1, 3)] == pytest.approx([1e-3, 1e-5])


RELEASED = [  # epoch, weights, weights of conv1: the notes of layer-params-145.cfg
    (0, 0.01, 0.01), (24, 0.01, 0.01), (25, 1e-3, 1e-3), (50, 1e-3, 1e-3), (51, 1e-4, 1e-4), (66, 1e-4, 1e-4),
    (67, 1e-4, 1e-5), (71, 1e-4, 1e-5), (72, 1e-4, 0.0), (78, 1e-4, 0.0), (79, 1e-5, 0.0), (90, 1e-5, 0.0),
]  # fmt: skip


@pytest.mark.parametrize("epochs", [91, 182])
def test_source_lowers_its_rates_where_the_released_code_did(epochs: int) -> None:
    recipe, steps = recipes.source(epochs=epochs), 7
    for epoch, weights, conv1 in RELEASED:
        step = epoch * epochs // 91 * steps
        assert learning_rate(recipe, step, steps) == pytest.approx(weights)
        assert learning_rate(recipe, step, steps, layer="conv1") == pytest.approx(conv1)
        assert learning_rate(recipe, step, steps, bias=True) == 0.02
        assert learning_rate(recipe, step, steps, layer="conv1", bias=True) == (0.02 if epoch < 72 else 0)
        if epoch:
            before = learning_rate(recipe, step - 1, steps)
            assert (before > 5 * weights) == (epoch in (25, 51, 79))


def test_the_rates_of_a_short_run_are_the_whole_runs_in_small() -> None:
    recipe = recipes.source(epochs=2)
    rates = [learning_rate(recipe, step, 50) for step in range(100)]
    assert [rates.count(pytest.approx(rate)) for rate in (0.01, 1e-3, 1e-4, 1e-5)] == [28, 29, 30, 13]


def test_biases_take_a_multiple_of_the_rate() -> None:
    for changes in ({}, {"schedule": "plateau"}, {"warmup": 1.0}):
        recipe = recipes.classic(bias_lr=2.0, **changes)
        for step, drops in ((0, 0), (9, 0), (70, 2)):
            rate = learning_rate(recipe, step, 10, drops)
            assert learning_rate(recipe, step, 10, drops, bias=True) == pytest.approx(2 * rate)
    with pytest.raises(ValueError, match=r"--bias-lr 0\.0: allowed is a positive number"):
        recipes.classic(bias_lr=0.0)


def test_groups_hold_each_parameter_once_with_its_decay(tiny_network: None) -> None:
    net = AlexNet_2012(10)
    (whole,) = sgd(net, recipes.classic(), CPU).param_groups  # as checkpoints of 0.1.0 have it
    assert whole["weight_decay"] == 5e-4
    assert not whole["nesterov"]
    assert sgd(net, recipes.classic(nesterov=True), CPU).param_groups[0]["nesterov"]
    for changes, count, decay in (({"decay_biases": False}, 2, 0), ({"bias_lr": 2.0}, 2, 5e-4)):
        weights, biases = groups = sgd(net, recipes.classic(**changes), CPU).param_groups
        assert (weights["weight_decay"], biases["weight_decay"]) == (5e-4, decay)
        assert [p.ndim for p in biases["params"]] == [1] * 8
        assert len(groups) == count
    groups = sgd(net, recipes.source(), CPU).param_groups
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    held = [[names.pop(id(parameter)) for parameter in group["params"]] for group in groups]
    assert not names
    assert [len(group) for group in held] == [7, 7, 1, 1]
    assert held[2:] == [["features.conv1.weight"], ["features.conv1.bias"]]
    assert [group["weight_decay"] for group in groups] == [5e-4, 0, 5e-4, 0]


def test_each_group_takes_its_own_rate(tiny_network: None) -> None:
    recipe = recipes.source()
    optimizer = sgd(AlexNet_2012(10), recipe, CPU)
    rates = []
    for epoch in (0, 26, 68, 73, 80):
        set_rates(optimizer, recipe, 10 * epoch, 10, 0)
        rates.append([round(group["lr"], 9) for group in optimizer.param_groups])
    assert rates == [
        [0.01, 0.02, 0.01, 0.02],
        [1e-3, 0.02, 1e-3, 0.02],
        [1e-4, 0.02, 1e-5, 0.02],
        [1e-4, 0.02, 0, 0],
        [1e-5, 0.02, 0, 0],
    ]
    optimizer = sgd(AlexNet_2012(10), recipes.classic(), CPU)
    for name in ("layer", "bias"):  # a checkpoint from before groups said whose they are
        optimizer.param_groups[0].pop(name, None)
    set_rates(optimizer, recipes.classic(), 0, 10, 0)
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_a_layer_without_a_rate_stands_still(tiny_network: None) -> None:
    """Momentum and decay of conv1 included, as in the released code (src/weights.cu: no update at a rate of 0)."""
    torch.manual_seed(0)
    net, recipe = AlexNet_2012(3, "source", init="he"), recipes.source()
    optimizer = sgd(net, recipe, CPU)
    weights = []
    for epoch in (0, 71, 72, 90):
        set_rates(optimizer, recipe, 10 * epoch, 10, 0)
        net(torch.randn(2, 3, 224, 224)).square().mean().backward()
        clip_gradient(net, 1.0)
        optimizer.step()
        parameters = (*net.features.conv1.parameters(), *net.features.conv2.parameters())
        weights.append([parameter.detach().clone() for parameter in parameters])
    for index in range(4):
        moved = [not torch.equal(one[index], other[index]) for one, other in itertools.pairwise(weights)]
        assert moved == ([True, False, False] if index < 2 else [True] * 3)


@pytest.mark.parametrize("max_norm", [1.0, 1e9])
def test_the_gradients_norm_is_exact_for_the_whole_network(max_norm: float) -> None:
    torch.manual_seed(0)
    net = AlexNet_2012(10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    first = net.classifier.fc6.weight.grad[0].clone()  # type: ignore[union-attr,index]
    exact = math.sqrt(sum(p.grad.double().square().sum().item() for p in net.parameters()))  # type: ignore[union-attr]
    assert clip_gradient(net, max_norm).item() == pytest.approx(exact, rel=1e-6)
    torch.testing.assert_close(net.classifier.fc6.weight.grad[0], first * min(1, max_norm / exact))  # type: ignore[union-attr,index]
