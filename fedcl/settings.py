"""Declare a setting once, with its bounds, and check every value against it.

Any dataclass of settings (of fedcl, a strategy, a scenario or a model) declares its fields
with `setting`; `parse` turns a mapping of user values into such an object or raises a
`ConfigError` that names the key.
"""

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from fedcl.errors import ConfigError

T = TypeVar("T")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    factory: Callable[[], Any] | None = None,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    travels: bool = True,
    effect: bool = True,
) -> Any:
    """Declare a dataclass field with bounds.

    Args:
        default: value when the user gives none.
        factory: makes the default where it is mutable.
        low: least value; of a list, for each number.
        above: the value must be greater.
        high: greatest value.
        choices: the values allowed.
        travels: False for what stays on this machine (paths): never sent to a hospital.
        effect: False for what says how a run computes and not what it learns: it may change when a
            run is resumed, and a real hospital chooses for itself.

    Raises:
        TypeError: the default is mutable.
    """
    if isinstance(default, list | dict | set):
        raise TypeError(f"setting({default!r}): write setting(factory=lambda: {default!r})")
    metadata = dict(low=low, above=above, high=high, choices=choices)
    metadata |= dict(travels=travels, effect=effect)
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse(cls: type[T], values: Mapping[str, Any], key: str) -> T:
    """Build the settings object `cls` from `values`.

    Args:
        cls: a dataclass whose fields were declared with `setting`.
        values: what the user gave; missing entries take the defaults.
        key: where `values` stand in the configuration, for messages.

    Raises:
        ConfigError: an unknown entry, a wrong type or a value out of bounds.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key}: must be a group of settings, got {values!r}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), literal(values, cls, key))
        result = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        raise ConfigError(_unknown(cls, error.full_key or "", key)) from None
    except OmegaConfBaseException as error:
        at = error.full_key or _refused(cls, values, key)
        where = ".".join(part for part in (key, at) if part)
        reason = str(error.msg).splitlines()[0]
        if "is not a ListConfig" in reason:
            reason = "must be a list, such as [0,4]"
        raise ConfigError(f"{where}: {reason}") from None
    _check(result, key)
    return result  # type: ignore[return-value]


def _refused(cls: type, values: Mapping[str, Any], key: str) -> str:
    """Return which single value OmegaConf refuses without saying so; empty if none alone."""
    for name, value in values.items():
        try:
            OmegaConf.merge(OmegaConf.structured(cls), literal({name: value}, cls, key))
        except OmegaConfBaseException:
            return str(name)
    return ""


def without_effect(settings: Any, key: str = "") -> list[str]:
    """Return the dotted keys of what changes nothing that is learned; see `setting`.

    Args:
        settings: an object or its class; those within it count as well.
        key: where they stand in the configuration.
    """
    return [*_declared(settings, key, ["effect"])]


def free(settings: Any, key: str) -> list[str]:
    """Return likewise the keys of that, and of what never leaves this machine."""
    return [*_declared(settings, key, ["effect", "travels"])]


def _declared(settings: Any, key: str, marks: Sequence[str]) -> Iterator[str]:
    """Yield the keys of settings that were declared to have no effect, or not to travel."""
    kinds = get_type_hints(settings if isinstance(settings, type) else type(settings))
    for field in dataclasses.fields(settings):
        place = f"{key}.{field.name}" if key else field.name
        if not all(field.metadata.get(mark, True) for mark in marks):
            yield place
        elif dataclasses.is_dataclass(kind := kinds[field.name]):
            yield from _declared(kind, place, marks)


def travelling(settings: Any) -> dict[str, Any]:
    """Return the settings that may be sent to a hospital, as plain JSON-able values."""
    values = dataclasses.asdict(settings)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not field.metadata.get("travels", True):
            del values[field.name]
        elif _is_settings(value):
            values[field.name] = travelling(value)
    return values


def closest(word: str, options: list[str], surely: bool = False) -> str:
    """Return ' (did you mean X?)', or nothing where no option resembles `word`.

    Args:
        word: what was given.
        options: what there is.
        surely: whether the option nearest is meant, however little it resembles.
    """
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.0 if surely else 0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def flat(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their dotted keys."""
    if not isinstance(values, Mapping):
        yield key, values
        return
    for name, value in values.items():
        yield from flat(value, f"{key}.{name}" if key else str(name))


def literal(value: Any, kind: Any, key: str) -> Any:
    """Return settings as they are meant, for OmegaConf to check.

    "${...}" is text: whatever is to be resolved has been, by Hydra. Where names are expected,
    numbers are names: sites may be called 1 and 2.

    Args:
        value: as given.
        kind: the type that is expected; None where that is anything.
        key: where the value stands.

    Raises:
        ConfigError: text stands where there can be none; see also `_named`.
    """
    if get_origin(kind) in (Union, types.UnionType):
        kind = next((one for one in get_args(kind) if one is not type(None)), None)
    if isinstance(value, Mapping):
        fields = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        own = get_args(kind)[1] if get_origin(kind) is dict else None
        return {
            _named(name, f"{key}.{name}"): literal(one, fields.get(name, own), f"{key}.{name}")
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        inner = get_args(kind)[0] if get_origin(kind) is list else None
        return [literal(one, inner, key) for one in value]
    if kind is str:
        value = _named(value, key)
    if value == "???":  # OmegaConf's word for what is to be given yet, without saying so
        raise ConfigError(f"{key}: ??? is no value; give one")
    if isinstance(value, str):
        if "${" in value and kind not in (str, Any, None):  # OmegaConf lets it stand for anything
            raise ConfigError(f"{key}: {value[:80]!r} is text, and none can be here")
        return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)
    return value


def _named(value: Any, key: str) -> Any:
    """Return what stands where a name is expected: a number is one.

    Raises:
        ConfigError: YAML has read it as true or false.
    """
    if isinstance(value, bool):
        raise ConfigError(f"{key}: {value} was read for a name; put it in quotes, as 'NO' or 'on'")
    return str(value) if isinstance(value, int) else value


def _is_settings(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _unknown(cls: type, full_key: str, key: str) -> str:
    *path, last = full_key.split(".")
    owner: Any = cls
    for part in path:
        if dataclasses.is_dataclass(owner):
            owner = {f.name: f.type for f in dataclasses.fields(owner)}[part]
        else:  # settings by any name
            owner = get_args(owner)[1]
    names = [f.name for f in dataclasses.fields(owner)]
    where = ".".join([key, *path])
    return f"{where}.{last}: no such key{closest(last, names)}; there are: {', '.join(names)}"


def _check(settings: Any, key: str) -> None:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        where = f"{key}.{field.name}" if key else field.name
        if _is_settings(value):
            _check(value, where)
        elif value is not None:
            items = value.items() if isinstance(value, dict) else [("", value)]
            for name, item in items:
                if _is_settings(item):
                    _check(item, f"{where}.{name}")
                for one in item if isinstance(item, list) else [item]:
                    _check_value(one, field.metadata, where)


def _check_value(value: Any, bounds: Mapping[str, Any], where: str) -> None:
    choices = bounds.get("choices")
    if choices is not None and value not in choices:
        options = ", ".join("null" if one is None else str(one) for one in choices)
        raise ConfigError(f"{where}: must be one of {options}, got {value!r}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: must be finite, got {value}")
    for name, ok, words in (
        ("low", lambda bound: value >= bound, "at least"),
        ("above", lambda bound: value > bound, "greater than"),
        ("high", lambda bound: value <= bound, "at most"),
    ):
        bound = bounds.get(name)
        if bound is not None and not ok(bound):
            raise ConfigError(f"{where}: must be {words} {bound}, got {value}")
