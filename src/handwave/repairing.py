"""Put it right: scale every weight so that its layer's output has the size it should have."""

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from handwave.copies import Copies
from handwave.levers import Lever, allowed, lever_of, writes, writing
from handwave.parts import (
    Part,
    of_attention,
    of_layer,
    of_own_forward,
    of_projection,
)
from handwave.places import Taken, place
from handwave.repairs import Repair, Row
from handwave.restoring import is_plain, nothing_left_behind
from handwave.running import (
    Inputs,
    arguments,
    check_model,
    eager,
    first_floating,
    kind,
    of_a_library,
    rows,
    run,
    watched,
)
from handwave.totals import quick_second_moment

# Nearer than this to the target a weight stays as it is: repairing twice changes nothing more.
_NEAR = 1e-5

_AT_TARGET = "at target"
_COMPUTED = "its weight is computed from others"
_REWRITTEN = "the model writes its weight as it runs"


def repair_(model: nn.Module, inputs: Inputs, target: float = 1.0, apply: bool = True) -> Repair:
    """Scale every weight, in one run, so that its layer's output has the second moment asked for.

    With an output s·a + b, where a is in proportion to the weight and b is the bias:
    s²·E[a²] + 2s·E[a·b] + E[b²] = target. Each layer is scaled at its first call, and hands its
    corrected output on, so that the next one gets what it will get later.

    Biases, norms and whatever is between the layers stay as they are: a sum x + branch(x) of two
    repaired signals may well have twice the target. A weight is left alone, and its row says
    why, where its output is zero or not finite, where the bias alone is too large, where the
    weight is tied to one that is scaled already or written by the model's own forward, and in
    norms and layers that have no single weight (LSTM). In attention the projections of queries,
    keys and values are brought to the target one by one, then the output's: this computes these
    three once more.

    Args:
        model: any module, which is run once, in the mode it is in.
        inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        target: second moment of every output, positive.
        apply: False changes nothing, and reports what would be.

    Returns:
        What was done, printed as a table, with `.undo()`. It holds a copy of the weights scaled.

    Averaged over: every entry of each output: inputs, positions and units.

    Assumes: a network that does not make more of rounding. Each layer hands on its output times
        the scale, in the same run; the scaled weight's own output differs in its last digits. A
        hundred layers of tanh at target 1 make per cents of that. And weights that are read in
        their layers' calls alone: what the model made of one before that, distances to a codebook
        say, stays what it was.

    Raises:
        TypeError: model or inputs are of another kind, target is no number, or apply no bool.
        ValueError: target not positive or not finite; a lazy layer has no weights yet.
        Whatever the model raises: then no weight is changed.

    Examples:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> _ = nn.init.eye_(layer.weight)
        >>> repair = repair_(layer, 10 * torch.ones(8, 2))
        >>> print(repair)
        layer   weight  kind    before  after  scale
        Linear  weight  Linear     100      1    0.1
        1 weight scaled
        >>> repair.undo()
        >>> layer.weight.tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    References:
        Mishkin & Matas 2015, "All you need is a good init". Lessons 6, "fix", and 15,
        "your-network".
    """
    check_model(model)
    if not isinstance(apply, bool):
        raise TypeError(f"apply must be True or False, got {apply!r}")
    args, kwargs = arguments(inputs)
    repairer = _Repairer(rows(model), _checked(target), apply, Copies(model.parameters()))
    repairer.writes = {parameter: writes(parameter) for parameter in model.parameters()}
    with allowed(model.parameters()):
        with nothing_left_behind(model) as earlier, eager(model), torch.no_grad():
            repairer.earlier = earlier
            with repairer.at_work():
                run(model, args, kwargs)
                repairer.add_never_called()
        repair = Repair(tuple(repairer.rows), target, apply, repairer.changes)
        if apply:
            repairer.write()
    return repair


def _checked(target: Any) -> float:
    """Refuse what is no second moment."""
    if isinstance(target, bool) or not isinstance(target, Real):
        raise TypeError(
            f"target must be a number, got {type(target).__name__}; it is the second moment that "
            "every output is to have"
        )
    number = float(target)
    if not 0 < number < math.inf:
        raise ValueError(f"target is a second moment, positive and finite, got {target}")
    return number


@dataclass
class _Repairer:
    """Scale weights while the model runs."""

    names: Mapping[nn.Module, str]
    target: float
    apply: bool
    copied: Copies
    rows: list[Row] = field(default_factory=list)
    changes: list[tuple[str, Lever, float]] = field(default_factory=list)
    done: Taken = field(default_factory=Taken)
    called: set[nn.Module] = field(default_factory=set)
    weighted: set[nn.Module] = field(init=False)  # the rows with parameters
    earlier: Mapping[Tensor, Tensor] = field(default_factory=dict)  # values before the run
    writes: Mapping[Tensor, int] = field(default_factory=dict)  # in each parameter, before it

    def __post_init__(self) -> None:
        self.weighted = {module for module in self.names if _has_parameters(module)}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Watch the model; every weight comes back if it raises, and in a dry run."""
        with ExitStack() as stack:
            put_back = stack.enter_context(ExitStack())
            put_back.callback(self._put_back)
            for module, name in self.names.items():
                if isinstance(module, nn.MultiheadAttention):
                    hook = partial(self._project, name)
                    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                    stack.callback(handle.remove)
            stack.enter_context(watched(self.names, self._watch))
            yield
            if self.apply:
                put_back.pop_all()

    def _put_back(self) -> None:
        for _, lever, _ in reversed(self.changes):
            lever.put_back()
        torch.clear_autocast_cache()

    def write(self) -> None:
        """Let every change stand, also where the model's own writing was just undone."""
        undone = Taken()
        undone.add((place(each) for each in self.earlier if is_plain(each)), "")
        with writing([lever for _, lever, _ in self.changes]):
            for _, lever, scale in self.changes:
                # Not autograd's count of writes: it is a parameter's own, and its memory may be
                # another's too, by which the weight came back.
                if undone.by(lever.places) is not None and not lever.stands_at(scale):
                    lever.write(scale)

    def _project(self, name: str, module: nn.MultiheadAttention, args: Any, kwargs: Any) -> None:
        """Bring the projections of attention to the target before it is called."""
        if module in self.called or not _has_formula(module):
            return
        if parametrize.is_parametrized(module):
            self._leave(Row(name, "in_proj_weight", kind(module)), math.nan, _COMPUTED)
            return
        with torch.no_grad():
            for which, x in enumerate(_projected(module, args, kwargs)):
                part, weight, block = of_projection(module, which, x)
                label = weight if weight[0] == "qkv"[which] else f"{weight}[{'qkv'[which]}]"
                lever = Lever([getattr(module, weight)], block, copied=self.copied)
                self._bring(Row(name, label, kind(module)), lever, part)

    def _watch(self, module: nn.Module, name: str, args: Any, kwargs: Any, result: Any) -> None:
        self.called.add(module)
        if module in self.weighted:
            with torch.no_grad():
                self._look(_row(module, name), module, (args, kwargs), result)

    def _look(self, row: Row, module: nn.Module, given: Any, result: Any) -> None:
        """Scale the weight of a layer that was just called, and what it put out."""
        output = first_floating(result)
        if output is None or not output.numel() or output.layout != torch.strided:
            empty = output is not None and output.layout == torch.strided
            self._leave(row, math.nan, "empty output" if empty else "no floating output")
            return
        attention = isinstance(module, nn.MultiheadAttention)
        lever = lever_of(module.out_proj if attention else module, self.copied)
        if isinstance(lever, str):
            self._leave(row, quick_second_moment(output), lever)
        else:
            args, kwargs = given
            self._bring(row, lever, _part(module, args, kwargs, output))

    def _bring(self, row: Row, lever: Lever, part: Part) -> None:
        """Scale a weight and its output, unless something speaks against it."""
        before = part.squares.at(1.0)
        scale, why = self._scale(row, lever, part)
        why = why or self._write(lever, part, scale)
        if why:
            self._leave(row, before, why)
        else:
            after = quick_second_moment(part.output)
            self.rows.append(replace(row, before=before, after=after, scale=scale))
            self.changes.append((f"{row.layer}.{row.weight}", lever, scale))
        if why in {"", _AT_TARGET}:
            self.done.add(lever.places, row.layer)

    def _scale(self, row: Row, lever: Lever, part: Part) -> tuple[float, str]:
        """Find what to multiply a weight by, or say why to leave it alone."""
        known, scale = part.squares, None
        if tied := self.done.by(lever.places):
            again = row.layer.rpartition("#")[0] == tied
            why = "scaled at its first call" if again else f"tied to {tied}"
        elif lever.repeats:
            why = "its entries share memory"
        elif self._is_rewritten(lever):  # what it is scaled from will not be there next time
            why = _REWRITTEN
        elif not math.isfinite(known.product + known.bias):
            finite = all(bool(value.isfinite().all()) for value in lever.before)
            why = "not finite for its input" if finite else "its weight is not finite"
        elif not known.product:
            some = any(bool(value.any()) for value in lever.before)
            why = "zero for its input" if some else "its weight is zero"
        elif abs(known.at(1.0) / self.target - 1) < _NEAR:
            why = _AT_TARGET
        else:
            scale = known.scale_to(self.target)
            why = "" if scale else f"the bias alone has second moment {known.bias:.4g}"
        return scale or 1.0, why

    def _is_rewritten(self, lever: Lever) -> bool:
        """See whether the model wrote a weight; where autograd did not see it, by its values."""
        counts = ((parameter, self.writes.get(parameter)) for parameter in lever.parameters)
        seen = any(count != writes(parameter) for parameter, count in counts)
        return seen or not lever.found(self.earlier)

    def _write(self, lever: Lever, part: Part, scale: float) -> str:
        """Write a weight and its output; otherwise say what is wrong, and change neither."""
        torch.clear_autocast_cache()  # it holds weights as they were
        if not lever.write(scale):
            why = f"its dtype cannot hold it times {scale:.3g}"
        else:
            why = part.write(scale, self.target)
        if why:
            lever.put_back()
            torch.clear_autocast_cache()
        return why

    def _leave(self, row: Row, second: float, note: str) -> None:
        self.rows.append(replace(row, before=second, after=second, note=note))

    def add_never_called(self) -> None:
        """Name the layers with weights that the run did not reach."""
        for module, name in self.names.items():
            if module not in self.called and module in self.weighted:
                self._leave(_row(module, name), math.nan, "never called")


def _has_parameters(module: nn.Module) -> bool:
    """See whether it or a module in it has some; its `parameters` take ten times as long."""
    return any(p is not None for each in module.modules() for p in each._parameters.values())


def _row(module: nn.Module, name: str) -> Row:
    weight = "out_proj.weight" if isinstance(module, nn.MultiheadAttention) else "weight"
    return Row(name, weight, kind(module))


def _part(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Part:
    """Take apart what a layer returned."""
    if not _has_formula(module):
        return of_own_forward(module, args, kwargs, output)
    if isinstance(module, nn.MultiheadAttention):
        return of_attention(module, args, kwargs, output)
    return of_layer(module, args, kwargs, output)


def _has_formula(module: nn.Module) -> bool:
    """Know a layer that keeps what its formula says: nobody else's forward, and no hooks."""
    return of_a_library(module) and len(module._forward_hooks) <= 1  # one is ours


def _projected(module: nn.MultiheadAttention, args: Any, kwargs: Any) -> list[Tensor]:
    """Find query, key and value, if attention will take them: otherwise it says so itself."""
    try:
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    except TypeError:
        return []
    found = [given[name] for name in ("query", "key", "value")]
    sizes = (module.embed_dim, module.kdim, module.vdim)
    dtype = module.out_proj.weight.dtype
    fit = all(
        isinstance(x, Tensor)
        and x.layout == torch.strided
        and x.numel()
        and x.shape[-1] == size
        and (x.dtype == dtype or torch.is_autocast_enabled(x.device.type))
        for x, size in zip(found, sizes, strict=True)
    )
    return found if fit else []
