"""How far updates go, on numbers small enough to reckon by hand."""

import numpy as np
import pytest

from fedcl.server.changes import Scale, furthest

BEFORE = {
    "w": np.float32([3, 4, 0, 0]),  # root mean square 2.5
    "mean": np.float32([0, 0]),
    "var": np.float32([1, 1]),  # with the mean: root of 2 / 4
    "count": np.int64(7),
}


def moved(**by: float) -> dict[str, np.ndarray]:
    """Return the weights with numbers added to the first of some arrays."""
    after = {key: array.copy() for key, array in BEFORE.items()}
    for key, value in by.items():
        after[key].reshape(-1)[:1] += np.asarray(value, after[key].dtype)
    return after


@pytest.mark.parametrize(
    ("update", "found"),
    [
        (moved(), 0.0),
        (moved(w=10), 5 / 2.5),
        (moved(var=100), ((100 / 2) / 0.5**0.5) ** 0.5),
        (moved(count=2**60), 0.0),
        (moved(w=10, var=1), 2.0),
        (moved(w=3e38), 1.5e38 / 2.5),
        (moved(mean=3e38), (1.5e38 / 0.5**0.5) ** 0.5),
    ],
)
def test_the_change_is_measured_by_the_weights(update: dict, found: float):
    assert Scale(BEFORE, {"w"}).change(update) == pytest.approx(found, rel=1e-6)


def test_weights_that_begin_with_almost_nothing_may_grow():
    """As the table of a field does, from 1e-4 on."""
    table = {"table": np.full(100, 1e-4, np.float32)}
    grown = {"table": np.full(100, 0.3, np.float32)}
    assert Scale(table, {"table"}).change(grown) == pytest.approx(0.2999 / 0.1, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "site"),
    [
        ({"A": 0.1, "B": 2.0}, "B"),
        ({"A": 0.1, "B": 0.9}, None),
        ({"A": 0.1, "B": 0.2, "C": 2.0}, "C"),  # 0.15 in the middle of the others
        ({"A": 0.0, "B": 0.0}, None),
        ({"A": 0.0, "B": 0.07}, None),  # who sends nothing new puts no blame on who learns
        ({"A": 1e30}, None),  # nobody to compare it with
        ({}, None),
    ],
)
def test_who_went_by_far_the_furthest(changes: dict, site: str | None):
    assert furthest(changes) == site
