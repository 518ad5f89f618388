"""Windows of a convolution: what two of them see in common, counted one by one."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from handwave.ends import Ends
from handwave.pairs import of_tensor
from handwave.wandering import one_input
from handwave.windows import Windows

LAYERS = {
    "padded": nn.Conv2d(1, 1, 3, padding=1),
    "inside": nn.Conv2d(1, 1, 3),
    "wide padding": nn.Conv2d(1, 1, 5, padding=2),
    "strided": nn.Conv2d(1, 1, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(1, 1, 3, dilation=2, padding=2),
    "circular": nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
}


def seen_places(layer, sizes):
    """Say for each window which places in it hold something: (windows, places)."""
    places = []
    for place in range(layer.weight.numel()):
        kernel = torch.zeros(layer.weight.numel())
        kernel[place] = 1
        layer.weight.data = kernel.view_as(layer.weight)
        layer.bias.data.zero_()
        places.append(layer(torch.ones(1, 1, *sizes)).flatten().detach())
    return torch.stack(places, dim=1)


def all_shifts(windows):
    """Make a pair of each position of a map with each other one."""
    sizes = windows.count.shape
    places = torch.stack(torch.unravel_index(torch.arange(1, windows.count.numel()), sizes), dim=1)
    none = torch.zeros(len(places), dtype=torch.int64)
    return Ends(none, none, places / torch.tensor(sizes))


@pytest.mark.parametrize("name", LAYERS)
def test_two_windows_have_in_common_what_both_see(name):
    layer, sizes = LAYERS[name], (8, 8)
    seen = seen_places(layer, sizes)
    pairs = [a @ b for a, b in itertools.product(seen, repeat=2)]  # of two images, one place too
    common = float(torch.stack(pairs).mean()) / float(seen.sum(1).mean())
    windows = Windows(layer, sizes, 1.0)
    # Of images that are the same number everywhere; a pair for each shift.
    far = torch.ones(len(seen) - 1, *sizes, dtype=torch.float64)
    wander = replace(one_input().mapped(lambda likeness: far), ends=all_shifts(windows))
    found, alone = windows.average(wander), 1 / len(seen)
    between = (1 - alone) * float(found.far.mean()) + alone * float(found.aligned.mean())
    assert between == pytest.approx(common, rel=1e-6)
    # A window has all that it sees in common with itself.
    assert float(windows.average(wander).same.mean()) == pytest.approx(1.0)


def test_windows_of_a_transposed_convolution_meet_the_same_weights():
    layer = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1)
    windows = Windows(layer, (5, 5), 4.0)
    ends = all_shifts(windows)
    far = torch.ones(len(ends.first), 5, 5, dtype=torch.float64)
    wander = windows.average(replace(one_input().mapped(lambda likeness: far), ends=ends))
    # With others, which see other places of the kernel, they would have nothing in common.
    assert 0.8 < float(wander.far.mean()) < 1
    assert float(wander.far.min()) > 0.2


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_windows_of_a_group_are_as_alike_as_their_products_say(groups):
    layer = nn.Conv2d(4, 8, 3, padding=1, groups=groups, bias=False).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = Windows(layer, (5, 5), 1.0).alike(x, 2)
    seen = nn.functional.unfold(x, 3, padding=1)  # (inputs, channels · places, windows)
    points = seen.reshape(2, groups, -1, 25).permute(1, 0, 3, 2).flatten(1, 2)
    gram = points @ points.mT
    size = gram.diagonal(dim1=1, dim2=2).mean()
    assert found
    mean, square, within, covariance = found
    assert mean == pytest.approx(float(gram.mean() / size), rel=1e-9)
    assert square == pytest.approx(float(gram.square().mean() / size**2), rel=1e-9)
    images = gram.reshape(groups, 2, 25, 2, 25).diagonal(dim1=1, dim2=3)
    assert within == pytest.approx(float(images.mean() / size), rel=1e-9)
    assert (covariance is None) == (groups > 1)
    if covariance is not None:
        around = Windows(layer, (5, 5), 1.0).around(x, 2)
        rest = points[0] - points[0].mean(0)
        assert float(around.mean(torch.clone, power=1.0)) == pytest.approx(0, abs=1e-9)
        size = float(rest.square().sum(1).mean())
        assert float(around.near.max()) <= float(rest.square().sum(1).max()) / size
        of_all = points[0].T.cov(correction=0) * points.shape[1]
        assert torch.allclose(covariance, of_all, atol=1e-9)


def test_a_gradient_goes_back_through_windows_also_in_inference_mode():
    layer, gradient = LAYERS["padded"], torch.ones(7, 7, dtype=torch.float64)
    expected = Windows(layer, (7, 7), 1.0).transposed(gradient)
    with torch.inference_mode():
        assert torch.equal(Windows(layer, (7, 7), 1.0).transposed(gradient), expected)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.Conv2d(1, 1, 3), (3, 3)),
        (nn.Conv2d(1, 1, (1, 5)), (1, 5)),
        (nn.Conv3d(1, 1, 2), (2, 2, 2)),
        (nn.ConvTranspose2d(1, 1, 4, stride=2), (2, 2)),
        (nn.Conv2d(1, 1, 1), (1, 1)),
    ],
)
def test_neighbours_in_a_window_are_counted(layer, sizes):
    places = list(itertools.product(*map(range, sizes)))
    pairs = list(itertools.permutations(places, 2))
    near = [max(abs(a - b) for a, b in zip(*pair, strict=True)) == 1 for pair in pairs]
    expected = sum(near) / len(near) if near else 0.0
    assert Windows(layer, (6,) * len(sizes), 1.0).beside == pytest.approx(expected)


def test_a_dilated_window_sees_no_neighbours():
    assert Windows(nn.Conv2d(1, 1, 3, dilation=2), (7, 7), 1.0).beside == 0.0


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_of_a_stride_are_further_apart(stride):
    # Positions beside each other are alike to 0.8. It falls in a line, not by a factor: 0.1 off.
    x = torch.randn(24, 4, 30, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = nn.functional.avg_pool2d(x, 5, 1)
    layer = nn.Conv2d(4, 8, 3, stride=stride)
    found = Windows(layer, x.shape[2:], 1.0).average(of_tensor(x, 1))
    seen = nn.functional.unfold(x, 3, stride=stride).reshape(24, 36, *found.near.shape[1:])
    square = float(seen.square().sum(1).mean())
    pairs = [seen[..., 1:, :] * seen[..., :-1, :], seen[..., 1:] * seen[..., :-1]]
    pairs.append(seen[..., 1:, 1:] * seen[..., :-1, :-1])
    expected = sum(float(pair.sum(1).mean()) for pair in pairs) / 3 / square
    assert float(found.near.mean()) == pytest.approx(expected, abs=0.11)


def bright(images: int, size: int) -> torch.Tensor:
    """Make images whose padded edges are unlike all the rest."""
    x = torch.rand(images, 4, size + 4, size + 4, generator=torch.Generator().manual_seed(5))
    return nn.functional.avg_pool2d(x.double(), 5, 1) * 2


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [9, 10])
def test_windows_behind_windows_are_as_alike_as_all_pairs_of_them(stride, size):
    # Pairs an odd number of positions apart lead from a window's middle to no other one's; and
    # one pair in 25 is at the same position: without both, half of the mean square is missing.
    x = bright(8, size)
    first = nn.functional.unfold(x, 3, padding=1).reshape(8, 36, size, size)
    first = first - first.mean((0, 2, 3), keepdim=True)
    layer = nn.Conv2d(36, 8, 3, padding=1, stride=stride)
    found = Windows(layer, (size, size), 1.0).average(of_tensor(first, 1))
    points = nn.functional.unfold(first, 3, padding=1, stride=stride).mT.flatten(0, 1)
    gram = points @ points.T
    square = float((gram / gram.diagonal().mean()).square().mean())
    # Of some thousand pairs, a few per cent are left to chance.
    assert found.mean(torch.square) == pytest.approx(square, rel=0.08)


@pytest.mark.parametrize("padding", [0, 1])
def test_a_window_that_an_edge_goes_through_is_known_by_its_middles_side(padding):
    # Of a ramp, positions beside each other are alike, and those around the edge are not.
    ramp = torch.linspace(-1, 1, 12, dtype=torch.float64)
    x = torch.stack([ramp, torch.ones(12, dtype=torch.float64)]).repeat(2, 1, 1)
    layer = nn.Conv1d(2, 4, 3, padding=padding)
    found = Windows(layer, (12,), 1.0).average(of_tensor(x, 1))
    shape = (2, 2, 3, 12 - 2 + 2 * padding)
    points = nn.functional.unfold(x[:, :, None], (1, 3), padding=(0, padding)).reshape(shape)
    points = points.flatten(1, 2).mT.flatten(0, 1)
    gram = points @ points.T
    square = float((gram / gram.diagonal().mean()).square().mean())
    assert found.mean(torch.square) == pytest.approx(square, rel=0.02)
