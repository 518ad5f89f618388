"""Pictures of the site as a whole, its icon and its preview: drawn by a program, as figures are."""

from __future__ import annotations

import hashlib
from pathlib import Path

from handwave_site import svg
from handwave_site.cache import write_atomically
from handwave_site.runner import Ran, Runner
from handwave_site.settings import Settings

_KINDS = (".svg", ".png")


def draw(settings: Settings, runner: Runner) -> dict[str, Path]:
    """Run the program named by the option `pictures`, unless its pictures are still fresh.

    It runs as a block does: alone, under limits, in an empty folder. An SVG is made to suit both
    colour schemes.

    Returns:
        The pictures' files by their names in the site: those of the program's folder.

    Raises:
        ValueError: the program fails, or leaves something else than pictures.
        FileNotFoundError: there is no such program.
    """
    program = settings.pictures
    if program is None:
        return {}
    code = program.read_text(encoding="utf-8")
    key = hashlib.sha256(f"{settings.stamp()}\0{code}".encode()).hexdigest()
    folder = settings.cache / "pictures" / key
    if not folder.exists():
        _run(program, code, runner, folder)
    home = program.parent.name
    return {f"{home}/{path.name}": path for path in sorted(folder.iterdir())}


def _run(program: Path, code: str, runner: Runner, folder: Path) -> None:
    ended: list[Ran] = []
    runner.run([(0, code)], lambda _, ran: ended.append(ran))
    (ran,) = ended
    if ran.result.failure:
        raise ValueError(f"{program}:{ran.result.line}: {ran.result.failure}")
    odd = [name for name in ran.files if not name.endswith(_KINDS) or "/" in name]
    if odd or not ran.files:
        left = ", ".join(odd) or "nothing"
        raise ValueError(f"{program}: leaves {left}; save pictures that end in .svg or .png")
    for name, content in sorted(ran.files.items()):
        picture = svg.two_schemes(content).encode() if name.endswith(".svg") else content
        write_atomically(folder / name, picture)
