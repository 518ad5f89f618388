"""The shape behind a layer, without running it, is the one that a run has."""

from typing import Any

import pytest
import torch
from torch import nn

from handwave.shapes import shape_behind

IMAGES, ROWS = (2, 4, 8, 8), (2, 5, 6)

LAYERS = [
    (nn.MaxPool2d(2), IMAGES),
    (nn.AvgPool2d(3, stride=1), IMAGES),
    (nn.AdaptiveAvgPool2d(1), IMAGES),
    (nn.LPPool2d(2, 2), IMAGES),
    (nn.Flatten(), IMAGES),
    (nn.PixelShuffle(2), IMAGES),
    (nn.Upsample(scale_factor=2), IMAGES),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1), IMAGES),
    (nn.ConvTranspose2d(4, 6, 4, stride=2, bias=False), IMAGES),
    (nn.BatchNorm2d(4), IMAGES),
    (nn.Linear(6, 3), ROWS),
    (nn.GLU(), ROWS),
    (nn.Softmax(-1), ROWS),
    (nn.Dropout(), ROWS),
    (nn.LayerNorm(6), ROWS),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda each: type(each).__name__)
def test_it_is_the_shape_of_a_run(layer, shape):
    assert shape_behind(layer, shape) == tuple(layer(torch.randn(shape)).shape)


class Own(nn.Module):
    def forward(self, x):
        raise AssertionError("nobody's forward is called but torch's")


class Lora(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.low = nn.Parameter(torch.zeros(sizes[0], 1))

    def forward(self, input):
        return super().forward(input) + input @ self.low


class Flat(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input).flatten(1)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ReLU(), None),
        (Own(), ROWS),
        (Lora(6, 6), ROWS),
        (Flat(4), IMAGES),
        (nn.LSTM(6, 4), ROWS),
        (nn.MaxUnpool2d(2), IMAGES),  # it wants two tensors
        (nn.MaxPool2d(9), IMAGES),  # larger than the image
        (nn.Linear(7, 3), ROWS),
        (nn.MaxPool2d(2, return_indices=True), IMAGES),
    ],
    ids=lambda each: type(each).__name__,
)
def test_of_what_nobody_knows_it_says_so(layer, shape):
    assert shape_behind(layer, shape) is None


def test_what_a_hook_makes_of_it_nobody_knows():
    layer = nn.MaxPool2d(2)
    layer.register_forward_hook(lambda _, args, output: output.flatten(1))
    assert shape_behind(layer, IMAGES) is None


def test_a_forward_of_its_own_is_not_called():
    layer: Any = nn.MaxPool2d(2)
    layer.forward = Own().forward
    assert shape_behind(layer, IMAGES) is None
