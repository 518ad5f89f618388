"""Run a model once, and look at what comes out of every layer."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.utils import parametrize

from handwave.moments import Moments
from handwave.traces import Layer, Trace
from handwave.weights import fans

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]

_UNKNOWN = Moments(math.nan, math.nan)

# Wrappers put these between a module's name and its owner's.
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module"}


def measure(
    model: nn.Module,
    inputs: Inputs,
    backward: bool = False,
    loss: Callable[[Any], Tensor] | None = None,
    detail: bool = True,
) -> Trace:
    """Run the model once, in the mode it is in, and measure the output of every layer.

    Nothing is left behind, also when the model raises: parameters, buffers, gradients, flags,
    hooks and the states of all random generators come back bit for bit.

    Args:
        model: any module. Rows are its modules without children, and attention and recurrent
            layers as a whole; a module called twice has two rows.
        inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        backward: measure the gradients with respect to the layers' outputs as well.
        loss: from the model's output to the scalar that is differentiated; without it the
            gradient that enters from above is standard normal, drawn here.
        detail: False leaves out spread, zeros and weight, and sums in the output's own
            precision where that is good to about 1e-4: nearly free.

    Returns:
        The trace, in call order; layers with weights that were never called come last.

    Averaged over: `signal` and `grad` over every entry of the output (of a tuple or dict: of
    the first floating tensor in it); `spread` over units and positions, its variance across the
    first axis, or the second where the module says batch_first=False.

    Raises:
        TypeError: model, inputs or loss are of another kind.
        ValueError: a lazy layer has no weights yet; there is nothing to differentiate.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(784, 784), nn.ReLU())
        >>> trace = measure(model, torch.randn(64, 784))
        >>> [layer.name for layer in trace], f"{trace['1'].zeros:.1f}"
        (['0', '1'], '0.5')

    References:
        Lesson 6, "fix".
    """
    args, kwargs = _arguments(model, inputs, loss)
    recorder = _Recorder(model, detail, backward)
    with (
        _nothing_left_behind(model),
        _eager(model),
        torch.set_grad_enabled(backward),
        recorder.attached(),
    ):
        output = model(*args, **kwargs)
        gradients = recorder.gradients(output, loss) if backward else {}
        rows = [replace(row, grad=gradients.get(k)) for k, row in enumerate(recorder.rows)]
        return recorder.trace(rows)


def _arguments(model: Any, inputs: Any, loss: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split the inputs into positional and keyword arguments, copied: a model may write in them."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a module, got {type(model).__name__}")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function of the model's output, got {loss!r}")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ValueError("a lazy layer has no weights yet: call the model once on an input first")
    if isinstance(inputs, Tensor):
        return (_copied(inputs),), {}
    if isinstance(inputs, tuple):
        return tuple(map(_copied, inputs)), {}
    if isinstance(inputs, dict):
        return (), {name: _copied(value) for name, value in inputs.items()}
    raise TypeError(
        "inputs must be a tensor, a tuple of positional or a dict of keyword arguments, "
        f"got {type(inputs).__name__}"
    )


def _copied(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


@dataclass
class _Recorder:
    """Collect rows from hooks while the model runs."""

    model: nn.Module
    detail: bool
    backward: bool
    rows: list[Layer] = field(default_factory=list)
    edges: dict[int, GradientEdge] = field(default_factory=dict)
    calls: dict[nn.Module, int] = field(default_factory=dict)
    called: list[nn.Module] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names: dict[nn.Module, str] = {}
        for name, module in _leaves(self.model):
            self.names.setdefault(module, name)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hook every row's module, and take the hooks off again."""
        handles = [module.register_forward_hook(self._record) for module in self.names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _record(self, module: nn.Module, _args: Any, result: Any) -> Any:
        call = self.calls[module] = self.calls.get(module, 0) + 1
        name = self.names[module] + (f"#{call}" if call > 1 else "")
        self.called.append(module)
        output = next(_floating(result), None)
        if output is None or not output.numel():
            note = "no floating output" if output is None else "empty output"
            self.rows.append(self._row(module, name, note=note))
            return None
        replaced = None
        if self.backward and not output.requires_grad and output is result:
            # All that came before is frozen: the gradient begins here. A clone is no leaf, so
            # that the model may go on to write in it.
            output = replaced = output.detach().requires_grad_().clone()
        if self.backward and output.requires_grad:
            # The edge, not the tensor: an in-place activation gives the tensor a new gradient.
            self.edges[len(self.rows)] = get_gradient_edge(output)
        self.rows.append(self._measured(self._row(module, name), module, output.detach()))
        return replaced

    def _row(self, module: nn.Module, name: str, note: str = "") -> Layer:
        fan_in = fan_out = None
        if isinstance(module, nn.Linear):
            fan_in, fan_out = fans(module)
        return Layer(name, _kind(module), (), None, fan_in, fan_out, None, _UNKNOWN, note=note)

    def _measured(self, row: Layer, module: nn.Module, output: Tensor) -> Layer:
        row = replace(row, shape=tuple(output.shape), dtype=output.dtype)
        if not self.detail:
            return replace(row, signal=_quick_moments(output))
        axis = 1 if output.dim() == 3 and not getattr(module, "batch_first", True) else 0
        zeros = 1 - int(output.count_nonzero()) / output.numel()
        return replace(row, signal=Moments.of(output), spread=_spread(output, axis), zeros=zeros)

    def gradients(self, output: Any, loss: Callable[[Any], Tensor] | None) -> dict[int, Moments]:
        """Differentiate once, and measure the gradient at every row."""
        total = loss(output) if loss else _against_noise(output)
        if not isinstance(total, Tensor) or total.numel() != 1:
            shape = tuple(total.shape) if isinstance(total, Tensor) else type(total).__name__
            raise TypeError(f"loss must return a tensor of one number, got {shape}")
        if not total.requires_grad:
            raise ValueError("the model's output depends on no layer: nothing to differentiate")
        rows, edges = list(self.edges), list(self.edges.values())
        found = torch.autograd.grad(total, edges, allow_unused=True)
        return {
            row: Moments.of(grad)
            for row, grad in zip(rows, found, strict=True)
            if grad is not None and grad.numel()
        }

    def trace(self, rows: list[Layer]) -> Trace:
        """Add the layers with weights that were never called, and what the weights are."""
        rest = [m for m in self.names if m not in self.calls and any(True for _ in m.parameters())]
        rows += [self._row(module, self.names[module], "never called") for module in rest]
        if self.detail:
            # After the run: a spectral norm takes a step each time that its weight is looked at.
            weights = {module: _weight(module) for module in dict.fromkeys(self.called + rest)}
            modules = self.called + rest
            rows = [replace(r, weight=weights[m]) for r, m in zip(rows, modules, strict=True)]
        return Trace(tuple(rows))


def _leaves(module: nn.Module, path: tuple[str, ...] = ()) -> Iterator[tuple[str, nn.Module]]:
    """Walk to the modules that are one row each, naming them as their owner does."""
    children = {name: m for name, m in module.named_children() if name != "parametrizations"}
    if not children or isinstance(module, nn.MultiheadAttention):
        yield ".".join(path) or _kind(module), module
        return
    # DataParallel and its like: one child called "module", right at the top.
    wrapper = not path and list(children) == ["module"]
    for name, child in children.items():
        hidden = wrapper or name in _WRAPPERS
        yield from _leaves(child, path if hidden else (*path, name))


def _kind(module: nn.Module) -> str:
    """Name a module's class; a parametrized one is a class made up by torch."""
    kind = type(module)
    return (kind.__mro__[1] if parametrize.is_parametrized(module) else kind).__name__


def _weight(module: nn.Module) -> Moments | None:
    """Measure the weight as the module uses it, computed or not."""
    with torch.no_grad():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point() and weight.numel():
            return Moments.of(weight)
        return None


def _floating(value: Any) -> Iterator[Tensor]:
    """Find the floating tensors in what a module returned, first ones first."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping | tuple | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _floating(part)


def _against_noise(output: Any) -> Tensor:
    """Multiply the output with a standard normal gradient, so that this is what enters."""
    first = next(_floating(output), None)
    if first is None:
        raise ValueError(
            f"nothing to differentiate: the model returned {type(output).__name__} without a "
            "floating tensor; pass loss="
        )
    return (first * torch.randn_like(first)).sum()


def _spread(output: Tensor, axis: int) -> float | None:
    """Return the variance along the axis of inputs, averaged over everything else."""
    if output.dim() < 2 or output.shape[axis] < 2:
        return None
    units = output.movedim(axis, 0).flatten(1)  # (batch, units)
    total = 0.0
    for part in units.split(max(1, (1 << 16) // units.shape[0]), dim=1):
        wide = part.to(torch.float64)
        total += float((wide - wide.mean(dim=0)).square_().sum())
    return total / units.numel()


def _quick_moments(output: Tensor) -> Moments:
    """Sum in the output's own precision, and again in float64 where that is not good enough."""
    if output.dtype in (torch.float32, torch.float64):
        count = output.numel()
        mean = float(output.mean())
        var = (
            float(torch.linalg.vector_norm(output, dtype=torch.float64)) ** 2 / count - mean * mean
        )
        if math.isfinite(var) and var > 0 and mean * mean <= 1000 * var:
            return Moments(mean, var, count)
    return Moments.of(output)


def _eager(model: nn.Module) -> AbstractContextManager[object]:
    """Let a compiled model run its layers one by one: only these have outputs to look at."""
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


@contextmanager
def _nothing_left_behind(model: nn.Module) -> Iterator[None]:
    """Bring back everything in and around the model that a run may change."""
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_initialized():
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        own_code = any(not type(m).__module__.startswith("torch.nn.") for m in model.modules())
        for module in model.modules():
            # torch's own forwards write in buffers only, but for an embedding with max_norm;
            # copying every weight of a large model is kept for models that may do anything.
            may_write = own_code or getattr(module, "max_norm", None) is not None
            for tensors, kept in ((module._parameters, may_write), (module._buffers, True)):
                stack.callback(_put_back, tensors, dict(tensors), _copies(tensors, kept))
        yield


def _copies(tensors: Mapping[str, Tensor | None], kept: bool) -> list[tuple[Any, ...]]:
    """Remember each tensor's value (if kept), gradient and flag."""
    return [
        (t, t.detach().clone() if kept else None, t.grad, t.requires_grad)
        for t in tensors.values()
        if t is not None
    ]


def _put_back(
    tensors: dict[str, Any], before: dict[str, Any], copies: list[tuple[Any, ...]]
) -> None:
    """Put the same tensor objects back, and into them the same values."""
    tensors.clear()
    tensors.update(before)
    for tensor, value, grad, requires_grad in copies:
        # Written only if changed: one that repeats its memory (an expanded mask) cannot be.
        if value is not None and not torch.equal(tensor, value):
            tensor.data.copy_(value)
        tensor.requires_grad_(requires_grad)
        tensor.grad = grad
