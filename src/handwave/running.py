"""Run a model under watch, and know its layers by name."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.utils.rnn import PackedSequence

from handwave.nested import tensors

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]

# What a watcher is called with, after each call of a row's module: the module, the name of the
# row, positional and keyword arguments, and the result; what it returns, if anything, replaces
# the result.
Watcher = Callable[[nn.Module, str, tuple[Any, ...], dict[str, Any], Any], Any]

# Wrappers put these between a module's name and its owner's.
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module"}

# Whose layers do what their formulas say.
_LIBRARIES = ("torch.nn.", "transformers.pytorch_utils")

# What to pass instead of what has come.
_INSTEAD = {
    "list": ": pass torch.stack of it as one batch, or tuple of it as several arguments",
    "ndarray": ": pass torch.as_tensor of it",
    "DataLoader": ": pass one batch, next(iter(loader))",
    "NoneType": ": pass a batch of what the model takes",
}

# What torch says to whoever differentiates what nothing was noted of.
_NO_GRADIENT = "does not require grad"

# The largest block that glibc learns from: see `_keep_freed_memory`.
_LARGEST = (1 << 25) - (1 << 13)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split inputs into positional and keyword arguments, copied: a model may write in them.

    Raises:
        TypeError: inputs are neither a tensor, a tuple nor a dict.
        ValueError: a tensor among them is on the meta device.
    """
    if any(each.is_meta for each in tensors(inputs)):
        raise ValueError("inputs on the meta device hold no numbers: pass tensors that do")
    if isinstance(inputs, Tensor | PackedSequence):
        return (copied(inputs),), {}
    if isinstance(inputs, tuple):
        return tuple(map(copied, inputs)), {}
    if isinstance(inputs, Mapping):  # what a tokenizer returns is one, and no dict
        return (), {name: copied(value) for name, value in inputs.items()}
    raise TypeError(
        "inputs must be a tensor, a tuple of positional or a dict of keyword arguments, "
        f"got {type(inputs).__name__}{_INSTEAD.get(type(inputs).__name__, '')}"
    )


def run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a model.

    Raises:
        ValueError: it differentiates where gradients are off.
    """
    try:
        return model(*args, **kwargs)
    except RuntimeError as error:
        if torch.is_grad_enabled() or _NO_GRADIENT not in str(error):
            raise
        raise ValueError(
            "the model differentiates in its forward, and runs without gradients here: let it do "
            "that in `with torch.enable_grad():`"
        ) from error


def check_model(model: Any) -> None:
    """Refuse what is no module, or has no weights yet.

    Raises:
        TypeError: the model is no module, or is TorchScript.
        ValueError: a lazy layer, or one on the meta device, has no weights yet.
    """
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"expected a module, got {what}; pass the nn.Module itself")
    modules = list(model.modules())  # once: to walk through them costs more than to look at them
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        raise TypeError("TorchScript cannot be watched: pass the module that it was made from")
    holders = [holder for m in modules for holder in (m._parameters, m._buffers) if holder]
    tensors = [tensor for held in holders for tensor in held.values() if tensor is not None]
    if any(map(nn.parameter.is_lazy, tensors)):
        raise ValueError("a lazy layer has no weights yet: call the model once on an input first")
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError("a model on the meta device has no weights yet: call .to_empty, draw them")


def copied(value: Any) -> Any:
    """Copy the tensors of an argument, also in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if type(value) in {list, tuple}:
        return type(value)(map(copied, value))
    if type(value) is dict:
        return {key: copied(part) for key, part in value.items()}
    return value


def on_cpu() -> AbstractContextManager[object]:
    """Let what is computed for a layer's law be on the CPU, whatever torch.set_default_device says.

    Where it is so anyway, torch need not be asked at every operation, which takes as long again.
    """
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


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
    # What torch's `is_parametrized` looks for, without the exception that it costs where it is not.
    computed = isinstance(module._modules.get("parametrizations"), nn.ModuleDict)
    return made.__mro__[1] if computed else made


def of_a_library(module: nn.Module) -> bool:
    """Know a layer whose class and instance leave its forward as a library's author wrote it."""
    return own_class(module).__module__.startswith(_LIBRARIES) and "forward" not in vars(module)


def floating(value: Any) -> Iterator[Tensor]:
    """Find the floating tensors in what a module takes or returns, first ones first."""
    if isinstance(value, Tensor):
        if has_numbers(value):
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


def first_floating(value: Any) -> Tensor | None:
    """Return the first floating tensor in what a module takes or returns, if there is one."""
    if isinstance(value, Tensor):  # nearly always, and once for every row
        return value if has_numbers(value) else None
    return next(floating(value), None)


def has_numbers(tensor: Tensor) -> bool:
    """Tell a floating tensor that torch can sum up: not sparse, nested, of one byte an entry.

    Nor what a transform of torch.func (vmap, grad) stands in for.
    """
    known = tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_nested
    return known and tensor.dtype.itemsize > 1 and not transformed(tensor)


def transformed(tensor: Tensor) -> bool:
    """Tell what stands for many tensors inside a transform of torch.func: nobody can look at it."""
    return is_functorch_wrapped_tensor(tensor)


@contextmanager
def watched(names: Mapping[nn.Module, str], watcher: Watcher) -> Iterator[None]:
    """Call the watcher after every call of one of these rows, until the context ends."""
    calls = dict[nn.Module, int]()

    # The module is bound, not taken from the call: a replica of DataParallel's is another one.
    def hook(module: nn.Module, name: str, _: Any, args: Any, kwargs: Any, result: Any) -> Any:
        call = calls[module] = calls.get(module, 0) + 1
        return watcher(module, name + (f"#{call}" if call > 1 else ""), args, kwargs, result)

    _keep_freed_memory()
    handles, fused = [], torch.backends.mha.get_fastpath_enabled()
    try:
        # Hooks turn the fused path of encoder layers off; the nested tensors, which an encoder
        # makes for it of what a mask leaves, are none that its layers could take without it.
        torch.backends.mha.set_fastpath_enabled(False)
        for module, name in names.items():
            bound = partial(hook, module, name)
            handles.append(module.register_forward_hook(bound, with_kwargs=True))
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
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
