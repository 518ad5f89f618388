"""Each layer's law, against draws of its weights; false-alarm rate of a test: 1e-6."""

import pytest
import torch
from torch import nn

import handwave as hw
from draws import draw, off
from handwave.stacks import Residual

WIDTH, BATCH, DRAWS = 128, 8, 200


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def signs(*shape):
    """Entries of one size: where a larger one would stand, at the border or not, is no matter."""
    return torch.randn(shape).sign()


def images(*sizes):
    return signs(4, 6, *sizes)


LAYERS = {
    "linear": lambda: (nn.Linear(32, 48), signs(8, 32)),
    "linear without bias": lambda: (nn.Linear(32, 48, bias=False), signs(8, 32)),
    "linear on tokens": lambda: (nn.Linear(32, 48), signs(2, 5, 32)),
    "linear on one vector": lambda: (nn.Linear(32, 48), signs(32)),
    "conv1d": lambda: (nn.Conv1d(6, 8, 5, padding=2), images(20)),
    "conv2d": lambda: (nn.Conv2d(6, 8, 3, padding=1), images(7, 9)),
    "conv2d unbatched": lambda: (nn.Conv2d(6, 8, 3, padding=1), images(7, 9)[0]),
    "conv2d circular": lambda: (
        nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular"),
        images(7, 9),
    ),
    "conv2d reflecting": lambda: (
        nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"),
        images(7, 9),
    ),
    "conv2d strided and dilated": lambda: (
        nn.Conv2d(6, 8, 3, stride=2, dilation=2, padding=2),
        images(9, 9),
    ),
    "conv2d in groups": lambda: (nn.Conv2d(6, 8, 3, padding=1, groups=2), images(7, 9)),
    "conv2d depthwise": lambda: (nn.Conv2d(6, 12, 3, padding=1, groups=6), images(7, 9)),
    "conv3d": lambda: (nn.Conv3d(6, 8, 3, padding=1), images(4, 5, 3)),
    "transposed conv1d": lambda: (nn.ConvTranspose1d(6, 8, 4, stride=2), images(9)),
    "transposed conv2d": lambda: (
        nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1, output_padding=1),
        images(5, 6),
    ),
    "transposed conv3d": lambda: (nn.ConvTranspose3d(6, 8, 2, groups=2), images(3, 4, 3)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_sums_moments_and_its_gradient_are_those_of_its_draws(kind):
    layer, x = LAYERS[kind]()
    with torch.no_grad():
        layer.weight.add_(0.01)  # a mean of the weights counts too
    found = draw(nn.Sequential(nn.Identity(), layer), x, DRAWS, backward=True)
    start, row = found.predicted.layers
    assert start.grad
    assert row.shape == tuple(layer(x).shape)
    # Only pooled moments of the inputs are known; by how much two of them are alike, in the mean,
    # counts with the weights' mean: 0.01² for a Σx that is off by a few of its deviations.
    assert off(found.second[1], row.signal.second_moment, row.signal.second_moment) <= 0.01
    assert off(found.mean[1], row.signal.mean, row.signal.rms) <= 0.01
    assert off(found.grad[0], start.grad.second_moment, start.grad.second_moment) <= 0.01


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.PReLU(), nn.RReLU().eval(), nn.ELU(), nn.CELU(2.0),
    nn.SELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.LogSigmoid(),
    nn.Sigmoid(), nn.Tanh(), nn.Softsign(), nn.Hardtanh(), nn.Hardsigmoid(), nn.Hardswish(),
    nn.Hardshrink(), nn.Softshrink(), nn.Tanhshrink(), nn.Threshold(0.1, -2.0),
    nn.ReLU(inplace=True),
]  # fmt: skip


@pytest.mark.parametrize("fn", ACTIVATIONS, ids=str)
def test_an_activations_moments_and_its_gradient_are_those_of_its_draws(fn):
    # Inputs of one length: how far lengths differ is what 2/width would be allowed for.
    x = nn.functional.normalize(torch.randn(BATCH, WIDTH)) * WIDTH**0.5
    first, last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    nn.init.normal_(first.weight, std=WIDTH**-0.5)
    found = draw(nn.Sequential(first, fn, last), x, DRAWS, backward=True)
    before, row, after = found.predicted.layers
    assert before.grad
    assert row.grad
    # The weights of `last` are not independent of what `first` hands on in one draw: 1/width.
    allowed = 2 / WIDTH
    assert off(found.second[1], row.signal.second_moment, row.signal.second_moment) <= allowed
    assert off(found.mean[1], row.signal.mean, row.signal.rms) <= allowed
    assert off(found.second[2], after.signal.second_moment, after.signal.second_moment) <= allowed
    assert off(found.grad[1], row.grad.second_moment, row.grad.second_moment) <= allowed
    assert off(found.grad[0], before.grad.second_moment, before.grad.second_moment) <= 2 * allowed


BEHIND = {
    "dropout": lambda: nn.Dropout(0.3),
    "dropout in eval mode": lambda: nn.Dropout(0.3).eval(),
    "dropout2d": lambda: nn.Dropout2d(0.3),
    "batch norm": lambda: nn.BatchNorm2d(64),
    "batch norm in eval mode": lambda: nn.BatchNorm2d(64).eval(),
    "group norm": lambda: nn.GroupNorm(2, 64),
    "layer norm over everything": lambda: nn.LayerNorm([64, 6, 6]),
    "identity": nn.Identity,
    "flatten": nn.Flatten,
}


@pytest.mark.parametrize("kind", BEHIND)
def test_layers_between_convolutions_do_what_their_draws_do(kind):
    layer = BEHIND[kind]()
    model = nn.Sequential(nn.Conv2d(4, 64, 3, padding=1), layer)
    # Gaussian weights: of uniform ones, with shorter tails, sums of squares differ less.
    hw.variance_scaling_(model[0])
    if kind == "batch norm in eval mode":
        layer.running_var.fill_(0.5)
        layer.running_mean.fill_(0.1)
    x = signs(8, 4, 6, 6)
    found = draw(model, x, DRAWS, backward=True)
    row, grad = found.predicted.layers[1], found.predicted.layers[0].grad
    assert grad
    assert row.shape == tuple(model(x).shape)
    assert off(found.second[1], row.signal.second_moment, row.signal.second_moment) <= 0.01
    assert off(found.mean[1], row.signal.mean, row.signal.rms) <= 0.01
    assert off(found.grad[0], grad.second_moment, grad.second_moment) <= 0.02


VECTORS = {
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "rms norm": lambda: nn.RMSNorm(WIDTH),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "dropout": lambda: nn.Dropout(0.5),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", VECTORS)
def test_layers_between_linear_ones_do_what_their_draws_do(kind, training):
    layer = VECTORS[kind]().train(training)
    model = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), layer, nn.Linear(WIDTH, WIDTH))
    found = draw(model, torch.randn(64, 64), DRAWS, backward=True)
    rows = found.predicted.layers
    for place in (2, 3):
        signal = rows[place].signal
        assert off(found.second[place], signal.second_moment, signal.second_moment) <= 4 / WIDTH
        assert off(found.mean[place], signal.mean, signal.rms) <= 4 / WIDTH
    # A norm takes a direction out of its gradient, and the weights that made it point that way:
    # O(1/width), and O(1/batch) for a batch norm.
    allowed = 0.05 if isinstance(layer, nn.BatchNorm1d) else 4 / WIDTH
    for place in (0, 1, 2):
        grad = rows[place].grad
        assert grad
        assert off(found.grad[place], grad.second_moment, grad.second_moment) <= allowed


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(1, 8), nn.RMSNorm(8)])
def test_a_norm_takes_its_own_directions_out_of_a_gradient(norm):
    # Rows of mean 0 and variance 1: nothing is asymptotic here.
    x = nn.functional.layer_norm(torch.randn(64, 8), [8])
    found = draw(nn.Sequential(nn.Identity(), norm), x, DRAWS, backward=True)
    grad = found.predicted.layers[0].grad
    assert grad
    assert grad.second_moment == pytest.approx(
        7 / 8 if isinstance(norm, nn.RMSNorm) else 6 / 8, rel=1e-3
    )
    assert off(found.grad[0], grad.second_moment, grad.second_moment) <= 1e-3


def test_an_embeddings_rows_are_as_their_draws():
    model = nn.Sequential(nn.Embedding(50, WIDTH), nn.GELU(), nn.Linear(WIDTH, 32))
    found = draw(model, torch.randint(0, 50, (8, 10)), DRAWS, backward=True)
    for row, second in zip(found.predicted, found.second, strict=True):
        assert row.band
        assert off(second, row.signal.second_moment, row.signal.second_moment) <= 4 / WIDTH


def test_a_residual_branch_adds_its_second_moment_and_its_gradient():
    block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    model = nn.Sequential(nn.Linear(64, WIDTH), Residual(block), nn.Linear(WIDTH, 64))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            hw.variance_scaling_(layer)
    found = draw(model, torch.randn(16, 64), DRAWS, backward=True)
    last, first = found.predicted["2"], found.predicted["0"].grad
    assert first
    assert last.signal.second_moment == pytest.approx(1.5, rel=0.05)
    assert off(found.second[4], last.signal.second_moment, last.signal.second_moment) <= 4 / WIDTH
    assert off(found.grad[0], first.second_moment, first.second_moment) <= 4 / WIDTH
