"""What every protection of updates and reports offers: by itself, none."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedcl.aggregations.base import Aggregation
from fedcl.arrays import Arrays, weighted_mean
from fedcl.learning.strategy import Form, Strategy
from fedcl.seeding import Key
from fedcl.timeline import Timeline


@dataclass
class Privacy:
    """A rule that protects updates or reports; a subclass's fields are its settings.

    Attributes:
        accounts: whether it counts what every release of weights costs.
        at_hospitals: whether hospitals keep it as well, which then report what `told` makes.
    """

    accounts: ClassVar[bool] = False
    at_hospitals: ClassVar[bool] = False

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

    def told(
        self, parts: Iterable[Arrays], forms: Mapping[str, Form], secret: tuple[Key, ...]
    ) -> Arrays:
        """Return what a hospital reports, where the rule is kept there.

        Args:
            parts: what the strategy would have it report of each training case alone, at least one.
            forms: of the arrays; see `Reporting`.
            secret: known to the hospital alone; its name; the stage.
        """
        every = list(parts)
        return weighted_mean(every, [1.0] * len(every))

    def spent(self, times: Mapping[str, int]) -> dict[str, Any]:
        """Return what is guaranteed to sites that were asked so often.

        That is for training, or for reports if the rule is kept `at_hospitals`.
        """
        return {}
