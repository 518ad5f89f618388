"""What is left of likeness when the mean of all points, or of each one's units, is taken out."""

import pytest
import torch
from torch import nn

from draws import draw, off, redraw
from handwave.centring import around, between, by_units, of_unit_length, within
from handwave.pairs import of_tensor
from test_prediction_bands import DRAWS, batch, check, conv, lecun
from test_prediction_strokes import strokes


def dense(norm):
    return nn.Linear(32, 64), nn.ReLU(), norm(64), nn.Linear(64, 64), nn.ReLU()


@pytest.mark.parametrize("x", [batch(64, 32), batch(64, 32).abs()], ids=["noise", "one-sided"])
def test_layers_behind_a_norm_know_that_what_all_units_share_is_gone(x):
    # A ReLU hands on 0.64 in common to all inputs: were that still there, the band of the layer
    # behind would be twice as wide as it has to be, and of the next one but two, four times.
    model = lecun(*dense(nn.LayerNorm), nn.LayerNorm(64), nn.Linear(64, 64))
    check(draw(model, x, DRAWS, again=redraw), [0, 1, 3, 4, 6])


def test_averages_of_maps_know_that_the_mean_of_a_group_is_gone():
    # With it they would be twice as large.
    model = lecun(
        *(conv(3, 16, 3), nn.ReLU(), nn.GroupNorm(4, 16)),
        *(conv(16, 16, 3), nn.ReLU(), nn.GroupNorm(4, 16)),
        *(conv(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
    )
    found = draw(model, batch(8, 3, 10, 10), DRAWS, again=redraw)
    check(found, [0, 1, 3, 4, 6, 7, 8])
    expected = found.predicted.layers[-1].signal.second_moment
    assert off(found.second[-1], expected, expected) <= 0.02


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU])
def test_averages_of_a_groups_own_channels_have_less_in_common(activation):
    # Of 8 channels the line is 1/8 smaller.
    model = lecun(
        *(conv(3, 16, 3), nn.GroupNorm(4, 16), activation()),
        *(conv(16, 32, 3), nn.GroupNorm(4, 32), activation(), nn.AdaptiveAvgPool2d(1)),
    )
    found = draw(model, batch(8, 3, 10, 10), DRAWS, again=redraw)
    expected = found.predicted.layers[-1].signal.second_moment
    assert off(found.second[-1], expected, expected) <= 0.04


@pytest.mark.parametrize("shape", [(24, 6), (6, 6, 3, 4)])
def test_it_is_what_units_have_left_around_their_mean(shape):
    # A unit is a Gaussian in the inputs; of U = 4 of them, all positions together, the mean goes.
    x, units = batch(*shape).double() + 0.7, 4
    before = of_tensor(x, 1)
    after, left = by_units(before, units, 0.0)
    points = x.movedim(1, -1).flatten(1, -2) if x.dim() > 2 else x[:, None]
    gram = torch.einsum("apu,bqu->apbq", points, points)
    gram = gram / gram.diagonal(dim1=0, dim2=2).diagonal().mean()
    own = gram.mean(3)  # of each point, with the mean of each input
    both = gram.mean((1, 3))
    rest = gram - (own[..., None] + own.permute(2, 0, 1)[:, None] - both[:, None, :, None]) / units
    places = points.shape[1]
    same = torch.stack([rest[a, p, a, p] for a in range(len(x)) for p in range(places)])
    assert left == pytest.approx(float(same.mean()), rel=0.02)
    inputs = torch.eye(len(x), dtype=torch.bool)
    far = rest.permute(0, 2, 1, 3)[~inputs]
    assert float(after.far.mean()) == pytest.approx(float(far.mean()) / left, abs=0.02)
    if places > 1:
        inside = rest.permute(0, 2, 1, 3)[inputs].mean((1, 2))
        expected = float((inside.mean() * places - left) / (places - 1)) / left
        assert float(after.within.mean()) == pytest.approx(expected, abs=0.02)


def test_units_that_are_one_number_leave_nothing():
    after, left = by_units(of_tensor(torch.ones(8, 4), 1), 4, 1.0)
    assert left == 0
    assert float(after.far.mean()) == 1


def test_inputs_of_unit_length_have_a_likeness_within_one():
    x = batch(16, 8) * torch.logspace(-1, 1, 16)[:, None]
    after = of_unit_length(of_tensor(x, 1))
    assert torch.allclose(after.same, torch.ones_like(after.same))
    assert float(after.far.abs().max()) <= 1 + 1e-9
    rows = nn.functional.normalize(x.double(), dim=1)
    expected = (rows @ rows.T)[torch.triu_indices(16, 16, 1).unbind()]
    assert float(after.far.mean()) == pytest.approx(float(expected.mean()), abs=1e-6)


def test_an_average_over_pairs_is_one_within_and_between_inputs():
    wander = of_tensor(strokes(12, 14), 1)
    parts = within(wander, torch.square), between(wander, torch.square)
    mixed = wander.inputs * parts[0] + (1 - wander.inputs) * parts[1]
    assert torch.equal(mixed, around(wander, torch.square))
    assert float(mixed.mean()) == pytest.approx(wander.mean(torch.square), rel=0.02)


def test_what_little_is_left_of_likeness_is_told_by_the_very_input():
    # All but a hundredth is the mean's: of pairs of images, neighbours would be one; the largest
    # of four of them 16 % larger than they are said to be.
    x = nn.functional.avg_pool2d(
        torch.rand(8, 3, 14, 14, generator=torch.Generator().manual_seed(9)), 5, 1
    )
    model = lecun(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.MaxPool2d(2))
    found = draw(model, x * 2, DRAWS, again=redraw)
    expected = found.predicted.layers[-1].signal.second_moment
    assert off(found.second[-1], expected, expected) <= 0.03


def test_what_a_window_has_averaged_is_not_the_very_input_any_more():
    first = conv(3, 16, 3), nn.AvgPool2d(2), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 16, 3)
    x = nn.functional.avg_pool2d(batch(8, 3, 14, 14), 3, 1)
    check(draw(lecun(*first), x, DRAWS, again=redraw), [0, 1, 3, 4])
