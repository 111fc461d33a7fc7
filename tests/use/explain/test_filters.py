"""Filters as pictures, and the network a run began with."""

import json
from pathlib import Path

import pytest
import torch

from alexnet import recipes
from alexnet.data import datasets
from alexnet.model import AlexNet_2012
from alexnet.run.session import open_session
from alexnet.use.explain import conv1_filters, untrained

pytestmark = pytest.mark.usefixtures("tiny_network")


@pytest.mark.parametrize("changes", [{}, {"variant": "paper", "init": "source", "seed": 7}, {"widths": "quarter"}])
def test_the_untrained_network_is_the_one_a_run_begins_with(tmp_path: Path, changes: dict) -> None:
    recipe = recipes.quickstart(**changes)
    session = open_session(recipe, tmp_path, datasets.load("digits"), torch.device("cpu"))
    try:
        config = {"recipe": {"name": "quickstart"} | changes, "classes": list("0123456789")}
        (tmp_path / "config.json").write_text(json.dumps(config))
        before = torch.get_rng_state()
        model = untrained(tmp_path)
        assert torch.equal(torch.get_rng_state(), before)
        for name, value in session.net.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)
    finally:
        session.close()


def test_without_a_config_there_is_no_untrained_network(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        untrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json: does not name the recipe and the classes"):
        untrained(tmp_path)


def test_filters_are_scaled_one_by_one() -> None:
    model = AlexNet_2012(2).requires_grad_(False)
    weights = model.features.conv1.weight
    weights[0] *= 1000
    weights[1] = 0.25
    filters = conv1_filters(model)
    assert filters.shape == weights.shape
    assert torch.equal(filters[1], torch.zeros_like(filters[1]))
    for one, weight in zip(filters[2:], weights[2:], strict=True):
        assert (one.min(), one.max()) == (0, 1)
        assert torch.equal(one.flatten().argsort(), weight.flatten().argsort())
    assert (filters[0].min(), filters[0].max()) == (0, 1)
