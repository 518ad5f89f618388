"""Gradients: those of every output, whatever stands in their way, and none of them kept."""

import gc
import math
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from handwave import Moments, audit, measure, mlp
from handwave.measuring import _Recorder, record


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def squared(y):
    return y.square().mean()


def gradients_by_torch(net, x, loss):
    """Differentiate with retain_grad, the long way."""
    outputs = []
    for module in net:
        x = module(x)
        x.retain_grad()
        outputs.append(x)
    loss(x).backward()
    return [Moments.of(out.grad).second_moment for out in outputs]


def measured(net, x, loss=squared):
    trace = measure(net, x, backward=True, loss=loss)
    return [layer.grad and layer.grad.second_moment for layer in trace]


# A linear layer returns a view where its input has three axes.
@pytest.mark.parametrize("shape", [(8, 20), (4, 3, 20)])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_those_with_respect_to_each_output(shape, inplace, bias):
    def net(inplace):
        return mlp(20, 3, lambda: nn.ReLU(inplace=inplace), bias=bias, generator=seeded())

    x = torch.randn(shape, generator=seeded(1))
    expected = gradients_by_torch(net(False), x, squared)
    assert measured(net(inplace), x) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("inplace", [False, True])
def test_frozen_layers_have_gradients_too(inplace):
    def net(inplace):
        return mlp(20, 2, lambda: nn.ReLU(inplace=inplace), generator=seeded())

    x = torch.randn(8, 20, generator=seeded(1))
    expected = gradients_by_torch(net(False), x, squared)
    assert measured(net(inplace).requires_grad_(False), x) == pytest.approx(expected, rel=1e-5)


def test_a_frozen_layer_that_returns_a_tuple_has_a_gradient():
    class Last(nn.Module):
        def forward(self, result):
            return result[0][-1]

    torch.manual_seed(0)
    net, x = nn.Sequential(nn.LSTM(6, 5), Last()).requires_grad_(False), torch.randn(4, 2, 6)
    grads = measured(net, x)
    assert all(grads)
    assert grads == pytest.approx(measured(net.requires_grad_(True), x), rel=1e-5)


def test_a_layer_in_the_middle_of_two_roads_has_the_sum_of_both():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            x = self.a(x)
            return self.b(x) + 2 * self.c(x) + x

    torch.manual_seed(0)
    net, x = Fork(), torch.randn(5, 6)
    trace = measure(net, x, backward=True, loss=lambda y: y.sum())
    jacobian = net.b.weight + 2 * net.c.weight + torch.eye(6)
    expected = Moments.of(jacobian.sum(0)).second_moment
    assert trace["a"].grad
    assert trace["a"].grad.second_moment == pytest.approx(expected, rel=1e-5)


class Input:
    """A look that sees nothing: what leaves a row is measured for it."""

    def forward(self, module, args, kwargs, output):
        return None

    def backward(self, module, grad):
        return None


def test_what_leaves_a_row_is_told_from_what_goes_past_it():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.fc = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            x = self.before(x)
            return x + self.fc(x)

    torch.manual_seed(0)
    net, x = Block(), torch.randn(5, 6)
    trace, (_, seen) = record(net, x, True, lambda y: y.sum(), look=Input())
    assert seen.input_grad
    through = Moments.of(net.fc.weight.sum(0)).second_moment
    both = Moments.of((net.fc.weight + torch.eye(6)).sum(0)).second_moment
    assert seen.input_grad.second_moment == pytest.approx(through, rel=1e-5)
    assert trace["before"].grad
    assert trace["before"].grad.second_moment == pytest.approx(both, rel=1e-5)


def test_attention_keeps_its_packed_projection_when_looked_at():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    net, x = nn.Linear(8, 8), torch.randn(3, 5, 8)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.attention = net, attention

        def forward(self, x):
            x = self.net(x)
            return self.attention(x, key=x, value=x)

    plain = measure(Both(), x, backward=True, loss=lambda y: squared(y[0]))
    looked, _ = record(Both(), x, True, lambda y: squared(y[0]), look=Input())
    assert [row.grad for row in looked] == [row.grad for row in plain]


def test_without_a_loss_a_unit_gaussian_gradient_enters_and_the_trace_says_so():
    torch.manual_seed(0)
    trace = measure(mlp(500, 5, generator=seeded()), torch.randn(100, 500), backward=True)
    # 50,000 normals: relative sd √(2/50,000) = 0.63 %; 5 of them.
    assert trace["4"].grad is not None
    assert trace["4"].grad.second_moment == pytest.approx(1, rel=0.032)
    # Four layers with second moment 1/fan_out keep it: log wanders by √(2·4/500) = 0.13.
    assert trace["0"].grad is not None
    assert abs(math.log(trace["0"].grad.second_moment)) < 5 * 0.13
    notes = [layer.note for layer in trace]
    assert notes == [""] * 4 + ["no loss: a unit Gaussian gradient entered"]


def test_with_a_loss_there_is_nothing_to_say():
    trace = measure(mlp(5, 2), torch.randn(3, 5), backward=True, loss=squared)
    assert [layer.note for layer in trace] == ["", ""]


def test_the_gradient_enters_at_the_first_output_that_has_one():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return torch.ones(2), self.fc(x)

    assert measure(Masked(), torch.randn(2, 3), backward=True)["fc"].grad


def test_a_half_precision_gradient_does_not_overflow_in_its_sum():
    net = nn.Linear(8, 8).half()
    with torch.no_grad():
        net.bias.fill_(60000)
    (row,) = measure(net, torch.randn(4096, 8).half(), backward=True)
    assert row.grad
    # 32,768 normals: relative sd 0.8 %; 5 of them.
    assert row.grad.second_moment == pytest.approx(1, rel=0.04)


def test_a_layer_that_no_gradient_reaches_has_none():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.b(self.a(x).detach())

    trace = measure(Cut(), torch.randn(2, 3), backward=True)
    assert trace["a"].grad is None
    assert trace["b"].grad


def test_a_model_of_parameters_alone_has_no_rows_and_no_gradients():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.unused = nn.Linear(3, 3)

        def forward(self, x):
            return self.scale * x

    (row,) = measure(Scale(), torch.randn(2, 3), backward=True)
    assert (row.grad, row.note) == (None, "never called")


def test_layers_of_a_checkpoint_run_twice_and_are_one_row():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(6, 2, lambda: nn.ReLU(inplace=True), generator=seeded())

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=False)

    model, x = Checkpointed(), torch.randn(4, 6, generator=seeded(1))
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        trace = measure(model, x, backward=True, loss=squared)
        assert [layer.name for layer in trace] == ["net.0", "net.1", "net.2", "net.3"]
        found = [layer.grad and layer.grad.second_moment for layer in trace]
        net = mlp(6, 2, nn.ReLU, generator=seeded())
        assert found == pytest.approx(gradients_by_torch(net, x, squared), rel=1e-5)


def test_gradients_are_let_go_as_they_pass():
    alive, most = weakref.WeakSet(), []

    class Count:
        def forward(self, module, args, kwargs, output):
            return None

        def backward(self, module, grad):
            alive.add(grad.untyped_storage())
            most.append(len(alive))

    record(mlp(8, 30, nn.ReLU), torch.randn(4, 8), backward=True, look=Count())
    assert len(most) == 60
    assert max(most) <= 4


def test_no_recorder_outlives_its_measurement():
    """A node holds its hook and the hook the recorder: gone, unless something held the node."""
    measure(mlp(4, 3), torch.randn(2, 4), backward=True)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is _Recorder]


def test_what_has_nothing_to_differentiate_is_told_what_helps():
    class Scored(nn.Module):
        def forward(self, x):
            return torch.distributions.Normal(x, 1.0)

    class Frozen(nn.Sequential):
        @torch.no_grad()
        def forward(self, input):
            return super().forward(input)

    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"Normal .*; pass backward=False, or give .* loss=$"):
        audit(nn.Sequential(nn.Linear(3, 3), Scored()), x)
    with pytest.raises(ValueError, match=r"depends on no layer: .*; pass backward=False$"):
        measure(Frozen(nn.Linear(3, 3)), x, backward=True)
