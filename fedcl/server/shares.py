"""How much each site may weigh in a round: known before any update comes."""

from collections.abc import Collection, Mapping


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
