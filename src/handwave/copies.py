"""Keep copies of weights apart from what a run needs and frees."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# What vector instructions like their memory to begin at a multiple of, in bytes.
_ALIGNMENT = 64


class Copies:
    """Copy tensors into memory that was asked for at once, before the run.

    Copies made one by one come to lie between the activations: what a layer frees is then too
    short for the next one, and a deep network fills ever new pages. Memory that is asked for but
    never written costs nothing.

    Args:
        tensors: what there is to be copied; others are cloned, and those on another device.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        size = sum(_bytes(tensor) for tensor in tensors if _fits(tensor))
        self._room = torch.empty(size, dtype=torch.uint8, device="cpu")
        self._used = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return a copy."""
        if not _fits(tensor) or self._used + (size := _bytes(tensor)) > self._room.numel():
            return tensor.clone()
        room = self._room.narrow(0, self._used, tensor.numel() * tensor.element_size())
        self._used += size
        return room.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def _fits(tensor: Tensor) -> bool:
    known = type(tensor) in {Tensor, nn.Parameter}
    return known and tensor.layout == torch.strided and tensor.is_cpu


def _bytes(tensor: Tensor) -> int:
    size = tensor.numel() * tensor.element_size()
    return size + -size % _ALIGNMENT
