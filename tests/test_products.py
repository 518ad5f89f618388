"""Dot products: the law against real layers, the sampler against plain torch."""

import math

import pytest
import torch
from torch import nn

from handwave import Moments, dot_product, sample_dot_products


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("mean_x", "mean_w"), [(0.0, 0.0), (2.0, 0.0), (0.0, 0.5), (2.0, 0.5)])
def test_the_law_of_one_output_is_what_a_linear_layer_does(mean_x, mean_w):
    # 200,000 draws: the mean wanders by sd/447, the variance by 0.32 %; 5 of these each way is
    # one false alarm in 1.7 million.
    x = 1.5 * torch.randn(200_000, 20, generator=seeded(1)) + mean_x
    w = 0.7 * torch.randn(200_000, 20, generator=seeded(2)) + mean_w
    measured = Moments.of((x * w).sum(1))
    law = dot_product(Moments(mean_x, 1.5**2), Moments(mean_w, 0.7**2), fan_in=20)
    kurtosis_room = 1.3  # sums of 20 products of normals have heavier tails than a normal
    assert measured.mean == pytest.approx(law.mean, abs=5 * law.std / math.sqrt(200_000))
    assert measured.var == pytest.approx(law.var, rel=5 * kurtosis_room * math.sqrt(2 / 200_000))


def test_a_linear_layer_multiplies_the_second_moment_by_its_fan_in():
    # 512 x 784 outputs share weights and inputs: relative sd √(2/784 + 2/512)·… < 0.6 %; 5 of them.
    layer = nn.Linear(784, 784, bias=False)
    nn.init.normal_(layer.weight, generator=seeded(1))
    with torch.no_grad():
        y = layer(torch.randn(512, 784, generator=seeded(2)))
    law = dot_product(Moments(0, 1), Moments(0, 1), 784)
    assert Moments.of(y).second_moment == pytest.approx(law.second_moment, rel=0.03)


def test_inputs_matter_by_their_second_moment_alone():
    weights = Moments(0.0, 1.0)
    uniform, sign = Moments(0.5, 1 / 12), Moments(math.sqrt(1 / 3), 0.0)
    assert dot_product(uniform, weights, 784).var == pytest.approx(784 / 3)
    assert dot_product(sign, weights, 784).var == pytest.approx(784 / 3)


def test_a_law_has_no_count_and_fan_in_need_not_be_whole():
    assert dot_product(Moments(0, 1, 9), Moments(0, 1, 9), 2.25) == Moments(0, 2.25)


@pytest.mark.parametrize("fan_in", [0, -1, math.inf, math.nan])
def test_a_fan_in_that_counts_nothing_is_refused(fan_in):
    with pytest.raises(ValueError, match="fan_in must be a positive number, got"):
        dot_product(Moments(0, 1), Moments(0, 1), fan_in)


@pytest.mark.parametrize(
    ("x", "w", "words"),
    [
        (1.0, Moments(0, 1), "x must be Moments, got float; pass Moments"),
        (Moments(0, 1), torch.ones(3), "w must be Moments, got Tensor; pass Moments"),
    ],
)
def test_what_has_no_moments_is_refused_by_name(x, w, words):
    with pytest.raises(TypeError, match=words):
        dot_product(x, w, 784)


def test_samples_have_the_law_of_x_times_fresh_gaussian_columns():
    x = torch.rand(300, generator=seeded(1))
    y = sample_dot_products(x, 200_000, scale=0.5, generator=seeded(2)).double()
    var = 0.25 * float(x.double() @ x.double())
    # Exactly normal: relative sd of the variance √(2/n), sd of the fourth moment's ratio √(96/n).
    assert y.mean() == pytest.approx(0, abs=5 * math.sqrt(var / 200_000))
    assert y.var() == pytest.approx(var, rel=5 * math.sqrt(2 / 200_000))
    assert (y**4).mean() / var**2 == pytest.approx(3, abs=5 * math.sqrt(96 / 200_000))


def test_samples_are_independent_of_one_another():
    # Streams and blocks that repeat a seed would show as equal values or a correlation.
    y = sample_dot_products(torch.ones(16), 100_000, generator=seeded(3)).double()
    assert len(y.unique()) > 99_000
    for lag in (1, 6250, 12_500):  # 6250 samples a stream
        r = float((y[lag:] * y[:-lag]).mean() / y.var())
        assert abs(r) < 5 / math.sqrt(100_000 - lag)


def test_the_columns_are_truly_drawn():
    # Doubling one input changes every sample by that input's own weight, not by one factor.
    x = torch.ones(8)
    x2 = x.clone()
    x2[3] = 2.0
    weight = sample_dot_products(x2, 1000, generator=seeded()) - sample_dot_products(
        x, 1000, generator=seeded()
    )
    assert weight.var() == pytest.approx(1.0, rel=5 * math.sqrt(2 / 1000))
    one = sample_dot_products(torch.eye(8)[3], 1000, generator=seeded())
    torch.testing.assert_close(weight, one, atol=1e-5, rtol=0)


def test_a_seed_decides_whatever_the_number_of_threads():
    x = torch.randn(512, generator=seeded())
    threads = torch.get_num_threads()
    try:
        drawn = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            drawn.append(sample_dot_products(x, 3001, generator=seeded(7)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_a_seed_decides_whatever_the_number_of_cores(monkeypatch):
    x = torch.randn(64, generator=seeded())
    many = sample_dot_products(x, 1000, generator=seeded(7))
    monkeypatch.setattr("handwave.products._cores", lambda: 1)
    assert torch.equal(many, sample_dot_products(x, 1000, generator=seeded(7)))


def test_without_a_generator_torchs_own_decides():
    x = torch.ones(4)
    torch.manual_seed(3)
    first, second = sample_dot_products(x, 10), sample_dot_products(x, 10)
    torch.manual_seed(3)
    assert torch.equal(first, sample_dot_products(x, 10))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("samples", [1, 2, 15, 17])
def test_few_samples_are_drawn_as_well(samples):
    y = sample_dot_products(torch.ones(4), samples)
    assert y.shape == (samples,)
    assert y.isfinite().all()
    assert (y != 0).all()


def test_double_inputs_are_computed_in_double():
    assert sample_dot_products(torch.ones(4).double(), 3).dtype == torch.float64
    assert sample_dot_products(torch.ones(4).half(), 3).dtype == torch.float32
    assert sample_dot_products(nn.Linear(4, 1).weight[0], 3).requires_grad is False


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ((torch.ones(2, 3), 5), ValueError, r"x must be one input.*got shape \(2, 3\).*x\[0\]"),
        ((torch.ones(0), 5), ValueError, r"got shape \(0,\)"),
        ((torch.tensor([1.0, math.inf]), 5), ValueError, "x holds inf or NaN"),
        ((torch.ones(3, dtype=torch.int32), 5), TypeError, "floating dtype, got torch.int32"),
        (([1.0], 5), TypeError, "x must be a tensor, got list"),
        ((torch.ones(3), 0), ValueError, "samples must be at least 1, got 0"),
        ((torch.ones(3), 1e3), TypeError, "must be a whole number, got 1000.0; pass an int"),
        ((torch.ones(3), 5, -1.0), ValueError, "scale is a standard deviation.*got -1.0"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        sample_dot_products(*call)
