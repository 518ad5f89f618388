"""What a repair did, as a table, and how to undo it."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from handwave.levers import Lever, writing
from handwave.tables import Column, as_html, as_text, plain


@dataclass(frozen=True)
class Row:
    """Say what was done about one weight.

    Args:
        layer: name of the layer's row in a `Trace`; a second call of it is `name#2`.
        weight: which of its weights; attention has four.
        kind: class of the layer.
        before: second moment of what the weight's layer put out, averaged over every entry, with
            the layers before it repaired already; NaN where there was nothing to look at.
        after: the same with the scaled weight.
        scale: what the weight was multiplied by; 1 where it was left alone.
        note: why it was left alone: "at target", "tied to …", "never called" and the like.
    """

    layer: str
    weight: str
    kind: str
    before: float = math.nan
    after: float = math.nan
    scale: float = 1.0
    note: str = ""


@dataclass
class Repair:
    """Hold what `repair_` did, and what it takes to undo it: a copy of every weight scaled.

    Args:
        rows: one for each weight and call, in call order; never called layers come last.
        target: the second moment asked for.
        applied: whether the model is changed: not after a dry run, and not once undone.

    Examples:
        >>> row = Row("fc", "weight", "Linear", before=100.0, after=1.0, scale=0.1)
        >>> print(Repair((row,), 1.0, False, []))
        layer  weight  kind    before  after  scale
        fc     weight  Linear     100      1    0.1
        0 weights to scale; the model is as it was

    References:
        Lesson 6, "fix".
    """

    rows: tuple[Row, ...]
    target: float
    applied: bool
    _changes: list[tuple[str, Lever, float]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def undo(self) -> None:
        """Write back every weight as it was before the repair, bit for bit.

        What was changed since then, by training for example, is lost in these weights, and a
        UserWarning names them.

        Raises:
            ValueError: nothing is there to undo: a dry run, or undone already.
        """
        if not self.applied:
            raise ValueError("nothing to undo: it was a dry run (apply=False), or is undone")
        with writing([lever for _, lever, _ in self._changes]):
            changed = [name for name, lever, scale in self._changes if not lever.stands_at(scale)]
            for _, lever, _ in reversed(self._changes):
                lever.put_back()
        self.applied = False
        if changed:
            warnings.warn(
                f"changed since the repair, and now as before it: {', '.join(changed)}",
                stacklevel=2,
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the repair as dicts, lists, strings and finite numbers: strict JSON.

        Returns:
            {"target": …, "applied": …, "rows": [{"layer": …, "before": …, …}, …]}; a number that
            JSON has no word for is the string "inf" or "nan".
        """
        listed = [plain(asdict(row)) for row in self.rows]
        return {"target": self.target, "applied": self.applied, "rows": listed}

    def __str__(self) -> str:
        return f"{as_text(self._columns(), _NUMBERS)}\n{self._summary()}"

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return f"{as_html(self._columns())}<p>{self._summary()}</p>"

    def _summary(self) -> str:
        count = len(self._changes)
        what = f"{count} weight{'s' * (count != 1)}"
        return f"{what} scaled" if self.applied else f"{what} to scale; the model is as it was"

    def _columns(self) -> list[Column]:
        """Return titles and cells as text, leaving out columns in which nothing stands."""
        texts = [
            (title, *(str(getattr(row, title)) for row in self.rows))
            for title in ("layer", "weight", "kind")
        ]
        numbers = [
            (title, *(_number(getattr(row, title)) for row in self.rows)) for title in _NUMBERS
        ]
        notes = ("note", *(row.note for row in self.rows))
        return [*texts, *numbers, *([notes] if any(notes[1:]) else [])]


_NUMBERS = ("before", "after", "scale")


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"
