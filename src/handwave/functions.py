"""Activations and norms that are called as functions, between layers."""

from typing import Any

from torch import Tensor, nn

from handwave.running import has_numbers

Kind = type[nn.Module] | None

# Underscores left out, torch's functions are named as its modules: F.leaky_relu, x.relu_().
_KINDS = {name.lower(): getattr(nn, name) for name in nn.modules.activation.__all__}
# A ReLU may also be written x.clamp(min=0).
_ACTIVATIONS = {*_KINDS, "clamp", "clampmin", "clip", "sin", "cos", "erf", "atan", "arctan", "sinc"}
_NORMS = {"layernorm", "rmsnorm", "groupnorm", "batchnorm", "instancenorm", "normalize"}
# Whether they measure what comes in: the name of the option, and what it is unless given.
_MEASURING = {"batchnorm": ("training", False), "instancenorm": ("use_input_stats", True)}
_PLACE = 5  # of that option, in both

PRODUCTS = {"mul", "mul_", "__mul__", "__imul__", "__rmul__", "multiply"}
QUOTIENTS = {"div", "div_", "__truediv__", "__itruediv__", "divide", "true_divide"}
# So much less than before do the sizes of rows differ behind a norm, one by the largest entry too.
_EVENED = 0.7


class Applied(nn.Module):
    """Be an activation that was called as a function.

    Args:
        func: the function.
        kind: the class of torch.nn that does the same; None if there is none.
        options: what it was given behind the tensor.
        named: what it was given by name.
    """

    def __init__(self, func: Any, kind: Kind, options: tuple[Any, ...], named: dict[str, Any]):
        super().__init__()
        self.func, self.kind, self.options, self.named = func, kind, options, named

    def forward(self, x: Tensor) -> Tensor:
        """Call it again; x and what it returns are of any one shape."""
        return self.func(x, *self.options, **self.named)


class AppliedNorm(nn.Module):
    """Be a norm that was called as a function, or written out; nobody calls it again."""


def kind_of(module: nn.Module | None) -> Kind:
    """Return the class of a module, or that of the function that stands for one."""
    if module is None:
        return None
    return module.kind if isinstance(module, Applied) else type(module)


def function(func: Any, args: Any, kwargs: Any, operands: list[Tensor]) -> nn.Module | None:
    """Tell an activation or a norm that is called as a function.

    Args:
        func: what is called.
        args: what it was given by position.
        kwargs: what it was given by name.
        operands: the tensors among that.
    """
    name = getattr(func, "__name__", "").replace("_", "")
    if name in _MEASURING and not _measures(name, args, kwargs):
        return None
    if name in _NORMS:
        return AppliedNorm()
    # Of one tensor alone; that may stand there twice.
    if name not in _ACTIVATIONS or any(operand is not operands[0] for operand in operands):
        return None
    named = {key: value for key, value in kwargs.items() if value is not operands[0]}
    return Applied(func, _KINDS.get(name) or _clamping(name, args, kwargs), args[1:], named)


def _measures(name: str, args: Any, kwargs: Any) -> bool:
    """Tell a norm that divides by what it measures from one that uses numbers kept from earlier."""
    option, default = _MEASURING[name]
    return bool(kwargs.get(option, args[_PLACE] if len(args) > _PLACE else default))


def _clamping(name: str, args: Any, kwargs: Any) -> Kind:
    """Tell what is held on both sides."""
    limits = [*args[1:], *kwargs.values()]
    both = name in {"clamp", "clip"} and len(limits) == 2 and None not in limits
    return nn.Hardtanh if both else None


def evens(result: Any, operands: list[Tensor]) -> bool:
    """Tell a product with, or a quotient by, fewer numbers that makes rows one size.

    How a norm is written out: x / x.std(-1, keepdim=True), or times the inverse.

    Args:
        result: what the operation made.
        operands: both, from the same layers.
    """
    few, many = sorted(operands, key=Tensor.numel)
    if few.numel() == many.numel() or not all(map(has_numbers, (few, many, result))):
        return False
    if few.numel() == 1:
        return True
    shape = (1,) * (many.dim() - few.dim()) + tuple(few.shape)
    axes = [axis for axis, size in enumerate(shape) if size == 1 < many.shape[axis]]
    if not axes:
        return False
    before, after = (
        _unequal(each.detach().double().square().mean(axes)) for each in (many, result)
    )
    return after < _EVENED * before


def _unequal(sizes: Tensor) -> float:
    """Return the standard deviation of positive numbers over their mean."""
    return float(sizes.std(correction=0) / sizes.mean().clamp_min(1e-30))
