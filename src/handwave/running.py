"""Run a model under watch: know its layers by name, and leave nothing behind."""

import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]

# What a watcher is called with, after each call of a row's module: the module, the name of the
# row, positional and keyword arguments, and the result; what it returns, if anything, replaces
# the result.
Watcher = Callable[[nn.Module, str, tuple[Any, ...], dict[str, Any], Any], Any]

# Wrappers put these between a module's name and its owner's.
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module"}

# Attributes of these types, and of no class that may do more than they do, get their contents
# back; a module's parameters, buffers, children and hooks are among them.
_CONTAINERS = (list, dict, OrderedDict, defaultdict, set, deque)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

# The largest block that glibc learns from: see `_keep_freed_memory`.
_LARGEST = (1 << 25) - (1 << 13)

# Integers as wide as an entry: two tensors are the same bit for bit if these are equal.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split inputs into positional and keyword arguments, copied: a model may write in them.

    Raises:
        TypeError: inputs are neither a tensor, a tuple nor a dict.
    """
    if isinstance(inputs, Tensor):
        return (_copied(inputs),), {}
    if isinstance(inputs, tuple):
        return tuple(map(_copied, inputs)), {}
    if isinstance(inputs, Mapping):  # what a tokenizer returns is one, and no dict
        return (), {name: _copied(value) for name, value in inputs.items()}
    raise TypeError(
        "inputs must be a tensor, a tuple of positional or a dict of keyword arguments, "
        f"got {type(inputs).__name__}"
    )


def check_model(model: Any) -> None:
    """Refuse what is no module, or has no weights yet.

    Raises:
        TypeError: the model is no module.
        ValueError: a lazy layer, or one on the meta device, has no weights yet.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a module, got {type(model).__name__}")
    lazy = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)
    tensors = (*model.parameters(), *model.buffers())
    if any(isinstance(tensor, lazy) for tensor in tensors):
        raise ValueError("a lazy layer has no weights yet: call the model once on an input first")
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError("a model on the meta device has no weights yet: call .to_empty, draw them")


def _copied(value: Any) -> Any:
    """Copy the tensors of an argument, also in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if type(value) in {list, tuple}:
        return type(value)(map(_copied, value))
    if type(value) is dict:
        return {key: _copied(part) for key, part in value.items()}
    return value


def rows(model: nn.Module) -> dict[nn.Module, str]:
    """Name the modules that are one row each, as their owner does, in order of definition.

    These are the modules without children, and attention as a whole; a parametrized layer is
    one; containers that cannot be called are none; the prefixes of wrappers are left out; a
    shared module has its first name.
    """
    names: dict[nn.Module, str] = {}
    for name, module in _leaves(model):
        names.setdefault(module, name)
    return names


def _leaves(module: nn.Module, path: tuple[str, ...] = ()) -> Iterator[tuple[str, nn.Module]]:
    children = {name: m for name, m in module.named_children() if name != "parametrizations"}
    if not children or isinstance(module, nn.MultiheadAttention):
        # A ParameterList and its like have no forward of their own.
        if getattr(module.forward, "__func__", None) is not nn.Module.forward:
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
def watched(names: Mapping[nn.Module, str], watcher: Watcher) -> Iterator[None]:
    """Call the watcher after every call of one of these rows, until the context ends."""
    calls = dict[nn.Module, int]()

    # The module is bound, not taken from the call: a replica of DataParallel's is another one.
    def hook(module: nn.Module, name: str, _: Any, args: Any, kwargs: Any, result: Any) -> Any:
        call = calls[module] = calls.get(module, 0) + 1
        return watcher(module, name + (f"#{call}" if call > 1 else ""), args, kwargs, result)

    _keep_freed_memory()
    handles = []
    try:
        for module, name in names.items():
            bound = partial(hook, module, name)
            handles.append(module.register_forward_hook(bound, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep_freed_memory() -> None:
    """Let the system's allocator keep what one layer frees for the next one to use.

    A watcher's own small tensors come to lie between the large ones; then glibc gives freed
    memory back to the system, and every page that is asked for again costs more than reading it.
    Freeing one large block, of which no page was touched, raises the limit up to which it keeps.
    """
    torch.empty(_LARGEST, dtype=torch.uint8, device="cpu")


def eager(model: nn.Module) -> AbstractContextManager[object]:
    """Let a compiled model run its layers one by one: only these have outputs to look at."""
    if "torch._dynamo" in sys.modules and any(map(_is_compiled, model.modules())):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def _is_compiled(module: nn.Module) -> bool:
    """See whether a module, its forward or what it holds came out of torch.compile."""
    parts = (module.forward, *vars(module).values())
    return any(hasattr(part, "_torchdynamo_orig_callable") for part in parts)


@contextmanager
def nothing_left_behind(model: nn.Module) -> Iterator[dict[Tensor, Tensor]]:
    """Bring back everything in and around the model that a run may change.

    Bit for bit: parameters, buffers and other tensors that are attributes (the objects, their
    values, gradients and flags), every other attribute of every module, with the contents of
    its lists, dicts and sets, and the states of random generators.

    Yields:
        A copy of every tensor that the run may write in, as it is now.
    """
    values: dict[Tensor, Tensor] = {}
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_initialized():
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        modules = list(model.modules())
        anything = _may_do_anything(modules)
        held = {id(t): (t, m) for m in modules for t in _tensors(vars(m), anything)}
        for tensor, module in held.values():
            # torch's own forwards write in buffers only, but for an embedding with max_norm;
            # copying every weight of a large model is kept for models that may do anything.
            own = not anything and getattr(module, "max_norm", None) is None
            written = not (own and isinstance(tensor, nn.Parameter))
            if written:
                values[tensor] = tensor.detach().clone()
            stack.callback(_remembered(tensor, values.get(tensor)))
        stack.callback(_all, [_attributes(vars(module)) for module in modules])
        yield values


def _all(put_back: list[Callable[[], None]]) -> None:
    """Call each; a callback for each would cost more than what it does."""
    for each in put_back:
        each()


def _may_do_anything(modules: list[nn.Module]) -> bool:
    """Tell code that is neither torch's nor ours: a class, or a hook."""
    classes = map(own_class, {type(module): module for module in modules}.values())
    hooks = (vars(module)[name] for module in modules for name in _HOOKS)
    codes = (*classes, *chain.from_iterable(found.values() for found in hooks))
    known = ("torch.nn.", "handwave.")
    return not all((getattr(code, "__module__", None) or "").startswith(known) for code in codes)


def _tensors(attributes: dict[str, Any], everywhere: bool) -> Iterator[Tensor]:
    """Find the tensors that a module holds: parameters, buffers, and attributes if asked."""
    holders = [attributes["_parameters"], attributes["_buffers"]]
    if everywhere:
        holders += [attributes, *(v for v in attributes.values() if type(v) in _CONTAINERS)]
    for holder in holders:
        for value in holder.values() if isinstance(holder, Mapping) else holder:
            if isinstance(value, Tensor):
                yield value


def _attributes(attributes: dict[str, Any]) -> Callable[[], None]:
    """Remember a module's attributes, and what its containers contain."""
    before = dict(attributes)
    # Most are empty, and a model has a dozen of them for every module.
    contents = [(v, v.copy() if v else None) for v in before.values() if type(v) in _CONTAINERS]
    generators = [(v, v.get_state()) for v in before.values() if type(v) is torch.Generator]

    def put_back() -> None:
        attributes.clear()
        attributes.update(before)
        for container, content in contents:
            if container:
                container.clear()
            if content:
                add = container.extend if isinstance(container, list | deque) else container.update
                add(content)
        for generator, state in generators:
            generator.set_state(state)

    return put_back


def _remembered(tensor: Tensor, value: Tensor | None) -> Callable[[], None]:
    """Remember one tensor: its memory, its value if that may be written in, gradient and flag."""
    memory, leaf, requires_grad = tensor.detach(), tensor.is_leaf, tensor.requires_grad
    grad = tensor.grad if leaf else None  # torch warns of reading the other's
    grad_value = None if value is None or grad is None else grad.detach().clone()

    def put_back() -> None:
        if leaf and not tensor.is_leaf:  # a sum with a gradient was written in it
            tensor.detach_()
        if not tensor.is_set_to(memory):
            tensor.data = memory
        _write(memory, value)
        if leaf:
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if grad is not None:
                _write(grad.detach(), grad_value)
            tensor.grad = grad

    return put_back


def _write(tensor: Tensor, value: Tensor | None) -> None:
    """Write back what changed, and only that: memory that repeats itself cannot be written."""
    if value is not None and not same_bits(tensor, value):
        tensor.copy_(value)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Compare two tensors of a dtype, NaN and the sign of zero included."""
    if one.layout != torch.strided:
        return False
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    integers = _BITS[one.element_size()]
    return torch.equal(one.view(integers), other.view(integers))
