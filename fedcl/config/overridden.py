"""What a command line makes of a configuration that is stored, as Hydra would have made it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedcl.config.hydra import compose
from fedcl.config.timeline import inlined
from fedcl.errors import ConfigError
from fedcl.settings import literal

ABSENT = object()
Place = tuple[str, ...]
Difference = tuple[Place, Any, Any]
"""Where a setting stands, what it is and what it would be; `ABSENT` where it is not there."""


def overridden(stored: dict[str, Any], overrides: Sequence[Override]) -> list[Difference]:
    """Return what overrides would change in a configuration, setting by setting.

    What they refer to is looked up ("${seed}", "${oc.env:DATA}"); text that is stored stays text.

    Args:
        stored: the configuration; it stays as it is.
        overrides: of settings, not of groups.

    Raises:
        ConfigError: they refer to what is not there, or are no settings of one run.
    """
    setup_globals()  # else "${now:...}" would be unknown
    values = OmegaConf.create(literal(stored, None, ""))
    before: Any = OmegaConf.to_container(values, resolve=True)
    for override in overrides:
        with _told(override.key_or_group):
            _apply(values, before, override)
    with _told(""):
        after: Any = OmegaConf.to_container(values, resolve=True)
    return [*_differences(before, after)]


def _apply(values: DictConfig, before: dict[str, Any], override: Override) -> None:
    key = override.key_or_group
    if override.is_sweep_override():
        raise ConfigError(f"{key}: one run is gone on with; give one value")
    parent, _, last = key.rpartition(".")
    above = OmegaConf.select(values, parent) if parent else values
    if above is not None and not OmegaConf.is_config(above):
        raise ConfigError(f"{key}: {parent} has a value, and no settings")
    value = override.value()
    if override.is_delete():
        if above is not None and last in above:
            del above[last]
    elif key == "timeline.file":
        for name, one in literal(inlined({"file": value}), None, key).items():
            if name != "file":
                OmegaConf.update(values, f"timeline.{name}", one, merge=False, force_add=True)
    else:
        merged = isinstance(value, dict) and _is_mapping(before, key)
        OmegaConf.update(values, key, value, merge=merged, force_add=True)


def _is_mapping(before: dict[str, Any], key: str) -> bool:
    """Return whether a setting is a mapping before anybody gives it: others are added to it."""
    group = key.partition(".")[0]
    name = before[group].get("name") if isinstance(before.get(group), dict) else None
    try:
        default: Any = compose([f"{group}={name}"] if name else [])
    except ConfigError:  # an option of another name
        return False
    for part in key.split("."):
        default = default.get(part) if isinstance(default, dict) else None
    return isinstance(default, dict)


@contextmanager
def _told(key: str) -> Iterator[None]:
    """Turn what OmegaConf says into one line that names the setting."""
    try:
        yield
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{key or error.full_key}: {first}") from None


def _differences(old: Any, new: Any, place: Place = ()) -> Iterator[Difference]:
    """Yield what differs, setting by setting; lists are one each."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _differences(old.get(name, ABSENT), new.get(name, ABSENT), (*place, name))
    elif old != new:
        yield place, old, new


def put(values: dict[str, Any], place: Place, value: Any) -> None:
    """Set one value by where it stands."""
    *above, last = place
    for name in above:
        values = values.setdefault(name, {})
    values[last] = value
