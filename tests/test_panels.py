"""Panels: many positions at once are what each is alone, at a fraction of the cost."""

import pytest
import torch
from torch import nn

import handwave as hw
from handwave import panels
from handwave.laws import apply_law
from handwave.signals import of_input


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("fn", [nn.ReLU(), nn.GELU(), nn.Hardshrink(0.37), nn.Sigmoid()], ids=str)
def test_many_positions_at_once_are_what_each_is_alone(fn, monkeypatch):
    # Sizes a thousandfold apart: positions share nodes with those of their own size only.
    x = torch.randn(8, 3, 6, 5) * torch.logspace(-2, 1, 5)
    conv = nn.Conv2d(3, 8, 3, padding=1)
    signal, _ = apply_law(conv, of_input(x))
    together, back = apply_law(fn, signal)
    monkeypatch.setattr(panels, "_FEW", 30)
    alone, back_alone = apply_law(fn, signal)
    ones = torch.ones(6, 5, dtype=torch.float64)
    assert torch.allclose(together.second, alone.second, rtol=1e-7)
    assert torch.allclose(together.mean, alone.mean, rtol=1e-7)
    factor, factor_alone = back(ones), back_alone(ones)
    assert factor is not None
    assert factor_alone is not None
    assert torch.allclose(factor, factor_alone, rtol=1e-7)


class Exponential(nn.Module):
    """An activation that grows, and counts how often it is asked."""

    calls = 0

    def forward(self, x):
        """Take the exponential."""
        type(self).calls += 1
        return x.exp()


def test_an_image_takes_no_quadrature_a_position():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Exponential())
    assert hw.predict(model, torch.randn(2, 3, 24, 24)).layers[1].band
    # Each of the 576 positions by itself would take eight.
    assert Exponential.calls < 500


def test_a_map_of_a_function_that_grows_too_fast_is_not_guessed():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), Exponential())
    hw.variance_scaling_(model[0])
    row = hw.predict(model, 6 * torch.randn(2, 3, 6, 6).sign()).layers[1]
    assert row.note.startswith("no theory: the function grows too fast")
