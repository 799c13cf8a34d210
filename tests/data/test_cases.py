"""What is to be known of a site's cases as they are read."""

from collections.abc import Sequence

import pytest
import torch

from fedcl.data.cases import Case, one_by_one


def cases(names: Sequence[str], slices: int = 1) -> list[Case]:
    images = torch.rand(1, slices, 8, 8)
    return [Case.of(name, images, torch.zeros(slices, 8, 8, dtype=torch.uint8)) for name in names]


SLICES = [f"patient{p}-IM-{number}" for p in (1, 2, 10) for number in (3, 4, 5)]


def test_slices_that_count_as_patients_are_told():
    """Some would be trained on and others tested, of one patient."""
    (note,) = one_by_one(cases([*SLICES, "patient11-IM-1"]))
    assert "scenario.patient" in note.what
    assert note.items == ("patient1-IM-3", "patient2-IM-3", "patient10-IM-3")


@pytest.mark.parametrize(
    ("names", "slices"),
    [
        ([f"patient{number}" for number in range(9)], 1),
        ([f"p{number}-IM-1" for number in range(9)], 1),
        ([f"{number:03}" for number in range(9)], 1),
        (["left", "right"], 1),
        (SLICES, 4),
    ],
)
def test_patients_are_not_taken_for_slices(names: list[str], slices: int):
    assert one_by_one(cases(names, slices)) == []
