"""The figures of a run, on matrices small enough to reckon by hand."""

import pytest

from fedcl.server.metrics import forgetting_by_site, summary

SITES = ["A", "B", "C"]
MATRIX = [
    [0.8, 0.3, 0.1],  # after A
    [0.6, 0.9, 0.4],  # after B
    [0.7, 0.5, 0.6],  # after C
]
TRAINED = [["A"], ["B"], ["C"]]
INITIAL = [0.0, 0.1, 0.2]


def test_figures_of_a_hand_made_matrix():
    figures = summary(MATRIX, TRAINED, SITES, INITIAL)
    assert figures["avg"] == pytest.approx((0.7 + 0.5 + 0.6) / 3)
    assert figures["bwt"] == pytest.approx(((0.7 - 0.8) + (0.5 - 0.9)) / 2)
    assert figures["fwt"] == pytest.approx(((0.3 - 0.1) + (0.4 - 0.2)) / 2)
    assert figures["forgetting"] == pytest.approx(((0.8 - 0.7) + (0.9 - 0.5)) / 2)
    assert figures["plasticity"] == pytest.approx((0.8 + 0.9 + 0.6) / 3)
    assert figures["worst_site"] == 0.5
    assert figures["std_site"] == pytest.approx((0.02 / 3) ** 0.5)


def test_forgetting_takes_the_best_row_before_the_last():
    rows = [[0.5, 0.0], [0.9, 0.8], [0.6, 0.95]]
    lost = forgetting_by_site(rows, [["A"], ["B"], ["B"]], ["A", "B"])
    assert lost["A"] == pytest.approx(0.3)
    assert lost["B"] == pytest.approx(0.8 - 0.95), "the last row is left out: it may be negative"


def test_backward_transfer_counts_from_the_last_stage_a_site_trained_in():
    figures = summary(MATRIX, [["A"], ["A", "B"], ["C"]], SITES, INITIAL)
    assert figures["bwt"] == pytest.approx(((0.7 - 0.6) + (0.5 - 0.9)) / 2)


def test_a_site_that_trains_to_the_end_has_nothing_to_transfer_back():
    figures = summary(MATRIX, [["A"], ["A", "B"], ["A", "B", "C"]], SITES, INITIAL)
    assert figures["bwt"] == 0.0


def test_one_stage_leaves_transfer_undefined():
    figures = summary([[0.8, 0.7]], [["A", "B"]], ["A", "B"], [0.0, 0.0])
    assert figures["avg"] == pytest.approx(0.75)
    assert figures["bwt"] is figures["fwt"] is figures["forgetting"] is None


def test_sites_not_evaluated_before_they_arrive_have_no_forward_transfer():
    figures = summary([[0.8, None], [0.7, 0.6]], [["A"], ["B"]], ["A", "B"], [None, None])
    assert figures["fwt"] is None
    assert figures["avg"] == pytest.approx(0.65)


def test_unseen_sites_do_not_count_into_the_average():
    figures = summary([[0.8, 0.2]], [["A"]], ["A", "B"], [0.0, 0.0])
    assert figures["avg"] == figures["worst_site"] == 0.8


def test_an_average_over_seen_sites_is_undefined_when_one_is_missing():
    figures = summary([[0.8, 0.5], [None, 0.6]], [["A"], ["B"]], ["A", "B"], [0.0, 0.0])
    assert figures["avg"] is None
    assert figures["worst_site"] is None


def test_a_site_that_arrived_but_never_trained_counts_into_the_average():
    figures = summary([[0.8, 0.2]], [["A"]], ["A", "B"], [0.0, 0.0], arrived=["A", "B"])
    assert figures["avg"] == pytest.approx(0.5)
    assert (figures["worst_site"], figures["plasticity"]) == (0.2, 0.8)


def test_no_mean_hides_a_score_that_is_missing():
    """A was not there when its own stage was tested, or B when the last one was."""
    trained, sites = [["A"], ["B"], ["C"]], ["A", "B", "C"]
    whole = [[0.9, 0.1, 0.1], [0.6, 0.8, 0.2], [0.5, 0.7, 0.6]]
    full = summary(whole, trained, sites, [0.0] * 3)
    assert full["forgetting"] == pytest.approx((0.4 + 0.1) / 2)
    early = summary([[None, 0.1, 0.1], *whole[1:]], trained, sites, [0.0] * 3)
    missing = {name for name, value in early.items() if value is None}
    assert missing == {"bwt", "rbwt", "forgetting", "plasticity"}
    late = summary([*whole[:2], [0.5, None, 0.6]], trained, sites, [0.0] * 3)
    missing = {name for name, value in late.items() if value is None}
    assert missing == {"avg", "bwt", "rbwt", "forgetting", "worst_site", "std_site"}


def test_rbwt_is_the_mean_of_the_relative_changes():
    trained, sites = [["A"], ["B"], ["C"]], ["A", "B", "C"]
    rows = [[0.8, 0.1, 0.0], [0.6, 0.5, 0.2], [0.4, 0.6, 0.9]]
    figures = summary(rows, trained, sites, [0.0] * 3)
    assert figures["rbwt"] == pytest.approx(((0.4 - 0.8) / 0.8 + (0.6 - 0.5) / 0.5) / 2)
    assert figures["bwt"] == pytest.approx(((0.4 - 0.8) + (0.6 - 0.5)) / 2)
    again = summary(rows, [["A"], ["A", "B"], ["C"]], sites, [0.0] * 3)
    assert again["rbwt"] == pytest.approx(((0.4 - 0.6) / 0.6 + (0.6 - 0.5) / 0.5) / 2)


def test_rbwt_is_undefined_where_nothing_was_learned():
    rows, trained = [[0.0, 0.1], [0.4, 0.6]], [["A"], ["B"]]
    figures = summary(rows, trained, ["A", "B"], [0.0, 0.0])
    assert figures["rbwt"] is None and figures["bwt"] == pytest.approx(0.4)
    assert summary(rows[:1], trained[:1], ["A", "B"], [0.0, 0.0])["rbwt"] is None
