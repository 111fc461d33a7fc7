"""Two towers on two processes compute what the one network does, and a run may switch between both."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from alexnet import load_model, load_run, recipes, train
from alexnet.checkpoint import load_checkpoint, load_weights
from alexnet.errors import FieldError
from alexnet.model import AlexNet_2012
from alexnet.recipes import Runtime
from alexnet.tools.two_towers import TwoTowers
from forked import SERVER, several

CLASSES = 7  # of an odd number the first process has one more


def ten_steps(variant, width_mult, towers):
    """Ten steps of SGD with dropout, in float64: in float32, rounding may change which pixel max pooling picks."""
    torch.manual_seed(0)
    net = AlexNet_2012(CLASSES, variant, init="he", width_mult=width_mult)  # gradients of about 1 in every layer
    net.to(torch.float64, memory_format=torch.channels_last)
    if towers:
        net = towers.prepare(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    data = torch.Generator().manual_seed(1)
    torch.manual_seed(2)  # dropout's
    losses, norms = [], []
    for _ in range(10):
        images = torch.randn(2, 3, 224, 224, generator=data, dtype=torch.float64)
        images = images.contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(net(images), torch.randint(CLASSES, (2,), generator=data))
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        norm = towers.grad_norm(norm) if towers else norm
        nn.utils.clip_grads_with_norm_(net.parameters(), 1.0, norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        norms.append(norm.item())
    weights, momentum = net.state_dict(), optimizer.state_dict()
    if towers:
        weights, momentum = towers.full_state(weights), towers.full_state(momentum)
        assert all(torch.equal(half, net.state_dict()[name]) for name, half in towers.own_state(weights).items())
    buffers = {str(index): entry["momentum_buffer"] for index, entry in momentum["state"].items()}
    return {"losses": losses, "norms": norms, "weights": weights, "momentum": buffers, "logits": net.eval()(images)}


def test_frozen_layers_stay_frozen(monkeypatch):
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    model = AlexNet_2012(3, "paper", width_mult=1 / 16).requires_grad_(False)
    model.classifier.fc8.requires_grad_()
    monkeypatch.setenv("WORLD_SIZE", "2")
    tower = TwoTowers().prepare(model)
    trained = [name for name, weight in tower.named_parameters() if weight.requires_grad]
    assert trained == ["classifier.fc8.weight", "classifier.fc8.bias"]


def one_tower(rank, folder, *network):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        found = ten_steps(*network, TwoTowers())
    if rank == 0:
        torch.save(found, folder / "found")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("variant", "width_mult"),
    [("paper", 1 / 16), ("source", 1 / 16), pytest.param("paper", 1.0, marks=pytest.mark.slow)],
)
def test_two_towers_compute_what_one_network_does(variant, width_mult, tmp_path):
    processes = [SERVER.Process(target=one_tower, args=(rank, tmp_path, variant, width_mult)) for rank in range(2)]
    for process in processes:
        process.start()
    one = ten_steps(variant, width_mult, None)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    two = torch.load(tmp_path / "found")
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-10)
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-10)
    assert_close(two["logits"], one["logits"])
    for kind in ("weights", "momentum"):
        assert list(two[kind]) == list(one[kind])
        for name, value in one[kind].items():
            assert_close(two[kind][name], value)


def assert_close(found, expected):
    """Equal to 1e-10 of the largest value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


def test_a_run_continues_as_two_towers_and_again_as_one_network(images, tmp_path):
    def run(out, max_steps=None):
        recipe = recipes.paper(
            data=str(images), init="he", input_scale="imagenet", batch_size=4, val_every=2, epochs=2, holdout=4,
            ema=0.9, width_mult=1 / 16,
        )  # fmt: skip
        runtime = Runtime(tracker="none", precision="fp32", device="cpu", quiet=True, max_steps=max_steps)
        train.run(recipe, out=out, runtime=runtime, resume=out.exists())

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole)
    run(parts, max_steps=3)
    flags = ["train", "--resume", "--out", str(parts), "--parallel", "towers", "--max-steps", "6"]
    towers = several(2, flags, tmp_path / "output")
    assert [tower.end()[0] for tower in towers] == [0, 0], towers[0].end()
    assert load_checkpoint(parts / "last.ckpt")["progress"]["step"] == 6
    assert load_model(parts).num_classes == 2
    run(parts)

    expected, found = load_checkpoint(whole / "last.ckpt"), load_checkpoint(parts / "last.ckpt")
    for part in ("model", "average"):
        for name, value in expected[part].items():
            torch.testing.assert_close(found[part][name], value, rtol=1e-5, atol=1e-5)
    assert torch.equal(found["random"]["cpu"], expected["random"]["cpu"])
    best, same_best = (load_weights(folder / "best.safetensors")[0] for folder in (whole, parts))
    for name, value in best.items():
        torch.testing.assert_close(same_best[name], value, rtol=1e-5, atol=1e-5)
    logged = {row["step"]: row for row in load_run(parts).rows}
    for row in load_run(whole).rows:
        for name in {"train_loss", "train_acc", "val_loss", "val_acc", "grad_norm", "test_loss"} & row.keys():
            assert logged[row["step"]][name] == pytest.approx(row[name], rel=1e-4), (row["step"], name)
    assert [part["processes"] for part in load_run(parts).config["parts"]] == [1, 2, 1]


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(FieldError, match=r"^parallel must "):
        TwoTowers()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for variant in ("classic", "caffe"):  # which has one tower, and which normalises across both
        with pytest.raises(FieldError, match=variant) as error:
            TwoTowers().prepare(AlexNet_2012(10, variant, width_mult=1 / 16))
        assert error.value.field == "parallel"
    with pytest.raises(FieldError, match=r"^compile must "):
        Runtime(parallel="towers", compile=True)
