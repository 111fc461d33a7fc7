"""Muon against torch's own, which takes matrices alone, and beside SGD in one optimizer."""

import contextlib
import copy
import pickle

import pytest
import torch

from alexnet.muon import SGDMuon, orthogonalize

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01


@pytest.mark.parametrize("shape", [(16, 3, 3, 3), (40, 2, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_is_torchs_and_the_other_groups_are_sgd(shape, dtype):
    torch.manual_seed(0)
    weight, bias = torch.randn(shape), torch.randn(7)
    ours = [torch.nn.Parameter(each.clone()) for each in (weight, bias)]
    theirs = [torch.nn.Parameter(each.clone()) for each in (weight.flatten(1), bias)]
    muon = {"params": ours[:1], "muon": True, "momentum": MOMENTUM, "weight_decay": DECAY}
    optimizer = SGDMuon([muon, {"params": ours[1:]}], dtype=dtype, lr=LR, momentum=0.5)
    oracles = [
        torch.optim.Muon(theirs[:1], lr=LR, weight_decay=DECAY, momentum=MOMENTUM),
        torch.optim.SGD(theirs[1:], lr=LR, momentum=0.5),
    ]
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    for step in range(4):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn_like(own)
            other.grad = own.grad.view_as(other).clone()
        for each in (optimizer, *oracles):
            each.step()
        assert all(own.grad is not None for own in ours)
        assert len(calls) == step + 1
    own, other, start = ours[0].detach().flatten(1), theirs[0].detach(), weight.flatten(1)
    assert (own - other).norm() < 0.02 * (other - start).norm()  # torch's products are in bfloat16
    assert torch.equal(ours[1], theirs[1])


def test_maximize_copies_and_dampening():
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = SGDMuon([{"params": [weight], "muon": True}], lr=LR, maximize=True, dtype=torch.bfloat16)
    for each in (optimizer, pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        (own,) = each.param_groups[0]["params"]
        own.grad = torch.eye(4)
        each.step()
        assert (own.diag() > 0).all()
        assert each.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dampening"):
        SGDMuon([weight], lr=LR, dampening=0.5)


def test_a_weight_without_a_gradient_is_unchanged():
    frozen, weight = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    weight.grad = torch.eye(4)
    SGDMuon([{"params": [frozen, weight], "muon": True}], lr=LR).step()
    assert torch.equal(frozen, torch.ones(4, 4))
    assert not torch.equal(weight, frozen)


def test_a_closure_gives_the_gradient_and_the_loss():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = SGDMuon([{"params": [weight], "muon": True}], lr=LR)

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 16
    assert torch.equal(weight, 1 - LR * orthogonalize(torch.full((4, 4), 2.0)))


def test_a_scaler_of_gradients_is_refused_where_the_optimizer_would_have_to_scale():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    scaler = torch.amp.GradScaler("cpu")
    for fused in (False, True):
        optimizer = SGDMuon([{"params": [weight], "muon": True}], lr=LR, fused=fused)
        scaler.scale(weight.sum()).backward()
        with pytest.raises(RuntimeError, match="fused=False") if fused else contextlib.nullcontext():
            scaler.step(optimizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalized_matrices_have_singular_values_near_1(dtype):
    for shape in ((20, 50), (50, 20)):
        found = orthogonalize(torch.randn(shape), dtype)
        assert found.dtype == torch.float32
        assert found.shape == shape
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.6
        assert values.max() < 1.3
