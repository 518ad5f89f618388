"""TeX to MathML at build, by Temml inside a JavaScript engine: no script reaches the reader."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from handwave_site.cache import write_atomically

_TEMML = Path(__file__).with_name("vendor") / "temml.min.js"
_RENDER = """(tex, display) => temml.renderToString(
    tex, {displayMode: display, throwOnError: true, strict: true})"""


class MathRenderer:
    """Renders formulas, and keeps what it rendered in a folder."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made when the first formula is rendered."""
        self.folder = folder

    def render(self, tex: str, *, display: bool) -> str:
        r"""Render one formula.

        Args:
            tex: the formula, without its dollar signs.
            display: True for a formula that stands alone.

        Raises:
            ValueError: the TeX is wrong; the message says where.
        """
        key = hashlib.sha256(f"{_version()}\0{display}\0{tex}".encode()).hexdigest()
        path = self.folder / f"{key}.html"
        if path.exists():
            return path.read_text(encoding="utf-8")
        html = _render(tex, display)
        write_atomically(path, html.encode())
        return html


@functools.cache
def _version() -> str:
    return hashlib.sha256(_TEMML.read_bytes() + _RENDER.encode()).hexdigest()


@functools.cache
def _engine() -> Any:
    import quickjs  # noqa: PLC0415 - only when there is a new formula

    context = quickjs.Context()
    context.eval(_TEMML.read_text(encoding="utf-8"))
    return context.eval(_RENDER)


def _render(tex: str, display: bool) -> str:
    import quickjs  # noqa: PLC0415

    try:
        return _engine()(tex, display)
    except quickjs.JSException as error:
        reason = str(error).split("\n")[0].removeprefix("ParseError:").strip()
        raise ValueError(f"bad TeX {tex!r}: {reason}") from None
