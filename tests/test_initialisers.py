"""Initialisers: what torch's own tests ask of torch.nn.init, asked of `variance_scaling_`."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from handwave import variance_scaling_
from handwave.weights import Distribution, Mode

# Weights of two to five axes, 24,000 to 36,864 entries.
LAYERS = [
    nn.Linear(120, 200),
    nn.Conv1d(60, 80, 6),
    nn.Conv2d(64, 64, 3),
    nn.Conv3d(40, 30, (2, 3, 4)),
]
MODES = ["fan_in", "fan_out", "fan_avg"]
SCALES = [0.37, 1.0, 2.0]

# Of standard deviation 1 each; scipy's own truncated normal says how wide it must be.
CUT = 2 / stats.truncnorm(-2, 2).std()
LAWS = {
    "normal": stats.norm(),
    "truncated_normal": stats.truncnorm(-2, 2, scale=CUT / 2),
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
}
ENDS = {"truncated_normal": CUT, "uniform": math.sqrt(3)}

each_layer = pytest.mark.parametrize("layer", LAYERS, ids=str)
each_mode = pytest.mark.parametrize("mode", MODES)
each_scale = pytest.mark.parametrize("scale", SCALES)
each_law = pytest.mark.parametrize("law", LAWS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def torchs_std(layer, scale, mode):
    """Take the fans from torch, which counts them for plain convolutions as well."""
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    return math.sqrt(scale / fan)


def standardized(layer, scale, mode, law):
    """Draw, and divide by the standard deviation that was asked for."""
    drawn = variance_scaling_(layer, scale, mode, law, seeded())
    return drawn.detach().double().flatten().numpy() / torchs_std(layer, scale, mode)


@each_layer
@each_mode
@each_scale
@each_law
def test_the_draws_have_the_distribution_asked_for(layer, scale, mode, law):
    # Kolmogorov-Smirnov; 108 cases at 1e-8: one false alarm in a million runs.
    assert stats.kstest(standardized(layer, scale, mode, law), LAWS[law].cdf).pvalue > 1e-8


@each_layer
@each_mode
@each_scale
@each_law
def test_the_draws_have_mean_zero_and_the_variance_asked_for(layer, scale, mode, law):
    drawn = standardized(layer, scale, mode, law)
    kurtosis = float(LAWS[law].stats("k")) + 3
    # 216 means of 24,000 entries or more, each beyond 6.5 of its sd with probability 1e-10.
    assert abs(drawn.mean()) < 6.5 / math.sqrt(len(drawn))
    assert abs((drawn**2).mean() - 1) < 6.5 * math.sqrt((kurtosis - 1) / len(drawn))


@each_layer
@each_mode
@each_scale
@pytest.mark.parametrize("law", ENDS)
def test_the_draws_end_where_they_must_and_get_there(layer, scale, mode, law):
    largest = abs(standardized(layer, scale, mode, law)).max()
    assert largest <= ENDS[law] * (1 + 1e-6)  # float32
    # The outermost 0.5 % of the range hold at least 0.1 % of the law: missed once in e^24.
    assert largest > ENDS[law] * 0.995


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(3, 4),
        nn.Linear(4, 3),
        nn.Linear(50, 50),
        nn.Conv1d(3, 20, 2),
        nn.Conv2d(2, 20, (3, 4)),
        nn.Conv2d(3, 2, (4, 5)),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv3d(2, 3, (2, 3, 2)),
        nn.ConvTranspose2d(5, 4, 3),
        nn.Embedding(12, 7),
    ],
    ids=str,
)
@each_mode
@each_scale
def test_orthogonal_weights_are_a_multiple_of_an_isometry(layer, scale, mode):
    drawn = variance_scaling_(layer, scale, mode, "orthogonal", seeded()).detach()
    matrix = drawn.double().flatten(1)  # as nn.init.orthogonal_ sees it
    square = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    multiple = float(square.diagonal().mean())
    torch.testing.assert_close(
        square / multiple, torch.eye(len(square), dtype=torch.float64), atol=1e-5, rtol=0
    )
    normal = variance_scaling_(layer, scale, mode, "normal", seeded())  # draws the same numbers
    std = float(normal.detach().double().flatten()[0] / seeded_normals(normal.shape)[0])
    assert float((matrix**2).mean()) == pytest.approx(std**2, rel=1e-5)


def seeded_normals(shape):
    return torch.empty(shape).normal_(generator=seeded()).double().flatten()


TORCHS: dict[Callable[..., Tensor], tuple[float, Mode, Distribution]] = {
    nn.init.kaiming_normal_: (2.0, "fan_in", "normal"),
    nn.init.kaiming_uniform_: (2.0, "fan_in", "uniform"),
    nn.init.xavier_normal_: (1.0, "fan_avg", "normal"),
    nn.init.xavier_uniform_: (1.0, "fan_avg", "uniform"),
}


@each_layer
@pytest.mark.parametrize("torchs", TORCHS, ids=lambda fn: fn.__name__)
def test_he_and_xavier_are_torchs_number_for_number(layer, torchs):
    ours = variance_scaling_(layer, *TORCHS[torchs], generator=seeded()).detach().clone()
    theirs = torchs(torch.empty_like(layer.weight), generator=seeded())
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("law", [*LAWS, "orthogonal"])
def test_without_a_generator_torchs_own_is_used(law):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        free = variance_scaling_(torch.empty(20, 30), distribution=law)
    assert torch.equal(free, variance_scaling_(torch.empty(20, 30), 1.0, "fan_in", law, seeded()))


@pytest.mark.parametrize("shape", [(), (5,)])
@pytest.mark.parametrize("law", [*LAWS, "orthogonal"])
def test_weights_of_fewer_than_two_axes_are_refused(shape, law):
    with pytest.raises(ValueError, match="a weight needs two axes or more"):
        variance_scaling_(torch.empty(shape), distribution=law)
