"""Moments: held to exact rational arithmetic."""

import math
import resource
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handwave import Moments

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

ordinary = st.floats(-1e6, 1e6, width=32)
samples = st.lists(ordinary, min_size=1, max_size=50)


def exact(tensor):
    """Compute mean and population variance in rational numbers, with no rounding at all."""
    numbers = [Fraction(v) for v in tensor.flatten().tolist()]
    mean = sum(numbers) / len(numbers)
    return mean, sum((v - mean) ** 2 for v in numbers) / len(numbers)


def assert_exact(tensor):
    mean, var = exact(tensor)
    found = Moments.of(tensor)
    root = math.sqrt(var + mean**2)
    assert found.count == tensor.numel()
    assert found.nonfinite == 0
    assert found.mean == pytest.approx(float(mean), rel=1e-9, abs=1e-15 * root)
    assert found.var == pytest.approx(float(var), rel=1e-9, abs=0)


@given(samples)
def test_any_sample_has_the_moments_of_rational_arithmetic(values):
    tensor = torch.tensor(values, dtype=torch.float64)
    mean, var = exact(tensor)
    found = Moments.of(tensor)
    scale = float(mean**2 + var)
    assert found.mean == pytest.approx(float(mean), rel=1e-9, abs=1e-15 * math.sqrt(scale))
    assert found.var == pytest.approx(float(var), rel=1e-9, abs=1e-30 * scale)


@pytest.mark.parametrize("dtype", FLOATS)
def test_squares_that_overflow_the_dtype_do_not_matter(dtype):
    top = torch.finfo(dtype).max / 4 if dtype != torch.float64 else 1e150
    assert_exact(
        (torch.rand(301, generator=torch.Generator().manual_seed(0)) - 0.3).to(dtype) * top
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_squares_that_underflow_the_dtype_do_not_matter(dtype):
    small = torch.finfo(dtype).tiny if dtype != torch.float64 else 1e-150
    noise = torch.randn(301, generator=torch.Generator().manual_seed(0))
    assert_exact(noise.to(dtype) * small)


def test_a_mean_that_dwarfs_the_spread_costs_no_digits():
    noise = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_exact(1e8 + 1e-4 * noise)
    assert_exact((1e4 + noise).float())


def test_float64_keeps_its_own_range_to_the_end():
    x = torch.tensor([1e153, -1e153], dtype=torch.float64)
    assert Moments.of(x).var == pytest.approx(1e306, rel=1e-12)
    beyond = Moments.of(torch.tensor([1e300, -1e300], dtype=torch.float64))
    assert (beyond.mean, beyond.var, beyond.nonfinite) == (0.0, math.inf, 0)
    largest = Moments.of(torch.full((3,), torch.finfo(torch.float64).max, dtype=torch.float64))
    assert largest.mean == torch.finfo(torch.float64).max
    assert largest.var == 0
    assert Moments.of(torch.tensor([3e-155, -3e-155], dtype=torch.float64)).var == pytest.approx(
        9e-310, rel=1e-9
    )


@given(samples, samples)
def test_pooling_two_samples_is_measuring_them_together(a, b):
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    mean, var = exact(torch.cat([a, b]))
    pooled = Moments.of(a) + Moments.of(b)
    scale = float(mean**2 + var)
    assert pooled.count == len(a) + len(b)
    assert pooled.mean == pytest.approx(float(mean), rel=1e-9, abs=1e-14 * math.sqrt(scale))
    assert pooled.var == pytest.approx(float(var), rel=1e-9, abs=1e-14 * scale)


@given(samples, samples)
def test_pooling_knows_no_order(a, b):
    a, b = Moments.of(torch.tensor(a)), Moments.of(torch.tensor(b))
    assert a + b == b + a


@given(samples, st.floats(0.01, 100))
def test_scaling_by_c_scales_the_variance_by_c_squared(values, c):
    x = torch.tensor(values, dtype=torch.float64)
    assert Moments.of(c * x).var == pytest.approx(
        c * c * Moments.of(x).var, rel=1e-9, abs=1e-28 * float((c * x).square().max())
    )


@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided", "four axes"])
def test_the_layout_of_memory_changes_nothing(layout):
    base = torch.randn(400, 600, generator=torch.Generator().manual_seed(0))
    view = {
        "transposed": base.T,
        "expanded": base[:, None].expand(-1, 3, -1),
        "strided": base[::2, ::3],
        "four axes": base.reshape(20, 20, 30, 20).permute(3, 1, 0, 2),
    }[layout]
    a, b = Moments.of(view), Moments.of(view.contiguous())
    assert a.count == b.count
    assert a.mean == pytest.approx(b.mean, abs=1e-15)
    assert a.var == pytest.approx(b.var, rel=1e-14)


def test_a_large_tensor_is_never_copied_to_float64():
    x = torch.zeros(30_000_000)  # 120 MB; in float64 240 MB
    Moments.of(x[:1000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Peak memory only ever grows: let it stand at what is held now.
    x.add_(1.0)
    for view in (x, x.view(5000, 6000).T, x[:1].expand(10**8)):
        assert Moments.of(view).var == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kilobytes


@pytest.mark.parametrize(
    ("values", "mean", "var", "nonfinite"),
    [
        ([1.0, math.inf], math.inf, math.inf, 1),
        ([1.0, -math.inf, -math.inf], -math.inf, math.inf, 2),
        ([1.0, math.nan], math.nan, math.nan, 1),
        ([math.inf, -math.inf, 3.0], math.nan, math.inf, 2),
        ([math.inf, math.nan, 3.0], math.nan, math.nan, 2),
    ],
)
def test_nonfinite_entries_are_counted_and_not_averaged_away(values, mean, var, nonfinite):
    for dtype in FLOATS:
        found = Moments.of(torch.tensor(values, dtype=dtype))
        assert found.mean == pytest.approx(mean, nan_ok=True)
        assert found.var == pytest.approx(var, nan_ok=True)
        assert (found.count, found.nonfinite) == (len(values), nonfinite)


def test_pooling_keeps_what_was_not_finite():
    bad = Moments.of(torch.tensor([1.0, math.inf]))
    both = bad + bad + Moments.of(torch.tensor([2.0]))
    assert (both.var, both.count, both.nonfinite) == (math.inf, 5, 2)


def test_a_gradient_is_neither_needed_nor_recorded():
    x = torch.ones(3, requires_grad=True) * 2
    assert Moments.of(x).mean == 2


def test_second_moment_rms_and_std_agree():
    law = Moments(3.0, 16.0)
    assert (law.second_moment, law.rms, law.std) == (25.0, 5.0, 4.0)
    assert Moments(1e200, 0.0).second_moment == math.inf
    assert Moments(1e200, 0.0).rms == 1e200


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (torch.zeros(0, 3), ValueError, r"an empty tensor has no moments, got shape \(0, 3\)"),
        (torch.ones(3, dtype=torch.int64), TypeError, r"got torch.int64; call .float\(\) first"),
        (torch.ones(3, dtype=torch.complex64), TypeError, r"got torch.complex64; take .real"),
        ([1.0, 2.0], TypeError, "expected a tensor, got list"),
    ],
)
def test_what_has_no_moments_is_refused_by_name(value, error, words):
    with pytest.raises(error, match=words):
        Moments.of(value)


def test_laws_do_not_pool():
    with pytest.raises(ValueError, match=r"only samples can be pooled.* got counts 0 and 3"):
        _ = Moments(0.0, 1.0) + Moments(0.0, 1.0, 3)


def test_numbers_that_no_sample_has_are_refused():
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        Moments(0.0, -1.0)
    with pytest.raises(ValueError, match="got count=1, nonfinite=2"):
        Moments(0.0, 1.0, 1, 2)
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = Moments(0.0, 1.0, 1) + 3  # pyright: ignore[reportOperatorIssue]
