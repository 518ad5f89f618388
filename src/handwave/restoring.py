"""Leave nothing behind: everything in and around a model comes back as it was before a run."""

import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from handwave.running import own_class

# Attributes of these types, and of no class that may do more than they do, get their contents
# back; a module's parameters, buffers, children and hooks are among them.
_CONTAINERS = frozenset((list, dict, OrderedDict, defaultdict, set, deque))
# What cannot change, and holds nothing that can.
_SIMPLE = frozenset((NoneType, bool, int, float, complex, str, bytes, torch.dtype, torch.Size))
_REGISTERED = ("_parameters", "_buffers", "_modules")
# Modules that keep their state elsewhere, or turn into another class when first called.
_OPAQUE = (torch.jit.ScriptModule, LazyModuleMixin)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Hooks on every module of the process; and attributes that a layer calls.
_EVERYWHERE = [getattr(nn.modules.module, f"_global{name}") for name in _HOOKS]
_FUNCTIONS = ("forward", "activation")

# Integers as wide as an entry: two tensors are the same bit for bit if these are equal.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class _Held:
    """What a run may change: attributes of modules, containers, tensors, states of generators."""

    attributes: list[dict[str, Any]] = field(default_factory=list)
    containers: list[Any] = field(default_factory=list)
    tensors: dict[Tensor, bool] = field(default_factory=dict)  # whether it may be written in
    rewinds: list[Callable[[], object]] = field(default_factory=list)


@contextmanager
def nothing_left_behind(model: nn.Module, written: bool = False) -> Iterator[dict[Tensor, Tensor]]:
    """Bring back everything in and around the model that a run may change.

    Bit for bit: parameters, buffers and other tensors that are attributes (the objects, their
    values, gradients and flags), every other attribute of every module, with the contents of
    its lists, dicts and sets, and the states of random generators: torch's, numpy's and Python's
    own, and those that a module holds. What lists, dicts, sets and tuples hold, however deep, comes
    back as well, modules with all that is theirs among it.

    Objects of other classes do not: neither those that a module holds, nor those that the caller
    passes to it. A transformer's cache of keys and values, such as `DynamicCache`, holds after
    the run what the run wrote in it: pass a copy.

    Args:
        model: what is run.
        written: whether code besides the model's own runs too, and may write anywhere.

    Yields:
        A copy of every tensor that the run may write in, as it is now.
    """
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_initialized():
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        modules = list(model.modules())
        anything = written or _may_do_anything(modules)
        held = _everything(modules) if anything else _registered(modules)
        values = {
            each: _copied(each.detach())
            for each, written in held.tensors.items()
            if written and not _is_freed(each)
        }
        stack.callback(_all, [_remembered(each, values.get(each)) for each in held.tensors])
        stack.callback(_all, held.rewinds)
        stack.callback(_attributes(held.attributes, held.containers))
        yield values


def _all(put_back: list[Callable[[], object]]) -> None:
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


def _registered(modules: list[nn.Module]) -> _Held:
    """Find what forwards of torch's own and ours may change, and no more: it is done for each run.

    They write in buffers, and in parameters only where an embedding has a max_norm: copying every
    weight of a large model is kept for models that may do anything.
    """
    held = _Held([vars(module) for module in modules])
    for own in held.attributes:
        held.containers += [value for value in own.values() if type(value) in _CONTAINERS]
        limited = own.get("max_norm") is not None
        for kind, written in (("_parameters", limited), ("_buffers", True)):
            for tensor in own[kind].values():
                if isinstance(tensor, Tensor):
                    held.tensors[tensor] = written or held.tensors.get(tensor, False)
    return held


def _everything(modules: list[nn.Module]) -> _Held:
    """Find all that modules hold, through containers in containers, and modules in these."""
    held, known = _Held(), set[int]()
    waiting: list[Any] = list(modules)
    while waiting:
        each = waiting.pop()
        if id(each) in known:
            continue
        known.add(id(each))
        of = type(each)  # a proxy may say that it is of another class, or raise when asked
        if issubclass(of, Tensor):
            if of.__hash__ is not None:  # a class with an equality of its own may have none
                held.tensors[each] = True
        elif issubclass(of, nn.Module):
            if not issubclass(of, _OPAQUE):
                held.attributes.append(own := vars(each))
                registered = (own.get(name, {}).values() for name in _REGISTERED)
                waiting += _parts([*own.values(), *chain.from_iterable(registered)])
        elif issubclass(of, tuple):
            waiting += _parts(tuple.__iter__(each))
        elif of in _CONTAINERS:
            held.containers.append(each)
            waiting += _parts(each.values() if isinstance(each, dict) else each)
        elif rewind := _rewind(each):
            held.rewinds.append(rewind)
    return held


def _copied(tensor: Tensor) -> Tensor:
    """Copy a tensor; of what `expand` repeats, only what there is in memory."""
    once = _once(tensor)
    return tensor.clone() if once is tensor else once.clone().expand(tensor.shape)


def _once(tensor: Tensor) -> Tensor:
    """Leave out what `expand` repeats."""
    if not is_plain(tensor) or not tensor.numel():
        return tensor
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and not stride:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _is_freed(tensor: Tensor) -> bool:
    """Tell a tensor whose memory was given back: to copy it would end the process."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return False
    try:
        return not tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):  # it has no storage
        return False


def _parts(values: Iterable[Any]) -> list[Any]:
    """Leave out what cannot change: a vocabulary has a hundred thousand of these."""
    return [value for value in values if type(value) not in _SIMPLE]


def _rewind(generator: Any) -> Callable[[], object] | None:
    """Remember the state of a random generator; None if it is none."""
    kind = type(generator)
    if kind is torch.Generator:
        return partial(generator.set_state, generator.get_state())
    if kind is random.Random:
        return partial(generator.setstate, generator.getstate())
    if kind is np.random.RandomState:
        return partial(generator.set_state, generator.get_state(legacy=False))
    if kind is np.random.Generator:
        bits = generator.bit_generator
        return partial(setattr, bits, "state", bits.state)
    return None


def _attributes(modules: list[dict[str, Any]], containers: list[Any]) -> Callable[[], None]:
    """Remember the attributes of modules, and what containers contain."""
    before = [(attributes, dict(attributes)) for attributes in modules]
    empty = [each for each in containers if not each]  # a dozen for every module, and few others
    contents = [(each, each.copy()) for each in containers if each]

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
    """Write back what changed, and only that."""
    if value is None:
        return
    now, before = _once(tensor), _once(value)
    if now.shape != before.shape:  # the memory repeats itself as nobody's copy does
        now, before = tensor, value
    if not same_bits(now, before):
        now.copy_(before)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Compare two tensors of a dtype, NaN and the sign of zero included."""
    if not is_plain(one):
        return False
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    integers = _BITS[one.element_size()]
    return torch.equal(one.view(integers), other.view(integers))
