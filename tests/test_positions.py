"""How alike positions of one input are."""

import itertools

import pytest
import torch

from handwave.positions import Decay
from handwave.wandering import one_input


def of_step(factor, floor, sizes):
    """Make the likeness of a map in which it falls by a factor with every step."""
    places = list(itertools.product(*map(range, sizes)))

    def alike(a, b):
        return floor + (1 - floor) * factor ** sum(abs(x - y) for x, y in zip(a, b, strict=True))

    apart = [alike(a, b) for a, b in itertools.permutations(places, 2)]
    kinds = list(itertools.product((0, 1), repeat=len(sizes)))[1:]
    near = [alike(kinds[0], tuple(map(sum, zip(kinds[0], kind, strict=True)))) for kind in kinds]
    return sum(near) / len(near), sum(apart) / len(apart)


@pytest.mark.parametrize("sizes", [(9,), (4, 6), (3, 3, 4)])
@pytest.mark.parametrize(("factor", "floor"), [(0.8, 0.1), (0.5, -0.05), (0.95, 0.3)])
def test_a_decay_is_found_again(factor, floor, sizes):
    near, within = (torch.full((1,), v, dtype=torch.float64) for v in of_step(factor, floor, sizes))
    wander = one_input()
    found = Decay.of(type(wander)(wander.same, near, near, near, within, 1.0), sizes)
    assert found.factor == pytest.approx(factor, abs=1e-6)
    assert found.floor == pytest.approx(floor, abs=1e-6)
    assert found.of_neighbours(len(sizes)) == pytest.approx(float(near))


def test_where_neighbours_are_no_nearer_all_are_alike():
    found = Decay.of(one_input().mapped(lambda likeness: 0.4 * likeness), (5, 5))
    assert found.factor == 0.0
    assert found.floor == pytest.approx(0.4)


def test_pairs_of_two_windows_are_all_counted():
    decay, rows = Decay(0.7, 0.2), torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]).double()
    pairs = [abs(a - b) for a, b in itertools.product((0, 1), (2, 3))]
    expected = 0.2 + 0.8 * sum(0.7**step for step in pairs) / 4
    assert decay.of_pairs([rows[:1]], [rows[1:]]) == pytest.approx(expected)
