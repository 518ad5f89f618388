"""Pictures of the site as a whole: drawn by a program of the project, kept as long as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handwave_site import pictures, settings

PROGRAM = """\
open("icon.svg", "w").write('PICTURE')
open("preview.png", "wb").write(b"png")
"""


@pytest.fixture
def draw(site: Any, runner: Any, picture: str) -> Any:
    site.options["pictures"] = "docs/art/pictures.py"
    site.configure()
    (site.docs / "art").mkdir()

    def run(program: str) -> dict[str, Path]:
        path = site.docs / "art/pictures.py"
        path.write_text(program.replace("PICTURE", picture), encoding="utf-8")
        return pictures.draw(settings.load(site.config), runner)

    return run


def test_pictures_stand_in_the_programs_folder_of_the_site(draw: Any) -> None:
    found = draw(PROGRAM)
    assert list(found) == ["art/icon.svg", "art/preview.png"]
    assert "prefers-color-scheme" in found["art/icon.svg"].read_text(encoding="utf-8")
    assert found["art/preview.png"].read_bytes() == b"png"


def test_a_program_runs_once_until_it_changes(draw: Any, runner: Any, monkeypatch: Any) -> None:
    first, ran = draw(PROGRAM), []
    whole = runner.run
    monkeypatch.setattr(runner, "run", lambda *a: (ran.append(a), whole(*a)))
    assert draw(PROGRAM) == first
    assert not ran
    assert draw(PROGRAM + "\n") != first
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("x = 1\n1 / 0\n", r"pictures\.py:2: ZeroDivisionError"),
        ("pass\n", r"pictures\.py: leaves nothing; save pictures"),
        ('open("a.txt", "w")\n', r"pictures\.py: leaves a\.txt; save pictures"),
    ],
)
def test_a_program_that_draws_nothing_is_named(draw: Any, program: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        draw(program)


def test_without_a_program_there_are_no_pictures(site: Any, runner: Any) -> None:
    assert pictures.draw(settings.load(site.config), runner) == {}
