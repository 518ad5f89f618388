"""The windows of a convolution: which positions an output sees, and how alike they are."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from handwave.overlaps import of_neighbours, of_pairs
from handwave.pairs import of_tensor
from handwave.positions import Decay
from handwave.strides import in_step
from handwave.twins import twin
from handwave.wandering import CLASSES, ITSELF, Wander, on_map

# Numbers seen by all windows together, and by one: beyond, pairs of images have to do.
_MOST_SEEN, WIDEST = 1 << 24, 1024


class Alike(NamedTuple):
    """Hold how alike what windows see is, of those that meet the same weights.

    Averaged over groups of channels.

    Args:
        mean: of the likeness.
        square: of its square: with Σ the second moments of one group's windows, tr(Σ²) over the
            square of the average of tr(Σ).
        within: mean likeness of windows of one input, each with itself included.
        covariance: of what a window sees, up to a factor, if every unit sees the same with one
            set of weights.
    """

    mean: float
    square: float
    within: float
    covariance: Tensor | None


class Windows:
    """Add up the positions that one output of a convolution sees, as the layer itself does.

    Args:
        layer: the convolution; of its weight, nothing is used.
        sizes: of the map of positions.
        phases: sets of weights that a unit has, each for its own share of the windows.
    """

    def __init__(self, layer: _ConvNd, sizes: tuple[int, ...], phases: float) -> None:
        with torch.inference_mode(False):  # where the caller may be, nothing can be differentiated
            ones = torch.ones(1, 1, *layer.kernel_size, dtype=torch.float64)
        self.layer: Any = twin(layer, ones)
        self.layer.groups = self.layer.in_channels = self.layer.out_channels = 1
        self.sizes = sizes
        self.channels, self.groups = layer.in_channels, layer.groups
        self.phases = phases
        self.count = self.of(torch.ones(sizes, dtype=torch.float64))
        self.seen = float(self.count.mean())
        self.beside = _neighbours(layer)

    def of(self, numbers: Tensor) -> Tensor:
        """Add up a map: (*map) to (*map of the output)."""
        return self.stacked(numbers[None])[0]

    def stacked(self, maps: Tensor) -> Tensor:
        """Add up several maps: (maps, *map) to (maps, *map of the output)."""
        return self.layer.forward(maps[:, None])[:, 0]

    def transposed(self, gradient: Tensor) -> Tensor:
        """Hand each output's number to all the positions that it sees."""
        with torch.inference_mode(False), torch.enable_grad():
            start = torch.ones(self.sizes, dtype=torch.float64, requires_grad=True)
            return torch.autograd.grad(self.of(start), start, gradient)[0]

    def average(self, wander: Wander) -> Wander:
        """Average likeness over windows; what is noise in it averages out, where it differs."""
        places = self.count.numel()
        wander = in_step(wander, self.layer, self.sizes, self.count.shape)
        seen = {name: self.stacked(on_map(getattr(wander, name), self.sizes)) for name in CLASSES}
        # Positions that many windows see may be longer than others.
        whole = float(seen["same"].mean()) / (float(wander.same.mean()) or 1.0)
        averaged = replace(wander, **{name: part / (whole or 1.0) for name, part in seen.items()})
        parts, beside = self._of_both(wander)
        parts = {name: part / (whole or 1.0) for name, part in parts.items()}
        parts["near"] += self._further(wander) * beside
        share = min(wander.share * math.prod(self.sizes) / places, 1.0)
        kept = wander.kept(self.seen, self.beside)
        return replace(averaged, **parts, share=share).with_noise(kept, kept)

    def _further(self, wander: Wander) -> float:
        """Return what neighbours have more in common as windows than they had as positions.

        Windows of a stride are several positions apart.

        Args:
            wander: of the positions.
        """
        stride, axes = max(self.layer.stride), len(self.sizes)
        if stride == 1 or self.layer.transposed:
            return 0.0
        decay = Decay.of(wander, self.sizes)
        return decay.of_neighbours(axes, stride) - decay.of_neighbours(axes)

    def _of_both(self, wander: Wander) -> tuple[dict[str, Tensor], Tensor]:
        """Add up likeness of different points over the places that both windows of a pair see.

        Of two windows at different places, one may reach over the edge where the other does not.

        Args:
            wander: of the positions.

        Returns:
            The sums by class of pairs; and of neighbours, which share of a window both see.
        """
        maps = {
            name: on_map(getattr(wander, name), self.sizes) for name in ("far", "within", "near")
        }
        ends = wander.ends
        if ends is None:
            return {name: self.stacked(part) for name, part in maps.items()}, ITSELF
        places, middle = self._places()
        # Of a transposed convolution, windows that meet the same weights.
        stride = self.layer.stride if self.layer.transposed else None
        near, beside = of_neighbours(maps.pop("near"), places)
        sums = {name: of_pairs(part, places, middle, ends, stride) for name, part in maps.items()}
        return {**sums, "near": near}, beside

    def _places(self) -> tuple[Tensor, Tensor]:
        """Return which positions each window sees, and the one in its middle; `of_pairs` has it."""
        numbers = torch.arange(1, 1 + math.prod(self.sizes), dtype=torch.float64)
        places = self._picking().forward(numbers.reshape(1, 1, *self.sizes))[0].round().long()
        middle = 0
        for size in self.layer.kernel_size:
            middle = middle * size + size // 2
        inside = places > 0
        first = (2 * inside.cumsum(0) >= inside.sum(0)).int().argmax(0, keepdim=True)
        others = places.gather(0, first)[0]
        return places, places[middle].where(inside[middle], others)

    def alike(self, x: Tensor, axes: int) -> Alike | None:
        """Return how alike what windows see is, over all pairs of them; None if that is long.

        Args:
            x: the model's own input, shape (batch, channels, *map), or without a batch.
            axes: of the map.
        """
        seen, wide = math.prod(self.layer.kernel_size), self.channels // self.groups
        if x.numel() * seen > _MOST_SEEN or wide * seen > WIDEST:
            return None
        points, places = self._points(x, axes), self.count.numel()
        sigma, center = points.mT @ points, points.sum(1)
        trace = float(sigma.diagonal(dim1=1, dim2=2).sum(1).mean()) or 1.0
        mean = float(center.square().sum(1).mean()) / trace / points.shape[1]
        square = float(sigma.square().sum((1, 2)).mean()) / trace**2
        centers = points.reshape(self.groups, -1, places, points.shape[-1]).mean(2)
        within = float(centers.square().sum((1, 2)).mean()) / trace * places
        single = self.groups == 1 and self.phases == 1
        covariance = sigma[0] - torch.outer(center[0], center[0]) / points.shape[1]
        made = covariance if single else None
        return Alike(self.phases * mean, self.phases * square, within, made)

    def around(self, x: Tensor, axes: int) -> Wander:
        """Return how alike what windows see is around the mean of all, of a single group.

        Args:
            x: the model's own input, shape (batch, channels, *map), or without a batch.
            axes: of the map.
        """
        points = self._points(x, axes)[0]
        maps = (points - points.mean(0)).reshape(-1, *self.count.shape, points.shape[-1])
        return of_tensor(maps.movedim(-1, 1), 1)

    def _points(self, x: Tensor, axes: int) -> Tensor:
        """Return what each window sees; (groups, windows of all inputs, numbers)."""
        windows = self._picking().forward(x.flatten(0, -axes - 1)[:, None]).flatten(2)
        windows = windows.reshape(
            -1, self.groups, windows.shape[1] * self.channels // self.groups, windows.shape[-1]
        )
        return windows.permute(1, 0, 3, 2).flatten(1, 2)

    def _picking(self) -> Any:
        """Make a layer that has an output for every place in a window, and picks what is there."""
        places = math.prod(self.layer.kernel_size)
        each = torch.eye(places, dtype=torch.float64).reshape(-1, 1, *self.layer.kernel_size)
        made: Any = twin(self.layer, each.transpose(0, 1) if self.layer.transposed else each)
        made.__dict__["out_channels"] = places
        return made


def _neighbours(layer: _ConvNd) -> float:
    """Return what share of the pairs of different places in a window are neighbours."""
    sizes = layer.kernel_size
    if layer.transposed:
        sizes = [math.ceil(k / s) for k, s in zip(sizes, layer.stride, strict=True)]
    elif max(layer.dilation) > 1:
        return 0.0
    places = math.prod(sizes)
    pairs = math.prod(3 * size - 2 for size in sizes) - places
    return pairs / (places * (places - 1)) if places > 1 else 0.0
