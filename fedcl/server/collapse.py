"""Whether a round has spoilt the weights for all, and whose update did it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedcl import arrays
from fedcl.config.schema import Config
from fedcl.errors import RunError, some_of
from fedcl.server.architecture import Architecture
from fedcl.server.changes import FAR, furthest, in_words
from fedcl.server.exchange import Failure
from fedcl.server.state import State


class CollapseError(RunError):
    """A round after which no site can go on, for what one of them has sent.

    Args:
        reason: what shows it, in one line.
        round_: which one, counted from 1 over all stages.
        site: whose update went by far the furthest.
    """

    def __init__(self, reason: str, round_: int, site: str) -> None:
        super().__init__(reason)
        self.round, self.site = round_, site


@dataclass(frozen=True)
class CollapseCheck:
    """Looks at what a round led to, architecture by architecture.

    A round is spoilt where nobody can do anything with the weights any more. A learning rate that
    is too high may do that as well: a site is blamed if its update went by far the furthest.

    Attributes:
        config, state: of the run.
        architectures: by name.
    """

    config: Config
    state: State
    architectures: Mapping[str, Architecture]

    def check_joined(self, moved: arrays.Arrays) -> None:
        """Check the joined weights: finite updates can be too large for a sum, or for a strategy.

        Raises:
            CollapseError: they are not finite, for one site's update.
            RunError: they are not finite.
        """
        spoilt = next((k for k, array in moved.items() if not np.isfinite(array).all()), None)
        if spoilt is None:
            return
        what = f"{spoilt} of the joined weights is not finite"
        for one in self.architectures.values():
            if spoilt in one.whole(one.part(moved)):
                self._blame(one, self.state.round + 1, what)
        raise RunError(
            f"stage {self.state.stage + 1}, round {self.state.round + 1}: {what}; "
            "engine.largest_change, engine.norm_bound or a robust aggregation leaves such updates "
            "out"
        )

    def check_training(self, asked: Sequence[str], refused: Mapping[str, Failure]) -> None:
        """Check whether anybody could train from the weights of the round before.

        Raises:
            CollapseError: every site of several that is heard has answered, and none could.
        """
        for one in self.architectures.values():
            own = [refused.get(site) for site in self._heard(one, asked)]
            if len(own) > 1 and all(problem is not None and problem.tried for problem in own):
                self._blame(one, self.state.round, "after it no site could train any more")

    def check_validation(self, scores: Mapping[str, float], failed: Mapping[str, Failure]) -> None:
        """Check what validation says of the weights of this round.

        Args:
            scores: mean score of each site.
            failed: why there is none of others.

        Raises:
            CollapseError: no site can use them any more.
        """
        share = self.config.engine.collapse
        for one in self.architectures.values():
            heard = self._heard(one, [*scores, *failed])
            lost = [site for site in failed if site in heard]
            if share is None or not all(failed[site].tried for site in lost):
                continue
            now = {site: score for site, score in scores.items() if site in heard}
            before = {s: value for s, value in self.state.validation.items() if s in now}
            if collapsed(before, now, lost, share):
                fell = f"validation fell from {_listed(before)} to {_listed(now)}"
                what = fell if now else "after it no site could validate any more"
                self._blame(one, self.state.round + 1, what)

    def _heard(self, architecture: Architecture, sites: Collection[str]) -> list[str]:
        """Return which of some sites are heard on what a round led to, of an architecture.

        Who sent what nobody trains may say anything: it is not heard beside two others.
        """
        far = {s: one for s, one in self.state.changes.items() if s in architecture.sites}
        own, suspect = [site for site in sites if site in architecture.sites], furthest(far)
        others = [site for site in own if site != suspect]
        doubtful = suspect is not None and far[suspect] > FAR
        return others if doubtful and len(others) > 1 else own

    def _blame(self, architecture: Architecture, round_: int, what: str) -> None:
        """Raise `CollapseError` where a site can be named to which it is due.

        Args:
            architecture: whose weights are spoilt.
            round_: in which they were joined.
            what: shows it.
        """
        if self.config.engine.collapse is None or self.config.privacy.accounts:
            return  # with privacy no update can spoil a round, and none is compared with another
        far = {s: one for s, one in self.state.changes.items() if s in architecture.sites}
        site = furthest(far)
        if site is not None:
            raise CollapseError(f"{what}, and {in_words(site, far)}", round_, site)


def collapsed(
    before: Mapping[str, float], now: Mapping[str, float], failed: Collection[str], share: float
) -> bool:
    """Return whether validation tells nothing good of new weights, at any site.

    Args:
        before: mean score of each site with the weights before, as far as it is known.
        now: with the new ones, of those that could be validated.
        failed: the sites that answered, and could not.
        share: of its score before, that a site is below.
    """
    fallen = [site for site, score in now.items() if 0 < before.get(site, 0) * share > score]
    return len(fallen) == len(now) and bool(now or failed)


def _listed(scores: Mapping[str, float]) -> str:
    return some_of(f"{score:.3f} at {site}" for site, score in scores.items())
