"""How far an update has gone from the weights that it began with."""

import math
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from statistics import median

import numpy as np

TYPICAL = 0.1
"""What weights count as at least, as a root mean square: a table may begin with almost nothing."""
FAR = 10.0
"""How many times further than the others an update must go to be blamed for a lost round."""
STILL = 0.1
"""What the others' changes count as at least: who sends nothing new puts no blame on who learns."""


class Scale:
    """The weights that a round begins with, which changes of them are measured by.

    Args:
        before: the weights.
        parameters: names of the arrays that are trained.
    """

    def __init__(self, before: Mapping[str, np.ndarray], parameters: Collection[str]) -> None:
        self._before = before
        real = [key for key in before if before[key].dtype.kind == "f"]
        self._trained = [key for key in real if key in parameters]
        self._others = [key for key in real if key not in parameters]

    def change(self, update: Mapping[str, np.ndarray]) -> float:
        """Return how large the change of the weights is, beside the weights themselves.

        Both are root mean squares over all parameters. Statistics of a network's layers are
        compared apart, and there it is the root that counts: variances grow by the square of what
        they are of.

        Args:
            update: what a site sent, of equal keys and shapes.
        """
        trained, others = self._sizes
        return max(
            self._moved(update, self._trained) / trained,
            math.sqrt(self._moved(update, self._others) / others),
        )

    @cached_property
    def _sizes(self) -> tuple[float, float]:
        """How large the parameters and the statistics are."""
        trained, others = (
            _root_mean_square(self._before[key].astype(np.float64) for key in keys)
            for keys in (self._trained, self._others)
        )
        return max(trained, TYPICAL), max(others, TYPICAL)

    def _moved(self, update: Mapping[str, np.ndarray], keys: Collection[str]) -> float:
        steps = (update[key].astype(np.float64) - self._before[key] for key in keys)
        return _root_mean_square(steps)


def _root_mean_square(parts: Iterable[np.ndarray]) -> float:
    """Return it over all numbers of some arrays, of float64; 0 where there are none."""
    squares = count = 0.0
    for part in parts:
        flat = part.ravel()  # einsum: BLAS would wait for threads that others keep busy
        squares, count = squares + float(np.einsum("i,i", flat, flat)), count + part.size
    return math.sqrt(squares / count) if count else 0.0


def furthest(changes: Mapping[str, float]) -> str | None:
    """Return the site whose update went by far further than the others', or None.

    Args:
        changes: of each update that was joined, in site order; see `Scale.change`.
    """
    if len(changes) < 2:
        return None
    site = max(changes, key=changes.__getitem__)
    others = median(value for name, value in changes.items() if name != site)
    return site if changes[site] > FAR * max(others, STILL) else None


def in_words(site: str, changes: Mapping[str, float]) -> str:
    """Return how far an update went beside the others, as part of a sentence."""
    others = median(far for name, far in changes.items() if name != site)
    return (
        f"its update changed the weights by {changes[site]:.3g} times what they are, the others "
        f"by {others:.3g}"
    )
