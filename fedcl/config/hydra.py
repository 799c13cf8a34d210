"""Hydra's part: from conf/ and command-line overrides to plain values, with short errors."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from fedcl.contracts import where
from fedcl.errors import ConfigError
from fedcl.registry import KINDS, Kind
from fedcl.settings import closest

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""The configuration: in an installed package within it, in a checkout beside it."""

# In these two any name may be set, without the "+" that Hydra asks for elsewhere.
_open = OmegaConf.create({"models": {}, "sites": {}, "timeline": {"sites": {}}})
for _group in (_open.models, _open.sites, _open.timeline.sites):
    _group._set_flag("struct", False)
ConfigStore.instance().store(name="open_groups", node=_open)
OPEN = re.compile(
    r"scenario\.(assigned|cohorts|parts|shift\.scanners|site_files|site_labels|unmarked)\.[^=]+="
)
"""Settings by site or part, which not every scenario has: as above."""


def with_plugins(arguments: Sequence[str]) -> list[str]:
    """Return a command line with what Hydra must know of plug-ins from elsewhere.

    Folders `conf` beside those of plug-ins on the Python path are searched. A plug-in that has no
    YAML there has the defaults of its settings. What is set by site may be new.

    Args:
        arguments: the command line; one with a `hydra.searchpath` says itself where to search.

    Raises:
        ConfigError: a plug-in cannot be used.
    """
    arguments = [f"++{one}" if OPEN.match(one) else one for one in arguments]
    places = [place for place, one in enumerate(arguments) if re.match(r"[\w.+~]+[^=]*=", one)]
    given = [arguments[place] for place in places]
    asked = [one for one in given if one.startswith("hydra.searchpath=")]
    folders = [_path(text) for text in _listed(asked[-1])] if asked else _folders()
    for override in given:
        key, _, names = override.partition("=")
        for kind in KINDS:
            for name in names.split(",") if key.lstrip("+") == kind.key else ():
                _store(kind, name.strip("'\""), folders)
    if asked or not folders:
        return list(arguments)
    quoted = (str(folder).replace("\\", "\\\\").replace("'", "\\'") for folder in folders)
    listed = ",".join(f"'{one}'" for one in quoted)
    search = f"hydra.searchpath=[{listed}]"
    first = places[0] if places else len(arguments)  # Hydra takes no second group of overrides
    return [*arguments[:first], search, *arguments[first:]]


def _store(kind: Kind, name: str, folders: Sequence[Path]) -> None:
    """Let Hydra know the defaults of a plug-in that has no YAML.

    Raises:
        ConfigError: it cannot be loaded.
    """
    known = any((folder / kind.key / f"{name}.yaml").is_file() for folder in (CONF, *folders))
    if known or name not in kind.available():
        return
    found = kind.find(name)
    try:
        node = {"name": name, **dataclasses.asdict(found())}
    except ConfigError:
        raise
    except Exception as error:  # a fault in what checks its settings
        raise ConfigError(f"{kind.key}: {name} cannot be made: {where(error)}") from error
    ConfigStore.instance().store(group=kind.key, name=name, node=node)


def _listed(override: str) -> list[str]:
    """Return the paths of a `hydra.searchpath`; none where it is not understood: Hydra will say."""
    try:
        value = parsed([override])[0].value()
    except ConfigError:
        return []
    return [str(one) for one in value] if isinstance(value, list) else []


def _path(text: str) -> Path:
    return Path(text.removeprefix("file://"))


def _folders() -> list[Path]:
    """Return the folders `conf` of plug-ins on the Python path."""
    places = dict.fromkeys(Path(entry or ".").resolve() for entry in sys.path)
    return [
        place / "conf"
        for place in places
        if (place / "conf").is_dir() and place / "conf" != CONF.resolve() and _has_plugins(place)
    ]


def _has_plugins(place: Path) -> bool:
    """Return whether a folder holds plug-ins: modules, in folders that are no packages."""
    folders = [place / kind.package.replace(".", "/") for kind in KINDS]
    return any(any(one.glob("*.py")) and not (one / "__init__.py").exists() for one in folders)


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the configuration that `overrides` give.

    Raises:
        ConfigError: Hydra refuses them.
    """
    whole = with_plugins(overrides)
    try:
        return _plain(_compose(whole))
    except ConfigError:
        raise
    except Exception as error:  # Hydra raises many kinds; all of them mean the overrides
        raise ConfigError(in_one_line(error, whole)) from error


def parsed(arguments: Sequence[str]) -> list[Override]:
    """Return what a command line sets, one by one.

    Raises:
        ConfigError: Hydra does not understand it.
    """
    try:
        return list(OverridesParser.create().parse_overrides(list(arguments)))
    except Exception as error:  # Hydra raises many kinds; all of them mean the arguments
        raise ConfigError(in_one_line(error, arguments)) from None


def check_sites(overrides: Sequence[str]) -> None:
    """Raise `ConfigError` where `sites=NAME` asks for a file that is not there.

    The group is optional, so Hydra, which must have composed before, would say nothing.
    """
    loader = GlobalHydra.instance().config_loader()
    search = [one for one in overrides if one.startswith("hydra.searchpath=")]
    there = loader.get_group_options("sites", config_name="config", overrides=search)
    for override in overrides:
        key, _, name = override.partition("=")
        if key == "sites" and name not in there:
            raise ConfigError(
                f"sites: there is no {name!r}{closest(name, there)}; there are: {', '.join(there)}"
            )


def in_one_line(error: Exception, overrides: Sequence[str]) -> str:
    """Shorten what Hydra says of `overrides`, and add the key that was probably meant."""
    text = " ".join(str(error).split()).partition(" Config search path:")[0]
    if type(error).__name__ in ("LexerNoViableAltException", "OverrideParseException"):
        what = text.partition(" See https")[0].removeprefix("LexerNoViableAltException: ")
        what = what.rstrip(" ^").removeprefix("++")  # which settings by site are given
        return (
            f"{what}: not understood; quote a value with special characters once for "
            "the shell and once for Hydra: \"key='value'\", in a list every name: "
            "\"key=[['a b'],[c]]\""
        )
    override = re.match(r"Could not override '(.+?)'", text)
    if override is None:
        return text
    groups = [o for o in overrides if re.match(r"(\w+|hydra\.searchpath)=", o)]
    try:
        keys = _keys(_compose(groups))
    except Exception:  # the groups themselves are wrong: the default ones have keys as well
        keys = _keys(_compose([]))
    if override[1] in keys:
        return (
            f"{override[1]}: one of its entries is new; add it by +{override[1]}.NAME=VALUE, or "
            f"give others in place of all by ~{override[1]} +{override[1]}=..."
        )
    group, last = override[1].partition(".")[0], override[1].rpartition(".")[2]
    within = [one for one in keys if one.startswith(f"{group}.") and one.endswith(f".{last}")]
    near = closest(override[1], within, surely=True) or closest(override[1], keys)
    new = f"; a setting that the YAML of a plug-in leaves out is given as +{override[1]}=VALUE"
    own = new * (not within and group in {kind.key for kind in KINDS})
    return f"{override[1]}: no such key{near}{own}"


def _compose(overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        composed = hydra.compose("config", ["run.dir=none", *overrides])
        check_sites(overrides)
        return composed


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Return all dotted keys of a configuration."""
    keys: list[str] = []
    for key, value in config.items_ex(resolve=False):
        keys.append(f"{prefix}{key!s}")
        if isinstance(value, DictConfig):
            keys += _keys(value, f"{prefix}{key!s}.")
    return keys
