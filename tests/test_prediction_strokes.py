"""Images that are black nearly everywhere: points of very different lengths, most of them none."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import relu, tanh, unfold

import handwave as hw
from draws import draw, redraw
from handwave.centring import Centre
from handwave.lengths import Terms, lengths
from handwave.pairs import drawn, of_tensor
from handwave.shaping import Shaping
from test_prediction_bands import check, lecun


def strokes(count: int, size: int) -> torch.Tensor:
    """Draw three lines in each image, thin and bright; most positions are 0."""
    generator = torch.Generator().manual_seed(4)
    place = torch.stack(torch.meshgrid(*[torch.arange(size)] * 2, indexing="ij"), dim=-1).float()
    images = torch.zeros(count, 1, size, size)
    for image in images:
        corners = (0.2 + 0.6 * torch.rand(4, 2, generator=generator)) * size
        for start, end in itertools.pairwise(corners):
            along = ((place - start) @ (end - start) / (end - start).square().sum()).clamp(0, 1)
            away = (place - start - along[..., None] * (end - start)).norm(dim=-1)
            image.copy_(image.maximum((1.3 - away).clamp(0, 1)))
    return images


X = strokes(12, 14)
DRAWS = 300  # widths are near their bound: to 4 %


def conv(before, after, **known):
    return nn.Conv2d(before, after, 3, bias=False, **known)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("shift", [0.0, -0.4])
def test_a_stack_of_convolutions_holds_on_strokes(activation, shift):
    model = lecun(
        conv(1, 32), activation(), conv(32, 32), activation(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * 25, 32), activation(),
    )  # fmt: skip
    found = draw(model, X + shift, DRAWS, again=redraw)
    check(found, [0, 1, 2, 3, 6, 7], widest=1.6)


def anew(model, generator):
    """Draw Gaussian weights whose mean is free: it tells what bright points have in common."""
    for weight in (p for p in model.parameters() if p.dim() > 1):
        hw.variance_scaling_(weight, generator=generator)


def test_channels_of_one_size_hold_on_strokes():
    model = lecun(
        conv(1, 16, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        conv(16, 32, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
    )  # fmt: skip
    found = draw(model, X, DRAWS, again=anew)
    check(found, [2, 5], widest=1.6)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_bright_images_hold_behind_a_norm(activation):
    # At the edges, zeros among what is bright: these points are long, and all on one side.
    noise = torch.rand(8, 3, 14, 14, generator=torch.Generator().manual_seed(9))
    bright = nn.functional.avg_pool2d(noise, 5, 1) * 2
    model = lecun(conv(3, 16, padding=1), nn.BatchNorm2d(16), activation())
    check(draw(model, bright, DRAWS, again=redraw), [2])


@pytest.mark.parametrize("shift", [0.0, -0.4])
def test_what_saturates_behind_a_norm_is_told_by_all_lengths(shift):
    # Of points that are nearly all the same short one, tanh is a third smaller, and its slope twice
    # as large, as of points of one length.
    model = lecun(
        conv(1, 16, padding=1), nn.BatchNorm2d(16), nn.Tanh(),
        conv(16, 32, padding=1, stride=2), nn.BatchNorm2d(32), nn.Tanh(),
    )  # fmt: skip
    found = draw(model, X + shift, DRAWS, backward=True, again=redraw)
    for row, most in ((2, 0.03), (5, 0.07)):
        assert float(found.ratio(row).mean()) == pytest.approx(1, abs=most)
    for row, (told, seen) in enumerate(zip(found.predicted, found.grad, strict=True)):
        assert told.grad is None or told.grad.second_moment == pytest.approx(
            float(seen.mean()), rel=0.3
        ), row


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU])
def test_groups_of_channels_hold_on_strokes(activation):
    # Were all points of one length, bands would be 0.4 times as wide as they have to be.
    model = lecun(
        conv(1, 16, padding=1), nn.GroupNorm(4, 16), activation(),
        conv(16, 32, padding=1, stride=2), nn.GroupNorm(4, 32), activation(),
    )  # fmt: skip
    check(draw(model, X, DRAWS, again=redraw), [2, 5], widest=1.6)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU])
def test_averages_of_units_of_one_size_hold_on_strokes(activation):
    # Of f(z), what goes with z² is the same in all units: with it, averages of GELU were said to
    # be 18 % larger.
    model = lecun(
        conv(1, 16, padding=1), nn.BatchNorm2d(16), activation(),
        conv(16, 32, padding=1, stride=2), nn.BatchNorm2d(32), activation(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    found = draw(model, X, DRAWS, again=redraw)
    check(found, [6, 7], widest=2.1)
    assert float(found.ratio(6).mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("maps", [False, True])
def test_what_a_point_has_in_common_with_all_others_is_the_average_over_its_pairs(maps):
    # All pairs of 12 vectors; of 12 images some 2000 of 20,000, times 144 positions each.
    points = unfold(X, 3) if maps else X[:, 0].flatten(1)
    points = points.reshape(12, 9, 12, 12) if maps else points
    wander = of_tensor(points, 1)
    rows = points.movedim(1, -1).double().reshape(-1, points.shape[1])
    rows = rows / rows.square().sum(1).mean().sqrt()
    expected = (rows @ rows.mean(0)).reshape(12, *points.shape[2:])[drawn(12, 12)]
    own = Centre.of(wander).own[:12]
    assert float((own - expected).square().mean().sqrt()) < (0.05 if maps else 1e-9)
    assert float(expected.std()) > 0.1


@pytest.mark.parametrize("function", [relu, tanh])
@pytest.mark.parametrize("shift", [0.0, -0.4])
def test_what_pairs_make_together_is_what_units_make(function, shift):
    points = unfold(X + shift, 3).transpose(1, 2).reshape(-1, 9).double()
    size = math.sqrt(float(points.square().sum(1).mean()) / 9)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(9, 20_000, generator=generator, dtype=torch.float64) / 3
    units = function(points @ weights / size).square().mean(0)
    # All pairs of points of one draw; 256 of them.
    wander = of_tensor(points, -1)
    known = Terms.of(wander, Shaping.of(function, 0.0, 1.0), each=True)
    assert known.second == pytest.approx(float(units.mean()), rel=0.1)
    assert known.spread == pytest.approx(float(units.var() / units.mean() ** 2), rel=0.25)


def test_lengths_of_pairs_are_those_of_their_two_points():
    wander = of_tensor(X, 1)
    long = lengths(wander)
    assert torch.allclose(long["same"], wander.same.clamp_min(1e-9))
    # Of points of one number each, none below 0, likeness is the product of both lengths; but for
    # what the pairs that are followed, which are but some, have left of the mean.
    for name in ("far", "aligned", "within", "near"):
        rest = long[name] - getattr(wander, name)
        assert torch.allclose(rest, rest.mean(), atol=2e-4), name


def test_each_image_is_followed_as_often_as_any_other():
    assert float(of_tensor(X, 1).same.mean()) == pytest.approx(1, abs=1e-6)


def test_bright_images_behind_a_norm_are_told_from_their_edges():
    # With zero padding, positions at an edge are far from the mean of all, and all others near it:
    # a norm makes them 2.1 and 0.3. Of two bright points, likeness is beyond 1.
    generator = torch.Generator().manual_seed(9)
    x = nn.functional.avg_pool2d(torch.rand(8, 3, 14, 14, generator=generator), 5, 1) * 2
    model = lecun(conv(3, 16, padding=1), nn.BatchNorm2d(16), nn.Tanh(), conv(16, 16, padding=1))
    found = draw(model, x, DRAWS, again=redraw)
    check(found, [1, 2, 3], widest=4.0)
    for row in (2, 3):
        assert float(found.ratio(row).mean()) == pytest.approx(1, abs=0.05)
