"""What is kept of a block, and when it is stale."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from handwave_site import cache as caching
from handwave_site.cache import Cache, Entry, stamp, write_atomically

ENTRY = Entry("1\n", {"a.svg": "<svg/>"}, 0.1, 0.2)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1", encoding="utf-8")
    return folder


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "stamp")
    cache.put("print(1)", ENTRY)
    assert Cache(tmp_path, "stamp").get("print(1)") == ENTRY


def test_another_text_or_another_stamp_is_another_result(tmp_path: Path) -> None:
    Cache(tmp_path, "stamp").put("print(1)", ENTRY)
    assert Cache(tmp_path, "stamp").get("print(1) ") is None
    assert Cache(tmp_path, "other").get("print(1)") is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"stdout": 1}', b"\xff\xfe"])
def test_a_damaged_entry_counts_as_absent(tmp_path: Path, damage: bytes) -> None:
    cache = Cache(tmp_path, "stamp")
    cache.put("print(1)", ENTRY)
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(damage)
    assert cache.get("print(1)") is None


def test_a_change_of_a_watched_file_changes_the_stamp_and_back(source: Path) -> None:
    before = stamp([source])
    (source / "a.py").write_text("x = 2", encoding="utf-8")
    assert stamp([source]) != before
    (source / "a.py").write_text("x = 1", encoding="utf-8")
    assert stamp([source]) == before


def test_a_new_name_and_a_new_file_change_the_stamp(source: Path) -> None:
    before = stamp([source])
    (source / "a.py").rename(source / "b.py")
    renamed = stamp([source])
    (source / "data.txt").touch()
    assert len({before, renamed, stamp([source])}) == 3


def test_compiled_files_do_not_count(source: Path) -> None:
    before = stamp([source])
    (source / "__pycache__").mkdir()
    (source / "__pycache__/a.pyc").write_bytes(b"x")
    assert stamp([source]) == before


def test_the_stamp_is_the_same_wherever_the_folder_stands(source: Path, tmp_path: Path) -> None:
    before = stamp([source])
    assert stamp([source.rename(tmp_path / "elsewhere")]) == before


@pytest.mark.parametrize("name", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS"])
def test_the_processors_settings_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name, raising=False)
    before = stamp([])
    monkeypatch.setenv(name, "2")
    assert stamp([]) != before


def test_the_versions_and_the_limits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stamp([], limits=(60, 4))
    assert stamp([], limits=(30, 4)) != before
    monkeypatch.setattr(caching, "_version", lambda package: "another")
    assert stamp([], limits=(60, 4)) != before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="name an existing one under `watch`"):
        stamp([tmp_path / "nowhere"])


def test_only_what_nobody_asked_for_in_a_month_is_forgotten(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "stamp")
    for code, days in (("old", 31), ("used", 29)):
        cache.put(code, ENTRY)
        then = time.time() - days * 86_400
        os.utime(cache._path(code), (then, then))
    cache.prune()
    assert cache.get("old") is None
    assert cache.get("used") == ENTRY
    assert time.time() - cache._path("used").stat().st_mtime < 60  # used again just now


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.md"
    path.write_text("before", encoding="utf-8")

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"after")
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.touch(mode=0o640)
    write_atomically(path, b"x")
    assert path.stat().st_mode & 0o777 == 0o640
