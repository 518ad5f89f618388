"""What a norm leaves of a gradient depends on what follows it."""

import pytest
import torch
from torch import nn

import handwave as hw
from draws import draw, redraw
from handwave.followings import kept
from handwave.signals import of_input
from test_prediction_bands import DRAWS, batch, lecun


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Identity])
def test_gradients_through_norms_of_eight_numbers_are_what_their_draws_are(activation):
    # 2 of 8 directions are taken out: by how much depends on slopes where z is large, and on a
    # norm that has taken the mean out already. To 8 %: 200 draws tell them to 1 %.
    model = lecun(
        nn.Linear(32, 64), nn.BatchNorm1d(64), activation(),
        nn.Linear(64, 64), nn.BatchNorm1d(64), activation(), nn.Linear(64, 10),
    )  # fmt: skip
    found = draw(model, batch(8, 32), DRAWS, backward=True, again=redraw)
    for row, grad in zip(found.predicted, found.grad, strict=True):
        assert row.grad
        assert row.grad.second_moment == pytest.approx(float(grad.mean()), rel=0.08)


def test_what_follows_changes_nothing_where_no_norm_is():
    signal = of_input(torch.randn(8, 4))
    assert kept(nn.ReLU(), signal, [nn.Linear(4, 4)]) == 1.0
    assert kept(nn.Linear(4, 4), signal, [nn.ReLU(), nn.BatchNorm1d(4)]) == 1.0
    assert kept(nn.BatchNorm1d(4), None, [nn.ReLU()]) == 1.0
    assert kept(nn.Linear(64, 4), signal, [nn.BatchNorm1d(4)]) == 1 - 2 / 64
    assert kept(nn.Linear(64, 4), signal, [nn.BatchNorm1d(4).eval()]) == 1.0
    assert kept(nn.Linear(64, 4), signal, []) == 1.0


def test_the_last_norm_of_a_model_has_nothing_behind_it():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    trace = hw.predict(model, batch(32, 8), backward=True)
    assert trace.layers[0].grad


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda units: nn.GroupNorm(4, units)])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid])
@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(3)])
def test_gradients_that_an_average_makes_alike_lose_more_in_a_norm(norm, activation, pool):
    # With the same gradient at all positions of a window, of 8 inputs or 8 units a norm takes a
    # tenth, not of 8 times as many positions a hundredth. To 5 %: 200 draws tell them to 1.5 %.
    model = lecun(
        nn.Conv2d(3, 32, 3, bias=False), norm(32), activation(), pool,
        nn.Flatten(), nn.Linear(32 * (1 if pool.__class__ is nn.AdaptiveAvgPool2d else 4), 10),
    )  # fmt: skip
    found = draw(model, batch(8, 3, 8, 8), DRAWS, backward=True, again=redraw)
    for row, grad in zip(found.predicted, found.grad, strict=True):
        assert row.grad
        assert row.grad.second_moment == pytest.approx(float(grad.mean()), rel=0.05)


def test_windows_larger_than_the_map_are_refused_where_they_stand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(9))
    with pytest.raises(ValueError, match=r"^2: "):
        hw.predict(model, batch(8, 3, 8, 8))
