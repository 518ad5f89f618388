"""Who feeds whom in one run of a model: layers and what is between, as a graph."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import inf

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from handwave.nodes import Facts, Node
from handwave.streams import Step
from handwave.traces import Layer

# What hands on the numbers that it got, in whatever shape, or averages of them.
_HANDS_ON = re.compile(r"Dropout|AvgPool|^(Identity|(Unf|F)latten|Pixel(Uns|S)huffle)$")


@dataclass(frozen=True)
class Ends:
    """Hold what is not finite where a run begins and ends.

    Args:
        given: count of such numbers in the inputs.
        main: the nodes that the first floating tensor of what the model returns came from.
        differs: whether that differs between inputs that do; None where nobody can tell.
        returned: count in what the model returns; -inf is left out, as scores are masked with it.
        sources: the nodes that these came from.
    """

    given: int = 0
    returned: int = 0
    sources: frozenset[int] = frozenset()
    main: frozenset[int] = frozenset()
    differs: bool | None = None


def _between(steps: Iterable[Step], taken: frozenset[int]) -> Iterator[Node]:
    """Turn steps into nodes, without functions that a layer called for itself.

    Args:
        steps: what was seen between layers, and in them.
        taken: the nodes that layers take, or the model's first output came from.
    """
    # What leads there, and what leads to any sum: a loss's too.
    reached = wanted = taken
    for s in reversed(list(steps)):
        aside = s.node not in (taken if s.parts else reached)
        if s.node in reached:
            reached |= s.sources
        if not aside and not s.parts:
            taken |= s.sources
        if s.parts or s.node in wanted:
            wanted |= s.sources
            made = Node(s.node, s.sources, s.signal, s.units, s.function)
            yield replace(made, step=s, aside=aside)


class Flow:
    """Hold the nodes of one run in order, and who feeds whom."""

    def __init__(
        self,
        calls: Iterable[tuple[Layer, nn.Module, Facts]],
        steps: Iterable[Step],
        ends: Ends = Ends(),
    ) -> None:
        self.ends = ends
        made = [
            Node(f.node, f.sources, row.signal, math.prod(row.shape[1:]), module, row, f)
            for row, module, f in calls
        ]
        taken = ends.main.union(*(node.sources for node in made))
        made += _between(steps, taken)
        self.nodes = {node.number: node for node in sorted(made, key=lambda node: node.number)}
        self._feeds: dict[int, set[int]] = {}
        for node in self:
            for source in node.sources:
                self._feeds.setdefault(source, set()).add(node.number)
        self.ancestors = cache(self._ancestors)
        self.normed = cache(self._normed)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def before(self, node: Node, through_sums: bool = False) -> list[Node]:
        """Find the nearest nodes in front that count or normalize."""
        return self._nearest(node.sources, lambda n: n.sources, _stops(through_sums))

    def behind(self, node: Node, through_sums: bool = False) -> list[Node]:
        """Find the nearest nodes behind that count or normalize."""
        return self._nearest(
            self._feeds.get(node.number, set()),
            lambda n: self._feeds.get(n.number, set()),
            _stops(through_sums),
        )

    def descendants(self, node: Node) -> Iterator[Node]:
        """Find all that a node's output leads to."""
        return (each for each in self if node.number in self.ancestors(each.number))

    @property
    def last(self) -> set[int]:
        """Return the nearest nodes in front of what the model returns that count or normalize."""
        nearest = self._nearest(self.ends.main, lambda n: n.sources, _stops(False))
        return {node.number for node in nearest}

    def layers(self, numbers: Iterable[int]) -> list[Node]:
        """Find the layers among nodes, and those that other nodes among them came from."""
        return self._nearest(numbers, lambda n: n.sources, lambda n: n.row is not None)

    def layers_behind(self, node: Node) -> list[Node]:
        """Find the layers of any kind that take a node's output, through steps."""
        feeds = self._feeds
        return self._nearest(
            feeds.get(node.number, set()),
            lambda n: feeds.get(n.number, set()),
            lambda n: n.row is not None,
        )

    def beside(self, node: Node) -> list[frozenset[int]]:
        """Find what comes past a node: the other parts of the sums to which it leads."""
        found = []
        for parts in (each.parts for each in self if each.parts):
            leads = [self._leads(node.number, part) for part in parts]
            if leads[0] != leads[1]:
                found.append(parts[leads.index(False)])
        return found

    def _leads(self, number: int, to: frozenset[int]) -> bool:
        return number in to or any(number in self.ancestors(each) for each in to)

    def gets_out(self, node: Node) -> bool:
        """Tell whether a way leads from a node to what the model returns past all norms."""
        found = self._nearest(
            self.ends.main,
            lambda n: () if n.normalizes else n.sources,
            lambda n: n.number == node.number,
        )
        return bool(found)

    def noisy(self, node: Node) -> bool:
        """Tell whether dropout behind a layer makes its outputs differ from input to input."""
        behind = (n.module for n in self.descendants(node))
        return any(isinstance(module, _DropoutNd) and module.training for module in behind)

    def leads_around(self, node: Node) -> bool:
        """Tell whether other ways lead to where a node's output goes."""
        if self.beside(node):
            return True
        behind = [n.number for n in self.descendants(node)]
        ways = frozenset().union(*map(self.ancestors, behind))
        return bool(ways - self.ancestors(node.number) - {node.number, *behind})

    def _nearest(
        self,
        start: Iterable[int],
        step: Callable[[Node], Iterable[int]],
        stops: Callable[[Node], bool],
    ) -> list[Node]:
        found, seen, open_ = [], set(), [n for n in start if n in self.nodes]
        while open_:
            node = self.nodes[open_.pop()]
            if node.number in seen:
                continue
            seen.add(node.number)
            if stops(node):
                found.append(node)
            else:
                open_ += [n for n in step(node) if n in self.nodes]
        return sorted(found, key=lambda n: n.number)

    def activation_before(self, node: Node) -> Node | None:
        """Find the activation whose output enters a layer, through dropout and its like."""
        sources = [self.nodes[n] for n in node.sources if n in self.nodes]
        if len(sources) != 1 or sources[0].module is None or sources[0].counts:
            return None
        only, module = sources[0], sources[0].module
        if _HANDS_ON.search(type(module).__name__):
            return self.activation_before(only)
        plain = not only.normalizes and not any(True for _ in module.parameters())
        return only if plain else None

    def held(self, node: Node) -> float:
        """Return what bounded functions, sin and its like, hold all below that enters a node."""
        nearest = self._nearest(
            node.sources, lambda n: n.sources, lambda n: n.counts or n.normalizes or n.bound < inf
        )
        return max((n.bound for n in nearest), default=inf)

    def from_outside(self, node: Node) -> bool:
        """Tell whether what enters a layer is what entered the model, in whatever shape."""
        before = [self.nodes[number] for number in self.ancestors(node.number)]
        known = all(n.facts is None or n.facts.known for n in [node, *before])
        return known and all(_HANDS_ON.search(type(n.module).__name__) for n in before)

    def _ancestors(self, number: int) -> frozenset[int]:
        sources = [n for n in self.nodes[number].sources if n in self.nodes]
        return frozenset(sources).union(*(self.ancestors(n) for n in sources))

    def _normed(self, number: int) -> bool:
        """Tell whether the scale at a node was set by a normalization in front."""
        before = self.before(self.nodes[number])
        return any(node.normalizes or self.normed(node.number) for node in before)

    def rescued(self, node: Node) -> bool:
        """Tell whether whatever comes next is a normalization."""
        behind = self.behind(node)
        return bool(behind) and all(each.normalizes for each in behind)

    def takers(self, number: int) -> int:
        """Count who takes a node's output."""
        return len(self._feeds.get(number, ()))

    def in_branches(self) -> set[int]:
        """Find the nodes inside a residual branch: what is added back to where it began."""
        inside: set[int] = set()
        for node in self:
            beside = node.aside and not self.takers(node.number)
            for one, other in (node.parts, node.parts[::-1]) if node.parts and not beside else ():
                behind = frozenset(one).union(*(self.ancestors(n) for n in one if n in self.nodes))
                # What a gate adds comes from where the block began, and from the gate itself.
                began = frozenset(n for n in other if not self.ancestors(n) & other)
                if began <= behind and one != other:
                    stream = began.union(*(self.ancestors(n) for n in began))
                    inside |= behind - stream
        return inside


def _stops(through_sums: bool) -> Callable[[Node], bool]:
    """Make the test for where a search for what counts or normalizes ends."""
    return lambda n: (n.counts or n.normalizes) and not (through_sums and n.parts is not None)
