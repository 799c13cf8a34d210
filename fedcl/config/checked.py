"""A configuration from composed values, its mistakes told as early as can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedcl.config.groups import Groups

if TYPE_CHECKING:
    from fedcl.config.schema import Config


def checked(values: Mapping[str, Any]) -> Config:
    """Return the configuration of a simulation; see `Config.parse`.

    Most mistakes are in groups that need no plug-in: they are told before torch is imported,
    which takes a second.
    """
    Groups.parse(values)
    from fedcl.config.schema import Config

    return Config.parse(values)
