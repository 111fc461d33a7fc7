"""Muon against torch's own, which takes matrices alone, and beside SGD in one optimizer."""

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
    for _ in range(4):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn_like(own)
            other.grad = own.grad.view_as(other).clone()
        for each in (optimizer, *oracles):
            each.step()
    own, other, start = ours[0].detach().flatten(1), theirs[0].detach(), weight.flatten(1)
    assert (own - other).norm() < 0.02 * (other - start).norm()  # torch's products are in bfloat16
    assert torch.equal(ours[1], theirs[1])


def test_a_weight_without_a_gradient_is_unchanged():
    frozen, weight = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    weight.grad = torch.eye(4)
    SGDMuon([{"params": [frozen, weight], "muon": True}], lr=LR).step()
    assert torch.equal(frozen, torch.ones(4, 4))
    assert not torch.equal(weight, frozen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalized_matrices_have_singular_values_near_1(dtype):
    for shape in ((20, 50), (50, 20)):
        found = orthogonalize(torch.randn(shape), dtype)
        assert found.dtype == torch.float32
        assert found.shape == shape
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.6
        assert values.max() < 1.3
