"""What a site may weigh in a round, on numbers small enough to reckon by hand."""

import pytest

from fedcl.server.shares import ceilings, shares


@pytest.mark.parametrize(
    ("expected", "most", "found"),
    [
        ({"A": 100, "B": 100}, 0.9, {}),
        ({"A": 90, "B": 10}, 0.9, {}),  # as unequal as may be
        ({"A": 10**10, "B": 100}, 0.9, {"A": 900}),  # 900 / 1000
        ({"A": 10**10, "B": 100, "C": 60}, 0.8, {"A": 640}),  # 640 / 800
        ({"A": 10**10, "B": 10**9, "C": 60}, 0.4, {"A": 120, "B": 120}),  # 120 / 300 each
        ({"A": 10**10, "B": 30, "C": 60}, 0.5, {"A": 90}),
        ({"A": 10**10, "B": 70}, 0.2, {"A": 70}),  # at most half each: all weigh the same
        ({"A": 10**10, "B": 70}, 1.0, {}),
        ({"A": 10**10}, 0.9, {}),  # nobody else is there
        ({}, 0.9, {}),
    ],
)
def test_who_would_weigh_too_much_counts_as_less(expected: dict, most: float, found: dict):
    assert ceilings(expected, most) == pytest.approx(found)


def test_a_site_alone_in_learning_is_not_bounded_and_those_beside_it_are():
    """One of 200 learns beside two that rehearse 8 each; then one of these claims very many."""
    assert ceilings({"A": 200, "B": 8, "C": 8}, 0.5, alone=["A"]) == {}
    found = ceilings({"A": 200, "B": 10**10, "C": 8}, 0.5, alone=["A"])
    assert found == pytest.approx({"B": 208})


def test_shares_are_parts_of_the_whole():
    assert shares({"A": 3, "B": 1}) == {"A": 0.75, "B": 0.25}
    assert shares({}) == {}
