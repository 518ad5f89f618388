"""Draw the weights of a model again and again: Monte Carlo, against which predictions are held.

A draw deals the entries of each parameter out anew. Given the moments of a fresh weight, which is
all that `predict` knows of it, every order of its entries is as likely: one prediction serves for
all draws, and its expectation is exact.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import handwave as hw


class Draws(NamedTuple):
    """What was predicted, and what was measured, a row a layer and a column a draw."""

    predicted: hw.Trace
    second: Tensor
    mean: Tensor
    grad: Tensor

    def ratio(self, row: int) -> Tensor:
        """Return the measured second moments of a row over the predicted one."""
        return self.second[row] / self.predicted.layers[row].signal.second_moment


def deal(model: nn.Module, generator: torch.Generator) -> None:
    """Put the entries of every parameter in another order."""
    with torch.no_grad():
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))


def redraw(model: nn.Module, generator: torch.Generator) -> None:
    """Draw Gaussian weights with the very moments of the old ones: as good, and faster."""
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.dim() > 1):
            fresh = torch.randn(weight.shape, generator=generator)
            fresh = (fresh - fresh.mean()) / fresh.std() * weight.std()
            weight.copy_(fresh + weight.mean())


def draw(model: nn.Module, x: Any, draws: int, backward: bool = False, again: Any = deal) -> Draws:
    """Predict once, and measure many draws."""
    generator = torch.Generator().manual_seed(5)
    predicted = hw.predict(model, x, backward=backward)
    traces = []
    for number in range(draws):
        again(model, generator)
        # Another gradient from above, and another dropout. torch.manual_seed writes down where it
        # is called from, for each kind of accelerator: a fifth of the time of all this.
        torch.default_generator.manual_seed(number)
        trace = hw.measure(model, x, backward=backward, detail=False)
        assert [row.name for row in trace] == [row.name for row in predicted]
        traces.append(trace)

    def table(read: Any) -> Tensor:
        return torch.tensor([[read(row) for row in t] for t in traces], dtype=torch.float64).T

    nan = float("nan")
    return Draws(
        predicted,
        table(lambda row: row.signal.second_moment),
        table(lambda row: row.signal.mean),
        table(lambda row: row.grad.second_moment if row.grad else nan),
    )


def off(sample: Tensor, expected: float, unit: float) -> float:
    """Return by how much a sample's average misses, beyond 6.5 standard errors, in units.

    6.5 standard errors are passed with probability 1e-10; 1e-7 allows for the skewness of 200
    draws, and 1e-6 remains for all comparisons of one test.
    """
    gap = abs(float(sample.mean()) - expected) - 6.5 * float(sample.std()) / len(sample) ** 0.5
    return max(gap, 0.0) / unit
