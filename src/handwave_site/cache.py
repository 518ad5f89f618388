"""Results of blocks by key: what a block printed and drew is kept until it could be different.

A key is made of the block's text and of everything else that a result depends on: every file of
the watched source folders, the versions of Python, torch, numpy and matplotlib, the code that
runs blocks, and the processor. Nothing here imports torch: what decides its CPU capability (the
processor's flags and two variables) goes into the key as it is.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

_PACKAGES = ("torch", "numpy", "matplotlib")
_OURS = ("runner.py", "sandbox.py", "warm.py", "svg.py", "cache.py")
_ENVIRONMENT = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)
_KEEP_DAYS = 30
_DAY_S = 86_400


@dataclass(frozen=True)
class Entry:
    """What is kept of a block: its output, its figures (finished SVG), its time in seconds."""

    stdout: str
    figures: dict[str, str]
    seconds: float
    cpu_seconds: float


def stamp(folders: Iterable[Path], files: Iterable[Path] = (), limits: object = None) -> str:
    """Digest all that results depend on besides the blocks themselves.

    Args:
        folders: source folders; every file below counts, but for compiled ones.
        files: further files, a matplotlibrc for instance.
        limits: what else decides how blocks run, by its `repr`.
    """
    digest = hashlib.sha256()
    for part in (*_machine(), *_versions(), repr(limits)):
        digest.update(part.encode() + b"\0")
    ours = [Path(__file__).with_name(name) for name in _OURS]
    for folder in folders:
        _add_files(digest, _sources(folder), folder)
    for path in (*files, *ours):
        _add_files(digest, [path], path.parent)
    return digest.hexdigest()


def _sources(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; name an existing one under `watch` in mkdocs.yml"
        )
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(p for p in found if "__pycache__" not in p.parts and p.suffix != ".pyc")


def _add_files(digest: hashlib._Hash, paths: Iterable[Path], root: Path) -> None:
    for path in paths:
        content = path.read_bytes()
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)


def _versions() -> Iterable[str]:
    yield platform.python_version()
    for package in _PACKAGES:
        yield f"{package} {_version(package)}"


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _machine() -> Iterable[str]:
    yield from (f"{name}={os.environ.get(name, '')}" for name in _ENVIRONMENT)
    yield platform.machine()
    yield _processor_flags()


@functools.cache
def _processor_flags() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


class Cache:
    """A folder of entries, each written whole or not at all."""

    def __init__(self, folder: Path, stamp: str) -> None:
        """Open a cache; the folder is made when the first entry is kept."""
        self.folder = folder
        self.stamp = stamp

    def _path(self, code: str) -> Path:
        key = hashlib.sha256(f"{self.stamp}\0{code}".encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.json"

    def get(self, code: str) -> Entry | None:
        """Find what a block printed and drew, or None where that is not known."""
        path = self._path(code)
        try:
            entry = Entry(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None  # absent, or damaged: run the block again
        if time.time() - path.stat().st_mtime > _DAY_S:
            path.touch()  # still in use
        return entry

    def put(self, code: str, entry: Entry) -> None:
        """Keep what a block printed and drew."""
        write_atomically(self._path(code), json.dumps(asdict(entry)).encode())

    def forget(self, codes: Iterable[str]) -> None:
        """Drop what was kept of some blocks."""
        for code in codes:
            self._path(code).unlink(missing_ok=True)

    def prune(self) -> None:
        """Forget what nothing has asked for in a month."""
        limit = time.time() - _KEEP_DAYS * _DAY_S
        for path in self.folder.glob("*/*.json"):
            if path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; keep its permissions where it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode if path.exists() else 0o644
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, mode & 0o7777)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
