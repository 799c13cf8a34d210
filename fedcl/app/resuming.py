"""Going on with a run: what its command line may change, and what it must leave as it was."""

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from fedcl.config.groups import DECIDING, Release
from fedcl.config.hydra import compose, parsed
from fedcl.config.overridden import ABSENT, overridden, put
from fedcl.config.timeline import inlined
from fedcl.errors import ConfigError
from fedcl.learning.learner import Learner
from fedcl.registry import SCENARIO, STRATEGY
from fedcl.settings import flat, free

RESUME = "run.resume"
GATE = "release.on_refusal"
FREE = ("engine", "tracking", "run.figures", GATE)
"""What says where and how a run computes and is watched, beside settings of no effect."""
SILENT = ("run.dir",)
"""What is of no effect where a run goes on: it stays where it is."""
ELSEWHERE = ("protocol", "shift", "sites")
"""Groups whose choice sets values of others and leaves none of its own in a configuration."""
OPEN = ("sites.", "models.", "timeline.sites.")
"""Where a run has those settings alone that were given."""

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
        overrides = [one for one in parsed(others) if one.key_or_group not in SILENT]
        chosen = [one.key_or_group for one in overrides if _elsewhere(one)]
        single = [one for one in overrides if not _elsewhere(one)]
        given = {one.key_or_group for one in single}
        groups = [one for one in single if _group(stored, one)]
        for override in groups:
            if not _choose(stored, override.key_or_group, str(override.value()), given):
                raise _differs(override.key_or_group, allowed)
        for path, old, new in overridden(stored, [one for one in single if one not in groups]):
            key = ".".join(path)
            if key == GATE and None in (old, new):
                raise ConfigError(
                    f"{key}: a run goes on with a gate as it was begun with one, or without; only "
                    "what follows from a refusal may change"
                )
            whole = isinstance(old, dict) and new is not ABSENT  # no value stands for a group
            if whole or not _may_change(key, staying):
                raise _differs(key, allowed)
            if new is ABSENT:
                raise ConfigError(f"{key}: a run that goes on has all settings; give it a value")
            put(stored, path, new)
        if chosen:  # what they set shows in the whole command alone
            begun, known = dict(flat(_begun(others, chosen))), dict(flat(stored))
            for key in sorted(begun.keys() | {one for one in known if one.startswith(OPEN)}):
                old, new = known.get(key, ABSENT), begun.get(key, ABSENT)
                lacking = old is ABSENT and not key.startswith(OPEN)  # a setting newer than the run
                if old != new and not lacking and not _may_change(key, staying):
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


def _elsewhere(override: Override) -> bool:
    """Return whether an override chooses an option of a group that sets values of others."""
    group = override.key_or_group.partition("/")[0]
    return group in ELSEWHERE and not isinstance(override.value(), dict)


def _group(stored: dict[str, Any], override: Override) -> bool:
    """Return whether an override chooses an option of any other group."""
    now = stored.get(override.key_or_group)
    return isinstance(now, dict) and isinstance(override.value(), str) and not override.is_delete()


def _choose(stored: dict[str, Any], key: str, option: str, given: Collection[str]) -> bool:
    """Choose an option of a group; return whether a run may, or has chosen it already.

    Args:
        stored: the configuration of the run; it is changed.
        key: of the group.
        option: its name.
        given: the keys that the command line has.
    """
    if stored[key].get("name") == option or _chosen(stored[key], key, option, given):
        return True
    if key not in ("engine", "tracking"):
        return False
    deciding = {one: stored[key][one] for one in DECIDING if one in stored[key]}
    stored[key] = compose([f"{key}={option}"])[key] | deciding
    return True


def _chosen(now: dict[str, Any], key: str, option: str, given: Collection[str]) -> bool:
    """Return whether a group is an option of another name than its own, as `published/ted` is."""
    try:
        settings = dict(flat(compose([f"{key}={option}"])[key]))
    except ConfigError:
        return False
    own = dict(flat(now))
    return all(own.get(k) == v for k, v in settings.items() if f"{key}.{k}" not in given)
