"""Networks that look at images as they come: what is predicted, against draws of the weights."""

import pytest
import torch
from torch import nn

from draws import draw, off, redraw
from test_prediction_bands import DRAWS, check, lecun, missed_and_width, most_missed


def pixels(*shape):
    """Numbers from 0 to 1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(9))


def bright(batch=8, size=16):
    """Images that are bright everywhere, and smooth."""
    return nn.functional.avg_pool2d(pixels(batch, 3, size + 4, size + 4), 5, 1) * 2


def noise(batch=8, size=16):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(4))


def vgg(norm, activation):
    """Stack convolutions of 3 by 3, padded with zeros, with the largest of four between them."""
    layers, before = [], 3
    for width in (16, 0, 32, 32, 0, 32, 0):
        if not width:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(before, width, 3, padding=1, bias=False))
        layers += [nn.BatchNorm2d(width)] if norm else []
        layers.append(activation())
        before = width
    return lecun(*layers, nn.Flatten(), nn.Linear(32 * 4, 32), activation())


IMAGES = {"pixels": lambda: pixels(8, 3, 16, 16), "bright": bright, "noise": noise}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("images", IMAGES)
def test_the_mean_of_a_vgg_with_norms_is_what_its_draws_are(images, activation):
    # Taking the positions of a window for equally long errs by 18 % on bright images.
    found = draw(vgg(True, activation), IMAGES[images](), DRAWS, again=redraw)
    for place, row in enumerate(found.predicted):
        expected = row.signal.second_moment
        assert off(found.second[place], expected, expected) <= 0.06, row.name


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("images", ["pixels", "noise"])
def test_the_bands_of_a_vgg_with_norms_hold_its_draws(images, activation):
    # Where neighbouring windows are only modelled, they are up to 14 times too wide.
    found = draw(vgg(True, activation), IMAGES[images](), DRAWS, again=redraw)
    places = [place for place, row in enumerate(found.predicted) if row.kind == "MaxPool2d"]
    check(found, places, widest=2)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("images", IMAGES)
def test_a_vgg_without_norms_is_what_its_draws_are(images, activation):
    # On bright images the last one would be said to be 1.7 times as large as it is.
    found = draw(vgg(False, activation), IMAGES[images](), DRAWS, again=redraw)
    for place, row in enumerate(found.predicted):
        assert row.band
        outside, width = missed_and_width(found, place)
        assert outside <= most_missed(DRAWS), row.name
        assert width <= 1.6, row.name


@pytest.mark.parametrize("shape", [(8, 3, 16, 16), (32, 3, 32, 32), (4, 1, 28, 28)])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh])
def test_what_is_left_behind_a_first_norm_is_little_and_known(shape, activation):
    # Odd powers of likeness cancel in all pairs: in those that are followed, nearly. A band that
    # leaves that to chance is up to 7 times as wide as the draws.
    layers = nn.Conv2d(shape[1], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), activation()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    check(draw(lecun(*layers), x, DRAWS, again=redraw), [2], widest=2.2)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1)])
def test_lengths_of_windows_are_those_of_all_their_positions(pool):
    # Of the likeness of one pair of positions, a mean leaves noise: tanh behind it is 16 % off.
    model = lecun(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.Tanh(), pool),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.Tanh()),
    )
    found = draw(model, noise(), 100, again=redraw)
    expected = found.predicted.layers[-1].signal.second_moment
    assert off(found.second[-1], expected, expected) <= 0.04
