"""What every protection of updates offers: by itself, none."""

from collections.abc import Collection, Mapping, Sequence
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

    def join(
        self,
        rule: Aggregation,
        updates: Sequence[Arrays],
        samples: Sequence[int],
        old: Arrays,
        secret: tuple[Key, ...],
    ) -> Arrays:
        """Return one set of arrays for many.

        Args:
            rule: how it would be done without protection.
            updates: what the sites sent, in site order.
            samples: training samples of each.
            old: the global arrays that they started from.
            secret: of the run, known to the server alone; the round; and which of several
                architectures the updates are of.
        """
        return rule.join(updates, samples)

    def spent(self, rounds: Mapping[str, int]) -> dict[str, Any]:
        """Return what is guaranteed to sites that have trained in so many rounds."""
        return {}
