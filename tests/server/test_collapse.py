"""Who is heard on whether a round has spoilt the weights, and who can be blamed for it."""

import pytest

from fedcl.server.architecture import architectures
from fedcl.server.collapse import CollapseCheck, CollapseError
from fedcl.server.exchange import Failure
from fedcl.server.state import State
from fedcl.wire.codes import TOO_LATE
from tests.servers import config

BEFORE = {"A": 0.5, "B": 0.4, "C": 0.6}
LOST = Failure("the loss is not finite", code=1)


def check(changes: dict[str, float]) -> CollapseCheck:
    settings = config("strategy=finetune", "timeline.stages=[[A,B,C]]")
    state = State({}, changes=changes, validation=dict(BEFORE), round=3)
    return CollapseCheck(settings, state, architectures(settings.job, ["A", "B", "C"]))


@pytest.mark.parametrize(
    ("scores", "failed"),
    [({"C": 0.9}, {}), ({}, {"C": Failure("no answer", code=TOO_LATE)}), ({}, {"C": LOST})],
)
def test_who_has_spoilt_a_round_does_not_speak_for_it(scores: dict, failed: dict):
    round_ = check({"A": 0.1, "B": 0.1, "C": 150.0})
    with pytest.raises(CollapseError) as found:
        round_.check_validation({"A": 0.0, "B": 0.0, **scores}, failed)
    assert (found.value.site, found.value.round) == ("C", 4)
    with pytest.raises(CollapseError, match="no site could train"):
        round_.check_training("ABC", {"A": LOST, "B": LOST})


def test_who_learns_much_that_others_forget_has_spoilt_nothing():
    """As the only new hospital among those that rehearse."""
    round_ = check({"A": 0.1, "B": 0.1, "C": 2.0})
    round_.check_validation({"A": 0.0, "B": 0.0, "C": 0.9}, {})


def test_of_two_each_is_heard():
    check({"A": 0.1, "C": 150.0}).check_validation({"A": 0.0, "C": 0.6}, {})


def test_who_sends_nothing_new_cannot_have_another_one_left_out():
    """One sends the weights back and then fails; the other is out of luck."""
    check({"A": 0.0, "B": 0.07}).check_training("AB", {"A": LOST, "B": LOST})
