"""How to draw weights that keep a signal."""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

Mode = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["normal", "truncated_normal", "uniform", "orthogonal"]

# Standard deviation of a standard normal cut at ±2: √(1 − 4φ(2)/(2Φ(2) − 1)).
_CUT_STD = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


class Fans(NamedTuple):
    """Count the products behind one output, and those that one input takes part in."""

    fan_in: float
    fan_out: float


def fans(layer_or_weight: nn.Module | Tensor) -> Fans:
    """Count how many products are summed in one output, and how many one input takes part in.

    fan_in · outputs = fan_out · inputs, the number of all products: with stride s and a kernel of
    k entries a convolution has fan_in = in · k and fan_out = out · k/s, its transpose
    fan_in = in · k/s and fan_out = out · k, with in and out channels of one group.

    Args:
        layer_or_weight: a Linear, Conv1d-3d, ConvTranspose1d-3d, Embedding, EmbeddingBag or
            Bilinear layer, parametrized ones too, or transformers' Conv1D; or a bare weight,
            which is taken for (out, in, *kernel) with stride 1 and one group, as torch.nn.init
            takes it: of a transposed or strided convolution or a Conv1D, pass the layer.

    Returns:
        Fans(fan_in, fan_out), as floats: a 3x3 transposed convolution of stride 2 has 2.25
        products a channel. An embedding picks one row: fan_in 1 (a bag: 1 for each of its
        entries), fan_out the row's length. Bilinear: fan_in in1 · in2.

    Averaged over: outputs and inputs far from every edge (no padding among the products);
    Bilinear's fan_out over the entries of both inputs.

    Raises:
        TypeError: neither a module nor a tensor.
        ValueError: a module with several weights (attention, LSTM), without any, or of a kind
            not known here; a lazy layer; a weight with fewer than two axes.

    Examples:
        >>> fans(torch.nn.Linear(784, 100))
        Fans(fan_in=784.0, fan_out=100.0)
        >>> fans(torch.nn.ConvTranspose2d(64, 128, kernel_size=4, stride=2))
        Fans(fan_in=256.0, fan_out=2048.0)

    References:
        Lessons 2, "dot-product", and 11, "layers"; torch.nn.init.
    """
    if _is_lazy(layer_or_weight):
        raise ValueError("a lazy layer has no weight yet; call the model once on an input first")
    if isinstance(layer_or_weight, Tensor):
        return _fans_by_convention(layer_or_weight)
    if not isinstance(layer_or_weight, nn.Module):
        raise TypeError(
            f"expected a layer or its weight, got {type(layer_or_weight).__name__}; pass an "
            "nn.Linear, a convolution or a tensor (out, in, *kernel)"
        )
    known = known_fans(layer_or_weight)
    if known is None:
        raise ValueError(_why_no_fans(layer_or_weight))
    return known


def _is_lazy(layer_or_weight: object) -> bool:
    """Tell what gets its shape at its first call."""
    if isinstance(layer_or_weight, LazyModuleMixin):
        return layer_or_weight.has_uninitialized_params()  # pyright: ignore[reportAttributeAccessIssue]
    return isinstance(layer_or_weight, Tensor) and nn.parameter.is_lazy(layer_or_weight)


def _fans_by_convention(weight: Tensor) -> Fans:
    """Read a weight as (out, in, *kernel)."""
    if weight.dim() < 2:
        raise ValueError(
            "a weight needs two axes or more, (out, in, *kernel), to have fans, "
            f"got shape {tuple(weight.shape)}"
        )
    kernel = math.prod(weight.shape[2:])
    return Fans(float(weight.shape[1] * kernel), float(weight.shape[0] * kernel))


def _fans_of_layer(layer: nn.Module) -> tuple[float, float] | None:
    """Count from what the layer says of itself: its weight may be computed anew at each look."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, _ConvNd):
        return _fans_of_convolution(layer)
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return 1, layer.embedding_dim
    if isinstance(layer, nn.Bilinear):
        first, second, out = layer.in1_features, layer.in2_features, layer.out_features
        return first * second, 2 * first * second * out / (first + second)
    if is_conv1d(layer) and isinstance(layer.weight, Tensor):
        return layer.weight.shape[0], layer.weight.shape[1]
    return None


def known_fans(layer: nn.Module) -> Fans | None:
    """Count as `fans` does; None for what is no layer with one weight."""
    known = None if _is_lazy(layer) else _fans_of_layer(layer)
    return known and Fans(float(known[0]), float(known[1]))


def is_conv1d(layer: nn.Module) -> bool:
    """Know transformers' linear layer with the weight (in, out), which GPT-2 is made of."""
    return _is_called(layer, "Conv1D") and hasattr(layer, "nf")


def by_unit(layer: nn.Module, weight: Tensor) -> Tensor:
    """Lay out a layer's weight as (groups, units of a group, weights of a unit)."""
    groups: Any = getattr(layer, "groups", 1)
    if is_conv1d(layer):
        weight = weight.T
    # Spelled out: of no entries torch does not say how many -1 is.
    parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    if isinstance(layer, _ConvNd) and layer.transposed:  # (in, units of a group, *kernel)
        parts = parts.transpose(1, 2)
    return parts.flatten(2)


def _is_called(module: nn.Module, name: str) -> bool:
    """Know a class that is not imported here, parametrized ones of it too."""
    return any(made.__name__ == name for made in type(module).__mro__)


def _fans_of_convolution(layer: _ConvNd) -> tuple[float, float]:
    """Share the kernel's entries among the positions that the stride leaves."""
    before, after = layer.in_channels / layer.groups, layer.out_channels / layer.groups
    kernel, stride = math.prod(layer.kernel_size), math.prod(layer.stride)
    # Dilation moves the kernel's entries apart, and leaves their number as it is.
    if layer.transposed:
        return before * kernel / stride, after * kernel
    return before * kernel, after * kernel / stride


def _why_no_fans(module: nn.Module) -> str:
    """Say why a module has no one pair of fans, and what has."""
    name = type(module).__name__
    if isinstance(module, nn.MultiheadAttention):
        return (
            f"{name} has no one pair of fans, but four weights; pass each: that of the queries "
            "(in_proj_weight[:embed_dim], or q_proj_weight), the keys' and values' likewise, "
            "and the layer out_proj"
        )
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        weight = "weight_ih" if isinstance(module, nn.RNNCellBase) else "weight_ih_l0"
        return f"{name} has no one pair of fans, but several weights; pass one, such as {weight}"
    if any(child != "parametrizations" for child, _ in module.named_children()):
        return f"{name} holds other modules and has no fans of its own; pass one of its layers"
    if not any(True for _ in module.parameters()):
        return f"{name} has no weight, and fans are counted for layers that have one"
    return (
        f"{name} is no sum of products that is known here (a norm multiplies each entry by its "
        "own weight, and sums nothing); for a weight by torch's convention (out, in, *kernel), "
        "pass the weight"
    )


def variance_scaling_(
    layer_or_weight: nn.Module | Tensor,
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: Distribution = "normal",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw weights in place with Var(w) = scale/fan, whatever the distribution.

    scale=1 with fan_in is LeCun's rule, scale=2 He's, scale=1 with fan_avg Xavier's.

    Args:
        layer_or_weight: a layer that `fans` knows, whose bias stays as it is, and an
            embedding's padding row too; or a weight of any floating dtype.
        scale: the second moment of an output for inputs of second moment 1 (mode fan_in).
        mode: divide by "fan_in", "fan_out", or "fan_avg", the average of the two.
        distribution: "normal"; "truncated_normal", cut at 2 standard deviations and corrected
            for what the cut takes away; "uniform"; "orthogonal", W Wᵀ or WᵀW a multiple of I
            whose entries have mean square scale/fan.
        generator: on the weight's device; by default torch's own.

    Returns:
        The weight, for which no gradient is recorded here.

    Averaged over: draws of the weight. One draw's own mean square wanders around scale/fan
    (orthogonal: it does not).

    Raises:
        TypeError: neither a layer nor a floating weight; scale is no number.
        ValueError: an unknown mode or distribution; scale not positive; a layer whose weight is
            computed from other parameters, or one that `fans` does not know; a weight made in
            inference mode, outside of it. Nothing is drawn then.

    Examples:
        >>> layer = torch.nn.Linear(784, 1000)
        >>> _ = variance_scaling_(layer, scale=2.0, generator=torch.Generator().manual_seed(0))
        >>> print(f"{layer.weight.var().item() * 784:.2f}")
        2.00

    References:
        LeCun et al. 1998; Glorot & Bengio 2010, eq. 12; He et al. 2015, eq. 10; Saxe et al. 2013.
        Lessons 6, "fix", and 9, "backward".
    """
    weight, fan = _weight_and_fan(layer_or_weight, mode)
    _check_scale(scale)
    if distribution not in _DRAWS:
        raise ValueError(f"distribution must be one of {', '.join(_DRAWS)}, got {distribution!r}")
    padding = getattr(layer_or_weight, "padding_idx", None)
    with torch.no_grad():
        kept = None if padding is None else weight[padding].clone()
        _draw(weight, distribution, math.sqrt(scale / fan), generator)
        if kept is not None:
            weight[padding] = kept
    return weight


def _check_scale(scale: Any) -> None:
    """Refuse what no second moment can be."""
    wanted = "it is the second moment of an output, 1 for LeCun's rule and 2 for He's"
    if not hasattr(scale, "__float__") or (isinstance(scale, Tensor) and scale.numel() != 1):
        raise TypeError(f"scale must be a positive number, got {scale!r}; {wanted}")
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale must be a positive number, got {scale}; {wanted}")


def _draw(weight: Tensor, name: str, std: float, generator: torch.Generator | None) -> None:
    """Draw in the weight itself where torch can, or else in a wide copy that is then rounded."""
    # Half precision has no QR, and too few steps for a uniform draw; torch's orthogonal_ knows
    # no channels_last.
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    fits = weight.dtype == wide and weight.is_contiguous()
    drawn = weight if fits else torch.empty(weight.shape, dtype=wide, device=weight.device)
    _DRAWS[name](drawn, std, generator)
    if not fits:
        weight.copy_(drawn)


def _weight_and_fan(layer_or_weight: nn.Module | Tensor, mode: str) -> tuple[Tensor, float]:
    """Find the tensor to draw and the number to divide by."""
    fan_in, fan_out = fans(layer_or_weight)
    choices = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    if not isinstance(mode, str) or mode not in choices:
        raise ValueError(f"mode must be one of {', '.join(choices)}, got {mode!r}")
    if isinstance(layer_or_weight, Tensor):
        weight = layer_or_weight
    else:
        weight = getattr(layer_or_weight, "weight", None)
        # What is written into a computed weight (weight_norm) is lost at the next call.
        computed = parametrize.is_parametrized(layer_or_weight, "weight")
        if computed or not isinstance(weight, nn.Parameter):
            raise ValueError(
                f"the weight of this {type(layer_or_weight).__name__} is computed from other "
                "parameters; draw it before the parametrization is put on"
            )
    if not weight.is_floating_point():
        raise TypeError(
            f"a weight must have a floating dtype, got {weight.dtype}; draw it before it is "
            "converted"
        )
    if not weight.numel():
        raise ValueError(
            f"a weight without entries cannot be drawn, got shape {tuple(weight.shape)}; give the "
            "layer inputs and outputs, or leave it out"
        )
    if weight.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(
            "a weight that was made in inference mode can be drawn only there; make the layer "
            "outside of torch.inference_mode()"
        )
    return weight, choices[mode]


def _normal(weight: Tensor, std: float, generator: torch.Generator | None) -> None:
    weight.normal_(0.0, std, generator=generator)


def _truncated_normal(weight: Tensor, std: float, generator: torch.Generator | None) -> None:
    wide = std / _CUT_STD
    nn.init.trunc_normal_(weight, 0.0, wide, -2 * wide, 2 * wide, generator=generator)


def _uniform(weight: Tensor, std: float, generator: torch.Generator | None) -> None:
    bound = math.sqrt(3) * std  # Var(U(−a, a)) = a²/3
    weight.uniform_(-bound, bound, generator=generator)


def _orthogonal(weight: Tensor, std: float, generator: torch.Generator | None) -> None:
    nn.init.orthogonal_(weight, generator=generator)
    rows = weight.shape[0]
    # As a matrix (rows, columns) it now has min(rows, columns) unit vectors in it.
    weight.mul_(std * math.sqrt(max(rows, weight.numel() // rows)))


_DRAWS = {
    "normal": _normal,
    "truncated_normal": _truncated_normal,
    "uniform": _uniform,
    "orthogonal": _orthogonal,
}
