"""Scaling on paper, by hand; and that the page has what the scripts found."""

import json
from pathlib import Path

import pytest
import torch

import imagenet_scale
import scaling
import two_processes
from alexnet.model import AlexNet_2012

ROOT = Path(__file__).parents[2]


def test_by_hand() -> None:
    assert scaling.exchange(4, rate=100.0, gradients=1000) == pytest.approx(15)  # 2 · 3/4 · 1000 / 100
    assert scaling.exchange(1, rate=1.0) == 0
    assert scaling.speedup(4, 8.0, 2.0, each=False) == (2, 4)  # 8 / (2 + 2) and 8 / 2
    assert scaling.speedup(4, 8.0, 10.0, each=True) == pytest.approx((32 / 18, 3.2))


def test_gradients_are_the_papers_network() -> None:
    with torch.device("meta"):
        net = AlexNet_2012(1000, "paper")
    assert 4 * sum(weights.numel() for weights in net.parameters()) == scaling.GRADIENTS


def test_the_page_has_the_tables() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    steps = scaling.steps(ROOT / "results" / "compare-cpu-fast-host.json", scaling.CARD_TFLOPS)
    assert scaling.table(steps["CPU of the record"], each=False) in page
    assert scaling.table(steps["card"], each=True) in page
    record = json.loads((ROOT / "results" / "imagenet-scale-cpu.json").read_text(encoding="utf-8"))
    assert imagenet_scale.table(record["runs"]) in page


def test_the_page_has_what_two_processes_took() -> None:
    seconds = json.loads((ROOT / "results" / "two-processes-cpu.json").read_text(encoding="utf-8"))["seconds"]
    (alone, summed), (_, ddp, _) = (seconds[turn][1] for turn in ("alone", "sum")), seconds["ddp"]
    page = " ".join((ROOT / "docs" / "scale.md").read_text(encoding="utf-8").split())
    assert f"alone each takes {alone:.2f} s a step, summing the gradients takes {summed:.2f} s" in page
    low, high = seconds["reckoned"]
    assert f"a step with DDP {ddp:.2f} s" in page
    assert f"within the reckoned {low:.2f} to {high:.2f} s" in page
    assert low <= ddp <= high


@pytest.mark.slow
def test_two_processes_are_timed_by_turns() -> None:
    found = two_processes.measure(images=2, steps=3)
    assert all(0 < least <= middle <= most for least, middle, most in (found[turn] for turn in ("alone", "sum", "ddp")))
    alone, summed = found["alone"][1], found["sum"][1]
    assert found["reckoned"] == pytest.approx([max(alone, summed), alone + summed])
