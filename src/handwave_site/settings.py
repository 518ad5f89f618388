"""The options of the plugin in mkdocs.yml, which the command reads too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config import base, config_options
from mkdocs.utils.yaml import get_yaml_loader, yaml_load

from handwave_site.cache import stamp, write_atomically
from handwave_site.runner import Limits

NAME = "handwave_site"
_GIB = 1 << 30


class Options(base.Config):
    """What may stand under `handwave_site` in mkdocs.yml."""

    time_limit = config_options.Type((int, float), default=60)
    """Seconds that one block may run."""
    memory_limit = config_options.Type((int, float), default=4)
    """GiB that one block may allocate."""
    watch = config_options.ListOfItems(config_options.Type(str), default=[])
    """Folders of sources; a change in one of them makes every result stale."""
    preload = config_options.ListOfItems(
        config_options.Type(str), default=["torch", "matplotlib.pyplot"]
    )
    """Modules that the warm parent imports once; never a watched one."""
    matplotlibrc = config_options.Optional(config_options.Type(str))
    """The look of the figures."""
    examples = config_options.Optional(config_options.Type(str))
    """The folder of py:percent files that mkdocs-jupyter renders."""
    policy = config_options.Type(bool, default=False)
    """Put a strict content security policy into every page."""
    pictures = config_options.Optional(config_options.Type(str))
    """A program that draws the site's icon and preview; they stand in its folder of the site."""
    cache_dir = config_options.Type(str, default=".cache/handwave_site")


@dataclass(frozen=True)
class Settings:
    """The options with their paths resolved: `root` is the folder of mkdocs.yml."""

    root: Path
    limits: Limits
    watch: tuple[Path, ...]
    files: tuple[Path, ...]
    cache: Path
    examples: Path | None
    pictures: Path | None = None

    def stamp(self) -> str:
        """Digest all that results depend on besides the blocks themselves."""
        return stamp(self.watch, self.files, (self.limits.seconds, self.limits.memory))

    @property
    def watched(self) -> tuple[Path, ...]:
        """Folders outside docs/ in which a change calls for another build."""
        return (*self.watch, *([] if self.examples is None else [self.examples]))


def from_options(options: Options, root: Path) -> Settings:
    """Resolve the options against the folder of mkdocs.yml."""
    for name in ("time_limit", "memory_limit"):
        if not 0 < getattr(options, name) < math.inf:
            raise ValueError(f"{NAME}: {name} must be a number above 0, got {options[name]}")
    cache = root / options.cache_dir
    style = _figure_style(None if options.matplotlibrc is None else root / options.matplotlibrc)
    matplotlibrc = cache / "matplotlib" / "matplotlibrc"
    if not matplotlibrc.exists() or matplotlibrc.read_text(encoding="utf-8") != style:
        write_atomically(matplotlibrc, style.encode())
    environment = {"MPLCONFIGDIR": str(matplotlibrc.parent), "MATPLOTLIBRC": str(matplotlibrc)}
    limits = Limits(
        seconds=float(options.time_limit),
        memory=int(options.memory_limit * _GIB),
        preload=tuple(options.preload),
        environment=tuple(environment.items()),
    )
    watch = tuple(root / folder for folder in options.watch)
    examples = None if options.examples is None else root / options.examples
    pictures = None if options.pictures is None else root / options.pictures
    return Settings(root, limits, watch, (matplotlibrc,), cache, examples, pictures)


def _figure_style(own: Path | None) -> str:
    """Add to the project's matplotlibrc what every figure needs: text as text, the same ids."""
    style = "\nsvg.fonttype: none\nsvg.hashsalt: figures\n"
    if own is None:
        return style
    if not own.is_file():
        raise FileNotFoundError(f"{own}: no such file; mend `matplotlibrc` in mkdocs.yml")
    return own.read_text(encoding="utf-8") + style


def load(config_file: Path) -> Settings:
    """Read the options from mkdocs.yml without loading its other plugins.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an option is unknown or of the wrong type.
    """
    if not config_file.is_file():
        raise FileNotFoundError(
            f"{config_file}: no such file; run from the folder of mkdocs.yml, or name it with"
            " --config-file"
        )
    with config_file.open("rb") as file:
        values = yaml_load(file, _Lenient)
    if not isinstance(values, dict) or not isinstance(values.get("plugins") or [], list | dict):
        raise ValueError(f"{config_file}: not a configuration of MkDocs with a list of plugins")
    options: Any = Options(config_file_path=str(config_file))
    options.load_dict(_own(values.get("plugins") or []))
    errors, warnings = options.validate()
    for key, error in (*errors, *warnings):
        raise ValueError(f"{config_file}: plugins: {NAME}: {key}: {error}")
    return from_options(options, config_file.resolve().parent)


# Reads `!!python/name:…` of other plugins' options without importing what they name.
_safe: Any = yaml.SafeLoader
_Lenient: Any = get_yaml_loader(_safe)
_Lenient.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
_Lenient.add_constructor("!relative", lambda *_: None)


def _own(plugins: list[Any] | dict[str, Any]) -> dict[str, Any]:
    if isinstance(plugins, dict):
        plugins = [{name: options} for name, options in plugins.items()]
    for plugin in plugins:
        if isinstance(plugin, dict) and NAME in plugin:
            own = plugin[NAME] or {}
            if not isinstance(own, dict):
                raise ValueError(f"{NAME} in mkdocs.yml: expected options by name, got {own!r}")
            return own
    return {}
