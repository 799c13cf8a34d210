"""Who is present when, who trains, and with how many of its cases."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from unicodedata import category

from fedcl.errors import ConfigError, some_of
from fedcl.seeding import numpy_rng
from fedcl.settings import closest, setting

NAME = r"[^/\\\[\]\x00-\x1f\x7f]{1,100}"
"""What a site may be called: its state lies in a folder of that name."""
LAST = 10_000
"""The last stage that a timeline can have."""
POOL = "centre"
"""The pooled site's name."""


def can_name(site: str) -> bool:
    """Return whether a site can be called so: what terminals and readers see is what it is."""
    seen = all(sign.isprintable() or category(sign) == "Zs" for sign in site)
    return seen and re.fullmatch(NAME, site) is not None and site.strip(". ") != ""


@dataclass
class Stay:
    """When one site takes part; stages are counted from 1.

    Attributes:
        join: the stage in which it arrives; null for the one that `timeline.stages` says.
        leave: the first stage without it; null if it stays.
        rejoin: the stage in which it is back; null if it stays away.
        ramp: the stages over which its training cases come in, as many in each; what a smaller
            share holds, a larger one holds as well.
    """

    join: int | None = setting(None, low=1, high=LAST)
    leave: int | None = setting(None, low=2, high=LAST)
    rejoin: int | None = setting(None, low=3, high=LAST)
    ramp: int = setting(1, low=1, high=1000)


@dataclass(frozen=True)
class Timeline:
    """The stages of a run; in this class they are counted from 0.

    Attributes:
        stages: the sites that arrive in each stage; every site arrives once, and in a stage in
            which others come back or get more cases there may be none.
        rounds: federated rounds per stage.
        participation: who trains in a stage: "new", the sites with new cases, since they
            arrive, get more or are back; "cumulative", all that are there; "window(k)", those
            that were new in one of the last k stages.
        centralised: whether one pooled site trains on the data of all that take part in a
            stage: what federation costs can be read off. In simulation only.
        stays: of sites that do not simply come, with all their cases, and stay.
        dropout: the chance of a site to be away for a round.
        seed: the draws of `dropout` follow from it.
    """

    stages: tuple[tuple[str, ...], ...]
    rounds: int
    participation: str = "new"
    centralised: bool = False
    stays: Mapping[str, Stay] = field(default_factory=dict)
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the sites' names, and that each arrives once, leaves later and then is back."""
        if not self.sites:
            raise ConfigError("timeline.stages: empty; list the sites of each stage")
        for site in self.sites:
            if not can_name(site):
                raise ConfigError(
                    f"timeline.stages: {site!r} cannot name a site; take up to 100 letters, digits "
                    "and signs other than / \\ [ ]"
                )
        counts = Counter(site for stage in self.stages for site in stage)
        twice = [site for site, count in counts.items() if count > 1]
        if twice:
            raise ConfigError(f"timeline.stages: {some_of(twice)} arrives more than once")
        if self.centralised and POOL in self.sites:
            raise ConfigError(f"timeline.centralised: no site may be called {POOL!r}; rename it")
        if self.centralised and self.dropout:
            raise ConfigError(
                "timeline.dropout: a pool has no single site that could be away; take 0 with "
                "timeline.centralised"
            )
        self._last  # noqa: B018  reads `participation`
        for site, stay in self.stays.items():
            self._check_stay(site, stay)

    def _check_stay(self, site: str, stay: Stay) -> None:
        key, last = f"timeline.sites.{site}", len(self.stages)
        if site not in self._arrivals:
            raise ConfigError(
                f"{key}: it arrives in no stage{closest(site, self.sites)}; there are: "
                f"{some_of(self.sites)}"
            )
        leave, back = stay.leave, stay.rejoin
        if leave is not None and leave <= self.arrival(site) + 1:
            raise ConfigError(
                f"{key}.leave: {leave}, but it arrives in stage {self.arrival(site) + 1}"
            )
        if back is not None and (leave is None or back <= leave):
            raise ConfigError(f"{key}.rejoin: {back}; give it a leave that is earlier")
        if (leave or 0) > last:
            raise ConfigError(f"{key}.leave: {leave}, but there are {last} stages")

    # --- who is there ------------------------------------------------------------------

    @property
    def sites(self) -> list[str]:
        """All sites in order of arrival."""
        return list(self._arrivals)

    def arrival(self, site: str) -> int:
        """Return the stage in which `site` arrives."""
        return self._arrivals[site]

    @cached_property
    def _arrivals(self) -> dict[str, int]:
        return {site: number for number, stage in enumerate(self.stages) for site in stage}

    def seen(self, stage: int) -> list[str]:
        """Return the sites that have arrived by `stage`, whether they are still there or not."""
        return [site for earlier in self.stages[: stage + 1] for site in earlier]

    def present(self, stage: int) -> list[str]:
        """Return the sites that are there in `stage`."""
        seen = self.seen(stage)
        if not self._leaving:
            return seen
        return [site for site in seen if site not in self._leaving or not self._away(site, stage)]

    @cached_property
    def _leaving(self) -> frozenset[str]:
        """Those that do not stay."""
        return frozenset(site for site, stay in self.stays.items() if stay.leave is not None)

    def new(self, stage: int) -> list[str]:
        """Return the sites that arrive in `stage`, get more cases in it or are back."""
        return list(self._new.get(stage, []))

    @cached_property
    def _new(self) -> dict[int, list[str]]:
        """Who is new, by stage."""
        new = defaultdict[int, list[str]](list)
        for site, arrival in self._arrivals.items():
            stay = self._stay(site)
            stages = {*range(arrival, arrival + stay.ramp)}
            if stay.rejoin is not None:
                stages.add(stay.rejoin - 1)
            for stage in stages:
                if not self._away(site, stage):
                    new[stage].append(site)
        return dict(new)

    def share(self, site: str, stage: int) -> float:
        """Return the share of its training cases that a site has by `stage`."""
        ramp = self._stay(site).ramp
        return min(1.0, (stage - self.arrival(site) + 1) / ramp)

    def _stay(self, site: str) -> Stay:
        return self.stays.get(site, _ALWAYS)

    def _away(self, site: str, stage: int) -> bool:
        leave, back = self._stay(site).leave, self._stay(site).rejoin
        return leave is not None and stage + 1 >= leave and (back is None or stage + 1 < back)

    # --- who trains --------------------------------------------------------------------

    @cached_property
    def _last(self) -> int:
        """How many stages a new site goes on training, its first one included."""
        if self.participation in ("new", "cumulative"):
            return 1 if self.participation == "new" else len(self.stages)
        window = re.fullmatch(r"window\((\d{1,4})\)", self.participation)
        if window is None or int(window[1]) < 1:
            raise ConfigError(
                "timeline.participation: must be one of new, cumulative, window(2), window(3) and "
                f"so on, got {self.participation!r}"
            )
        return int(window[1])

    def participants(self, stage: int) -> list[str]:
        """Return the sites that train in `stage` unless the strategy says otherwise."""
        if self.participation == "cumulative":
            return self.present(stage)
        lately = range(max(0, stage - self._last + 1), stage + 1)
        new = {site for earlier in lately for site in self.new(earlier)}
        return [site for site in self.present(stage) if site in new]

    def trainers(self, cohort: list[str]) -> list[str]:
        """Return who computes for `cohort`: its sites themselves, or the pool."""
        return [POOL] if self.centralised else cohort

    def reached(
        self, trainers: list[str], round_: int, teams: Iterable[tuple[int, Sequence[str]]]
    ) -> list[str]:
        """Return which of `trainers` are not away for a round.

        Args:
            trainers: of the stage.
            round_: counted from 1 over all stages.
            teams: groups of them, each after the number of sites that it cannot do without:
                who was nearest to being there is, then.
        """
        if not self.dropout:
            return trainers
        draws = {s: float(numpy_rng("dropout", self.seed, s, round_).random()) for s in trainers}
        there = {site for site, draw in draws.items() if draw >= self.dropout}
        for least, members in teams:
            there.update(sorted(members, key=lambda site: -draws[site])[:least])
        return [site for site in trainers if site in there]


_ALWAYS = Stay()
