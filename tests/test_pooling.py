"""Pooling: what is predicted of averages and of largest values, against draws of the weights."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

import handwave as hw
from draws import draw, redraw
from handwave.pooling import POOLINGS
from handwave.pools import AVERAGES, Pool
from handwave.signals import of_input
from handwave.sums import convolution
from handwave.windowed import Windowed
from test_prediction_bands import DRAWS, batch, check, lecun, one_sided, smooth

IMAGES = {"noise": batch, "smooth": smooth, "one-sided": one_sided}


def conv(before, after, **kwargs):
    return nn.Conv2d(before, after, 3, padding=1, bias=False, **kwargs)


def right(found, places, allowed):
    """Hold the average of all draws to what was predicted.

    The average of 200 draws is off by more than 6 of its standard errors with probability 2e-9.
    """
    for place in places:
        ratio = found.ratio(place)
        error = 6 * float(ratio.std()) / len(ratio) ** 0.5
        assert float(ratio.mean()) == pytest.approx(1.0, abs=allowed + error)


def right_gradients(found, places, allowed=0.1):
    for place in places:
        grad = found.predicted.layers[place].grad
        assert grad
        assert grad.second_moment == pytest.approx(float(found.grad[place].mean()), rel=allowed)


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_an_average_over_the_whole_map_is_what_its_draws_are(activation, images):
    model = lecun(
        conv(4, 32), activation(), conv(32, 32), activation(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    found = draw(model, IMAGES[images](8, 4, 8, 8), DRAWS, backward=True, again=redraw)
    right(found, [4, 6], 0.1)
    check(found, [6], widest=1.4)
    right_gradients(found, range(7))


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_averages_over_windows_are_what_their_draws_are(activation, images):
    pools = nn.AvgPool2d(2), nn.AvgPool2d(2)
    model = lecun(conv(4, 32), activation(), pools[0], conv(32, 32), activation(), pools[1])
    found = draw(model, IMAGES[images](8, 4, 8, 8), DRAWS, backward=True, again=redraw)
    # Behind other pooling, how alike neighbours are is modelled, and the band holds that too.
    right(found, [2], 0.05)
    right(found, [5], 0.3 if images == "smooth" else 0.1)
    check(found, [2, 3])
    check(found, [5], widest=3)
    right_gradients(found, range(6))


@pytest.mark.parametrize("images", IMAGES)
def test_averages_over_windows_that_overlap_are_what_their_draws_are(images):
    model = lecun(conv(4, 32), nn.ReLU(), nn.AvgPool2d(3, 2, 1), conv(32, 32), nn.ReLU())
    found = draw(model, IMAGES[images](8, 4, 8, 8), DRAWS, backward=True, again=redraw)
    right(found, [2, 4], 0.05)
    check(found, [2, 3, 4])
    # Of gradients at neighbours, nobody knows how alike they are; what they share adds up.
    assert found.predicted.layers[2].grad
    assert found.predicted.layers[1].grad is None


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_the_largest_of_windows_are_what_their_draws_are(activation, images):
    pools = nn.MaxPool2d(2), nn.MaxPool2d(2)
    model = lecun(
        conv(4, 32), activation(), pools[0], conv(32, 32), activation(), pools[1],
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    found = draw(model, IMAGES[images](8, 4, 8, 8), DRAWS, backward=True, again=redraw)
    right(found, [2, 3, 5, 7], 0.07)
    check(found, [3, 7])
    # An entry that is the largest is seldom one at which a ReLU is flat.
    right_gradients(found, range(8), 0.15)


def test_a_function_and_the_largest_may_change_places():
    first = conv(4, 32)
    both = nn.ReLU(), nn.MaxPool2d(2)
    one, other = nn.Sequential(first, *both), nn.Sequential(first, *both[::-1])
    traces = [hw.predict(model, batch(8, 4, 8, 8), backward=True) for model in (one, other)]
    assert traces[0].layers[2].signal == traces[1].layers[2].signal
    assert traces[0].layers[2].band == traces[1].layers[2].band
    first, second = (trace.layers[0].grad for trace in traces)
    assert first
    assert second
    assert first.second_moment == pytest.approx(second.second_moment, rel=0.01)  # edges apart


@pytest.mark.parametrize("images", [batch, one_sided])
@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)])
def test_behind_a_norm_over_the_batch_pooling_is_what_its_draws_are(pool, images):
    model = lecun(conv(4, 32), nn.BatchNorm2d(32), nn.ReLU(), pool, nn.Flatten(1))
    found = draw(model, images(8, 4, 8, 8), DRAWS, again=redraw)
    right(found, [3], 0.04)
    if images is batch:
        check(found, [3], widest=3.5)


@pytest.mark.parametrize("axes", [1, 3])
def test_pooling_along_one_axis_or_three_is_what_its_draws_are(axes):
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    average, largest = AVERAGES[axes - 1], POOLINGS[6 + axes - 1]
    model = lecun(convolution(3, 32, 3), nn.ReLU(), largest(2), convolution(32, 32, 1), average(2))
    found = draw(model, batch(6, 3, *[10] * axes), DRAWS, again=redraw)
    right(found, [2, 4], 0.05)
    check(found, [2, 4])


def layers():
    yield from (nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d((2, 3), ceil_mode=True))
    yield nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    yield nn.AvgPool2d(2, divisor_override=3)
    yield from (nn.AdaptiveAvgPool2d((4, 3)), nn.AdaptiveAvgPool2d((None, 1)))


@pytest.mark.parametrize("layer", list(layers()), ids=repr)
def test_windows_share_out_positions_as_the_layer_does(layer):
    sizes = (7, 9)
    windows = Pool(layer, sizes, 1)
    shares = torch.einsum("ap,bq->abpq", *windows.rows) * windows.total[..., None, None]
    image = torch.randn(1, *sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = layer(image)[0]
    assert torch.allclose(torch.einsum("abpq,pq->ab", shares, image[0]), expected)
    for power in (1, 2):
        gradient = expected.square()
        back = torch.einsum("abpq,ab->pq", shares**power, gradient)
        assert torch.allclose(windows.transposed(gradient, power), back)


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(2)], ids=repr)
def test_what_is_left_of_sums_is_that_of_the_windows_themselves(layer, images):
    x = IMAGES[images](8, 4, 8, 8)
    units = convolution(conv(4, 32), of_input(x))[0].units
    windows = Windowed(Pool(layer, (8, 8), 8), units.wander)
    seen = nn.functional.unfold(x.double(), 3, padding=1).view(8, 36, 8, 8)
    points = layer(seen).permute(0, 2, 3, 1).reshape(-1, 36)
    square = float(points.square().sum(1).mean())
    assert windows.left == pytest.approx(square / float(seen.square().sum(1).mean()), rel=0.08)
    gram = points @ points.T / square
    # From 18 of 64 shifts of each pair of images.
    found = windows.averaged().mean(torch.square)
    assert found == pytest.approx(float(gram.square().mean()), rel=0.2)


def test_the_models_own_input_is_pooled_as_it_is():
    x = batch(4, 3, 8, 8)
    for pool in (nn.AvgPool2d(2), nn.MaxPool2d(3)):
        row = hw.predict(nn.Sequential(pool, conv(3, 8)), x).layers[0]
        assert row.signal.second_moment == pytest.approx(float(pool(x).square().mean()), rel=1e-6)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(1), nn.AvgPool2d(1), nn.AdaptiveAvgPool2d(8)])
def test_windows_of_one_position_change_nothing(pool):
    before, after = hw.predict(nn.Sequential(conv(4, 8), pool), batch(4, 4, 8, 8))
    assert (before.signal, before.band) == (after.signal, after.band)


def test_nothing_is_left_of_nothing():
    first = conv(4, 8)
    nn.init.zeros_(first.weight)
    model = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))
    for row in hw.predict(model, batch(4, 4, 8, 8)).layers[1:]:
        assert row.signal.second_moment == 0
        assert row.band == (0, 0)


@pytest.mark.parametrize("pool", [nn.MaxPool1d(2), nn.AvgPool1d(2)])
def test_windows_that_leave_out_all_there_is_hand_on_nothing(pool):
    x = torch.zeros(1, 4, 3)
    x[..., 2] = 1  # of three positions, the last one is in no window
    found = hw.predict(nn.Sequential(nn.Conv1d(4, 8, 1, bias=False), nn.ReLU(), pool), x)
    assert found.layers[1].signal.second_moment > 0
    assert found.layers[2].signal.second_moment == 0


def test_averages_of_equal_inputs_that_cancel_are_no_theory():
    model = nn.Sequential(
        conv(4, 16), nn.GroupNorm(16, 16), conv(16, 16), nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1)
    )
    row = hw.predict(model, torch.ones(2, 4, 9, 9)).layers[-1]
    assert row.note == "no theory: positions of a window cancel each other"


class Wave(nn.Module):
    """Rise and fall."""

    def forward(self, x):
        """Return the sine."""
        return torch.sin(3 * x)


REFUSED = {
    "what enters is not Gaussian": (conv(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.AvgPool2d(2)),
    "the largest of a function that falls": (conv(4, 8), Wave(), nn.MaxPool2d(2)),
    "it returns indices as well": (conv(4, 8), nn.MaxPool2d(2, return_indices=True)),
    "for windows with holes": (conv(4, 8), nn.MaxPool2d(2, dilation=2)),
    "it goes along another axis": (nn.Linear(8, 8), nn.AvgPool2d(2)),
    "how alike positions are": (nn.LPPool2d(2, 2), nn.GroupNorm(2, 4), nn.AvgPool2d(2)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_it_does_not_know_it_does_not_guess(reason):
    trace = hw.predict(nn.Sequential(*REFUSED[reason]), batch(4, 4, 8, 8))
    last = trace.layers[-1]
    assert last.note.startswith("no theory")
    assert reason in last.note
    assert math.isnan(last.signal.second_moment)


def test_the_largest_of_a_whole_map_of_smooth_images_is_not_guessed():
    model = lecun(conv(4, 16), nn.AdaptiveMaxPool2d(1))
    row = hw.predict(model, smooth(8, 4, 16, 16)).layers[-1]
    assert row.note == "no theory: neighbours are more alike than others of a window"


def test_positions_that_cancel_are_not_guessed():
    # A norm over the batch behind large means and zero padding: what is left has both signs.
    model = lecun(conv(4, 32), nn.BatchNorm2d(32), nn.Tanh(), nn.AdaptiveAvgPool2d(1))
    row = hw.predict(model, one_sided(8, 4, 8, 8) + 1).layers[-1]
    assert row.note == "no theory: positions of a window cancel each other"


def test_a_window_that_torch_refuses_is_refused():
    model = nn.Sequential(conv(4, 8), nn.MaxPool2d(9))
    with pytest.raises(ValueError, match=r"1: .*Output size is too small"):
        hw.predict(model, batch(4, 4, 8, 8))


def test_users_pools_of_their_own_names_are_pools():
    class Mine(nn.MaxPool2d):
        """A name that tells nothing."""

    rows = [hw.predict(nn.Sequential(conv(4, 8), kind(2)), batch(4, 4, 8, 8)).layers[1]
            for kind in (Mine, nn.MaxPool2d)]  # fmt: skip
    assert all(row.band for row in rows)


def test_neighbours_of_a_window_are_averaged_as_pairs():
    # How alike a position and its neighbour are, in one of three directions, as the pairs come.
    sizes, layer = (6, 4), nn.AvgPool2d(2)
    windows = Pool(layer, sizes, 1)
    maps = torch.rand(3, *sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = windows.of_neighbours(maps)
    for shift, image, got in zip([(0, 1), (1, 0), (1, 1)], maps, found, strict=True):
        for a, b in itertools.product(range(3), range(2)):
            inside = [
                image[2 * a + i, 2 * b + j]
                for i, j in itertools.product(range(2 - shift[0]), range(2 - shift[1]))
            ]
            assert float(got[a, b]) == pytest.approx(float(torch.stack(inside).mean()))


# Sizes as torch takes them, not as its annotations say.
ANY: Any = nn


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(1, 2), nn.AvgPool2d(1, 2), ANY.MaxPool2d([2, 4]), ANY.AvgPool2d([2, 4]),
     ANY.MaxPool2d(2, [2, 1]), ANY.AdaptiveAvgPool2d([2, 4]), ANY.MaxPool2d(2, dilation=[1, 1]),
     ANY.AvgPool2d((2,)), ANY.MaxPool2d((2,))],
    ids=repr,
)  # fmt: skip
def test_sizes_are_read_as_torch_reads_them(pool):
    model = nn.Sequential(conv(4, 8), nn.ReLU(), pool, conv(8, 8))
    x = batch(4, 4, 8, 8)
    for row, measured in zip(hw.predict(model, x), hw.measure(model, x), strict=True):
        assert row.band
        assert row.shape == measured.shape


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.MaxPool2d(2)])
def test_behind_pooled_zeros_only_a_bias_is_left(pool):
    last = nn.Conv2d(8, 8, 3, padding=1)
    assert last.bias is not None
    nn.init.constant_(last.bias, 0.5)
    model = nn.Sequential(conv(4, 8), nn.Threshold(1e3, 0.0), pool, last)
    row = hw.predict(model, batch(4, 4, 8, 8)).layers[-1]
    assert row.signal.second_moment == pytest.approx(0.25)


@pytest.mark.parametrize("one", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("other", [nn.ReLU, nn.Tanh, nn.GELU])
def test_gradients_through_an_activation_on_each_side_of_the_largest(one, other):
    model = lecun(conv(4, 32), one(), nn.MaxPool2d(2), other())
    found = draw(model, batch(8, 4, 8, 8), 100, backward=True, again=redraw)
    right(found, [2, 3], 0.05)
    right_gradients(found, range(4), 0.15)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.MaxPool2d(2)])
@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_the_scale_of_the_input_does_not_matter(pool, size):
    model, x = nn.Sequential(conv(4, 8), nn.ReLU(), pool, conv(8, 8)), batch(4, 4, 8, 8)
    for row, other in zip(
        hw.predict(model, x, backward=True), hw.predict(model, size * x, backward=True), strict=True
    ):
        square = size * size * row.signal.second_moment
        assert other.signal.second_moment == pytest.approx(square, rel=1e-4)
        assert row.grad
        assert other.grad
        assert other.grad.second_moment == pytest.approx(row.grad.second_moment, rel=1e-4)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.MaxPool2d(2)])
def test_positions_that_all_but_cancel_leave_a_band(pool):
    signs = (-1.0) ** torch.arange(8)
    x = (signs[:, None] * signs).expand(8, 4, 8, 8).contiguous()
    model = lecun(conv(4, 32), nn.ReLU(), pool, conv(32, 32))
    found = draw(model, x, 100, again=redraw)
    right(found, [2, 3], 0.2)
    for place in (2, 3):
        low, high = found.predicted.layers[place].band or (0, 0)
        inside = (found.second[place] > low) & (found.second[place] < high)
        assert float(inside.float().mean()) > 0.9
        assert high / low < 20


def test_very_smooth_images_have_wide_bands_behind_the_largest():
    # Each window rises towards an edge, which is less than the largest of numbers alike in pairs.
    x = nn.functional.interpolate(batch(8, 4, 2, 2), (16, 16), mode="bilinear")
    found = draw(lecun(conv(4, 32), nn.ReLU(), nn.MaxPool2d(4)), x, 100, again=redraw)
    low, high = found.predicted.layers[2].band or (0, 0)
    assert float(((found.second[2] > low) & (found.second[2] < high)).float().mean()) > 0.85


def test_the_largest_of_a_large_window_has_the_error_of_its_model_in_its_band():
    model = lecun(nn.Conv3d(3, 16, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveMaxPool3d(1))
    found = draw(model, batch(4, 3, 7, 7, 7), 100, again=redraw)
    right(found, [2], 0.15)
    low, high = found.predicted.layers[2].band or (0, 0)
    assert float(((found.second[2] > low) & (found.second[2] < high)).float().mean()) > 0.9
