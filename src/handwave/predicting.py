"""Say what a signal will be at every layer, before anything is run."""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from handwave.moments import Moments
from handwave.restoring import nothing_left_behind
from handwave.running import Inputs, check_model, kind, on_cpu
from handwave.traces import COVERAGE, Trace


def predict(model: nn.Module, inputs: Inputs | Moments, backward: bool = False) -> Trace:
    """Say what `measure` would find, from the moments of the inputs and of each weight.

    No layer is run, and of a weight only mean and variance are known. `nn.Sequential` and
    `stacks.Residual` are walked through; any other module of several is one row, "no theory".
    Behind such a row prediction stops, until a normalization sets the scale anew; from there on
    bands take all inputs and positions for alike, as nothing tells how alike they are: right for
    one vector, too wide for many. Of pooling, averages and largest values are followed, for an
    input with positions; gradients only through windows that do not overlap. What enters a
    residual block may be what an activation made, as long as the branch ends in sums of products,
    or in a norm behind them.

    Args:
        model: the module, in the mode that it is in.
        inputs: what `measure` takes, with one tensor for the model; or the `Moments` of the
            independent Gaussian entries of a single input.
        backward: predict the gradients too, for a standard normal one that enters from above.

    Returns:
        A trace with the rows of `measure`. `signal` is the expected second moment and mean, a
        law (count 0); `band` holds the second moment of one draw with probability `coverage`.

    Averaged over: draws of the weights with the moments that each weight has, and every entry
    of the output. The band is that of one draw, pooled over the batch.

    Assumes: weights independent of one another and of the inputs, sums of many products
    Gaussian; for the mean of a weight to matter, inputs independent of one another too. Sound
    for fresh weights; trained ones have more structure than two moments. Of images that are one
    colour nearly everywhere, or bright and smooth, behind a norm over the batch or over groups,
    few numbers make all that varies: second moments are up to 10 % off there, gradients up to 15 %,
    averages of a whole map behind a norm over groups up to 25 %, and a band may be half as wide as
    it should be.

    Raises:
        TypeError: the model is no module; inputs are of another kind, or not what its forward
            takes.
        ValueError: a lazy layer, or one on the meta device, has no weights yet; a layer would
            refuse what enters it.

    Examples:
        >>> model = nn.Sequential(nn.Linear(784, 784, bias=False), nn.ReLU())
        >>> _ = nn.init.normal_(model[0].weight, generator=torch.Generator().manual_seed(0))
        >>> trace = predict(model, Moments(0.0, 1.0))
        >>> [f"{layer.signal.second_moment:.0f}" for layer in trace]
        ['784', '392']

    References:
        Lessons 2, "dot-product", 7, "relu", and 9, "backward"; band: Hanin & Nica 2018.
    """
    check_model(model)
    _check_values(inputs)
    _check_arguments(model, inputs)
    with on_cpu(), nothing_left_behind(model), torch.no_grad():
        from handwave.walking import walked  # noqa: PLC0415 - the laws take long to import

        return Trace(walked(model, inputs, backward), COVERAGE)


def _check_values(inputs: Inputs | Moments) -> None:
    """Refuse what has a shape but no values."""
    if isinstance(inputs, Tensor) and inputs.is_meta:
        raise ValueError("an input on the meta device has no values: pass Moments instead")


def _check_arguments(model: nn.Module, inputs: Inputs | Moments) -> None:
    """Refuse arguments that forward would refuse; no hook may have made others of them."""
    if model._forward_pre_hooks or not isinstance(inputs, Tensor | tuple | Mapping):
        return
    args, kwargs = (), {}
    if isinstance(inputs, Mapping):
        kwargs = dict(inputs)
    else:
        args = inputs if isinstance(inputs, tuple) else (inputs,)
    try:
        signature = inspect.signature(model.forward)
    except ValueError:  # written in C, and tells nothing
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"forward of {kind(model)} does not take these inputs: {error}; pass what the model "
            "itself is called with"
        ) from None
