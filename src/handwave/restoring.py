"""Leave nothing behind: everything in and around a model comes back as it was before a run."""

import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handwave.running import own_class

# Attributes of these types, and of no class that may do more than they do, get their contents
# back; a module's parameters, buffers, children and hooks are among them.
_CONTAINERS = frozenset((list, dict, OrderedDict, defaultdict, set, deque))
_KEPT = _CONTAINERS | {torch.Generator}

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Hooks on every module of the process; and attributes that a layer calls.
_EVERYWHERE = [getattr(nn.modules.module, f"_global{name}") for name in _HOOKS]
_FUNCTIONS = ("forward", "activation")

# Integers as wide as an entry: two tensors are the same bit for bit if these are equal.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def nothing_left_behind(model: nn.Module, written: bool = False) -> Iterator[dict[Tensor, Tensor]]:
    """Bring back everything in and around the model that a run may change.

    Bit for bit: parameters, buffers and other tensors that are attributes (the objects, their
    values, gradients and flags), every other attribute of every module, with the contents of
    its lists, dicts and sets, and the states of random generators.

    Args:
        model: what is run.
        written: whether code besides the model's own runs too, and may write anywhere.

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
        anything = written or _may_do_anything(modules)
        held = {id(t): (t, m) for m in modules for t in _tensors(vars(m), anything)}
        remembered = []
        for tensor, module in held.values():
            # torch's own forwards write in buffers only, but for an embedding with max_norm;
            # copying every weight of a large model is kept for models that may do anything.
            own = not anything and getattr(module, "max_norm", None) is None
            value = None
            if not (own and isinstance(tensor, nn.Parameter)):
                value = values[tensor] = tensor.detach().clone()
            remembered.append(_remembered(tensor, value))
        stack.callback(_all, remembered)
        stack.callback(_attributes([vars(module) for module in modules]))
        yield values


def _all(put_back: list[Callable[[], None]]) -> None:
    """Call each, last ones first; a callback for each would cost more than what it does.

    One that fails keeps no other from being called.
    """
    failed: list[Exception] = []
    for each in reversed(put_back):
        try:
            each()
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]


def _may_do_anything(modules: list[nn.Module]) -> bool:
    """Tell code that is neither torch's nor ours: a class, a function of an instance, a hook."""
    classes = map(own_class, {type(module): module for module in modules}.values())
    held = [vars(module) for module in modules]
    hooks = (*_EVERYWHERE, *(own[name] for own in held for name in _HOOKS))
    functions = (own[name] for own in held for name in _FUNCTIONS if name in own)
    codes = (*classes, *functions, *chain.from_iterable(found.values() for found in hooks))
    known = ("torch.nn.", "torch._C", "handwave.")
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


def _attributes(modules: list[dict[str, Any]]) -> Callable[[], None]:
    """Remember the attributes of modules, and what their containers contain."""
    before = [(attributes, dict(attributes)) for attributes in modules]
    kept = [value for _, own in before for value in own.values() if type(value) in _KEPT]
    empty = [each for each in kept if not each]  # a dozen for every module, and few others
    filled = [each for each in kept if each]
    generators = [(each, each.get_state()) for each in filled if type(each) is torch.Generator]
    contents = [(each, each.copy()) for each in filled if type(each) is not torch.Generator]

    def put_back() -> None:
        for attributes, own in before:
            attributes.clear()
            attributes.update(own)
        for container in empty:
            if container:
                container.clear()
        for container, content in contents:
            container.clear()
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
    plain = is_plain(tensor)

    def put_back() -> None:
        if leaf and not tensor.is_leaf:  # a sum with a gradient was written in it
            tensor.detach_()
        if not plain:  # nothing tells where its numbers lie
            tensor.data = memory if value is None else value
        else:
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


def is_plain(tensor: Tensor) -> bool:
    """Tell a tensor whose numbers lie in memory as they are: not sparse, quantized or nested."""
    odd = tensor.is_quantized or tensor.is_nested or tensor.is_meta
    return tensor.layout == torch.strided and not (odd or tensor.is_conj() or tensor.is_neg())


def _write(tensor: Tensor, value: Tensor | None) -> None:
    """Write back what changed, and only that: memory that repeats itself cannot be written."""
    if value is not None and not same_bits(tensor, value):
        tensor.copy_(value)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Compare two tensors of a dtype, NaN and the sign of zero included."""
    if not is_plain(one):
        return False
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    integers = _BITS[one.element_size()]
    return torch.equal(one.view(integers), other.view(integers))
