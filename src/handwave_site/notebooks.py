"""examples/ into the site: py:percent files, executed and rendered by mkdocs-jupyter."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from mkdocs.exceptions import Abort
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from handwave_site.cache import write_atomically
from handwave_site.settings import Settings

# Figures as SVG in the look and the size of matplotlibrc; no warning of a loopback connection.
_KERNEL = """\
c.InlineBackend.figure_formats = {"svg"}
c.InlineBackend.rc = {}
c.InlineBackend.print_figure_kwargs = {"bbox_inches": None}
c.IPKernelApp.log_level = "ERROR"
"""
_LINK = re.compile(r'href="((?!\w+:)[^"]+\.md(?:#[^"]*)?)"')


@dataclass(frozen=True)
class RestyledPage:
    """An example's page in the site's own markup, and its figures by file name."""

    html: str
    figures: dict[str, str]


def prepare(options: Any, settings: Settings, key: str) -> None:
    """Tell mkdocs-jupyter where to keep its results and how its kernel draws.

    Args:
        options: the options of mkdocs-jupyter, changed in place.
        settings: ours.
        key: what the results depend on besides the example; its cache does not see the library.
    """
    options["cache_dir"] = str(settings.cache / "jupyter" / key[:16])
    profile = settings.cache / "ipython" / "profile_default" / "ipython_kernel_config.py"
    if not profile.exists() or profile.read_text(encoding="utf-8") != _KERNEL:
        write_atomically(profile, _KERNEL.encode())
    os.environ["IPYTHONDIR"] = str(profile.parents[1])
    os.environ.update(settings.limits.environment)


def folder(settings: Settings) -> Path:
    """Name the folder of the notebooks, laid out as in the site."""
    return settings.cache / "notebooks"


def bring_in(settings: Settings) -> list[str]:
    """Turn each py:percent file of the examples into a notebook.

    Cell ids follow from positions, so that two builds give the same page.

    Returns:
        The notebooks' paths below `folder`, in the order of their names; each is written only
        where it changed.
    """
    if settings.examples is None:
        return []
    sources = {f"examples/{path.stem}.ipynb": path for path in settings.examples.glob("*.py")}
    for uri, source in sources.items():
        _write_notebook(source, folder(settings) / uri)
    return sorted(sources)


def _write_notebook(source: Path, target: Path) -> None:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if target.exists() and _metadata(target).get("source") == digest:
        return
    import jupytext  # noqa: PLC0415 - slow, and only after a change
    import nbformat  # noqa: PLC0415

    notebook = jupytext.read(source)
    for position, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{position}"
    notebook.metadata["handwave_site"] = {"source": digest}
    notebook.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    write_atomically(target, (nbformat.writes(notebook) + "\n").encode())


def _metadata(notebook: Path) -> dict[str, str]:
    return json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("handwave_site", {})


def finish(html: str, file: File, files: Files, settings: Settings) -> str:
    """Take a rendered example into the site; see `restyle`.

    Raises:
        Abort: a figure has no alt text, or a link leads nowhere.
    """
    notebook = Path(str(file.abs_src_path))
    key = hashlib.sha256(html.encode() + notebook.read_bytes()).hexdigest()
    kept = settings.cache / "examples" / f"{key}.json"
    if kept.exists():
        page = RestyledPage(**json.loads(kept.read_text(encoding="utf-8")))
    else:
        page = _restyle(html, notebook)
        write_atomically(kept, json.dumps(asdict(page)).encode())
    folder = Path(str(file.abs_dest_path)).parent
    for name, picture in page.figures.items():
        write_atomically(folder / name, picture.encode())
    return _LINK.sub(lambda link: _resolve(link[1], file, files), page.html)


def edit_url(page: Page, settings: Settings, docs: Path) -> str | None:
    """Say where an example's source can be edited: its .py file, not the notebook made of it."""
    if not page.edit_url or settings.examples is None:
        return None
    base = page.edit_url.removesuffix(page.file.src_uri)  # where the files of docs/ are
    folder = Path(os.path.relpath(settings.examples, docs)).as_posix()
    return urljoin(base, f"{folder}/{Path(page.file.src_uri).stem}.py")


def _restyle(html: str, notebook: Path) -> RestyledPage:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    alts = {cell["id"]: cell["metadata"].get("alt", "") for cell in cells}
    from handwave_site.jupyter_pages import restyle  # noqa: PLC0415 - lxml, only when it changed

    try:
        page, figures = restyle(html, alts)
    except ValueError as error:
        raise Abort(f"examples/{notebook.stem}.py: {error}") from None
    # Without folders for pages, the examples' figures lie side by side.
    for name in figures:
        page = page.replace(f'"{name}"', f'"{notebook.stem}-{name}"')
    return RestyledPage(page, {f"{notebook.stem}-{name}": figures[name] for name in figures})


def _resolve(link: str, file: File, files: Files) -> str:
    """Turn a link to a page's source into one to the page."""
    uri, _, anchor = link.partition("#")
    target = files.get_file_from_path(posixpath.normpath(posixpath.join("examples", uri)))
    if target is None:
        raise Abort(f"{file.src_uri}: no page {uri!r} to link to")
    return f'href="{target.url_relative_to(file)}{"#" * bool(anchor)}{anchor}"'
