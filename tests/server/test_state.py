"""What a run's state says of the run that goes on from it."""

import pytest

from fedcl.errors import ConfigError
from fedcl.server.state import check_same

BEGUN = {"roles.A.model": "unet", "roles.B b.model": "unet", "learner.lr": 0.1}


def test_a_run_goes_on_with_what_it_was_begun_with():
    check_same(BEGUN, dict(BEGUN))


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"roles.Zürich.model": "unet"}, "site Zürich is there, and was not when the run"),
        ({"roles.S.1.model": "unet"}, {}, r"site S\.1 is not there any more, and was when"),
        ({}, {"learner.lr": 0.2}, r"learner\.lr: the run was begun with 0\.1, .* says 0\.2 now"),
        ({}, {"roles.A.model": "deep"}, r"roles\.A\.model: the run was begun with 'unet'"),
    ],
)
def test_what_differs_is_named(before: dict, now: dict, said: str):
    with pytest.raises(ConfigError, match=f"^{said}"):
        check_same({**BEGUN, **before}, {**BEGUN, **now})
