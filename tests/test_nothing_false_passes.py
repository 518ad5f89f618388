"""Nothing false passes: each lie on a page, alone and all together, through both commands."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

GOOD = """\
# A good page

```python
print("good 9.75")
open("good.svg", "w").write('PICTURE')
```

MARKER
```text
good 9.75
```

![A square.](figures/good/good.svg)
"""

PAGE = """\
# A page with a lie

```python
print("other 12.5")
open("other.svg", "w").write('PICTURE')
```

MARKER
```text
other 12.5
```

![A square.](figures/STEM/other.svg)

## Below

```python
import os  # the block in question
print("mean 783.3")
open("subject.svg", "w").write('PICTURE')
```

MARKER
```text
mean 783.3
```

![A square, again.](figures/STEM/subject.svg)

It is *783.3*{.measured}, as the block says.
"""

BLOCK = PAGE[PAGE.index("```python\nimport os") : PAGE.index("\n\nMARKER\n```text\nmean")]
PRINTS = 'print("mean 783.3")'
SAVES = """open("subject.svg", "w").write('PICTURE')\n"""
OUTPUT = "MARKER\n```text\nmean 783.3\n```\n\n"
LINK = "![A square, again.](figures/STEM/subject.svg)\n\n"
SLEEP = "98765.4321"  # seconds, and the mark by which a process of these tests is known


@dataclasses.dataclass(frozen=True)
class Lie:
    """A change to the page after which it must not pass.

    `at` begins in the line that the problem must name. `runs` counts the page's blocks that must
    run after the lie is taken back: those of which no result was kept.
    """

    name: str
    old: str
    new: str
    at: str
    says: str
    runs: int

    def page(self, stem: str) -> str:
        text = PAGE.replace(self.old, self.new)
        assert text != PAGE
        return fill(text, stem)

    def line(self, stem: str) -> int:
        text = self.page(stem)
        place = text.index(fill(self.at, stem), text.index("## Below"))
        return text.count("\n", 0, place) + 1


def fill(text: str, stem: str) -> str:
    marker = "<!--pytest-codeblocks:expected-output-->"
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"/>'
    return text.replace("STEM", stem).replace("MARKER", marker).replace("PICTURE", picture)


def told(name: str, old: str, new: str, at: str, says: str) -> Lie:
    """The page tells something that its blocks do not do: all of them run, and are kept."""
    return Lie(name, old, new, at, says, runs=0)


def malformed(name: str, old: str, new: str, at: str, says: str) -> Lie:
    """The grammar refuses the page: none of its blocks runs."""
    return Lie(name, old, new, at, says, runs=2)


def does(name: str, code: str, at: str, says: str) -> Lie:
    """The block does something that it must not do, instead of printing."""
    return Lie(name, PRINTS, code, at, says, runs=1)


def fence(info: str, name: str | None = None) -> Lie:
    """The block's fence is opened in another way."""
    name = name or f"fence {info}"
    return malformed(name, BLOCK, BLOCK.replace("```python", info), info, "is never run")


def marked(marker: str) -> Lie:
    """The marker of the output is spelled in another way."""
    new = OUTPUT.replace("MARKER", marker)
    return malformed(f"marker {marker}", OUTPUT, new, marker, "the only one is")


def measured(markup: str) -> Lie:
    """The mark of a quoted number is spelled in another way."""
    return malformed(f"mark {markup}", "*783.3*{.measured}", markup, markup, "{.measured}")


TOLD = [
    told("a digit", "\nmean 783.3", "\nmean 783.4", "mean 783.4", "prints 'mean 783.3'"),
    told("a space", "\nmean 783.3", "\nmean  783.3", "mean  783.3", "prints 'mean 783.3'"),
    told("a line more", "mean 783.3\n`", "mean 783.3\nmax 9\n`", "max 9", "the page says 'max 9'"),
    told("no output fence", OUTPUT, "", "```python", "no output fence follows"),
    told("empty output", "\nmean 783.3\n", "\n", "```\n\n!", "prints 'mean 783.3'"),
    told("another number", "*783.3*", "*783.4*", "*783.4*", "no output of this page holds 783.4"),
    told("a digit more", "*783.3*", "*783.30*", "*783.30*", "no output of this page holds 783.30"),
    told("no number", "*783.3*", "*many*", "*many*", "is not one number"),
    told("another link", "subject.svg)", "subjekt.svg)", "subjekt.svg)", "no block saves"),
    told("no link", LINK, "", "```python", "saves subject.svg, but the page does not show it"),
]
BLOCKS = [
    Lie("another name", 'open("sub', 'open("bus', "subject.svg)", "no block saves subject", 1),
    Lie("no picture", SAVES, "", "subject.svg)", "no block saves subject.svg", 1),
    Lie("no print", PRINTS, "", "```text", "the block prints nothing", 1),
]
MALFORMED = [
    *(fence(info) for info in ("```py", "```Python", "``` python", "```python3", "```pycon")),
    *(fence(info) for info in ('```python title="A"', "```python hl_lines=1", "```{.python}")),
    *(fence(info) for info in ("``` { .python }", "``` {#id .python}", "```pyhton", "```python:")),
    malformed(
        "tildes", BLOCK, BLOCK.replace("```", "~~~"), "~~~python", "a ~~~ fence is never run"
    ),
    malformed(
        "a block quote", BLOCK, BLOCK.replace("\n", "\n> ").replace("```p", "> ```p", 1),
        "> ```python", "block quote",
    ),
    malformed(
        "a list's first line", BLOCK, "- " + BLOCK.replace("\n", "\n  "), "- ```python",
        "a line of its own",
    ),
    malformed(
        "a shell fence", LINK, LINK + "```bash\nfalse\n```\n\n", "```bash", "```console instead"
    ),
    malformed("a titled output", "```text\nmean", "```text title='A'\nmean", "title=", "```text"),
    malformed("an unmarked output", "MARKER\n```text\nmean", "```text\nmean", "```text", "marker"),
    malformed("a lone marker", OUTPUT, "MARKER\n\n", "expected-output", "only blank lines"),
    malformed("words between", OUTPUT, "Words.\n\n" + OUTPUT, "expected-output", "directly follow"),
    malformed("an open fence", LINK, LINK + "```text\n\n", "```text\n\n", "never closed"),
    malformed("no alt text", "![A square, again.]", "![]", "![](", "no alt text"),
    malformed("blank alt text", "![A square, again.]", "![ ]", "![ ](", "no alt text"),
    malformed("a link elsewhere", "STEM/subject", "elsewhere/subject", "elsewhere/", "expected"),
    malformed("a link in words", "![A square, ag", "See ![A square, ag", "See !", "stands alone"),
    *(
        marked(f"<!--{text}-->")
        for text in (
            "pytest-codeblocks:expected-ouput",
            "pytest-codeblocks: expected-output",
            "pytest-codeblocks:expected_output",
            "pytest-codeblock:expected-output",
            "pytest-codeblocks-expected-output",
            "pytest-codeblocks:expected-output-ignore-whitespace",
            "pytest.codeblocks:expected-output",
            " pytest-codeblocks:expected-output ",
            "Pytest-Codeblocks:Expected-Output",
            "expected-output",
            "pytest-codeblocks:cont",
            "pytest-codeblocks:skip",
            "pytest-codeblocks:importorskip(torhc)",
            "pytest.mark.xfail",
            "cont",
        )
    ),
    marked("<!-pytest-codeblocks:expected-output-->"),
    marked("<--pytest-codeblocks:expected-output-->"),
    malformed("skipfile", "## Below", "## Below\n\n<!--pytest-codeblocks:skipfile-->", "skipfile",
              "the only one is"),
    *(
        measured(markup)
        for markup in (
            "*783.4*{.mesured}",
            "*783.4*{.measurd}",
            "*783.4*{.Measured}",
            "*783.4*{measured}",
            "*783.4*{ .measured }",
            "*783.4*{:.measured}",
            "*783.4* {.measured}",
            "**783.4**{.measured}",
            "_783.4_{.measured}",
            "*783.4*{.measured .big}",
            "*783.4*{#id .measured}",
            "*783.4*{.measured",
            "*783.4*(.measured)",
        )
    ),
    malformed("a number beside a comment", "It is *783.3*", "<!-- so --> It is *783.4*", "It is",
              "comment"),
    malformed("a number below an open comment", "It is *783.3*", "<!-- so\n\nIt is *783.4*",
              "<!-- so", "comment"),
]  # fmt: skip

LEAVES = "left a process running"
DOES = [
    does("raise", 'raise ValueError("no")', "raise", "ValueError: no"),
    does("raise in a function", "def f():\n    1 / 0\nf()", "1 / 0", "ZeroDivisionError"),
    does("raise in a library", 'import json\njson.loads("{")', "json.loads", "JSONDecodeError"),
    does("syntax error", "print(", "print(", "SyntaxError"),
    does("warning", 'import warnings\nwarnings.warn("old")', "warnings.warn", "old"),
    does("stderr", 'import sys\nprint("no", file=sys.stderr)', "```python", "stderr"),
    does("sys.exit", "import sys\nsys.exit()", "sys.exit()", "sys.exit()"),
    does("sys.exit(0)", "import sys\nsys.exit(0)", "sys.exit(0)", "sys.exit(0)"),
    does("exit", "raise SystemExit", "raise SystemExit", "sys.exit()"),
    does("interrupt", "raise KeyboardInterrupt", "raise", "KeyboardInterrupt"),
    does("_exit", "os._exit(0)", "```python", "ended its process with status 0"),
    Lie("_exit at the end", SAVES, SAVES + "os._exit(0)\n", "```python", "with status 0", 1),
    does("_exit at exit", "import atexit\natexit.register(os._exit, 0)", "```python", "status 0"),
    does(
        "_exit in a thread",
        "import threading\nthreading.Timer(0.2, os._exit, [0]).start()",
        "```python",
        "status 0",
    ),
    does("no handlers", "import atexit\natexit._clear()", "```python", "status 0"),
    does("parent exits", "if os.fork() > 0:\n    os._exit(0)", "```python", "status 0"),
    does("SIGKILL", "os.kill(os.getpid(), 9)", "```python", "SIGKILL"),
    does("SIGTERM", "os.kill(os.getpid(), 15)", "```python", "SIGTERM"),
    does("SIGSEGV", "os.kill(os.getpid(), 11)", "os.kill", "SIGSEGV"),
    does("a crash", "import ctypes\nctypes.string_at(0)", "string_at", "SIGSEGV"),
    does("a loop", "while True: pass", "while True", "longer than 2 s"),
    does("bytearray", "bytearray(3 << 30)", "bytearray", "MemoryError"),
    does("mmap", "import mmap\nmmap.mmap(-1, 3 << 30)", "mmap.mmap", "memory limit"),
    does("tensor", "import torch\ntorch.ones(3 << 28)", "torch.ones", "memory limit"),
    does("a child", f'import subprocess\nsubprocess.Popen(["sleep", "{SLEEP}"])', "```p", LEAVES),
    does(
        "a session",
        f'import subprocess\nsubprocess.Popen(["sleep", "{SLEEP}"], start_new_session=True)',
        "```python",
        LEAVES,
    ),
    does(
        "a daemon",
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f'        os.execvp("sleep", ["sleep", "{SLEEP}"])\n    os._exit(0)',
        "```python",
        LEAVES,
    ),
    does("a fork", f"import time\nif os.fork() == 0:\n    time.sleep({SLEEP})", "```py", LEAVES),
    does(
        "a child, then death",
        f'import subprocess\nsubprocess.Popen(["sleep", "{SLEEP}"])\nos._exit(0)',
        "```python",
        "status 0",
    ),
    does("a file", 'open("notes.txt", "w").close()', "```python", "leaves files behind: notes"),
    does("a hidden file", 'open(".notes", "w").close()', "```python", "leaves files behind: .not"),
    does("a figure below", 'os.mkdir("a")\nopen("a/a.svg", "w").close()', "```py", "a/a.svg"),
    does("a link", 'os.symlink("/etc/hosts", "hosts")', "```python", "leaves files behind: hosts"),
    does("no svg", 'open("fake.svg", "w").write("hello")', "```python", "not an SVG picture"),
]
LIES = [*TOLD, *BLOCKS, *MALFORMED, *DOES]
assert len({lie.name for lie in LIES}) == len(LIES)


@pytest.fixture(scope="module")
def warm_runners(make_site: Any) -> Iterator[Any]:
    """Warm parents for all that is tried alone; their blocks may run for two seconds.

    Only one has imported torch: a process that has takes longer to fork.
    """
    from handwave_site.runner import Limits, Runner

    environment = (("MPLCONFIGDIR", f"{make_site().root}/mpl"),)
    with contextlib.ExitStack() as stack:

        @functools.cache
        def get(preload: tuple[str, ...]) -> Runner:
            limits = Limits(2.0, 1 << 30, preload=preload, environment=environment)
            runner = stack.enter_context(Runner(limits))
            runner.run([(1, "")], lambda *_: None)  # imports before any clock runs
            return runner

        yield get


@pytest.fixture
def warm_site(
    site: Any, warm_runners: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A site whose commands use a warm parent instead of starting one each."""
    lie = getattr(request.node, "callspec", None)
    preload = ("torch",) if lie and "torch" in lie.params["lie"].new else ()
    site.runner = warm_runners(preload)
    monkeypatch.setattr(site.runner, "close", lambda: None)
    for user in ("handwave_site.__main__.Runner", "handwave_site.plugin.Runner"):
        monkeypatch.setattr(user, lambda _: site.runner)
    site.page(fill(GOOD, "good"), "good.md")
    return site


def figures(site: Any) -> set[str]:
    return {path.relative_to(site.docs).as_posix() for path in site.docs.rglob("*.svg")}


def left_running(runner: Any) -> list[str]:
    """Name what is left of blocks: whatever has the warm parent's environment, but itself."""
    mine, found = dict(runner.limits.environment)["MPLCONFIGDIR"], []
    for process in psutil.process_iter():
        try:
            dead = process.status() == psutil.STATUS_ZOMBIE
            if not dead and process.environ().get("MPLCONFIGDIR") == mine:
                found.append(process)
        except psutil.Error:
            continue
    return [process.name() for process in found if process.ppid() != os.getpid()]


def test_the_page_without_a_lie_passes(warm_site: Any) -> None:
    warm_site.page(fill(PAGE, "index"))
    assert warm_site.run()[0] == 0
    assert warm_site.build()[0] == 0
    assert set(warm_site.kept()) == {"good 9.75\n", "other 12.5\n", "mean 783.3\n"}
    assert warm_site.run() == (0, "")


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_a_lie_alone_fails_both_commands_and_names_its_line(
    lie: Lie,
    warm_site: Any,
    problems_in: Any,
    private_temporary_folder: Path,
) -> None:
    warm_site.page(lie.page("index"))

    status, said = warm_site.run()
    assert status == 1
    problems = problems_in(said)
    assert [m for p, n, m in problems if (p, n) == ("docs/index.md", lie.line("index"))], said
    assert any(lie.says in message for _, _, message in problems), said
    below = lie.page("index").split("\n").index("## Below")
    assert all(page == "docs/index.md" and line > below for page, line, _ in problems), said

    status, built = warm_site.build()
    assert status == 1
    assert problems_in(built) == problems

    # The results of the other blocks stand.
    assert warm_site.kept()["good 9.75\n"]["figures"].keys() == {"good.svg"}
    assert "figures/good/good.svg" in figures(warm_site)
    if lie.runs < 2:
        assert "other 12.5\n" in warm_site.kept()
        assert "figures/index/other.svg" in figures(warm_site)

    # Nothing is left: no process, no temporary file, nothing half written.
    assert left_running(warm_site.runner) == []
    assert list(private_temporary_folder.iterdir()) == []
    assert warm_site.unfinished() == []

    # Once the lie is taken back, only what has no result yet runs.
    warm_site.page(fill(PAGE, "index"))
    status, said = warm_site.run()
    assert (status, problems_in(said)) == (0, [])
    ran = re.search(r"(\d+) blocks run", said)
    assert (int(ran[1]) if ran else 0) == lie.runs
    names = ("good/good", "index/other", "index/subject")
    assert figures(warm_site) == {f"figures/{name}.svg" for name in names}


@pytest.fixture(scope="module")
def full_of_lies(make_site: Any) -> Any:
    site = make_site(time_limit=2, preload=["torch"])
    site.page(fill(GOOD, "good"), "good.md")
    site.page("# Home\n")
    for number, lie in enumerate(LIES):
        site.page(lie.page(f"lie-{number:03}"), f"lie-{number:03}.md")
    return site


@pytest.mark.parametrize("command", ["handwave_site run docs", "mkdocs build --strict"])
def test_each_of_many_lies_is_named_with_its_line(
    command: str, full_of_lies: Any, problems_in: Any, tmp_path: Path
) -> None:
    process = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=full_of_lies.root,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert process.returncode == 1, process.stderr
    problems = problems_in(process.stdout + process.stderr)
    named = {(page, line) for page, line, _ in problems}
    expected = {
        (f"docs/lie-{i:03}.md", lie.line(f"lie-{i:03}")): lie.name for i, lie in enumerate(LIES)
    }
    assert {name for place, name in expected.items() if place not in named} == set()
    assert not any(page in ("docs/good.md", "docs/index.md") for page, _ in named)
    assert "good 9.75\n" in full_of_lies.kept()
    assert full_of_lies.settle() == []
    assert full_of_lies.unfinished() == []
    assert list(tmp_path.iterdir()) == []
