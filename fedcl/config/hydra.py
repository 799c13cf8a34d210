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
from omegaconf import DictConfig, OmegaConf

from fedcl.errors import ConfigError
from fedcl.registry import KINDS
from fedcl.settings import closest

PLACES = ("strategies", "sites", "fedcl")
"""Folders of plug-ins, any of which may lie beside a folder `conf` of their own."""

PACKAGE = Path(__file__).parents[1]
CONF = next(place for place in (PACKAGE / "conf", PACKAGE.parent / "conf") if place.is_dir())
"""The configuration: in an installed package within it, in a checkout beside it."""

# In these two any name may be set, without the "+" that Hydra asks for elsewhere.
_open = OmegaConf.create({"models": {}, "sites": {}, "timeline": {"sites": {}}})
for _group in (_open.models, _open.sites, _open.timeline.sites):
    _group._set_flag("struct", False)
ConfigStore.instance().store(name="open_groups", node=_open)


def with_plugins(overrides: Sequence[str]) -> list[str]:
    """Return a command line with what Hydra must know of plug-ins from elsewhere.

    Folders `conf` beside those of plug-ins on the Python path are searched. A plug-in that has no
    YAML there has the defaults of its settings.

    Args:
        overrides: the command line; one with a `hydra.searchpath` says itself where to search.

    Raises:
        ConfigError: a plug-in cannot be used.
    """
    folders = [] if any(one.startswith("hydra.searchpath=") for one in overrides) else _folders()
    for override in overrides:
        key, _, names = override.partition("=")
        for kind in KINDS:
            if key == kind.key:
                for name in names.split(","):
                    known = any((one / key / f"{name}.yaml").is_file() for one in (CONF, *folders))
                    if not known and name in kind.available():
                        node = {"name": name, **dataclasses.asdict(kind.find(name)())}
                        ConfigStore.instance().store(group=key, name=name, node=node)
    listed = ",".join(f"'{folder}'" for folder in folders)
    return [*overrides, *([f"hydra.searchpath=[{listed}]"] if listed else [])]


def _folders() -> list[Path]:
    """Return the folders `conf` of plug-ins on the Python path."""
    places = [Path(entry or ".").resolve() for entry in dict.fromkeys(sys.path)]
    return [
        place / "conf"
        for place in places
        if (place / "conf").is_dir()
        and place / "conf" != CONF.resolve()
        and any((place / name).is_dir() for name in PLACES)
    ]


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the configuration that `overrides` give.

    Raises:
        ConfigError: Hydra refuses them.
    """
    try:
        return _plain(_compose(with_plugins(overrides)))
    except ConfigError:
        raise
    except Exception as error:  # Hydra raises many kinds; all of them mean the overrides
        raise ConfigError(in_one_line(error, overrides)) from error


def check_sites(overrides: Sequence[str]) -> None:
    """Raise `ConfigError` where `sites=NAME` asks for a file that is not there.

    The group is optional, so Hydra, which must have composed before, would say nothing.
    """
    there = GlobalHydra.instance().config_loader().get_group_options("sites")
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
        return (
            f"{what}: not understood; quote a value with special characters once for the shell "
            "and once for Hydra: \"key='value'\""
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
        return f"{override[1]}: one of its entries is new; add it by +{override[1]}.NAME=VALUE"
    return f"{override[1]}: no such key{closest(override[1], keys)}"


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
