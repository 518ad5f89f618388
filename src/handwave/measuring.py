"""Run a model once, and look at what comes out of every layer."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from handwave.differentiating import apart, catch, differentiable, scalar, unit_gradient
from handwave.moments import Moments
from handwave.restoring import nothing_left_behind
from handwave.running import (
    Inputs,
    arguments,
    check_model,
    eager,
    first_floating,
    kind,
    rows,
    run,
    transformed,
    watched,
)
from handwave.totals import quick_moments, spread, zeros
from handwave.traces import Layer, Trace
from handwave.weights import known_fans

# What a row says that nothing is known of.
_NOTHING = {"shape": (), "dtype": None, "signal": Moments(math.nan, math.nan)}


class Look(Protocol):
    """See more of each row than a `Layer` holds; every answer is kept with its row."""

    def forward(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Any:
        """Look at one call: what came in, and the row's floating output, as it is handed on."""
        ...

    def backward(self, module: nn.Module, grad: Tensor) -> Any:
        """Look at the gradient with respect to the row's output."""
        ...


@dataclass
class Seen:
    """Hold what a `Look` answered about one row, what entered, and the gradient that left.

    Entered has the first floating input's moments and its spread across the batch, or nothing.
    """

    module: nn.Module
    entered: tuple[Moments, float | None] | None = None
    forward: Any = None
    backward: Any = None
    input_grad: Moments | None = None


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
            layers as a whole; a module called twice has two rows. A compiled one runs its layers
            one by one.
        inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments. Tensors,
            lists and dicts among them are copied; another object, such as a cache of keys and
            values, keeps what the model writes in it.
        backward: measure the gradients with respect to the layers' outputs as well.
        loss: from the model's output to the scalar that is differentiated; without it a unit
            Gaussian gradient, drawn here, enters at the first floating output, and the note of
            the last row with a gradient says so.
        detail: False leaves out spread, zeros and weight, and is content with a variance good
            to about 1e-4 instead of 1e-6: nearly free.

    Returns:
        The trace, in call order; modules that were never called come last, and say so.

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
    return record(model, inputs, backward, loss, detail)[0]


def record(  # noqa: PLR0913, PLR0917 - what measure takes, and one more
    model: nn.Module,
    inputs: Inputs,
    backward: bool = False,
    loss: Callable[[Any], Tensor] | None = None,
    detail: bool = True,
    look: Look | None = None,
) -> tuple[Trace, list[Seen]]:
    """Measure, and let `look` see every row that has a floating output, in the same one run.

    Returns:
        The trace of `measure`, and one `Seen` for each of its rows.
    """
    check_model(model)
    _check(backward, loss)
    names = rows(model)
    recorder = _Recorder(names, detail, backward, look)
    with (
        nothing_left_behind(model, written=loss is not None),
        eager(model),
        # What a caller's inference mode makes cannot be differentiated.
        torch.inference_mode(torch.is_inference_mode_enabled() and not backward),
        torch.set_grad_enabled(backward),
        apart(names if backward and look else ()),
        recorder.entering(names if look else ()),
        watched(names, recorder.watch),
    ):
        args, kwargs = arguments(inputs)
        output = run(model, args, kwargs)
        if backward:
            recorder.differentiate(output, loss)
        return recorder.trace(), recorder.seen


def _check(backward: Any, loss: Any) -> None:
    """Refuse a loss that is no function, or that nobody would call."""
    if not isinstance(backward, bool):
        raise TypeError(f"backward must be True or False, got {backward!r}")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function of the model's output, got {loss!r}")
    if loss is not None and not backward:
        raise ValueError("loss is what gradients are of: pass backward=True too, or no loss")


@dataclass
class _Recorder:
    """Collect rows while the model runs."""

    names: Mapping[nn.Module, str]
    detail: bool
    backward: bool
    look: Look | None
    rows: list[dict[str, Any]] = field(default_factory=list)  # what differs from _NOTHING
    seen: list[Seen] = field(default_factory=list)
    entered: dict[nn.Module, tuple[Moments, float | None] | None] = field(default_factory=dict)
    edges: dict[tuple[int, str], GradientEdge] = field(default_factory=dict)
    differentiating: bool = False

    @contextmanager
    def entering(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Measure what comes into each call before the call may write in it."""

        # The module is bound: a replica of DataParallel's is another one than the row's.
        def hook(module: nn.Module, _: Any, args: Any, kwargs: Any) -> None:
            if not self.differentiating:
                self.entered[module] = _entered(module, first_floating((args, kwargs)))

        with ExitStack() as stack:
            for module in modules:
                bound = partial(hook, module)
                handle = module.register_forward_pre_hook(bound, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def watch(self, module: nn.Module, name: str, args: Any, kwargs: Any, result: Any) -> Any:
        """Measure one call; where a gradient would get lost, hand on another tensor."""
        output, replaced = first_floating(result), None
        if self.backward and output is not None and torch.is_grad_enabled():
            output, replaced = differentiable(output, result, (args, kwargs))
        if self.differentiating:  # a checkpoint runs its layers once more
            return replaced
        self.seen.append(Seen(module, self.entered.pop(module, None)))
        if output is None or not output.numel():
            note = "empty output" if output is not None else _without(result)
            self.rows.append({"name": name, "note": note})
            return replaced
        if self.backward:
            self._mark(output, "output")
            if self.look:
                self._mark(first_floating((args, kwargs)), "input")
        if self.look:
            self.seen[-1].forward = self.look.forward(module, args, kwargs, output)
        known = output.detach() if output.requires_grad else output
        self.rows.append({"name": name} | self._measured(module, known))
        return replaced

    def _mark(self, tensor: Tensor | None, side: str) -> None:
        """Remember where a gradient will pass."""
        if tensor is not None and tensor.requires_grad:
            # The edge, not the tensor: an in-place activation gives the tensor a new gradient.
            self.edges[len(self.rows), side] = get_gradient_edge(tensor)

    def _measured(self, module: nn.Module, output: Tensor) -> dict[str, Any]:
        signal = self._moments(output)
        row = {"shape": tuple(output.shape), "dtype": output.dtype, "signal": signal}
        if self.detail:
            axis = batch_axis(module, output)
            row |= {"spread": spread(output, axis, signal), "zeros": zeros(output)}
        return row

    def _moments(self, tensor: Tensor) -> Moments:
        return quick_moments(tensor, 1e-6 if self.detail else 1e-4)

    def differentiate(self, output: Any, loss: Callable[[Any], Tensor] | None) -> None:
        """Differentiate once, and measure the gradient at every row as it passes."""
        self.differentiating = True
        start = scalar(loss(output)) if loss else unit_gradient(output)
        catch(*start, self.edges, self._take)
        if not loss:
            self._say("no loss: a unit Gaussian gradient entered")

    def _take(self, key: tuple[int, str], grad: Tensor) -> None:
        """Measure the gradient on one side of a row."""
        row, side = key
        if side == "input":
            self.seen[row].input_grad = self._moments(grad)
            return
        self.rows[row]["grad"] = self._moments(grad)
        if self.look:
            self.seen[row].backward = self.look.backward(self.seen[row].module, grad)

    def _say(self, note: str) -> None:
        """Add a note to the last row that has a gradient."""
        row = next((row for row in reversed(self.rows) if "grad" in row), {})
        row["note"] = note

    def trace(self) -> Trace:
        """Add the modules that were never called, the fans, and what the weights are."""
        called = {seen.module for seen in self.seen}
        for module, name in self.names.items():
            if module not in called:
                self.seen.append(Seen(module))
                self.rows.append({"name": name, "note": "never called"})
        # After the run: a spectral norm takes a step each time that its weight is looked at.
        known = {module: self._known(module) for module in {seen.module for seen in self.seen}}
        pairs = zip(self.rows, self.seen, strict=True)
        return Trace(tuple(Layer(**_NOTHING | known[seen.module] | row) for row, seen in pairs))

    def _known(self, module: nn.Module) -> dict[str, Any]:
        """Return what a row says of its module, whatever went through it."""
        fan_in, fan_out = known_fans(module) or (None, None)
        weight = _weight(module) if self.detail else None
        fans = {"fan_in": fan_in, "fan_out": fan_out}
        return {"kind": kind(module), "weight": weight, **fans}


def _entered(module: nn.Module, given: Tensor | None) -> tuple[Moments, float | None] | None:
    """Measure an input, unseen by whoever watches the operations of the run."""
    if given is None or not given.numel():
        return None
    with torch._C.DisableTorchFunction():
        known = given.detach()
        moments = quick_moments(known, 1e-6)
        return moments, spread(known, batch_axis(module, known), moments)


def _without(result: Any) -> str:
    """Say why there is nothing to measure in what a layer returned."""
    if isinstance(result, Tensor) and transformed(result):
        return "inside a transform of torch.func: nothing to measure"
    if isinstance(result, Tensor) and result.is_floating_point():
        return "sparse, nested or of one byte an entry: nothing to measure"
    return "no floating output"


def batch_axis(module: nn.Module, tensor: Tensor) -> int:
    """Find the axis of the inputs: a recurrent layer's second one, if not told otherwise."""
    return 1 if tensor.dim() == 3 and not getattr(module, "batch_first", True) else 0


def _weight(module: nn.Module) -> Moments | None:
    """Measure the weight as the module uses it, computed or not."""
    with torch.no_grad():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point() and weight.numel():
            return quick_moments(weight, 1e-6)
        return None
