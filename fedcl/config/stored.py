"""The configuration that a run has left in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fedcl.errors import ConfigError


def stored(folder: Path, key: str = "run.resume") -> dict[str, Any]:
    """Return the configuration of the run in `folder`.

    Args:
        folder: of the run.
        key: what names it, for messages.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
        hint = f"; a sweep is several runs, here {', '.join(inside)}" if inside else ""
        raise ConfigError(f"{key}: {folder} holds no run (there is no config.yaml){hint}")
    try:
        values = dict(yaml.safe_load(file.read_text()))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{key}: {file} cannot be read ({reason})") from None
    for group in ("scenario", "strategy"):
        if not isinstance(values.get(group), Mapping) or "name" not in values[group]:
            raise ConfigError(f"{key}: {file} has no {group} with a name")
    return values
