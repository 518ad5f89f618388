"""Where in memory tensors lie: tied weights lie at places that overlap."""

from bisect import bisect_left, insort
from collections.abc import Iterable

import torch
from torch import Tensor

# Bytes from the first to behind the last, and the device on which they are.
Place = tuple[torch.device, int, int]


def place(part: Tensor) -> Place:
    """Say where in memory a tensor lies; one with steps in between takes all from end to end."""
    if not part.numel():
        return part.device, 0, 0  # where nothing else is
    steps = zip(part.shape, part.stride(), strict=True)
    size = (1 + sum((size - 1) * stride for size, stride in steps)) * part.element_size()
    return part.device, (start := part.data_ptr()), start + size


class Taken:
    """Remember who took which places, and find who is there already."""

    def __init__(self) -> None:
        self._by_start: dict[torch.device, list[tuple[int, int, str]]] = {}
        self._longest = 0

    def add(self, places: Iterable[Place], name: str) -> None:
        """Remember places under a name."""
        for device, start, end in places:
            insort(self._by_start.setdefault(device, []), (start, end, name))
            self._longest = max(self._longest, end - start)

    def by(self, places: Iterable[Place]) -> str | None:
        """Return the name of one that took some of these bytes, None if they are free."""
        for device, start, end in places:
            known = self._by_start.get(device, [])
            # Down from the last that begins before the end, to where even the longest ends.
            for at in range(bisect_left(known, (end,)) - 1, -1, -1):
                its_start, its_end, name = known[at]
                if its_start + self._longest <= start:
                    break
                if start < its_end and its_start < end:
                    return name
        return None
