"""Odd shapes and inputs: predicted, or said to have no theory, as long as the model runs."""

import math

import pytest
import torch
from torch import nn

import handwave as hw


def batch(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def thin(*shape):
    """Images that are black nearly everywhere."""
    return (batch(*shape) > 1.8).float()


CASES = {
    "kernels that see only padding": (nn.Conv2d(8, 2, 2, padding=1, dilation=2), (4, 8, 1, 1)),
    "strides over padding": (nn.Conv1d(3, 8, 1, stride=3, padding=2), (4, 3, 1)),
    "more windows than positions": (nn.AdaptiveAvgPool1d(2), (3, 4, 1)),
    "more largest than positions": (nn.AdaptiveMaxPool2d(2), (3, 3, 1, 1)),
    "windows larger than the map": (nn.MaxPool3d(3, 1, 1), (2, 3, 1, 2, 2)),
    "one image": (nn.AdaptiveAvgPool1d(1), (1, 3, 5)),
    "a map along the units": (nn.AdaptiveMaxPool2d(1), (2, 1, 1, 3)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CASES)
def test_what_runs_is_predicted_or_has_no_theory(name):
    layer, shape = CASES[name]
    torch.manual_seed(0)
    kinds = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    units = nn.Linear(3, 3) if "units" in name else kinds[len(shape)](shape[1], shape[1], 1)
    model = nn.Sequential(units, layer)
    for row in hw.predict(model, batch(*shape), backward=True):
        if not row.note.startswith("no theory"):
            assert row.band
            assert 0 < row.band[0] < row.band[1] < 10


def test_two_inputs_behind_a_norm_over_the_batch_have_lengths_still():
    # Their likeness is −1: of what has all in common, no length is left to vary.
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(4, 2, bias=False), nn.BatchNorm1d(2)),
        *(nn.Linear(2, 16, bias=False), nn.LayerNorm(16), nn.Linear(16, 16), nn.BatchNorm1d(16)),
    )
    row = hw.predict(model, batch(2, 4)).layers[3]
    assert row.signal.second_moment == pytest.approx(1, abs=0.05)


def test_images_that_are_black_nearly_everywhere_have_lengths_still():
    # What the mean leaves of a black position is nothing, not less: it was 0.001, for 0.46.
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
    behind = nn.BatchNorm2d(32), nn.ReLU()
    model = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, *behind)
    x = thin(8, 1, 12, 12)
    row, real = hw.predict(model, x).layers[-1], hw.measure(model, x).layers[-1]
    assert row.signal.second_moment == pytest.approx(real.signal.second_moment, rel=0.15)


def test_a_norm_over_the_batch_of_the_input_itself_is_known():
    x = batch(3, 16)
    row = hw.predict(nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 8)), x).layers[0]
    exact = nn.BatchNorm1d(16).double()(x.double()).square().mean().item()
    assert row.signal.second_moment == pytest.approx(exact, abs=1e-9)
    assert row.band
    assert math.log(row.band[1] / row.band[0]) < 1e-5
