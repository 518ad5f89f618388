"""Send a gradient back through a run, and catch it wherever it passes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from handwave.running import first_floating, floating

# A place in a run: a row, and the side of its layer.
Key = tuple[int, str]


def differentiable(output: Tensor, result: Any, given: Any) -> tuple[Tensor, Any]:
    """Return a layer's output with a gradient to be caught, and the result that is to hold it.

    Args:
        output: the first floating tensor of the result.
        result: what the layer returned.
        given: what it was called with.

    Returns:
        (output, None) where the result may stay as it is.
    """
    alone = output is result
    if not alone and not (type(result) is tuple and result[0] is output):
        return output, None
    if not output.requires_grad:
        # All that came before is frozen: the gradient begins here. A clone is no leaf, so that
        # the model may go on to write in it.
        own = output.detach().requires_grad_().clone()
    elif output._is_view() and not _shares_memory(output, given):
        # Once an in-place activation writes in a view, the gradient goes to its base and passes
        # the view by; a linear layer returns one where its input has three axes.
        own = output.clone()
    else:
        return output, None
    return own, own if alone else (own, *result[1:])


def _shares_memory(output: Tensor, given: Any) -> bool:
    memory = output.untyped_storage().data_ptr()
    return any(tensor.untyped_storage().data_ptr() == memory for tensor in floating(given))


@contextmanager
def apart(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Give each layer with weights its first input as a tensor of its own.

    What goes back through the layer is then told from what goes back past it, along a residual
    branch or through another layer with the same input.
    """

    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        first = first_floating((args, kwargs))
        # Without gradients on, a view would ask for a gradient and have no way to get it.
        if first is None or not first.requires_grad or not torch.is_grad_enabled():
            return None
        # Wherever it stands: attention asks whether query and key are the same object.
        own = first.view_as(first)
        return (
            tuple(own if value is first else value for value in args),
            {name: own if value is first else value for name, value in kwargs.items()},
        )

    with ExitStack() as stack:
        for module in modules:
            if any(True for _ in module.parameters()):
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        yield


def scalar(total: Any) -> tuple[Tensor, None]:
    """Return what a loss function returned, if it is one number, to start from.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(total, Tensor) or total.numel() != 1:
        came = tuple(total.shape) if isinstance(total, Tensor) else type(total).__name__
        raise TypeError(f"loss must return a tensor of one number, got {came}; take .mean() of it")
    if not total.is_floating_point():
        raise TypeError(f"loss must return a real floating number, got {total.dtype}")
    return total, None


def unit_gradient(output: Any) -> tuple[Tensor, Tensor]:
    """Return the model's output to start from, and the standard normal gradient that enters.

    Raises:
        ValueError: there is no floating tensor in the output.
    """
    found = list(floating(output))
    if not found:
        raise ValueError(
            f"nothing to differentiate: the model returned {type(output).__name__} without a "
            "floating tensor; pass backward=False, or give measure a loss="
        )
    first = next((tensor for tensor in found if tensor.requires_grad), found[0])
    return first, torch.randn_like(first)


def catch(
    root: Tensor,
    cotangent: Tensor | None,
    edges: dict[Key, GradientEdge],
    take: Callable[[Key, Tensor], None],
) -> None:
    """Differentiate once, and hand over each gradient as it passes its edge; empties edges.

    Raises:
        ValueError: root depends on nothing that requires a gradient, or on a checkpoint that
            runs a backward pass within the backward pass.
    """
    if not root.requires_grad:
        raise ValueError(
            "the model's output depends on no layer: nothing to differentiate; pass backward=False"
        )
    _check_no_reentrant(root)

    def passing(key: Key, place: int) -> Callable[[Sequence[Tensor | None]], None]:
        return lambda grads: _hand_over(take, key, grads[place])

    # A gradient that torch is asked for is held until the end, so only the last ones are: those
    # with no other edge below. At all others it passes by, and goes.
    lowest = _lowest(edges.values())
    last = {key: edge for key, edge in edges.items() if edge.node in lowest}
    for key, edge in edges.items():
        if key not in last:
            edge.node.register_prehook(passing(key, edge.output_nr))
    edges.clear()  # a node holds its hook, this the taker, and that the nodes
    if last:
        found = torch.autograd.grad(root, list(last.values()), cotangent, allow_unused=True)
        for key, grad in zip(last, found, strict=True):
            _hand_over(take, key, grad)


def _check_no_reentrant(root: Tensor) -> None:
    """Refuse what torch refuses later, and without a word of what to do."""
    start = root.grad_fn
    nodes = () if start is None else (start, *_below(start))
    if any(node.name() == "CheckpointFunctionBackward" for node in nodes):
        raise ValueError(
            "the model has reentrant checkpoints, through which torch gives no gradients to look "
            "at: pass use_reentrant=False to torch.utils.checkpoint, or backward=False here"
        )


def _hand_over(take: Callable[[Key, Tensor], None], key: Key, grad: Tensor | None) -> None:
    if grad is not None and grad.numel():
        take(key, grad)


def _lowest(edges: Iterable[GradientEdge]) -> set[Node]:
    """Find the nodes that have no other edge's node below them."""
    nodes = {edge.node for edge in edges}
    return {node for node in nodes if nodes.isdisjoint(_below(node))}


def _below(node: Node) -> Iterator[Node]:
    """Walk down the graph from a node, which is not among those found."""
    known, waiting = set[Node](), [node]
    while waiting:
        for below, _ in waiting.pop().next_functions:
            if below is not None and below not in known:
                known.add(below)
                waiting.append(below)
                yield below
