"""TeX to MathML at build, by Temml inside a JavaScript engine: no script reaches the reader."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import Any

from handwave_site.cache import write_atomically

_TEMML = Path(__file__).with_name("vendor") / "temml.min.js"
_STYLED = re.compile(r'<[^<>]* style="[^<>]*>')
_STYLE = re.compile(r' style="(?P<rules>[^"]*)"')
_CLASS = re.compile(r' class="(?P<names>[^"]*)"')
_RENDER = """(tex, display) => temml.renderToString(
    tex, {displayMode: display, throwOnError: true, strict: true})"""


class MathRenderer:
    """Renders formulas, and keeps what it rendered in a folder.

    Styles are rules of a stylesheet, not attributes, which no strict policy lets through.
    """

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made when the first formula is rendered."""
        self.folder = folder
        self.rules: dict[str, str] = {}  # by class

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
        if not path.exists():
            write_atomically(path, _render(tex, display).encode())
        return _STYLED.sub(self._with_class, path.read_text(encoding="utf-8"))

    def stylesheet(self) -> str:
        """Write the rules of all that was rendered."""
        # A class named twice counts more than what Temml's own stylesheet says of an element.
        rules = (f".{name}.{name}{{{rules}}}\n" for name, rules in sorted(self.rules.items()))
        return "".join(rules)

    def _with_class(self, tag: re.Match[str]) -> str:
        """Turn an element's style into a class."""
        style, own = _STYLE.search(tag[0]), _CLASS.search(tag[0])
        assert style is not None
        name = f"m-{hashlib.sha256(style['rules'].encode()).hexdigest()[:8]}"
        self.rules[name] = style["rules"].rstrip(";")
        names = f"{own['names']} {name}" if own else name
        bare = _CLASS.sub("", _STYLE.sub("", tag[0]))
        return re.sub(r"(?=/?>$)", f' class="{names}"', bare, count=1)


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
