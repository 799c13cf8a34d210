"""Who is present when."""

import re
from collections import Counter
from dataclasses import dataclass

from fedcl.errors import ConfigError

NAME = r"[^/\\\[\]\x00-\x1f\x7f]{1,100}"
"""What a site may be called: its state lies in a folder of that name."""
POOL = "centre"
"""The pooled site's name."""


@dataclass(frozen=True)
class Timeline:
    """The arrival of sites, stage by stage.

    Attributes:
        stages: the sites that arrive in each stage; every site arrives once.
        rounds: federated rounds per stage.
        participation: who trains in a stage: "new", only the sites that arrive in it, or
            "cumulative", all that have arrived so far.
        centralised: whether one pooled site trains on the data of all that take part in a
            stage: what federation costs can be read off. In simulation only.
    """

    stages: tuple[tuple[str, ...], ...]
    rounds: int
    participation: str = "new"
    centralised: bool = False

    def __post_init__(self) -> None:
        """Check that every stage has sites, by names fit for a folder, and each arrives once."""
        if not self.stages:
            raise ConfigError("timeline.stages: empty; list the sites of each stage")
        for number, stage in enumerate(self.stages, start=1):
            if not stage:
                raise ConfigError(f"timeline.stages: stage {number} has no sites")
        for site in self.sites:
            if not re.fullmatch(NAME, site) or site.strip(". ") == "":
                raise ConfigError(
                    f"timeline.stages: {site!r} cannot name a site; take up to 100 letters, digits "
                    "and signs other than / \\ [ ]"
                )
        twice = [site for site, count in Counter(self.sites).items() if count > 1]
        if twice:
            raise ConfigError(f"timeline.stages: {', '.join(twice)} arrives more than once")
        if self.centralised and POOL in self.sites:
            raise ConfigError(f"timeline.centralised: no site may be called {POOL!r}; rename it")

    @property
    def sites(self) -> list[str]:
        """All sites in order of arrival."""
        return [site for stage in self.stages for site in stage]

    def seen(self, stage: int) -> list[str]:
        """Return the sites that have arrived by `stage` (counted from 0)."""
        return [site for earlier in self.stages[: stage + 1] for site in earlier]

    def trainers(self, cohort: list[str]) -> list[str]:
        """Return who computes for `cohort`: its sites themselves, or the pool."""
        return [POOL] if self.centralised else cohort

    def participants(self, stage: int) -> list[str]:
        """Return the sites that train in `stage` unless the strategy says otherwise."""
        return list(self.stages[stage]) if self.participation == "new" else self.seen(stage)
