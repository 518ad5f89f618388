"""Bands: they hold what they promise to hold, and are not much wider than that takes."""

import math
from functools import partial

import pytest
import torch
from scipy.stats import binom
from torch import nn

import handwave as hw
from draws import draw, redraw
from handwave.stacks import Residual

DRAWS = 200

FALSE_ALARM = 2e-7  # of one row: of the few that a test looks at, 1e-6

NORMAL = 2 * 2.5758  # from the 0.5 % to the 99.5 % quantile, in standard deviations


def most_missed(draws):
    """Return how many draws a band of coverage 0.99 may miss."""
    return int(binom.isf(FALSE_ALARM, draws, 0.01))


def missed_and_width(found, place):
    """Count the draws outside a row's band; divide its width by that of 99 % of the draws.

    The latter is taken from the standard deviation of the logarithm, which 200 draws tell to
    5 %; their outermost quantiles would be two draws.
    """
    low, high = found.predicted.layers[place].band
    second = found.second[place]
    outside = int(((second < low) | (second > high)).sum())
    return outside, math.log(high / low) / (NORMAL * float(second.log().std()))


def check(found, places, widest=1.5):
    draws = found.second.shape[1]
    for place in places:
        outside, width = missed_and_width(found, place)
        name = found.predicted.layers[place].name
        assert outside <= most_missed(draws), f"{name}: {outside} of {draws} draws missed"
        assert width <= widest, f"{name}: {width:.2f} times as wide as 99 % of the draws"


def lecun(*layers):
    """Give the weights of a stack a scale at which nothing explodes."""
    model = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            hw.variance_scaling_(layer, scale=1.5, generator=generator)
    return model


def batch(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def smooth(*shape):
    """Images as they are: neighbours are alike."""
    return nn.functional.interpolate(batch(*shape[:2], 4, 4), shape[2:], mode="bilinear")


@pytest.mark.parametrize("inputs", [1, 8, 512])
@pytest.mark.parametrize("bias", [False, True])
def test_a_band_of_one_layer_fits(inputs, bias):
    model = lecun(nn.Linear(64, 64, bias=bias), nn.ReLU())
    check(draw(model, batch(inputs, 64), DRAWS, again=redraw), (0, 1))


@pytest.mark.parametrize("activation", [None, nn.ReLU, nn.Tanh])
@pytest.mark.parametrize(("width", "inputs"), [(64, 1), (64, 16), (256, 4)])
def test_a_band_of_a_deep_stack_fits(activation, width, inputs):
    generator = torch.Generator().manual_seed(3)
    model = hw.mlp(width, 20, activation, generator=generator)
    found = draw(model, batch(inputs, width), DRAWS, again=redraw)
    check(found, [len(model) // 4, len(model) - 1])


@pytest.mark.parametrize(("activation", "factor"), [(None, 2), (nn.ReLU, 5)])
def test_one_input_wanders_as_published(activation, factor):
    width, depth = 128, 12
    generator = torch.Generator().manual_seed(3)
    model = hw.mlp(width, depth, activation, generator=generator)
    beta = factor * depth / width  # Hanin & Nica 2018: of log, the variance; the mean is −β/2
    last = -1 if activation is None else -2
    found = draw(model, batch(1, width), 300, again=redraw)
    # At 1e-6: the variance of 300 draws is off by up to 40 %, their mean by 5/√300 of its unit.
    log = found.ratio(last).log()
    assert float(log.var()) == pytest.approx(beta, rel=0.4)
    assert float(log.mean()) == pytest.approx(-beta / 2, abs=5 * math.sqrt(beta / 300))
    band = found.predicted.layers[last].band
    assert band
    low, high = band
    # The weights' own mean is known: behind a ReLU it explains a sixth of what one input wanders.
    assert 0.7 * beta <= (math.log(high / low) / NORMAL) ** 2 <= 1.1 * beta


def test_a_batch_wanders_less_than_one_input():
    model = hw.mlp(64, 10, nn.ReLU, generator=torch.Generator().manual_seed(3))
    one, many = (hw.predict(model, batch(inputs, 64)).layers[-1] for inputs in (1, 64))
    assert one.band
    assert many.band
    assert many.band[1] / many.band[0] < one.band[1] / one.band[0]


def test_a_band_of_a_residual_stack_fits():
    def block():
        return Residual(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)))

    model = lecun(nn.Linear(32, 64), *(block() for _ in range(4)), nn.Linear(64, 32))
    found = draw(model, batch(8, 32), DRAWS, again=redraw)
    check(found, [3, len(found.second) - 2, len(found.second) - 1])


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d])
def test_a_band_behind_a_norm_fits(norm):
    model = lecun(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), norm(64), nn.ReLU(), nn.Linear(64, 64)
    )
    check(draw(model, batch(64, 32), DRAWS, again=redraw), [2, 4, 5])


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.GELU])
def test_a_band_of_units_of_one_size_over_the_batch_fits(activation):
    # Behind a batch norm no unit is larger than others: they saturate less often than Gaussian
    # ones, by a share that is as large as the band is wide.
    model = lecun(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), activation())
    check(draw(model, batch(64, 64), DRAWS, again=redraw), [4])


@pytest.mark.parametrize("inputs", [4, 8])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.GELU])
def test_a_band_of_few_numbers_of_known_mean_square_holds(activation, inputs):
    # None of n such numbers is beyond √n: a Gaussian's tanh² is smaller by many widths of a band.
    model = lecun(nn.Linear(64, 64), nn.BatchNorm1d(64), activation())
    found = draw(model, batch(inputs, 64), DRAWS, again=redraw)
    check(found, [2], widest=1.9)
    # 1/v of three squares has no variance: what is left of it is that of what is met.
    check(found, [1])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_a_band_behind_two_norms_over_the_batch_fits(activation):
    def block():
        return nn.Linear(64, 64), nn.BatchNorm1d(64), activation()

    model = lecun(*block(), *block(), nn.Linear(64, 64))
    check(draw(model, batch(64, 64), DRAWS, again=redraw), [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("images", [batch, smooth])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU])
def test_a_band_of_channels_of_one_size_over_the_batch_fits(activation, images):
    # Zeros around an image: what positions have in common is less at its edge.
    blocks = [
        layer
        for before in (3, 16)
        for layer in (nn.Conv2d(before, 16, 3, padding=1), nn.BatchNorm2d(16), activation())
    ]
    model = lecun(*blocks, nn.Conv2d(16, 16, 3, padding=1))
    check(draw(model, images(8, 3, 8, 8), DRAWS, again=redraw), range(7))


def conv(*args, **kwargs):
    return nn.Conv2d(*args, padding=1, bias=False, **kwargs)


def transposed(before, after):
    return nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)


# Made in each test: what a layer draws for its bias is to come from the test's own seed.
KINDS = {
    "grouped": lambda: (conv(16, 32, 3, groups=4), conv(32, 32, 3, groups=4), conv(32, 8, 3)),
    "transposed": lambda: (transposed(8, 16), transposed(16, 16), conv(16, 8, 3)),
    "large windows": lambda: (
        nn.Conv2d(4, 16, 7, padding=3),
        nn.Conv2d(16, 16, 9, padding=4),
        conv(16, 8, 3),
    ),
    "dense": lambda: (
        nn.Linear(32, 64, bias=False),
        nn.Linear(64, 64, bias=False),
        nn.Linear(64, 8),
    ),
    "few inputs": lambda: (nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 8)),
}
INPUTS = {
    "grouped": (4, 16, 8, 8),
    "transposed": (4, 8, 5, 5),
    "large windows": (8, 4, 4, 4),
    "dense": (16, 32),
    "few inputs": (5, 32),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_predicted_behind_a_norm_of_any_sum_holds(kind):
    # A gradient behind a norm is known to 15 %: how its variance goes with the weights, in part.
    one, two, last = KINDS[kind]()
    dense = isinstance(one, nn.Linear)
    norms = [nn.BatchNorm1d(64) if dense else nn.BatchNorm2d(n.out_channels) for n in (one, two)]
    model = lecun(one, norms[0], nn.ReLU(), two, norms[1], nn.ReLU(), last)
    x = batch(*INPUTS[kind]) + 2 * (kind == "dense")
    found = draw(model, x, DRAWS, backward=True, again=redraw)
    check(found, range(7), widest=1.7)
    for row, grad in zip(found.predicted, found.grad, strict=True):
        assert row.grad is None or row.grad.second_moment == pytest.approx(
            float(grad.mean()), rel=0.15
        )
    assert found.predicted.layers[5].grad


@pytest.mark.parametrize("size", [5, 8])
def test_the_gradient_in_front_of_a_norm_behind_zero_padding_holds(size):
    # At an edge a window sees less of the mean: were it forgotten, this would be off by 12 %.
    before = (conv(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    model = lecun(*before, conv(16, 16, 3), nn.BatchNorm2d(16), nn.Tanh())
    found = draw(model, batch(8, 3, size, size), DRAWS, backward=True, again=redraw)
    grad = found.predicted.layers[3].grad
    assert grad
    assert grad.second_moment == pytest.approx(float(found.grad[3].mean()), rel=0.06)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
def test_a_band_of_saturating_channels_behind_a_norm_holds(activation):
    model = lecun(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), activation())
    check(draw(model, batch(8, 3, 8, 8), DRAWS, again=redraw), [2])


@pytest.mark.parametrize("inputs", [1, 32])
@pytest.mark.parametrize("first", [[], [nn.Linear(64, 64), nn.ReLU()]], ids=["alone", "behind"])
def test_a_band_behind_a_norm_that_leaves_the_mean_fits(inputs, first):
    model = lecun(*first, nn.Linear(64, 64), nn.RMSNorm(64), nn.ReLU())
    check(draw(model, batch(inputs, 64), DRAWS, again=redraw), [len(model) - 1])


def one_sided(*shape):
    """Images of positive numbers, most of which all positions have in common."""
    return batch(*shape).abs()


# Where windows reach over an edge, the mean of the weights tells less of an output's mean.
EDGES = {
    "strided": (lambda: (conv(4, 16, 3, stride=2), conv(16, 32, 3, stride=2)), (8, 4, 8, 8)),
    "small maps": (
        lambda: [nn.Conv3d(a, 8, 3, padding=1, bias=False) for a in (2, 8)],
        (4, 2, 4, 4, 4),
    ),
    "groups": (lambda: (conv(4, 32, 3), conv(32, 32, 3, groups=2)), (8, 4, 8, 8)),
}


@pytest.mark.parametrize("kind", EDGES)
def test_a_band_of_an_activation_behind_zero_padding_holds(kind):
    make, shape = EDGES[kind]
    first, second = make()
    model = lecun(first, nn.ReLU(), second, nn.ReLU())
    check(draw(model, batch(*shape), DRAWS, again=redraw), [0, 1, 2, 3])


@pytest.mark.parametrize("images", [batch, smooth, one_sided])
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_a_norm_over_groups_of_channels_knows_how_they_differ(images, groups):
    # The gradient divides by a group's own variance: were that taken for the average one, the
    # gradient in front would be off by a third. Of tanh, a fourth power is left to chance.
    norm = nn.GroupNorm(groups, 16) if groups < 16 else nn.LayerNorm([16, 8, 8])
    model = lecun(conv(4, 16, 3), norm, nn.Tanh(), conv(16, 16, 3), norm, nn.ReLU())
    found = draw(model, images(8, 4, 8, 8), DRAWS, backward=True, again=redraw)
    # Not the last one of smooth images, whose positions differ in size: it holds 94 %.
    check(found, [0, 1, 2, 3, 4, *([] if images is smooth else [5])], widest=2)
    for row, grad, second in zip(found.predicted, found.grad, found.second, strict=True):
        assert row.grad
        assert row.grad.second_moment == pytest.approx(float(grad.mean()), rel=0.2)
        assert row.signal.second_moment == pytest.approx(float(second.mean()), rel=0.02)


@pytest.mark.parametrize("images", [batch, one_sided])
def test_a_unit_that_sees_one_channel_has_noise_of_its_own(images):
    # The units together have none of it: were it handed on, the gradient in front of all would be
    # off by a third, or by 60 %.
    depthwise = conv(32, 32, 3, groups=32)
    model = lecun(
        *(conv(4, 32, 3), nn.BatchNorm2d(32), nn.ReLU()),
        *(depthwise, nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32)),
    )
    found = draw(model, images(8, 4, 8, 8), DRAWS, backward=True, again=redraw)
    check(found, [0, 2, 3, 5, 6])
    grad = found.predicted.layers[0].grad
    assert grad
    assert grad.second_moment == pytest.approx(float(found.grad[0].mean()), rel=0.15)


def test_a_band_of_a_first_layer_of_groups_knows_their_inputs():
    model = lecun(conv(4, 32, 3, groups=4), nn.ReLU(), conv(32, 32, 3), nn.ReLU())
    check(draw(model, batch(8, 4, 8, 8), DRAWS, again=redraw), [0, 1, 2, 3])


@pytest.mark.parametrize("images", [batch, one_sided])
def test_pairs_that_meet_in_one_transposed_convolution_need_not_in_the_next(images):
    layers = [transposed(4, 16), nn.BatchNorm2d(16), nn.ReLU()]
    model = lecun(*layers, transposed(16, 8), nn.BatchNorm2d(8), nn.ReLU())
    found = draw(model, images(8, 4, 8, 8), DRAWS, backward=True, again=redraw)
    # Were it so, the variance that the second norm divides by would be off by 40 %.
    grad = found.predicted.layers[3].grad
    assert grad
    assert grad.second_moment == pytest.approx(float(found.grad[3].mean()), rel=0.15)


@pytest.mark.parametrize("images", [batch, one_sided])
def test_skewed_numbers_make_the_units_behind_them_skewed(images):
    blocks = [(conv(4, 16, 3), nn.BatchNorm2d(16)), (conv(16, 16, 3), nn.BatchNorm2d(16))]
    model = lecun(*blocks[0], nn.ReLU(), *blocks[1], nn.ReLU())
    check(draw(model, images(8, 4, 8, 8), DRAWS, again=redraw), [2, 5])


def test_a_band_of_many_images_with_a_mean_does_not_close():
    # Odd powers of likeness cancel in a sample of pairs: it was 2e-4 wide, and held no draw.
    images = torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    model = lecun(conv(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    # The weights' own mean, which is known, tells of the third powers in part: 1.53.
    check(draw(model, images, DRAWS, again=redraw), [2], widest=1.6)


@pytest.mark.parametrize("groups", [1, 4])
def test_positions_behind_an_activation_vary_independently(groups):
    # Alike by their mean, 1/π: were that taken for variance in common, this were off by 4 %.
    model = lecun(conv(3, 16, 3), nn.ReLU(), nn.GroupNorm(groups, 16, eps=0.1))
    found = draw(model, batch(8, 3, 8, 8), DRAWS, again=redraw)
    expected = float(found.second[2].mean())
    assert found.predicted.layers[2].signal.second_moment == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("inputs", [8, 64])
def test_a_band_of_an_activation_that_is_a_line_at_heart_holds(inputs):
    # Of a sigmoid's square behind a norm, nearly all is known beforehand.
    model = lecun(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.Sigmoid())
    check(draw(model, batch(inputs, 32), DRAWS, again=redraw), [2])


def test_a_band_of_a_residual_stack_of_convolutions_holds():
    branch = nn.Sequential(conv(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 16, 3))
    first = (conv(4, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    model = lecun(*first, Residual(branch.append(nn.BatchNorm2d(16))), conv(16, 16, 3))
    found = draw(model, batch(8, 4, 8, 8), DRAWS, again=redraw)
    check(found, [0, 2, 3, 5, 6, len(found.second) - 1])


def test_a_band_of_a_convolutional_stack_fits():
    convolutions = [nn.Conv2d(a, 16, 3, padding=1) for a in (3, 16, 16)]
    layers = [layer for conv in convolutions for layer in (conv, nn.ReLU())]
    model = lecun(*layers, nn.Flatten(), nn.Linear(16 * 100, 10))
    check(draw(model, smooth(4, 3, 10, 10), DRAWS, again=redraw), [0, 1, 3, 5, 7])


def test_a_band_of_token_layers_fits():
    model = lecun(nn.Embedding(50, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    ids = torch.randint(0, 50, (8, 10), generator=torch.Generator().manual_seed(2))
    check(draw(model, ids, DRAWS, again=redraw), [0, 1, 3])


def with_bias(layer, mean, std):
    """Give a layer a bias of these moments."""
    bias = torch.randn(layer.bias.shape, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        layer.bias.copy_(mean + std * (bias - bias.mean()) / bias.std())
    return layer


# A bias of a mean is known, and wanders nowhere; its units stand around another place of a ReLU.
BIASES = pytest.mark.parametrize(("mean", "std"), [(0, 0.1), (0.2, 0), (-0.1, 0.1)])


@BIASES
@pytest.mark.parametrize(
    "first",
    [partial(nn.Conv2d, 3, 16, 3), partial(nn.ConvTranspose2d, 3, 16, 4, stride=2)],
    ids=["convolution", "transposed"],
)
def test_a_band_of_a_first_convolution_fits_white_noise(first, mean, std):
    # All that weights of known moments leave to chance is a thirtieth of what they would else.
    first = with_bias(first(padding=1), mean, std)
    model = lecun(first, nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
    check(draw(model, batch(4, 3, 8, 8), DRAWS, again=redraw), [0, 1, 2])


@BIASES
@pytest.mark.parametrize("of_inputs", [0, 1])
def test_a_band_behind_a_bias_fits(mean, std, of_inputs):
    model = lecun(with_bias(nn.Linear(27, 64), mean, std), nn.ReLU(), nn.Linear(64, 64), nn.Tanh())
    check(draw(model, of_inputs + batch(256, 27), DRAWS, again=redraw), range(4))


def test_an_audits_band_of_channels_of_unlike_size_fits():
    # Of depthwise filters the mean square of all together is known, not that of each.
    conv = nn.Conv2d(8, 8, 3, groups=8, bias=False)
    x = batch(4, 8, 8, 8) * torch.linspace(0.2, 2, 8)[:, None, None]
    generator, missed, logs, ends = torch.Generator().manual_seed(3), 0, [], 0.0
    for _ in range(DRAWS):
        nn.init.normal_(conv.weight, std=1 / 3, generator=generator)
        row = hw.audit(conv, x, backward=False).measured.layers[0]
        assert row.band
        missed += not row.band[0] <= row.signal.second_moment <= row.band[1]
        # Over the weights' own mean square, which the audit knows.
        assert row.weight
        logs.append(math.log(row.signal.second_moment / row.weight.second_moment))
        ends = math.log(row.band[1] / row.band[0])
    assert missed <= most_missed(DRAWS)
    assert ends / NORMAL <= 1.5 * float(torch.tensor(logs).std())


@pytest.mark.parametrize("between", [nn.Dropout(0.5), nn.AvgPool2d(2), nn.BatchNorm2d(32)])
def test_a_norm_knows_what_its_sizes_are_behind_other_layers(between):
    # Of the very input only a convolution right in front makes them; dropout leaves them as they
    # are, and behind another norm all are one.
    model = lecun(conv(4, 32, 3), between, nn.BatchNorm2d(32), nn.ReLU())
    found = draw(model, smooth(8, 4, 8, 8), DRAWS, backward=True, again=redraw)
    check(found, [0, *([1, 2] if isinstance(between, nn.Dropout) else [])])
    for row, grad in zip(found.predicted, found.grad, strict=True):
        assert row.grad is None or row.grad.second_moment == pytest.approx(
            float(grad.mean()), rel=0.15
        )


class Unknown(nn.Module):
    """What mixes entries without weights has no theory."""

    def forward(self, x):
        return x + torch.sin(x.flip(-1))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_behind_a_norm_that_begins_anew_bands_fit_a_single_input(norm, activation):
    hidden = [nn.Linear(64, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 64)]
    model = lecun(nn.Linear(64, 64), Unknown(), norm(64), *hidden)
    check(draw(model, batch(1, 64), DRAWS, again=redraw), range(3, 8))
