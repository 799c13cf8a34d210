"""Going on with a run: what its command line may change, and what it must leave as it was."""

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedcl.config.groups import DECIDING, Release
from fedcl.config.hydra import compose, parsed
from fedcl.config.timeline import inlined
from fedcl.errors import ConfigError
from fedcl.learning.learner import Learner
from fedcl.registry import SCENARIO, STRATEGY
from fedcl.settings import flat, free, literal

RESUME = "run.resume"
GATE = "release.on_refusal"
FREE = ("engine", "tracking", "run.figures", GATE)
"""What says where and how a run computes and is watched, beside settings of no effect."""
ABSENT = object()
ELSEWHERE = ("protocol", "shift", "sites")
"""Groups whose choice sets values of others and leaves none of its own in a configuration."""

Change = Callable[[dict[str, Any]], None]


def resumed(arguments: Sequence[str]) -> Path | None:
    """Return the folder of the run that a command line asks to go on with, if it does."""
    for argument in arguments:
        if argument.startswith(f"{RESUME}="):
            given = argument.partition("=")[2]
            if not Path(given).exists():  # quoted for Hydra, nothing, or not there
                with contextlib.suppress(ConfigError):
                    given = str(parsed([argument])[0].value() or "")
            if given not in ("", "null", "None"):
                return Path(given)
    return None


def changes(arguments: Sequence[str]) -> Change:
    """Return what carries a command line over into a stored configuration.

    People repeat the command they began with: a setting with the value that the run has changes
    nothing. Others may be given for the engine, for tracking, and for what stays on this machine,
    such as `scenario.root`; the digests of the data say whether they are still the same.

    Raises:
        ConfigError: on use, where the command line sets something that would change the results.
    """

    def change(stored: dict[str, Any]) -> None:
        others = [a for a in arguments if not a.startswith((f"{RESUME}=", "hydra.", "-"))]
        staying = {*free(SCENARIO.find(stored["scenario"]["name"]), "scenario")}
        staying |= {*free(STRATEGY.find(stored["strategy"]["name"]), "strategy")}
        staying |= {*free(Learner, "learner"), *free(Release, "release")}
        allowed = f"{', '.join(f'{group}.*' for group in FREE[:2])}, " + ", ".join(
            sorted(staying | {*FREE[2:]})
        )
        overrides = parsed(others)
        last = {one.key_or_group: one for one in overrides}  # as Hydra takes what is said twice
        chosen = [key for key in last if key.partition("/")[0] in ELSEWHERE]
        single = [one for key, one in last.items() if key not in chosen]
        asked = [one for override in single for one in _settings(stored, override)]
        given = {key for key, _ in asked}
        for key, value in sorted(asked, key=lambda one: "." in one[0]):  # groups first
            if _same(stored, key, value, given):
                continue
            if value is ABSENT and _may_change(key, staying):
                raise ConfigError(f"{key}: a run that goes on has all settings; give it a value")
            if key in ("engine", "tracking"):
                deciding = {one: stored[key][one] for one in DECIDING if one in stored[key]}
                stored[key] = compose([f"{key}={value}"])[key] | deciding
            elif key == GATE and None in (value, stored["release"]["on_refusal"]):
                raise ConfigError(
                    f"{key}: a run goes on with a gate as it was begun with one, or without; only "
                    "what follows from a refusal may change"
                )
            elif "." in key and _may_change(key, staying):
                _put(stored, key, value)
            else:
                raise _differs(key, allowed)
        if chosen:  # what they set shows in the whole command alone
            known = dict(flat(stored))
            for key, value in flat(_begun(others, chosen)):
                if known.get(key, value) != value and not _may_change(key, staying):
                    raise _unclear(chosen, f"{key} differs")

    return change


def _begun(arguments: Sequence[str], chosen: Sequence[str]) -> dict[str, Any]:
    """Return the configuration with which a run is begun by a command line.

    Raises:
        ConfigError: no run is begun by it; names the groups `chosen`, for which it is asked.
    """
    try:
        values = compose(arguments)
    except ConfigError as error:
        raise _unclear(chosen, str(error)) from None
    del values["run"]
    return {**values, "timeline": inlined(values["timeline"])}


def _may_change(key: str, staying: Collection[str]) -> bool:
    return key in staying or any(f"{key}.".startswith(f"{one}.") for one in FREE)


def _differs(key: str, allowed: str) -> ConfigError:
    return ConfigError(
        f"{key}: a resumed run keeps its configuration, and this differs from what it was begun "
        f"with; only {allowed} may be given"
    )


def _unclear(chosen: Sequence[str], problem: str) -> ConfigError:
    return ConfigError(
        f"{', '.join(chosen)}: a resumed run keeps its configuration; leave this out, or repeat "
        f"the command that the run was begun with ({problem})"
    )


def _settings(stored: dict[str, Any], override: Override) -> list[tuple[str, Any]]:
    """Return what an override sets, setting by setting, with the values that it refers to.

    Raises:
        ConfigError: it refers to what is not there, or has several values.
    """
    key = override.key_or_group
    if override.is_delete():
        return [(key, ABSENT)]
    if override.is_sweep_override():
        raise ConfigError(f"{key}: one run is gone on with; give one value")
    try:
        values = OmegaConf.create(literal(stored, None, ""))
        values["given"] = override.value()  # at the top, from where ${seed} is looked for
        whole: Any = OmegaConf.to_container(values, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from None
    # What a group does not say stays as it is, as where Hydra composes.
    value = whole["given"]
    return [*flat(value, key)] if isinstance(value, dict) else [(key, value)]


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set one value by its dotted key; text stays text, whatever it looks like.

    Raises:
        ConfigError: what stands before the last point has a value of its own.
    """
    *path, last = key.split(".")
    part: Any = values
    for name in path:
        part = part.setdefault(name, {}) if isinstance(part, dict) else None
    if not isinstance(part, dict):
        raise ConfigError(f"{key}: {'.'.join(path)} has a value, and no settings")
    part[last] = value


def _same(stored: dict[str, Any], key: str, value: Any, given: Collection[str]) -> bool:
    """Return whether a run has this value already; for a group, whether it can be the one so named.

    Args:
        stored: the configuration of the run.
        key: of the setting.
        value: what it is to be.
        given: the keys that the command line has.
    """
    if key == "run.dir":  # repeated, or of no effect: the run stays where it is
        return True
    if key == "timeline.file":
        told = {k: v for k, v in inlined({"file": value}).items() if k != "file"}
        return all(stored["timeline"].get(k) == v for k, v in told.items())
    now: Any = stored
    for part in key.split("."):
        now = now.get(part, ABSENT) if isinstance(now, dict) else ABSENT
    if isinstance(now, dict) and isinstance(value, str):
        return now.get("name") == value or _chosen(now, key, value, given)
    return bool(now == value)


def _chosen(now: dict[str, Any], key: str, option: str, given: Collection[str]) -> bool:
    """Return whether a group is an option of another name than its own, as `published/ted` is."""
    try:
        settings = dict(flat(compose([f"{key}={option}"])[key]))
    except ConfigError:
        return False
    own = dict(flat(now))
    return all(own.get(k) == v for k, v in settings.items() if f"{key}.{k}" not in given)
