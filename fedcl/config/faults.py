"""What goes wrong at hospitals on purpose: how robust is a method to it? In simulation only."""

import json
from dataclasses import dataclass, field, fields
from typing import Any

from fedcl.errors import ConfigError
from fedcl.seeding import numpy_rng


@dataclass
class Faults:
    """What may go wrong in a site's round: the chance of each, at most 1 together.

    Each is one number for all sites, or one per site, {A: 0.5}. After a crash the site is asked
    once more in the same round, and all of it may happen again.

    Attributes:
        crash: the call raises an error.
        hang: no answer before the deadline.
        nan: an array of the update is not finite.
        shape: an array of the update has another shape.
        flip: the change of the weights has the opposite sign.
        scale: the change of the weights is `factor` times as large.
        factor: of the change with `scale`.
    """

    crash: Any = 0.0
    hang: Any = 0.0
    nan: Any = 0.0
    shape: Any = 0.0
    flip: Any = 0.0
    scale: Any = 0.0
    factor: float = 10.0

    def of(self, site: str) -> dict[str, float]:
        """Return the chances of a site's faults, of those that can happen."""
        chances = {}
        for kind in KINDS:
            value = getattr(self, kind)
            chance = value.get(site, 0.0) if isinstance(value, dict) else value
            if chance:
                chances[kind] = float(chance)
        return chances

    def check(self, sites: list[str], stragglers: float) -> None:
        """Raise `ConfigError` where the chances of a site, with that of being late, are none."""
        for kind in KINDS:
            value = getattr(self, kind)
            for site in value if isinstance(value, dict) else ():
                if site not in sites:
                    raise ConfigError(
                        f"faults.{kind}.{site}: no such site; there are: {', '.join(sites)}"
                    )
            for chance in value.values() if isinstance(value, dict) else (value,):
                number = isinstance(chance, int | float) and not isinstance(chance, bool)
                if not number or not 0 <= chance <= 1:
                    raise ConfigError(
                        f"faults.{kind}: must be a chance from 0 to 1, or one per site such as "
                        f"{{{sites[0]}: 0.5}}, got {chance!r}"
                    )
        for site in sites:
            if sum(self.of(site).values()) + stragglers > 1 + 1e-9:
                raise ConfigError(
                    f"faults: those of site {site}, with timeline.stragglers, have chances of more "
                    "than 1 together"
                )


KINDS = tuple(item.name for item in fields(Faults) if item.name != "factor")


STRAGGLE = "straggle"
"""What a straggler is: it trains, and is too late (`timeline.stragglers`)."""


@dataclass(frozen=True)
class Plan:
    """The faults of one site, as its node's configuration holds them."""

    seed: int
    factor: float
    chances: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps([self.seed, self.factor, self.chances])

    def draw(self, site: str, round_: int, attempt: int) -> str | None:
        """Return what goes wrong, if anything."""
        left = float(numpy_rng("faults", self.seed, site, round_, attempt).random())
        for kind, chance in self.chances.items():
            left -= chance
            if left < 0:
                return kind
        return None
