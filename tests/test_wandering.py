"""Likeness of points, and what finite width makes of it; each against another way to it."""

import math

import pytest
import torch

from handwave.pairs import of_tensor
from handwave.shaping import IDENTITY
from handwave.units import Units
from handwave.wandering import one_input


def test_one_layer_of_one_input_wanders_by_two_over_its_width():
    after = Units(one_input(), 64.0, 0.0).through(IDENTITY)
    # Of log χ²_64/64: trigamma(32).
    trigamma = float(torch.special.polygamma(1, torch.tensor(32.0)))
    assert after.cumulants[1] == pytest.approx(trigamma, rel=1e-6)


@pytest.mark.parametrize("count", [2, 16, 200])
def test_likeness_is_the_effective_rank_of_a_batch(count):
    x = torch.randn(count, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = x.T @ x
    rank = float(sigma.trace()) ** 2 / float(sigma.square().sum())
    assert of_tensor(x, -1).mean(torch.square) == pytest.approx(1 / rank, rel=1e-6)


def test_equal_inputs_are_alike_and_tokens_as_often_as_they_are_equal():
    same = torch.ones(5, 8)
    assert of_tensor(same, -1).mean(torch.square) == pytest.approx(1.0)
    ids = torch.tensor([0, 0, 1, 2])  # 4·4 pairs, 6 of them of the same token
    assert of_tensor(ids, -1).mean(torch.square) == pytest.approx(6 / 16, abs=1e-3)


@pytest.mark.parametrize("x", [torch.zeros(4, 8), torch.full((4, 8), math.nan), torch.ones(1, 8)])
def test_where_nothing_is_known_the_worst_is_assumed(x):
    assert of_tensor(x, -1).mean(torch.square) == 1.0


def test_all_pairs_of_positions_are_counted_once():
    # Three images of four positions: 144 pairs, 48 within an image, 12 of a point with itself.
    x = torch.randn(3, 5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = of_tensor(x, 1)
    points = x.movedim(1, -1).reshape(12, 5)
    gram = points @ points.T / points.square().sum(1).mean()
    one_image = torch.eye(3).repeat_interleave(4, 0).repeat_interleave(4, 1).bool()
    one_point = torch.eye(12).bool()
    assert found.inputs == pytest.approx(48 / 144)
    assert float(found.within.mean()) == pytest.approx(float(gram[one_image & ~one_point].mean()))
    # Of pairs of different images, one in four is at the same position.
    between = 0.75 * float(found.far.mean()) + 0.25 * float(found.aligned.mean())
    assert between == pytest.approx(float(gram[~one_image].mean()))
    assert found.mean(torch.clone, 1.0) == pytest.approx(float(gram.mean()), abs=1e-3)
    per_image = gram[one_image].reshape(3, -1).mean()
    assert found.of_inputs(torch.clone) == pytest.approx(float(per_image), abs=1e-3)


def test_skewed_inputs_are_known_as_such():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 8, dtype=torch.float64, generator=generator)
    third = math.sqrt(2 / math.pi) * (4 / math.pi - 1)  # of |z|, whose variance is 1 − 2/π
    # 32,000 numbers: within 10 % but for once in 1e8.
    expected = third**2 / (1 - 2 / math.pi) ** 3
    assert of_tensor(x.abs(), -1).skew == pytest.approx(expected, rel=0.1)
    assert of_tensor(x, -1).skew < 0.01
