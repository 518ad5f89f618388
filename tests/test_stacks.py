"""Stacks: what mlp builds, and that it keeps a signal."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from handwave import Moments, gain, mlp
from handwave.stacks import Residual


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def std_of(layer):
    return Moments.of(layer.weight).rms


def test_layers_and_activations_alternate():
    net = mlp(8, 3, nn.ReLU)
    assert [type(m) for m in net] == [nn.Linear, nn.ReLU] * 3
    assert len({id(m) for m in net}) == 6
    assert [type(m) for m in mlp(8, 2)] == [nn.Linear] * 2


@pytest.mark.parametrize("activation", [None, nn.ReLU, nn.Tanh, nn.GELU])
def test_by_default_the_weights_make_up_for_the_activation(activation):
    net = mlp(500, 2, activation, generator=seeded())
    expected = (gain(activation()) if activation else 1.0) / math.sqrt(500)
    for layer in net:
        if isinstance(layer, nn.Linear):
            # Relative sd of the rms of 250,000 normals: 1/√500,000.
            assert std_of(layer) == pytest.approx(expected, rel=5 / math.sqrt(500_000))


@pytest.mark.parametrize("std", [1.0, 0.001, 0.0])
def test_a_given_standard_deviation_is_used_as_it_is(std):
    layer = mlp(500, 1, nn.ReLU, std=std, generator=seeded())[0]
    assert std_of(layer) == pytest.approx(std, rel=5 / math.sqrt(500_000))


def test_relu_stacks_keep_the_second_moment():
    # 2,000 nets of width 32 and depth 4, one input each: the mean second moment is exactly 1,
    # with relative variance e^(5·4/32) − 1 = 0.87 at most: 5 sd of the average are 0.105.
    total = 0.0
    for seed in range(2000):
        generator = seeded(seed)
        with torch.no_grad():
            x = torch.randn(1, 32, generator=generator)
            total += Moments.of(mlp(32, 4, nn.ReLU, generator=generator)(x)).second_moment
    assert total / 2000 == pytest.approx(1, abs=0.11)


def test_biases_start_at_zero_and_only_if_asked_for():
    assert [name for name, _ in mlp(4, 1).named_parameters()] == ["0.weight"]
    assert torch.equal(mlp(4, 1, bias=True).get_parameter("0.bias"), torch.zeros(4))


def test_a_generator_decides_and_torchs_own_is_left_alone():
    state = torch.get_rng_state()
    a, b = (mlp(8, 3, nn.GELU, bias=True, generator=seeded(5)) for _ in range(2))
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_generator_torchs_own_decides():
    torch.manual_seed(1)
    a = mlp(8, 1).get_parameter("0.weight")
    torch.manual_seed(1)
    assert torch.equal(a, mlp(8, 1).get_parameter("0.weight"))


def test_the_weights_can_be_trained():
    net = mlp(8, 2, nn.Tanh, bias=True)
    net(torch.ones(1, 8)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_residual_adds_its_branch():
    branch = nn.Linear(3, 3)
    x = torch.randn(2, 3)
    assert torch.equal(Residual(branch)(x), x + branch(x))
    assert [name for name, _ in Residual(branch).named_children()] == ["branch"]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ((8, 2, nn.ReLU()), TypeError, "pass nn.ReLU, not an instance"),
        ((8, 2, lambda: torch.tanh), TypeError, r"activation\(\) must make a module, got"),
        ((8, 2, "relu"), TypeError, "must be a class or a factory such as nn.ReLU, got 'relu'"),
        (("784", 2), TypeError, "width must be a whole number, got '784'; pass an int, such as 78"),
        ((784, 2.0), TypeError, r"depth must be a whole number, got 2\.0; pass an int, such as 3"),
        ((0, 2), ValueError, "at least 1, got 0 and 2"),
        ((8, 0), ValueError, "at least 1, got 8 and 0"),
        ((8, 2, None, -1.0), ValueError, "std is a standard deviation, at least 0, got -1.0"),
        ((8, 2, None, math.inf), ValueError, "got inf"),
        ((8, 2, lambda: nn.Softmax(-1)), ValueError, "Softmax mixes entries"),
    ],
)
def test_a_stack_that_makes_no_sense_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        mlp(*call)


def test_whole_numbers_of_numpy_count_layers_as_well():
    assert len(mlp(np.int64(8), np.int64(2))) == 2  # pyright: ignore[reportArgumentType]


def test_a_plain_function_is_no_factory_and_the_note_says_so():
    with pytest.raises(TypeError) as caught:
        mlp(8, 2, torch.tanh)  # pyright: ignore[reportArgumentType]
    assert "called without arguments, once a layer" in caught.value.__notes__[0]
