"""Fans: what is counted is what the layer does, far from every edge."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm
from transformers.pytorch_utils import Conv1D

from handwave import fans
from handwave.weights import Fans


def spectral(layer):
    return parametrizations.spectral_norm(layer)


def ones(layer, inputs):
    """Run with weights of one on inputs of one; differentiate the sum of all outputs."""
    for parameter in layer.parameters():
        parameter.data.fill_(float(parameter.dim() > 1))
    inputs = [x.double().requires_grad_() for x in inputs]
    output = layer.double()(*inputs)
    return output.detach(), torch.autograd.grad(output.sum(), inputs)


def interior(tensor, stride):
    """Average over channels, and over positions far from every edge in whole periods."""
    for axis, step in enumerate(stride, start=2):
        third = tensor.shape[axis] // 3
        tensor = tensor.narrow(axis, third, third // step * step)
    return float(tensor.mean())


def counted(layer, *inputs) -> Fans:
    """Count products: an output of ones counts its own, a derivative those of one input."""
    output, grads = ones(layer, inputs)
    if output.dim() > 2:
        return Fans(interior(output, layer.stride), interior(grads[0], layer.stride))
    return Fans(float(output.mean()), float(torch.cat(grads, dim=1).mean()))


CONVOLUTIONS = [
    nn.Conv1d(3, 5, 4),
    nn.Conv1d(4, 6, 3, groups=2, stride=2, dilation=2, padding=3),
    nn.Conv2d(3, 5, 3, padding=1),
    nn.Conv2d(6, 6, 3, groups=6, padding=1),
    nn.Conv2d(4, 12, 3, groups=4),
    nn.Conv2d(3, 8, (3, 5), stride=(2, 3)),
    nn.Conv2d(3, 4, 7, stride=2, padding=3),
    nn.Conv2d(2, 4, 1, stride=2),
    nn.Conv2d(2, 4, 3, dilation=(1, 3)),
    nn.Conv2d(2, 4, 3, padding="same", padding_mode="circular"),
    nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1), groups=2),
    nn.ConvTranspose1d(3, 5, 4, stride=2),
    nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, dilation=2, padding=1),
    nn.ConvTranspose2d(3, 5, 3),
    nn.ConvTranspose2d(3, 5, 3, stride=2, output_padding=1),
    nn.ConvTranspose2d(6, 6, 4, stride=2, padding=1, groups=6),
    nn.ConvTranspose2d(2, 3, 2, stride=3),
    nn.ConvTranspose2d(2, 4, (3, 2), stride=(1, 2), dilation=(2, 1)),
    nn.ConvTranspose3d(2, 4, 3, stride=(1, 2, 3), groups=2),
]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
def test_convolutions_are_counted_as_they_are_connected(layer):
    axes = len(layer.kernel_size)
    inputs = torch.ones(1, layer.in_channels, *[60 if axes < 3 else 36] * axes)
    assert tuple(fans(layer)) == pytest.approx(tuple(counted(layer, inputs)), rel=1e-12)


@pytest.mark.parametrize(
    ("layer", "widths"),
    [
        (nn.Linear(7, 5), [7]),
        (nn.MultiheadAttention(6, 2).out_proj, [6]),
        (Conv1D(5, 7), [7]),
        (nn.Bilinear(3, 4, 5), [3, 4]),
    ],
    ids=str,
)
def test_dense_layers_are_counted_as_they_are_connected(layer, widths):
    assert fans(layer) == counted(layer, *[torch.ones(2, width) for width in widths])
    assert all(isinstance(fan, float) for fan in fans(layer))


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_an_embedding_picks_one_row(kind):
    layer = kind(1000, 16)
    layer.weight.data.fill_(1.0)
    picked = layer(torch.tensor([[3]]))
    assert fans(layer) == Fans(float(picked.detach().mean()), picked.numel()) == Fans(1.0, 16.0)


def test_the_counts_that_are_quoted():
    assert fans(nn.ConvTranspose2d(64, 128, 4, stride=2)).fan_in == 256
    assert fans(nn.ConvTranspose2d(1, 1, 3, stride=2)).fan_in == 2.25
    assert fans(nn.Conv2d(64, 64, 3, groups=64)) == Fans(9.0, 9.0)


@pytest.mark.parametrize("shape", [(100, 784), (64, 32, 3), (64, 32, 3, 3), (8, 4, 3, 3, 3)])
def test_bare_weights_follow_torchs_convention(shape):
    assert fans(torch.empty(shape)) == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


def in_the_old_way(layer):
    with pytest.warns(FutureWarning):
        return weight_norm(layer)


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, spectral, in_the_old_way])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(7, 5),
        lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2),
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2),
        lambda: nn.Bilinear(3, 4, 5),
        lambda: nn.Embedding(30, 4),
        lambda: Conv1D(5, 7),
    ],
)
def test_a_computed_weight_leaves_the_fans_as_they_are(wrap, make):
    assert fans(wrap(make())) == fans(make())


def test_counting_does_not_look_at_a_weight_that_changes_when_looked_at():
    layer = spectral(nn.Conv2d(4, 6, 3))
    before = [buffer.clone() for buffer in layer.buffers()]
    fans(layer)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True))


def test_layers_on_the_meta_device_are_counted():
    assert fans(nn.Conv2d(3, 8, 5, device="meta")) == Fans(75.0, 200.0)


@pytest.mark.parametrize(
    ("thing", "error", "words"),
    [
        (nn.MultiheadAttention(4, 2), ValueError, r"but four weights; pass each: .*embed_dim\]"),
        (nn.LSTM(3, 3), ValueError, "LSTM has no one pair of fans.* such as weight_ih_l0$"),
        (nn.GRU(3, 3), ValueError, "GRU has no one pair of fans, but several weights; pass one"),
        (nn.RNN(3, 3), ValueError, "RNN has no one pair of fans"),
        (nn.LSTMCell(3, 3), ValueError, "LSTMCell has no one pair of fans.* such as weight_ih$"),
        (nn.ReLU(), ValueError, "ReLU has no weight, and fans are counted for layers that have"),
        (nn.LayerNorm(3), ValueError, r"LayerNorm is no sum of products .* pass the weight"),
        (nn.BatchNorm2d(3), ValueError, "BatchNorm2d is no sum of products that is known here"),
        (spectral(nn.LayerNorm([3, 3])), ValueError, "LayerNorm is no sum of products"),
        (nn.PReLU(), ValueError, "PReLU is no sum of products that is known here"),
        (nn.Sequential(nn.Linear(3, 3)), ValueError, "Sequential holds other modules.*its layers"),
        (nn.LazyLinear(3), ValueError, "a lazy layer has no weight yet; call the model once"),
        (nn.LazyConv2d(3, 3), ValueError, "a lazy layer has no weight yet"),
        (nn.LazyLinear(3).weight, ValueError, "a lazy layer has no weight yet"),
        (torch.empty(5), ValueError, r"needs two axes or more.*got shape \(5,\)"),
        ("fc", TypeError, "expected a layer or its weight, got str"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_fans_is_refused_saying_why(thing, error, words):
    with pytest.raises(error, match=words):
        fans(thing)


def test_a_lazy_layer_has_fans_once_it_was_called():
    layer = nn.LazyLinear(3)
    layer(torch.ones(2, 7))
    assert fans(layer) == Fans(7.0, 3.0)
