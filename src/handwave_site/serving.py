"""What is different while `mkdocs serve` runs: problems are shown on the page, not thrown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.livereload import LiveReloadServer
from watchdog.events import FileSystemEvent, FileSystemEventHandler

from handwave_site.blocks import Problem
from handwave_site.fences import front_matter
from handwave_site.pages import Course, updated_text


def shorten(path: Path) -> Path:
    """Give a path as a person at the prompt would write it."""
    try:
        return Path(os.path.relpath(path))
    except ValueError:  # another drive
        return path


def locate(path: Path, tex: str, message: str) -> str:
    """Name page and line of a formula."""
    text = path.read_text(encoding="utf-8")
    found = re.search(re.escape(tex.partition("\n")[0]) + r"(?!\w)", text)
    line = text[: found.start()].count("\n") + 1 if found else 1
    return str(Problem(shorten(path), line, message))


def with_problems(course: Course, path: Path) -> str | None:
    """Give a page's text with its outputs as they are now and its problems above them.

    Returns:
        None where the page is as it should be.
    """
    page = next((page for page in course.pages if page.path.samefile(path)), None)
    if page is None or not page.problems:
        return None
    lines = updated_text(course, page).split("\n")
    start = front_matter(page.text)
    notice = [f"    - line {problem.line}: {_plain(problem.message)}" for problem in page.problems]
    lines[start:start] = ["", '!!! failure "This page does not say what its blocks say"', ""]
    lines[start + 3 : start + 3] = [*notice, ""]
    return "\n".join(lines)


def _plain(message: str) -> str:
    """Keep Markdown from reading a message as markup: it speaks of markers, links and fences."""
    return re.sub(r"[^A-Za-z0-9\s'\",.;:/()-]", lambda mark: f"&#{ord(mark[0])};", message)


def ignore_figures(server: LiveReloadServer) -> None:
    """Keep the figures that a build writes into docs/ from causing another build."""
    schedule = server.observer.schedule

    def schedule_filtered(handler: FileSystemEventHandler, path: str, **options: Any) -> Any:
        return schedule(_Filtered(handler, Path(path)), path, **options)

    server.observer.schedule = schedule_filtered  # type: ignore[method-assign]
    for path in list(server._watched_paths):  # those that MkDocs watches already
        server.unwatch(path)
        server.watch(path)


class _Filtered(FileSystemEventHandler):
    """Passes on the events that a person causes."""

    def __init__(self, handler: FileSystemEventHandler, root: Path) -> None:
        super().__init__()
        self.handler = handler
        self.root = root

    def on_any_event(self, event: FileSystemEvent) -> None:
        path = Path(os.fsdecode(event.src_path))
        parts = path.relative_to(self.root).parts if path.is_relative_to(self.root) else ()
        if "figures" not in parts and "__pycache__" not in parts:
            self.handler.on_any_event(event)
