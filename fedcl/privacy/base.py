"""What every protection of updates offers: by itself, none."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedcl.aggregations.base import Aggregation
from fedcl.arrays import Arrays
from fedcl.learning.strategy import Strategy
from fedcl.seeding import Key
from fedcl.timeline import Timeline


@dataclass
class Privacy:
    """A rule that protects updates; a subclass's fields are its settings.

    Attributes:
        accounts: whether it counts what every release of weights costs.
    """

    accounts: ClassVar[bool] = False

    def check(self, strategy: Strategy, aggregation: Aggregation, timeline: Timeline) -> None:
        """Raise `ConfigError` where the settings would go round the protection."""

    def check_sent(self, strategy: Strategy, shared: Collection[str], reports: bool) -> None:
        """Raise `ConfigError` where part of what sites send cannot be protected.

        Args:
            strategy: whose reports they are.
            shared: names of the arrays in an update.
            reports: whether sites send more than updates (`Strategy.reporting`).
        """

    def weight(self, samples: int) -> int:
        """Return what an update made of so many samples counts."""
        return samples

    def limited(self, update: Arrays, old: Arrays) -> Arrays:
        """Return what is joined of an update.

        Args:
            update: what a site sent.
            old: the global arrays that it started from.
        """
        return update

    def released(self, joined: Arrays, count: int, secret: tuple[Key, ...]) -> Arrays:
        """Return what the server goes on with.

        Args:
            joined: the joined updates.
            count: how many they are.
            secret: of the run, known to the server alone; the round; which of several
                architectures the updates are of; and what tells them from others.
        """
        return joined

    def spent(self, rounds: Mapping[str, int]) -> dict[str, Any]:
        """Return what is guaranteed to sites that have trained in so many rounds."""
        return {}
