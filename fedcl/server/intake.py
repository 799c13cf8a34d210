"""What comes in of a round: every update is checked by itself, then joined in site order."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from fedcl import arrays
from fedcl.config.schema import Config
from fedcl.seeding import Key
from fedcl.server.architecture import Architecture
from fedcl.server.changes import Scale
from fedcl.server.exchange import Failure
from fedcl.server.state import State
from fedcl.wire.answers import Update


class Intake:
    """Takes in the answers of one round, in site order.

    An update's arrays are let go as soon as they are joined, so that a round takes as much memory
    with a thousand sites as with two. They are only kept where something needs those of all sites
    at a time: `engine.norm_bound`, a strategy that reads every update, or an aggregation that
    compares them.

    Args:
        config, state: of the run.
        architectures: by name.
        expected: those that were asked, and on how many samples each of them will have trained as
            far as is known.
        most: as how many samples updates of some sites count at most.

    Attributes:
        updates: those that are joined, by site; without arrays unless the strategy reads them.
        refused: why there is nothing to join of the other sites.
        changes: how far each update went that is joined; see `fedcl.server.changes.Scale`.
    """

    def __init__(
        self,
        config: Config,
        state: State,
        architectures: Mapping[str, Architecture],
        expected: Mapping[str, int],
        most: Mapping[str, int],
    ) -> None:
        self._config, self._round, self._most = config, state.round + 1, most
        expected = {site: min(count, most.get(site, count)) for site, count in expected.items()}
        self._of = {site: architectures[config.job.roles[site].model] for site in expected}
        self._joining = {
            name: Joining(config, one, one.shared(state.weights), expected)
            for name, one in architectures.items()
        }
        self._keeps = config.job.strategy.requirements.every_update
        self.updates: dict[str, Update] = {}
        self.refused: dict[str, Failure] = {}
        self.changes: dict[str, float] = {}

    def take(self, site: str, answer: Update | Failure) -> None:
        """Take what a site has sent, the next in site order."""
        problem = self._problem(site, answer)
        if problem is not None:
            self.refused[site] = problem
        elif isinstance(answer, Update):
            most = self._most.get(site, answer.samples)
            self.updates[site] = replace(answer, samples=min(answer.samples, most))
            if self._config.engine.norm_bound is None:
                self._join(site)

    def close(self) -> None:
        """Judge the round as a whole, once everybody was heard, and join what waited for that."""
        if self._config.engine.norm_bound is None:
            return
        for joining in self._joining.values():
            self.refused |= self._too_long(joining)
        for site in self.refused:
            self.updates.pop(site, None)
            self.changes.pop(site, None)
        for site in self.updates:
            self._join(site)

    def joining(self, architecture: Architecture) -> "Joining":
        """Return the updates of an architecture as they are joined."""
        return self._joining[architecture.name]

    def _join(self, site: str) -> None:
        """Join an update that nothing speaks against."""
        update = self.updates[site]
        self._joining[self._of[site].name].add(site, update)
        if not self._keeps:
            self.updates[site] = replace(update, arrays={})

    def _problem(self, site: str, answer: Update | Failure) -> Failure | None:
        """Return why an answer cannot be joined, as far as it says so by itself, or None."""
        if isinstance(answer, Failure):
            return answer
        if answer.round != self._round:
            return Failure(f"it is of round {answer.round}", came=True)
        joining = self._joining[self._of[site].name]
        problem = arrays.mismatch(answer.arrays, joining.old)
        if problem is not None:
            return Failure(problem, came=True)
        moved, bound = joining.scale.change(answer.arrays), self._config.engine.largest_change
        if bound is not None and moved > bound:
            return Failure(
                f"its change of the weights is {moved:.3g} times as large as they are, "
                f"engine.largest_change is {bound:g}",
                came=True,
            )
        self.changes[site] = moved
        return None

    def _too_long(self, joining: "Joining") -> dict[str, Failure]:
        """Return whose change of the weights is too long beside the others', and why.

        The length is the L2 norm; three updates at least are needed to tell.
        """
        bound, sites = self._config.engine.norm_bound, joining.architecture.sites
        own = {site: update for site, update in self.updates.items() if site in sites}
        if bound is None or len(own) < 3:
            return {}
        lengths = {s: arrays.distance(update.arrays, joining.old) for s, update in own.items()}
        middle = median(lengths.values())
        return {
            site: Failure(
                f"its change of the weights is {length:.3g} long, the median is {middle:.3g}",
                came=True,
            )
            for site, length in lengths.items()
            if length > bound * middle
        }


class Joining:
    """The updates of one architecture in one round, as they are joined.

    Args:
        config: of the run.
        architecture: what the updates are of.
        old: its arrays that the sites started from.
        expected: see `Intake`.

    Attributes:
        architecture, old: see there.
        scale: which changes of those arrays are measured by.
        digests: of the updates taken in so far, by site.
        weights: what each of them counts.
    """

    def __init__(
        self,
        config: Config,
        architecture: Architecture,
        old: arrays.Arrays,
        expected: Mapping[str, int],
    ) -> None:
        self.architecture, self.old = architecture, old
        self.scale = Scale(old, architecture.parameters)
        self.digests: dict[str, str] = {}
        self.weights: dict[str, int] = {}
        self._privacy = config.privacy
        own = [expected[site] for site in architecture.sites if site in expected]
        self._join = config.aggregation.begin(sum(map(self._privacy.weight, own)))

    def add(self, site: str, update: Update) -> None:
        """Take in one more, the next in site order."""
        self.digests[site] = arrays.digest(update.arrays)
        self.weights[site] = self._privacy.weight(update.samples)
        limited = self._privacy.limited(update.arrays, self.old)
        self._join.add(limited, self.weights[site])

    def result(self, secret: tuple[Key, ...]) -> arrays.Arrays:
        """Return one set of arrays for all of them, at least one.

        Args:
            secret: see `Privacy.released`; less what tells the updates from others.
        """
        # A repeated round with other updates must not have the same noise.
        told = (f"{site} {digest}" for site, digest in self.digests.items())
        joined = self._privacy.released(self._join.result(), len(self.digests), (*secret, *told))
        return {key: arrays.as_type(one, self.old[key].dtype) for key, one in joined.items()}
