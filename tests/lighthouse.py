"""Measure the built site with Lighthouse: `make lighthouse`, or this file as a script.

It needs Node's npx and Chromium, and some minutes. It builds the site for the address that it
serves it on, for a page whose canonical address is elsewhere is no page of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from site_server import serve

ROOT = Path(__file__).parents[1]
LIGHTHOUSE = "lighthouse@12.8.2"  # 13 asks for Node 22.19, which is newer than Debian's
BROWSERS = ("chromium", "google-chrome", "chromium-browser")
CHROME_FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
FORMS = {"mobile": [], "desktop": ["--preset=desktop"]}
LOWEST = {"performance": 98, "accessibility": 100, "best-practices": 100, "seo": 100}
LARGEST_SHIFT = 0.01
COLUMNS = [*LOWEST, "layout shift", "kB", "kB without index"]
WIDTHS = [max(len(name), 6) + 2 for name in COLUMNS]
PASSING = 0.9  # where Lighthouse itself draws the line for an audit

Report = dict[str, Any]  # what Lighthouse writes about one run
Reports = dict[tuple[str, str], list[Report]]  # by page and form factor


class CannotMeasureError(Exception):
    """Something is missing or broken that is not the site."""


def main(arguments: list[str]) -> int:
    """Measure, print, and return 1 where a median is out of bounds, 2 where nothing is measured."""
    options, load = parsed(arguments), os.getloadavg()[0]
    try:
        npx, chrome = find("npx"), os.environ.get("CHROME_PATH") or find(*BROWSERS)
        with ExitStack() as stack:
            folder = options.site or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            origin = stack.enter_context(serve(folder))
            if options.site is None:
                build(folder, origin)
            pages = wanted(folder, options.pages)
            command = [npx, "--yes", LIGHTHOUSE, f"--chrome-flags={' '.join(CHROME_FLAGS)}"]
            reports = measure(command, chrome, origin, pages, options.runs)
    except CannotMeasureError as error:
        print(f"lighthouse: {error}", file=sys.stderr)
        return 2
    print("\n".join(table(reports)))
    if load > 1:  # others' work, for ours had not begun
        print(f"\nThis machine had a load of {load:.1f} already: performance may read too low.")
    print("\n".join(complaints(reports)))
    return 1 if any(out_of_bounds(medians(runs)) for runs in reports.values()) else 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lighthouse.py", description=__doc__)
    parser.add_argument("site", type=Path, nargs="?", help="a built site; default: build it")
    parser.add_argument("--runs", type=int, default=3, help="of which the median counts")
    parser.add_argument("--pages", help="such as 01-explosion/,cheat-sheet/; / is Home")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error(f"--runs {options.runs}: there is no median of fewer than one run")
    return options


def find(*names: str) -> str:
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise CannotMeasureError(f"no {names[0]} found; apt-get install npm chromium")
    return path


def build(folder: Path, origin: str) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    environment = os.environ | {"SITE_URL": f"{origin}/"}
    command += ["--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise CannotMeasureError("the site does not build")


def wanted(site: Path, asked: str | None) -> list[str]:
    """Name the pages to measure, as they stand in an address: Home is the empty one."""
    pages = asked.split(",") if asked else ["", "01-explosion/", most_formulas(site)]
    pages += [] if asked else ["examples/why_sqrt_n/", "cheat-sheet/"]
    pages = list(dict.fromkeys(f"{page.strip().strip('/')}/".lstrip("/") for page in pages))
    missing = [page for page in pages if not (site / page / "index.html").is_file()]
    if missing:
        raise CannotMeasureError(f"no page {', '.join(missing)} in {site}")
    return pages


def most_formulas(site: Path) -> str:
    lessons = sorted(site.glob("[0-9][0-9]-*/index.html"))
    if not lessons:
        raise CannotMeasureError(f"no lesson in {site}")
    return max(lessons, key=lambda path: path.read_text().count("<math")).parent.name


def measure(command: list[str], chrome: str, origin: str, pages: list[str], runs: int) -> Reports:
    """Run Lighthouse over each page and form factor, one run at a time: they share a processor."""
    turns = [(page, form) for _ in range(runs) for page in pages for form in FORMS]
    reports: Reports = {(page, form): [] for page in pages for form in FORMS}
    for page, form in tqdm(turns, unit=" runs", leave=False):
        reports[page, form].append(run([*command, *FORMS[form], f"{origin}/{page}"], chrome))
    return reports


def run(command: list[str], chrome: str) -> Report:
    quiet = ["--quiet", "--no-enable-error-reporting", "--output=json", "--output-path=stdout"]
    environment = os.environ | {"CHROME_PATH": chrome, "NPM_CONFIG_UPDATE_NOTIFIER": "false"}
    done = subprocess.run(
        [*command, *quiet], env=environment, capture_output=True, text=True, check=False
    )
    try:
        report = json.loads(done.stdout)
        error = report.get("runtimeError", {}).get("message")
    except ValueError:
        report, error = {}, done.stderr.strip() or "no report"
    if error:
        raise CannotMeasureError(f"{command[-1]}: {error}")
    return report


def score(judged: Report) -> float:
    """Read the score of a category or an audit, from 0 to 1; one that failed to run has none."""
    return judged["score"] or 0


def numbers(report: Report) -> dict[str, float]:
    """Take from one report what the table shows, in its order; 1 kB is 1000 bytes."""
    scores: dict[str, float] = {name: 100 * score(report["categories"][name]) for name in LOWEST}
    requests = report["audits"]["network-requests"]["details"]["items"]
    sizes = {request["url"]: request["transferSize"] / 1000 for request in requests}
    index = sum(size for url, size in sizes.items() if url.endswith("/search/search_index.json"))
    shift = report["audits"]["cumulative-layout-shift"]["numericValue"]
    total = sum(sizes.values())
    return scores | dict(zip(COLUMNS[len(scores) :], (shift, total, total - index), strict=True))


def medians(runs: list[Report]) -> dict[str, float]:
    found = [numbers(report) for report in runs]
    return {name: statistics.median(run[name] for run in found) for name in COLUMNS}


def out_of_bounds(found: dict[str, float]) -> list[str]:
    low = [name for name, bound in LOWEST.items() if round(found[name], 6) < bound]
    return low + ["layout shift"] * (found["layout shift"] > LARGEST_SHIFT)


def table(reports: Reports) -> Iterator[str]:
    """Lay out the medians; a value out of bounds has a ! behind it."""
    runs = max(map(len, reports.values()))
    yield f"Medians; runs: {runs}, out of bounds: !, 1 kB = 1000 bytes\n"
    widest = max(len(title(page)) for page, _ in reports)
    names = "".join(f"{name:>{width}} " for name, width in zip(COLUMNS, WIDTHS, strict=True))
    yield f"{'page':{widest}}  {'form':7}{names}".rstrip()
    for (page, form), measured in reports.items():
        yield f"{title(page):{widest}}  {form:7}{''.join(cells(medians(measured)))}".rstrip()


def cells(found: dict[str, float]) -> Iterator[str]:
    wrong = out_of_bounds(found)
    for name, width in zip(COLUMNS, WIDTHS, strict=True):
        kind = "g" if name in LOWEST else ".3f" if name == "layout shift" else ".1f"
        yield f"{round(found[name], 6):{width}{kind}}{'!' if name in wrong else ' '}"


def title(page: str) -> str:
    return page.rstrip("/") or "Home"


def complaints(reports: Reports) -> Iterator[str]:
    """Name, for each category, every audit that does not pass, where, and how it is at worst."""
    for category in LOWEST:
        found = places(reports, category)
        yield f"\n{category}: {'not passing' if found else 'every audit passes'}"
        for name, there in found.items():
            page, form = worst = min(there, key=lambda place: score(there[place]))
            yield f"  {name}: {there[worst]['title']}"
            yield f"    {'everywhere' if len(there) == len(reports) else listed(there)}"
            if words := reason(there[worst]):
                yield f"    at worst, {title(page)} {form}: {words}"


def places(reports: Reports, category: str) -> dict[str, dict[tuple[str, str], Report]]:
    """Find the audits that do not pass, by id, page and form factor, each in its worst run."""
    found: dict[str, dict[tuple[str, str], Report]] = {}
    for place, runs in reports.items():
        for audit in (audit for report in runs for audit in failing(report, category)):
            known = found.setdefault(audit["id"], {})
            known[place] = min(known.get(place, audit), audit, key=score)
    return found


def listed(there: Iterable[tuple[str, str]]) -> str:
    pages = {form: [title(page) for page, its in there if its == form] for form in FORMS}
    return "; ".join(f"{form}: {', '.join(names)}" for form, names in pages.items() if names)


def failing(report: Report, category: str) -> Iterator[Report]:
    """List the audits that do not pass.

    A score is a weighted mean. So those with a weight must reach the bound of their category: a
    category below its bound then names at least one of them.
    """
    for reference in report["categories"][category]["auditRefs"]:
        audit, weight = report["audits"][reference["id"]], reference["weight"]
        judged = audit["scoreDisplayMode"] not in ("informative", "manual", "notApplicable")
        twice = not weight and reference.get("group") == "hidden"  # another audit says it as well
        needed = LOWEST[category] / 100 if weight else PASSING
        if judged and not twice and score(audit) < needed:
            yield audit


def reason(audit: Report) -> str:
    """Say how much it is, and the first thing on the page that it is about."""
    said = [audit.get("displayValue"), audit.get("explanation"), audit.get("errorMessage")]
    items = audit.get("details", {}).get("items", [])
    first = items[0] if isinstance(items, list) and items else {}
    node = first.get("node") or {}
    said += [urlsplit(first.get("url") or "").path, node.get("selector"), node.get("explanation")]
    words = [re.sub(r"\s+", " ", word) for word in said if isinstance(word, str) and word]
    return "; ".join(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
