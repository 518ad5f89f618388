"""`python -m handwave_site run docs`, and `… update docs`."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from mkdocs.exceptions import MkDocsException

from handwave_site import settings
from handwave_site.pages import Course, bring_up_to_date, update, write_pages
from handwave_site.runner import Runner


def main(arguments: list[str] | None = None) -> int:
    """Run or update pages; return the exit status: 0 all is true, 1 something is not, 2 misuse."""
    options = _parser().parse_args(arguments)
    try:
        site = settings.load(options.config_file)
        with Runner(site.limits) as runner:
            return _go(options, site, runner)
    except (OSError, ValueError, RuntimeError, MkDocsException) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what ran is kept, nothing is left running", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m handwave_site", description=__doc__)
    parser.add_argument("--config-file", type=Path, default=Path("mkdocs.yml"))
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "check pages: grammar, outputs, figures, quoted numbers"),
        ("update", "the same, and rewrite the output fences"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("paths", nargs="+", type=Path, metavar="PATH")
        command.add_argument("--no-cache", action="store_true", help="run every block")
    return parser


def _go(options: argparse.Namespace, site: settings.Settings, runner: Runner) -> int:
    course = bring_up_to_date(options.paths, site, runner, use_cache=not options.no_cache)
    if options.command == "update" and _write(course):
        course = bring_up_to_date(options.paths, site, runner)
    for problem in course.problems:
        print(problem, file=sys.stderr)
    if course.problems and options.command == "update":
        _name_refused(course)
    return 1 if course.problems else 0


def _write(course: Course) -> bool:
    """Write the new output fences, showing what changes."""
    texts = update(course)
    for page in course.pages:
        if page.path in texts:
            old, new = page.text.splitlines(), texts[page.path].splitlines()
            name = str(page.path)
            print("\n".join(difflib.unified_diff(old, new, name, name, n=1, lineterm="")))
    write_pages(course, texts)
    return bool(texts)


def _name_refused(course: Course) -> None:
    for page in course.pages:
        if not all(course.entry(block) for block in page.blocks):
            print(f"{page.path}: left as it is, until the above is mended", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
