"""Learning rates against PyTorch's own."""

from __future__ import annotations

import pytest
import torch

from alexnet import recipes
from alexnet.run.schedule import cosine, learning_rate


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
