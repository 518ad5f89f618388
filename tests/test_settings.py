"""The options of mkdocs.yml, as the command reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from handwave_site import settings


def config(folder: Path, text: str) -> Path:
    path = folder / "mkdocs.yml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_resolved_against_the_folder_of_mkdocs_yml(tmp_path: Path) -> None:
    site = settings.load(config(tmp_path, "plugins: [{handwave_site: {watch: [src]}}]"))
    assert site.watch == (tmp_path.resolve() / "src",)
    assert site.cache == tmp_path.resolve() / ".cache/handwave_site"


def test_limits_are_seconds_and_gibibytes(tmp_path: Path) -> None:
    text = "plugins: [{handwave_site: {time_limit: 2.5, memory_limit: 0.5}}]"
    limits = settings.load(config(tmp_path, text)).limits
    assert (limits.seconds, limits.memory) == (2.5, 1 << 29)


@pytest.mark.parametrize(
    "text", ["site_name: x", "plugins: [search, handwave_site]", "plugins: {handwave_site: {}}"]
)
def test_without_options_the_defaults_hold(tmp_path: Path, text: str) -> None:
    assert settings.load(config(tmp_path, text)).limits.seconds == 60


def test_other_plugins_python_names_are_not_imported(tmp_path: Path) -> None:
    text = "a: !!python/name:no.such.module\nplugins: [{handwave_site: {time_limit: 7}}]"
    assert settings.load(config(tmp_path, text)).limits.seconds == 7


def test_a_wrong_option_is_named(tmp_path: Path) -> None:
    path = config(tmp_path, "plugins: [{handwave_site: {time_limit: soon}}]")
    with pytest.raises(ValueError, match=r"plugins: handwave_site: time_limit: Expected type"):
        settings.load(path)


def test_an_unknown_option_is_named(tmp_path: Path) -> None:
    path = config(tmp_path, "plugins: [{handwave_site: {timeout: 1}}]")
    with pytest.raises(ValueError, match="timeout: Unrecognised"):
        settings.load(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run from the folder of mkdocs.yml"):
        settings.load(tmp_path / "mkdocs.yml")


def test_a_missing_matplotlibrc_is_named(tmp_path: Path) -> None:
    path = config(tmp_path, "plugins: [{handwave_site: {matplotlibrc: look}}]")
    with pytest.raises(FileNotFoundError, match=r"mend `matplotlibrc` in mkdocs\.yml"):
        settings.load(path)


def test_text_in_figures_stays_text_whatever_the_project_says(tmp_path: Path) -> None:
    (tmp_path / "look").write_text("svg.fonttype: path\n", encoding="utf-8")
    site = settings.load(config(tmp_path, "plugins: [{handwave_site: {matplotlibrc: look}}]"))
    style = Path(dict(site.limits.environment)["MATPLOTLIBRC"]).read_text(encoding="utf-8")
    assert style.splitlines()[-2:] == ["svg.fonttype: none", "svg.hashsalt: figures"]
