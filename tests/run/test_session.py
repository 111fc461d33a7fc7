"""The parts of a run: the plateau's bookkeeping, progress from a checkpoint, the moving average."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alexnet import recipes
from alexnet.data.loaders import Shard
from alexnet.run import session
from alexnet.run.metrics import Running
from alexnet.run.progress import Progress


def test_the_rate_drops_after_epochs_without_progress_and_three_times_at_most() -> None:
    progress, drops = Progress(), []
    for val_acc in (30, 40, 40, 39, 41, 41, 41, 41, 41, 41, 41, 41, 41):
        progress.note_epoch(val_acc, patience=2)
        drops.append(progress.drops)
    assert drops == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3]


def test_progress_of_another_version_is_refused_by_name() -> None:
    ours = dataclasses.asdict(session.Progress(step=3, drops=1))
    assert session.Progress.of(ours) == session.Progress(step=3, drops=1)
    first = {"step": 0, "logged": 0, "best_acc": -1.0, "best_step": 0, "warned": False, "seconds": 0.0, "waited": 0.0}
    assert session.Progress.of(first | {"row": {}}) == session.Progress()  # as 0.1.0 began
    with pytest.raises(ValueError, match=r"written by another version of this project: its progress has lr, moon$"):
        session.Progress.of(ours | {"moon": 1, "lr": 0.1})
    for saved in (3, None, {}, {"step": 1}):
        with pytest.raises(ValueError, match="its progress has no step"):
            session.Progress.of(saved)


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


def test_each_process_takes_up_its_own_and_of_another_number_the_first_takes_all() -> None:
    sums = torch.tensor([[1.0, 2, 3], [10, 20, 30]], dtype=torch.float64)
    states = torch.stack([torch.Generator().manual_seed(seed).get_state() for seed in (7, 8)])

    def restored(rank: int, world: int, sums: torch.Tensor, states: torch.Tensor) -> tuple[list[float], int]:
        parts = SimpleNamespace(
            recipe=recipes.classic(seed=3), progress=Progress(step=90), shard=Shard(rank, world),
            device=torch.device("cpu"), running=Running(torch.device("cpu")),
        )  # fmt: skip
        saved = {"sums": sums, "grad_norm": torch.tensor(1.0)}
        session.Session._restore_own(parts, saved, {"cpu": states})  # type: ignore[arg-type]
        return parts.running.sums.tolist(), torch.initial_seed()

    with torch.random.fork_rng(devices=[]):
        assert [restored(rank, 2, sums, states) for rank in (0, 1)] == [([1, 2, 3], 7), ([10, 20, 30], 8)]
        assert restored(0, 1, sums, states) == ([11, 22, 33], 7)
        assert [restored(rank, 3, sums, states) for rank in range(3)] == [
            ([11, 22, 33], 7), ([0, 0, 0], 94), ([0, 0, 0], 95)
        ]  # fmt: skip
        older = sums.sum(0), states[0].clone()
        assert restored(0, 1, *older) == ([11, 22, 33], 7)
        assert [restored(rank, 2, *older) for rank in (0, 1)] == [([11, 22, 33], 7), ([0, 0, 0], 94)]


def test_what_is_shown_is_of_all_shares() -> None:
    parts = SimpleNamespace(shard=Shard(0, 3), running=Running(torch.device("cpu")))
    logits, labels = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1])
    parts.running.add(torch.tensor(0.7), logits, labels, torch.tensor(5.0), step=1)
    found = session.Session.read_local(parts)  # type: ignore[arg-type]
    assert found == {"train_loss": pytest.approx(0.7), "train_acc": 50, "grad_norm": 5, "images": 6}


def test_a_checkpoint_that_only_some_processes_see_is_refused(tmp_path: Path) -> None:
    def asked(*others: float) -> bool:
        def now(*own: float) -> list[float]:
            return [max(pair) for pair in zip(own, others, strict=True)]

        return session.Session.has_checkpoint(SimpleNamespace(folder=tmp_path, accord=SimpleNamespace(now=now)))  # type: ignore[arg-type]

    assert not asked(0, 1)
    with pytest.raises(ValueError, match=r"some processes see its last.ckpt and others do not"):
        asked(1, 0)
    (tmp_path / "last.ckpt").touch()
    assert asked(1, 0)
    with pytest.raises(ValueError, match="name a folder that all machines share"):
        asked(0, 1)


def test_of_equal_validations_the_first_is_kept() -> None:
    parts = SimpleNamespace(
        progress=Progress(), kept=torch.nn.Linear(1, 1), _whole=lambda state: state,
        accelerator=SimpleNamespace(is_main_process=True), unsaved_best=None,
    )  # fmt: skip
    found = []
    for step, val_acc in ((1, 50.0), (2, 50.0), (3, 60.0), (4, 55.0)):
        parts.progress.step = step
        session.Session.keep_if_best(parts, val_acc)  # type: ignore[arg-type]
        found.append(parts.progress.best_step)
    assert found == [1, 1, 3, 3]


@pytest.mark.parametrize(("world", "whole", "last"), [(1, [1], [1]), (3, [9 / 8, 9 / 8, 6 / 8], [6 / 4, 3 / 4, 3 / 4])])
def test_each_share_of_a_batch_weighs_as_much_as_its_images(world: int, whole: list[float], last: list[float]) -> None:
    """Of 20 images in batches of 8, the last batch has 4."""
    for step, images, weights in ((3, 8, whole), (5, 4, last)):
        parts = SimpleNamespace(
            recipe=recipes.classic(batch_size=8), batches=SimpleNamespace(steps_per_epoch=3),
            dataset=SimpleNamespace(train=range(20)), progress=Progress(step=step), shard=Shard(0, world),
        )  # fmt: skip
        own = [len(range(images)[rank::world]) for rank in range(world)]
        assert [session.Session.loss_weight(parts, count) for count in own] == weights  # type: ignore[arg-type]
