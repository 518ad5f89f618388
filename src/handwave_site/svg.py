"""One deterministic SVG that reads well in the light and in the dark scheme.

Every colour becomes a CSS variable whose value follows `prefers-color-scheme`, which inside an
`<img>` follows the colour scheme of the page. The dark value keeps the hue and stands out from
the dark background exactly as much as the original stands out from white (WCAG contrast ratio).
"""

from __future__ import annotations

import colorsys
import functools
import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

DARK_BACKGROUND = "#1e2129"
_GLARE = 13.0  # pure white on dark dazzles; black text becomes a soft white
FONTS = "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','DejaVu Sans',sans-serif"

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"(?<=url\(#)[^)]+(?=\))")
_PAINT = ("fill", "stroke", "stop-color", "color")
_PT_TO_PX = 96 / 72
_DIGITS, _SUPERSCRIPTS = "0123456789−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"
_DIGIT_WIDTH = 0.636  # of its font size


def two_schemes(picture: bytes) -> str:
    """Turn a picture as matplotlib saves it into one that suits both colour schemes.

    Args:
        picture: an SVG file; `svg.fonttype` "none" keeps its text text.

    Returns:
        The picture without metadata, dates and random ids, coordinates rounded to 0.01, its size
        in CSS pixels; the same bytes for the same input.

    Raises:
        ValueError: it is not an SVG picture with a size.
    """
    root = _parse(picture)
    for label in root.iter(f"{{{_SVG}}}text"):
        _write_exponent_as_text(label)
    sheet = _StyleSheet()
    for element in list(root.iter()):
        _tidy(element, sheet)
    _rename_ids(root)
    _set_size(root)
    _add_style(root, sheet.text())
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def size(picture: str) -> tuple[int, int]:
    """Read the width and height, in CSS pixels, of a picture that `two_schemes` made."""
    match = re.search(r'<svg[^>]* width="(\d+)" height="(\d+)"', picture)
    if not match:
        raise ValueError("this picture does not say its size")
    return int(match[1]), int(match[2])


def _parse(picture: bytes) -> Element:
    try:
        root = ElementTree.fromstring(picture)
    except ElementTree.ParseError as error:
        raise ValueError(f"not an SVG picture: {error}") from None
    if root.tag != f"{{{_SVG}}}svg" or not (root.get("width") and root.get("height")):
        raise ValueError("not an SVG picture with a width and a height")
    return root


def _write_exponent_as_text(label: Element) -> None:
    """Write 10⁻³⁰ in characters of one size: matplotlib's small ones are too small on a phone."""
    glyphs = [(float(glyph.get("y", "0")), glyph) for glyph in label]
    if not glyphs or len({height for height, _ in glyphs}) != 2:
        return
    line = glyphs[0][0]
    base = "".join(glyph.text or "" for height, glyph in glyphs if height == line)
    raised = "".join(glyph.text or "" for height, glyph in glyphs if height < line)
    last = label[-1]
    if len(base + raised) != len(glyphs) or not set(raised) <= set(_DIGITS) or not raised:
        return
    small = float(_declarations(last.get("style", ""))["font-size"].removesuffix("px"))
    right = float(last.get("x", "0")) + _DIGIT_WIDTH * small
    style = f"{label[0].get('style')};text-anchor:end"
    label.attrib.update({"x": f"{right:.2f}", "y": label[0].get("y", "0"), "style": style})
    for _, glyph in glyphs:
        label.remove(glyph)
    label.text = base + raised.translate(str.maketrans(_DIGITS, _SUPERSCRIPTS))


def _tidy(element: Element, sheet: _StyleSheet) -> None:
    """Move what is style to the sheet; drop metadata, layout white space and needless digits."""
    for child in list(element):
        child.tail = (child.tail or "").strip()
        if child.tag == f"{{{_SVG}}}style":
            sheet.add_rules(child.text or "")
        if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
            element.remove(child)
    if len(element):
        element.text = (element.text or "").strip()
    sheet.move_style(element)
    for name, value in element.attrib.items():
        if name not in ("viewBox", "transform", _XLINK, "href"):
            shorter = _NUMBER.sub(lambda match: f"{float(match[0]):.2f}", value)
            element.set(name, " ".join(shorter.split()))


class _StyleSheet:
    """The styles of a picture, each distinct one a class, each colour a variable."""

    def __init__(self) -> None:
        self.colours: dict[str, str] = {}
        self.classes: dict[str, str] = {}
        self.inherited: list[str] = []

    def add_rules(self, css: str) -> None:
        """Take over the rules of a style element."""
        self.inherited.append(self._without_literals(css))

    def move_style(self, element: Element) -> None:
        """Move an element's style and paint attributes into the sheet."""
        declarations = _declarations(element.attrib.pop("style", ""))
        for name in _PAINT:
            if name in element.attrib:
                declarations[name] = element.attrib.pop(name)
        declarations.pop("font-family", None)  # one for the whole picture
        text = ";".join(f"{k}:{self._without_literals(v)}" for k, v in declarations.items())
        if text:
            name = self.classes.setdefault(text, f"s{len(self.classes)}")
            element.set("class", " ".join(filter(None, (element.get("class"), name))))

    def _without_literals(self, value: str) -> str:
        def variable(match: re.Match[str]) -> str:
            colour = _long_form(match[0])
            return f"var({self.colours.setdefault(colour, f'--c{len(self.colours)}')})"

        return _COLOUR.sub(variable, value)

    def text(self) -> str:
        """Write the sheet; what has no colour of its own is black in the light."""
        ink = self._without_literals("#000000")
        light = "".join(f"{name}:{colour};" for colour, name in self.colours.items())
        dark = "".join(f"{name}:{in_the_dark(c)};" for c, name in self.colours.items())
        rules = "".join(f".{name}{{{text}}}" for text, name in self.classes.items())
        return (
            f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
            + "".join(self.inherited)
            + f"svg{{fill:{ink}}}text{{font-family:{FONTS}}}"
            + rules
        )


def _declarations(style: str) -> dict[str, str]:
    pairs = (part.partition(":") for part in style.split(";") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _long_form(colour: str) -> str:
    digits = colour[1:].lower()
    return "#" + (digits if len(digits) == 6 else "".join(2 * digit for digit in digits))


@functools.cache
def in_the_dark(colour: str) -> str:
    """Find the colour of the same hue that stands out from the dark as this one does from white."""
    if colour == "#ffffff":
        return DARK_BACKGROUND
    hue, lightness, saturation = colorsys.rgb_to_hls(*_channels(colour))
    wanted = min(contrast(colour, "#ffffff"), _GLARE)
    low, high = 0.0, 1.0
    for _ in range(24):
        lightness = (low + high) / 2
        found = _hex(colorsys.hls_to_rgb(hue, lightness, saturation))
        brighter = _luminance(found) > _luminance(DARK_BACKGROUND)
        if brighter and contrast(found, DARK_BACKGROUND) >= wanted:
            high = lightness
        else:
            low = lightness
    return _hex(colorsys.hls_to_rgb(hue, high, saturation))


def contrast(one: str, other: str) -> float:
    """Compute the contrast ratio of two colours, 1 to 21 (WCAG 2, relative luminance)."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _hex(channels: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in channels)


def _rename_ids(root: Element) -> None:
    """Keep the ids that are referred to, under names that follow from their order."""
    elements = list(root.iter())
    used = {match for e in elements for v in e.attrib.values() for match in _REFERENCE.findall(v)}
    used.update(e.get(_XLINK, "")[1:] for e in elements)
    names: dict[str, str] = {}
    for element in elements:
        old = element.attrib.pop("id", "")
        if old in used - {""}:
            element.set("id", names.setdefault(old, f"i{len(names)}"))
    for element in elements:
        link = element.attrib.pop(_XLINK, "")
        if link:
            element.set("href", "#" + names[link[1:]] if link[1:] in names else link)
        for name, value in element.attrib.items():
            element.set(name, _REFERENCE.sub(lambda match: names[match[0]], value))


def _set_size(root: Element) -> None:
    for name in ("width", "height"):
        value = root.attrib.pop(name)  # set again, they stand side by side, as `size` reads them
        scale = _PT_TO_PX if value.endswith("pt") else 1
        root.set(name, str(round(float(value.rstrip("ptx")) * scale)))


def _add_style(root: Element, text: str) -> None:
    style = Element(f"{{{_SVG}}}style")
    style.text = text
    root.insert(0, style)


ElementTree.register_namespace("", _SVG)
