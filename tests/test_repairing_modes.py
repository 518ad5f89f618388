"""Repairing in every dtype and mode: half precision, autocast, inference, compiled models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import repaired
from handwave import measure, mlp
from handwave.repairing import repair_

held, notes, Shared = repaired.held, repaired.notes, repaired.Shared

X = repaired.X


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_half_precision_is_repaired_though_it_overflows_on_the_way(dtype, bias):
    seed = torch.Generator().manual_seed(0)
    model = mlp(64, 60, nn.ReLU, std=1000.0, bias=bias, generator=seed).to(dtype)
    x = (100 * torch.randn(32, 64, generator=seed)).to(dtype)
    with torch.no_grad():
        assert not model(x).isfinite().all()
    # A weight's rounding, 2**-9 of it in bfloat16, is averaged over 64 * 64 of them.
    held(model, x, tolerance=0.02)
    assert model[0].weight.dtype == dtype
    with torch.no_grad():
        assert model(x).isfinite().all()


def test_attention_in_half_precision_is_repaired_though_it_overflows():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(32, 4).half()
    nn.init.normal_(layer.in_proj_weight, std=1e4)
    nn.init.normal_(layer.out_proj.weight, std=3e4)
    x = torch.randn(5, 4, 32).half()
    held(layer, (10 * x, 10 * x, 10 * x), tolerance=0.02)


def test_a_weight_too_small_for_its_dtype_is_left_alone():
    layer = nn.Linear(24, 24, bias=False).half()
    weight = layer.weight.clone()
    (row,) = repair_(layer, X.half(), target=1e-12)
    assert row.note.startswith("its dtype cannot hold it times")
    assert torch.equal(layer.weight, weight)


def test_float32_is_repaired_though_it_overflows():
    model = mlp(24, 3, nn.ReLU, std=1e30)
    held(model, 1e12 * X)


def test_autocast_sees_the_new_weights():
    torch.manual_seed(0)
    model = Shared()
    with torch.autocast("cpu", torch.bfloat16):
        repair = repair_(model, X)
        trace = measure(model, X)
    assert model.first.weight.dtype == torch.float32
    for row in repair:
        found = trace[row.layer].signal.second_moment
        assert found == pytest.approx(row.after, rel=0.02)


class Force(nn.Module):
    """A model that differentiates in its forward."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
        self.after = nn.Linear(24, 24)

    def forward(self, x):
        with torch.enable_grad():
            x = x.requires_grad_()
            return self.after(torch.autograd.grad(self.net(x).sum(), x)[0])


def test_a_model_that_differentiates_in_its_forward_is_repaired():
    torch.manual_seed(0)
    repair = held(Force(), X)
    assert [row.scale != 1 for row in repair] == [True, True, True]


@pytest.mark.parametrize("made", [False, True])
def test_inference_mode_is_no_obstacle(made):
    torch.manual_seed(0)
    with torch.inference_mode(made):
        model = mlp(24, 3, nn.ReLU, std=1.0, bias=True)
    before = [p.clone() for p in model.parameters()]
    with torch.inference_mode(not made):
        repair = held(model, X)
    repair.undo()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_compiled_model_is_repaired():
    model = mlp(24, 3, nn.ReLU, std=1.0)
    repair = held(torch.compile(model, backend="eager"), X)
    assert [row.layer for row in repair] == ["0", "2", "4"]


@pytest.mark.parametrize("seed", range(8))
def test_rounding_that_goes_one_way_is_no_overflow(seed):
    # bfloat16 has 8 bits: just above a power of two, where weights of variance 1 over 4^k inputs
    # come to lie, all of them may be rounded up by 2e-3 on average.
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(256, 256, bias=False)
    nn.init.normal_(layer.weight, generator=generator)
    x = torch.randn(16, 256, generator=generator).bfloat16()
    held(layer.bfloat16(), x, tolerance=0.02)


@pytest.mark.parametrize("bias", [False, True])
def test_an_output_that_its_dtype_could_not_hold_is_left_alone(bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 64, bias=bias).half(), torch.randn(32, 64).half()
    before = layer.weight.detach().clone()
    repair = repair_(layer, x, target=1e10)
    assert notes(repair) == {"Linear": "its output would overflow float16"}
    assert torch.equal(layer.weight, before)
