"""How alike the positions of a window are: those of neighbours are given, the others follow."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from handwave.joint import Joint
from handwave.neighbourhoods import Neighbourhoods, beside_windows
from handwave.pairs import neighbours, of_tensor, turns
from handwave.pools import Pool
from handwave.quadrature import Elementwise
from handwave.settling import of_settled
from handwave.signals import Signal, fresh, number
from handwave.units import Units

SIZES = (6, 5)


def images(count=5, along=(0.9, 0.6), floor=0.0):
    """Images of which likeness falls by a factor with each step along an axis, to a floor.

    All have the same likeness of positions; of two different images it is the floor.
    """
    steps = (torch.arange(n, dtype=torch.float64) for n in SIZES)
    one, other = (
        factor ** (each[:, None] - each).abs() for factor, each in zip(along, steps, strict=True)
    )
    gram = floor + (1 - floor) * torch.kron(one, other)
    root = torch.linalg.cholesky(gram - floor + 1e-12)
    units = len(root)
    x = torch.zeros(count, units * count + 1, *SIZES, dtype=torch.float64)
    x[:, -1] = math.sqrt(floor)
    for image in range(count):
        x[image, units * image : units * (image + 1)] = root.T.reshape(units, *SIZES)
    return x, gram


def flat(places):
    return places[..., 0] * SIZES[1] + places[..., 1]


@pytest.mark.parametrize("floor", [0.0, 0.5])
@pytest.mark.parametrize("layer", [nn.AvgPool2d((4, 1)), nn.AvgPool2d((1, 3), (1, 2), (0, 1))])
def test_positions_further_apart_are_as_alike_as_those_between_tell(layer, floor):
    # Of images of which a step forgets a part, this is exact, but for a floor that is read off the
    # average.
    x, gram = images(floor=floor)
    pool = Pool(layer, SIZES, len(x))
    found = Neighbourhoods(pool.layout, of_tensor(x, 1)).correlations
    places, inside = pool.layout.places, pool.layout.inside
    both = inside[:, :, None] & inside[:, None]
    expected = gram[flat(places)[:, :, None], flat(places)[:, None]]
    assert torch.allclose(found[:, both], expected[both].expand(len(x), -1), atol=0.03)


def test_across_a_square_two_have_nothing_in_common_but_what_the_others_tell():
    # Then the inverse of the four correlations is 0 there; the others are as they are given.
    x, gram = images(along=(0.7, 0.6))
    pool = Pool(nn.AvgPool2d(2), SIZES, len(x))
    found = Neighbourhoods(pool.layout, of_tensor(x, 1)).correlations
    inverse = torch.linalg.inv(found)
    assert float(inverse[..., 1, 2].abs().max()) < 0.01 < float(inverse[..., 0, 1].abs().min())
    at = flat(pool.layout.places)
    expected = gram[at[:, :, None], at[:, None]].clone()
    expected[:, 1, 2] = expected[:, 2, 1] = found[0, :, 1, 2]
    assert torch.allclose(found, expected.expand_as(found), atol=1e-9)


@pytest.mark.parametrize("layer", [nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1)])
def test_neighbouring_windows_are_as_alike_as_their_positions(layer):
    x, gram = images()
    pool = Pool(layer, SIZES, len(x))
    found = beside_windows(pool, of_tensor(x, 1))
    windows = torch.zeros(*pool.total.shape, *SIZES, dtype=torch.float64)
    for (a, b), window in zip(
        torch.cartesian_prod(*(torch.arange(n) for n in pool.total.shape)),
        windows.flatten(0, 1), strict=True,
    ):  # fmt: skip
        window[:] = torch.outer(pool.rows[0][a], pool.rows[1][b])
    points = windows.flatten(2) @ gram
    turn = turns(len(found), 3)
    for place, (down, right) in enumerate(neighbours(2)):
        last = [n - step for n, step in zip(pool.total.shape, (down, right), strict=True)]
        other = windows.flatten(2)[down:, right:][: last[0], : last[1]]
        expected = (points[: last[0], : last[1]] * other).sum(-1)
        got = found[turn == place][0, : last[0], : last[1]]
        assert torch.allclose(got, expected, atol=0.05)


@pytest.mark.parametrize("count", [1, 3, 6, 7, 12, 21])
def test_each_image_meets_all_directions(count):
    turn = turns(1008, 3)
    seen = torch.zeros(count, 3)
    for pair, each in enumerate(turn.tolist()):
        seen[pair % count, each] += 1
    assert bool((seen >= 0.15 * seen.sum(1, keepdim=True)).all())


def test_of_one_direction_there_is_but_one_turn():
    assert turns(9, 1).tolist() == [0] * 9


def signal(x, settled=0.0) -> Signal:
    """Units that see the images, of mean square 1."""
    units = Units(of_tensor(x, 1), math.inf, 0.0)
    made = fresh((len(x), 8, *SIZES), number(0.0), number(1.0), 0.0, units)
    return replace(made, units=replace(units, settled=settled))


def relu(z):
    return z.clamp_min(0)


@pytest.mark.parametrize("fn", [relu, torch.tanh], ids=["relu", "tanh"])
@pytest.mark.parametrize("layer", [nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1)])
def test_the_largest_is_that_of_gaussians_as_alike_as_they_are(layer, fn: Elementwise):
    # 200,000 draws err by less than 1 % (4 standard errors); across a square, numbers are said to
    # be more alike than they are.
    x, gram = images()
    pool = Pool(layer, SIZES, len(x))
    mean, second = Joint(pool, signal(x)).largest(fn)
    e = torch.randn(200_000, len(gram), generator=torch.Generator().manual_seed(3)).double()
    z = (e @ torch.linalg.cholesky(gram).T).reshape(-1, 1, *SIZES)
    sizes = layer.kernel_size, layer.stride, layer.padding
    y = fn(nn.functional.max_pool2d(z, *sizes))
    assert torch.allclose(mean, y.mean((0, 1)), rtol=0.02, atol=0.005)
    assert float(second.mean()) == pytest.approx(float(y.square().mean()), rel=0.02)


def test_behind_a_norm_one_position_is_as_far_out_as_a_direction_has_it():
    # Windows of one position beside others of a norm over few numbers: of 4 dimensions, z⁴ has a
    # mean of 2, of Gaussian numbers 3.
    x, _ = images()
    pool, settled = Pool(nn.AvgPool2d((1, 2)), SIZES, len(x)), 0.5
    mean, second = Joint(pool, signal(x, settled)).largest(torch.square)
    gaussian = Joint(pool, signal(x)).largest(torch.square)[1]
    alone = of_settled(torch.square, 0.0, torch.ones(1, dtype=torch.float64), settled)[1]
    assert float(alone) == pytest.approx(2.0, rel=0.01)
    assert float(second.mean()) < 0.8 * float(gaussian.mean())
    assert bool((mean > 1).all())
