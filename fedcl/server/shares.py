"""How much each site may weigh in a round: known before any update comes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedcl.config.schema import Config
from fedcl.server.architecture import Architecture


@dataclass(frozen=True)
class Weighing:
    """Tells from what hospitals said before a round how much each may weigh in it.

    Attributes:
        config: of the run.
        architectures: by name.
        samples: how many training samples each site says that it has.
        stored: how many of them it keeps for later stages.
    """

    config: Config
    architectures: Mapping[str, Architecture]
    samples: Mapping[str, int]
    stored: Mapping[str, int]

    def expected(self, learning: Mapping[str, float], rehearsing: Collection[str]) -> int:
        """Return on how many samples will be trained, as far as can be told.

        Args:
            learning: the share of their training cases of sites that are learned from.
            rehearsing: the sites of which what is stored is.
        """
        known, said = self.config.samples, self.samples
        new = (
            max(1, round(min(said[site], known.get(site, said[site])) * share))
            for site, share in learning.items()
        )
        return sum(new) + sum(self.stored.get(site, 1) for site in rehearsing)

    def most(self, expected: Mapping[str, int], learning: Collection[str]) -> dict[str, int]:
        """Return as how many samples trainers of a round count at most.

        That is what they are known to have, where they say they have more, and as much as weighs
        `engine.largest_share` beside what is expected of the others, which the only one that learns
        may exceed: whoever is expected with few, to rehearse for one, may claim many as well.

        Args:
            expected: see above, of every trainer.
            learning: the sites that learn; the others rehearse.
        """
        found = {site: expected[site] for site in expected if self._claims_more(site)}
        for architecture in self.architectures.values():
            own = {site: count for site, count in expected.items() if site in architecture.sites}
            learners = [site for site in own if site in learning]
            alone = learners if len(learners) == 1 else []
            share = self.config.engine.largest_share
            levels = ceilings(own, share, alone)
            counts = {site: min(count, levels.get(site, count)) for site, count in own.items()}
            share = max(share, 1 / max(1, len(own)))
            for site in [site for site in own if share < 1 and site not in alone]:
                others = sum(counts.values()) - counts[site]
                most = max(1, int(share / (1 - share) * others + 1e-6))
                found[site] = min(most, found.get(site, most))
        return found

    def _claims_more(self, site: str) -> bool:
        known = self.config.samples
        return site in known and self.samples.get(site, 0) > known[site]


def ceilings(
    expected: Mapping[str, float], most: float, alone: Collection[str] = ()
) -> dict[str, float]:
    """Return as how many samples those sites count that would weigh more than `most`.

    Each of them then weighs `most`, beside the others as they are ("water-filling"); where all
    sites could not fill a round at that, they all weigh the same.

    Args:
        expected: samples that each site of a round is expected to train on, positive.
        most: the largest share of a round, above 0; 1 bounds nobody.
        alone: sites whose share is not bounded.
    """
    if not expected:
        return {}
    most = max(most, 1 / len(expected))
    bounded = sorted(
        (site for site in expected if site not in alone), key=lambda site: -expected[site]
    )
    rest, count = float(sum(expected.values())), 0
    for site in bounded:
        if expected[site] <= most * rest / (1 - count * most):
            break
        rest, count = rest - expected[site], count + 1
    level = most * rest / (1 - count * most) if count else 0.0
    return dict.fromkeys(bounded[:count], level)


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Return which part of their sum each weight is."""
    total = sum(weights.values())
    return {site: weight / total for site, weight in weights.items()}
