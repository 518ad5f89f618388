"""Totals: as good as they say, in every layout and precision."""

import math

import pytest
import torch
from torch import nn

from handwave import Moments, measure
from handwave.totals import quick_moments, quick_second_moment, spread, zeros

# float32 draws of one unit each around means of their own, so that sums of many kinds cancel.
SHAPES = [(300, 200), (7,), (2, 3, 1025), (64, 5, 17, 3), (1, 4096), (5000, 1), (3, 300_000)]

SEEDED = torch.Generator().manual_seed(0)


def drawn(*shape, shift=0.0, dtype=torch.float32):
    seeded = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=seeded) + shift).to(dtype)


def spread_by_numbers(x, axis=0):
    return float(x.double().var(axis, correction=0).mean())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0.0, 3.0, 30.0, 3000.0])
@pytest.mark.parametrize("precision", [1e-4, 1e-6])
def test_the_variance_is_as_precise_as_asked_however_the_mean_dwarfs_it(shape, shift, precision):
    x = drawn(*shape, shift=shift)
    found = quick_moments(x, precision)
    wide = x.double()
    assert found.var == pytest.approx(float(wide.var(correction=0)), rel=precision)
    assert found.mean == pytest.approx(float(wide.mean()), abs=1e-7 * float(wide.square().mean()))
    assert (found.count, found.nonfinite) == (x.numel(), 0)


@pytest.mark.parametrize("shift", [1.0, 3.0, 9.0, 30.0])
@pytest.mark.parametrize("precision", [1e-4, 1e-6])
def test_the_variance_of_few_blocks_is_as_precise_as_asked(shift, precision):
    for count in [1023, 1024, 1025, 2048, 4096, 20_000] * 20:  # drawn anew each time
        x = torch.randn(count, generator=SEEDED) + shift
        found = quick_moments(x, precision)
        assert found.var == pytest.approx(float(x.double().var(correction=0)), rel=precision)


def test_equal_entries_are_as_precise_as_they_say():
    for value in torch.rand(100, generator=SEEDED) * 9 + 1:
        x = torch.cat([value.expand(99_000), -value.expand(1000)])
        exact = Moments.of(x)
        for precision, error in ((1e-6, 3e-6), (1e-4, 1e-5)):
            found = quick_moments(x, precision)
            assert found.var == pytest.approx(exact.var, abs=error * exact.second_moment)


def test_second_moments_are_as_precise_as_they_say():
    for count in [7, 1024, 1025, 4096, 9000] * 20:
        entries = torch.randn(count, generator=SEEDED)
        unlucky = torch.full((count,), 3.7510171)
        for x, precision in ((entries, 1e-6), (entries[0].expand(count), 3e-6), (unlucky, 3e-6)):
            exact = float(x.double().square().mean())
            assert quick_second_moment(x) == pytest.approx(exact, rel=precision)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_is_summed_in_a_wider_one(dtype):
    x = 1000 * drawn(600, 500, dtype=dtype)  # squares leave float16, sums of ones its digits
    found = quick_moments(x, 1e-6)
    assert found.var == pytest.approx(float(x.double().var(correction=0)), rel=1e-6)
    assert spread(x, 0, found) == pytest.approx(spread_by_numbers(x), rel=1e-6)
    assert zeros((x > 0).to(dtype)) == pytest.approx(float((x <= 0).double().mean()))


def test_float8_is_measured_as_well():
    x = drawn(30, 20).to(torch.float8_e4m3fn)
    assert quick_moments(x, 1e-6) == Moments.of(x)


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, 1),
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "every other": lambda x: x[:, ::2],
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "time first": lambda x: x.permute(1, 0, 2, 3),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1])
def test_views_are_summed_up_as_what_they_show(name, axis):
    x = LAYOUTS[name](drawn(12, 6, 8, 8).relu())
    signal = quick_moments(x, 1e-6)
    assert signal.var == pytest.approx(float(x.double().var(correction=0)), rel=1e-6)
    assert spread(x, axis, signal) == pytest.approx(spread_by_numbers(x, axis), rel=1e-6)
    assert zeros(x) == float((x == 0).double().mean())


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1.0, 1e18, 1e30])
@pytest.mark.parametrize("shift", [0.0, 30.0, 2000.0])
def test_spread_is_good_at_every_scale_and_beside_any_mean(scale, shift):
    units = shift * drawn(1, 200)  # a mean of its own for each unit
    x = (drawn(300, 200) + units) * scale
    found = spread(x, 0, quick_moments(x, 1e-6))
    assert found == pytest.approx(spread_by_numbers(x), rel=1e-6)


def test_equal_inputs_have_no_spread_at_all():
    x = torch.full((512, 3), 0.1)
    assert spread(x, 0, quick_moments(x, 1e-6)) == 0


def test_overflowing_squares_are_summed_again():
    x = 1e30 * drawn(300, 200)
    assert quick_moments(x, 1e-4) == Moments.of(x)
    assert quick_moments(x / 0, 1e-4).nonfinite == 60_000
    lost = torch.tensor([[1.0, math.nan], [2.0, 3.0]])
    assert quick_moments(lost, 1e-6).nonfinite == 1
    assert math.isnan(spread(lost, 0, quick_moments(lost, 1e-6)) or 0)


def test_vanishing_squares_are_summed_again():
    x = 1e-21 * drawn(30, 20)
    assert quick_moments(x, 1e-4) == Moments.of(x)


def test_a_signal_is_measured_with_the_precision_of_its_trace():
    x = drawn(300, 200, shift=10.0)  # mean² is 100 times the variance
    (exact,), (quick,) = measure(nn.Identity(), x), measure(nn.Identity(), x, detail=False)
    assert exact.signal == Moments.of(x)
    assert quick.signal != exact.signal
    assert quick.signal.var == pytest.approx(exact.signal.var, rel=1e-4)
    assert (quick.spread, quick.zeros, quick.weight) == (None, None, None)
