"""E[1/v] of sums of squares, against closed forms and against draws."""

import pytest
import torch

from handwave.inverses import inverse


@pytest.mark.parametrize("count", [3.5, 8.0, 1000.0])
def test_of_equal_parts_it_is_that_of_a_chi_square(count):
    mean, (with_v, besides) = inverse(2.0, 0.0, 2 / count)
    assert mean == pytest.approx(count / (count - 2) / 2, rel=1e-3)
    if count > 4:
        # E[(1/v)²]/E[1/v]² − 1 = 2/(n − 4), of which 2/n goes with v.
        assert with_v + besides == pytest.approx(2 / (count - 4), rel=1e-3)
        assert with_v == pytest.approx(2 / count, rel=1e-3)


def test_of_one_square_it_is_held_by_eps():
    # v = g²: E[1/(g² + e)] = √(π/2e)·exp(e/2)·erfc(√(e/2)).
    eps = torch.tensor(0.1, dtype=torch.float64)
    exact = (torch.pi / (2 * eps)).sqrt() * (eps / 2).exp() * torch.erfc((eps / 2).sqrt())
    assert inverse(1.0, 0.1, 2.0)[0] == pytest.approx(float(exact), rel=1e-3)


@pytest.mark.parametrize(("points", "units"), [(8, 32), (64, 32), (16, 8)])
def test_of_a_batch_of_noise_it_is_that_of_its_channels(points, units):
    # The eigenvalues of a batch of noise; 2e5 channels, whose 1/v varies by less than 2 relative:
    # the average is off by more than 0.03 with probability below 1e-10.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(points, units, generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    sizes = torch.linalg.eigvalsh(x.T @ x).clamp_min(0)
    sizes = sizes / sizes.sum()
    g = torch.randn(200_000, units, generator=generator, dtype=torch.float64)
    v = g.square() @ sizes
    unlike, rank = 2 * float(sizes.square().sum()), min(points - 1, units)
    found = inverse(1.0, 1e-5, unlike, rank)[0]
    assert found == pytest.approx(float((1 / (v + 1e-5)).mean()), rel=0.04)
    # Of equal parts it would be more.
    assert inverse(1.0, 1e-5, unlike)[0] > found


def test_without_differences_it_is_the_inverse():
    assert inverse(4.0, 1.0, 0.0) == (0.2, (0.0, 0.0))
    assert inverse(0.0, 0.5, 0.3) == (2.0, (0.0, 0.0))
