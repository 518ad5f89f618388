"""E[1/v] of sums of squares, against closed forms and against draws."""

import pytest
import torch

from handwave.inverses import Inverse, falling


@pytest.mark.parametrize("count", [3.5, 8.0, 1000.0])
def test_of_equal_parts_it_is_that_of_a_chi_square(count):
    found = Inverse.of(2.0, 0.0, 2 / count)
    assert found.mean == pytest.approx(count / (count - 2) / 2, rel=1e-3)
    if count > 4:
        # E[(1/v)²]/E[1/v]² − 1 = 2/(n − 4), of which 2/n goes with v.
        assert found.with_v + found.besides == pytest.approx(2 / (count - 4), rel=1e-3)
        assert found.with_v == pytest.approx(2 / count, rel=1e-3)


def test_of_one_square_it_is_held_by_eps():
    # v = g²: E[1/(g² + e)] = √(π/2e)·exp(e/2)·erfc(√(e/2)).
    eps = torch.tensor(0.1, dtype=torch.float64)
    exact = (torch.pi / (2 * eps)).sqrt() * (eps / 2).exp() * torch.erfc((eps / 2).sqrt())
    assert Inverse.of(1.0, 0.1, 2.0).mean == pytest.approx(float(exact), rel=1e-3)


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
    exact = Inverse.of(1.0, 1e-5, unlike, sizes).mean
    assert exact == pytest.approx(float((1 / (v + 1e-5)).mean()), rel=0.01)
    # Of equal parts it would be more; of such that fall, it is nearly that.
    found = Inverse.of(1.0, 1e-5, unlike, falling(unlike, rank)).mean
    assert found == pytest.approx(exact, rel=0.05)
    assert Inverse.of(1.0, 1e-5, unlike).mean > exact


def test_without_differences_it_is_the_inverse():
    assert Inverse.of(4.0, 1.0, 0.0) == Inverse(0.2)
    assert Inverse.of(0.0, 0.5, 0.3) == Inverse(2.0)


def test_what_is_divided_by_its_size_is_less_unequal():
    each = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    parts = each * torch.randn(400_000, 4, generator=generator, dtype=torch.float64).square()
    left = (parts / parts.sum(1, keepdim=True)).mean(0)  # each known to 2e-3: 5 standard errors
    kept = float(left.square().sum() / (each / each.sum()).square().sum())
    unlike = 2 * float(each.square().sum() / each.sum().square())
    assert Inverse.of(8.0, 0.0, unlike, each).flatter == pytest.approx(kept, rel=5e-3)
    assert Inverse.of(8.0, 0.0, 0.5, torch.ones(4).double()).flatter == pytest.approx(1.0)
