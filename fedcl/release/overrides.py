"""The command line that a run's configuration can be composed from again."""

import json
import re
from collections.abc import Mapping
from typing import Any

from fedcl.config.groups import DECIDING
from fedcl.config.hydra import compose
from fedcl.registry import KINDS
from fedcl.settings import flat

ASIDE = ("run", "tracking")
"""Groups that change nothing that is learned."""
LOCAL = re.compile(
    r"(root|table|splits|file|weights)$|\.cases$|^scenario\.assigned\.|^privacy\.seed$"
)
"""Keys whose values are nobody else's business: paths, names of cases, what noise is drawn from."""
OPEN = ("models.", "sites.", "timeline.sites.")
"""Where any name may be set without a plus sign."""


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Return what `simulate.py` is given for a configuration: plug-ins, and what is not default.

    Left out are paths, names of cases and the seed of noise: `scenario.root=...`.

    Raises:
        ConfigError: one of the plug-ins is not there.
    """
    chosen = [
        f"{kind.key}={values[kind.key]['name']}"
        for kind in KINDS
        if isinstance(values.get(kind.key), Mapping) and "name" in values[kind.key]
    ]
    before, now = _told(compose(chosen)), _told(values)
    changed = [
        f"{'' if key in before or key.startswith(OPEN) else '+'}{key}={_value(key, now[key])}"
        for key in now
        if key not in before or before[key] != now[key]
    ]
    gone = [
        _gone(key, values) for key in before if key not in now and key.partition(".")[0] in values
    ]
    return [*chosen, *changed, *(f"~{key}" for key in dict.fromkeys(gone))]


def _gone(key: str, values: Mapping[str, Any]) -> str:
    """Return the first part of a key that is not there: without what is in a group it would stay.

    A hospital of which nothing is said is one that holds everything.
    """
    parts, part = key.split("."), values
    for number, name in enumerate(parts, 1):
        if name not in part:
            return ".".join(parts[:number])
        part = part[name]
        if not isinstance(part, Mapping):
            break
    return key


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return by dotted keys what of a configuration changes what is learned."""
    part: dict[str, Any] = {key: one for key, one in values.items() if key not in ASIDE}
    engine = part.get("engine") or {}
    part["engine"] = {key: engine[key] for key in DECIDING if key in engine}
    return dict(flat(part))


def _value(key: str, value: Any) -> str:
    """Return a value as Hydra reads it."""
    if LOCAL.search(key) and value not in (None, [], ""):
        return "..."
    name = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", value)
    if name and value.lower() not in ("null", "true", "false", "none", "inf", "nan"):
        return str(value)
    return json.dumps(value, separators=(",", ":"))
