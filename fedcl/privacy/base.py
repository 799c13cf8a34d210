"""What every protection of updates offers: by itself, none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fedcl.aggregations.base import Aggregation
from fedcl.arrays import Arrays
from fedcl.errors import ConfigError
from fedcl.plugins import name_of
from fedcl.timeline import Timeline
from strategies.base import Strategy


@dataclass
class Privacy:
    """A rule that protects updates; a subclass's fields are its settings.

    Attributes:
        hides: whether nothing but a protected mean of the updates may be used.
    """

    hides: ClassVar[bool] = False

    def check(self, strategy: Strategy, aggregation: Aggregation, timeline: Timeline) -> None:
        """Check that no part of a run goes round the protection.

        Raises:
            ConfigError: the strategy or the aggregation looks at single updates, or there are
                none.
        """
        if not self.hides:
            return
        if strategy.reads_updates:
            raise ConfigError(
                f"strategy: {name_of(strategy)} reads the update of every single site, which "
                f"privacy {name_of(self)} is there to prevent; choose another strategy or "
                "privacy=none"
            )
        if timeline.centralised:
            raise ConfigError(
                f"timeline.centralised: a pool has no updates of single sites for privacy "
                f"{name_of(self)} to protect; choose privacy=none"
            )
        if not aggregation.averages:
            raise ConfigError(
                f"aggregation: {name_of(aggregation)} chooses among single updates, so that "
                f"privacy {name_of(self)} cannot say how much one site matters; take fedavg, "
                "fedavgm or fedadam"
            )

    def check_sent(self, strategy: Strategy, shared: Iterable[str], reports: bool) -> None:
        """Check that all of what sites send can be protected.

        Args:
            strategy: whose reports they are.
            shared: names of the arrays in an update.
            reports: whether sites send more than updates (`Strategy.report`).

        Raises:
            ConfigError: it cannot.
        """
        if not self.hides:
            return
        if reports:
            raise ConfigError(
                f"strategy: {name_of(strategy)} has every site report more than its update, "
                f"which privacy {name_of(self)} does not cover; choose another strategy or "
                "privacy=none"
            )
        if any(key.endswith("running_var") for key in shared):
            raise ConfigError(
                f"model: noise from privacy {name_of(self)} can make a variance of batch "
                "normalisation negative; choose model.norm=instance or strategy=fedbn"
            )

    def join(
        self,
        rule: Aggregation,
        updates: Sequence[Arrays],
        samples: Sequence[int],
        old: Arrays,
        round_: int,
    ) -> Arrays:
        """Return one set of arrays for many.

        Args:
            rule: how it would be done without protection.
            updates: what the sites sent, in site order.
            samples: training samples of each.
            old: the global arrays that they started from.
            round_: counted from 1 over all stages.
        """
        return rule.join(updates, samples)

    def spent(self, rounds: Mapping[str, int]) -> dict[str, Any]:
        """Return what is guaranteed to sites that have trained in so many rounds."""
        return {}
