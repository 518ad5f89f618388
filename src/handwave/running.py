"""Run a model under watch: know its layers by name, and leave nothing behind."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]

# What a watcher is called with, after each call of a row's module: the module, the name of the
# row, positional and keyword arguments, and the result; what it returns, if anything, replaces
# the result.
Watcher = Callable[[nn.Module, str, tuple[Any, ...], dict[str, Any], Any], Any]

# Wrappers put these between a module's name and its owner's.
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module"}


def arguments(model: Any, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split inputs into positional and keyword arguments, copied: a model may write in them.

    Raises:
        TypeError: the model is no module; inputs are neither a tensor, a tuple nor a dict.
        ValueError: a lazy layer has no weights yet.
    """
    check_model(model)
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


def check_model(model: Any) -> None:
    """Refuse what is no module, or has no weights yet."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a module, got {type(model).__name__}")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ValueError("a lazy layer has no weights yet: call the model once on an input first")


def _copied(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


def rows(model: nn.Module) -> dict[nn.Module, str]:
    """Name the modules that are one row each, as their owner does, in order of definition.

    These are the modules without children, and attention as a whole; a parametrized layer is
    one; the prefixes of wrappers are left out; a shared module has its first name.
    """
    names: dict[nn.Module, str] = {}
    for name, module in _leaves(model):
        names.setdefault(module, name)
    return names


def _leaves(module: nn.Module, path: tuple[str, ...] = ()) -> Iterator[tuple[str, nn.Module]]:
    children = {name: m for name, m in module.named_children() if name != "parametrizations"}
    if not children or isinstance(module, nn.MultiheadAttention):
        yield ".".join(path) or kind(module), module
        return
    # DataParallel and its like: one child called "module", right at the top.
    wrapper = not path and list(children) == ["module"]
    for name, child in children.items():
        hidden = wrapper or name in _WRAPPERS
        yield from _leaves(child, path if hidden else (*path, name))


def kind(module: nn.Module) -> str:
    """Name a module's class; a parametrized one is a class made up by torch."""
    return own_class(module).__name__


def own_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module had before torch's parametrizations made one up."""
    made = type(module)
    return made.__mro__[1] if parametrize.is_parametrized(module) else made


def floating(value: Any) -> Iterator[Tensor]:
    """Find the floating tensors in what a module takes or returns, first ones first."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from floating(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from floating(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from floating(getattr(value, field.name))


@contextmanager
def watched(model: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Call the watcher after every call of a row's module, until the context ends."""
    names, calls = rows(model), dict[nn.Module, int]()

    def hook(module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        call = calls[module] = calls.get(module, 0) + 1
        name = names[module] + (f"#{call}" if call > 1 else "")
        return watcher(module, name, args, kwargs, result)

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def eager(model: nn.Module) -> AbstractContextManager[object]:
    """Let a compiled model run its layers one by one: only these have outputs to look at."""
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


@contextmanager
def nothing_left_behind(model: nn.Module) -> Iterator[None]:
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
