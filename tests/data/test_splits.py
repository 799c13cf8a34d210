"""How the patients of a site are split, at random and as the data say."""

import pytest
import torch

from fedcl.data.cases import Case, split
from fedcl.errors import DataError

SCANS = Case.of("any", torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)).scans


def patients(**parts: int) -> list[Case]:
    """Return so many patients of each part, their parts taking turns."""
    names = [(n, part) for part, count in parts.items() for n in range(count)]
    return [Case(f"{part}{n}", SCANS, "" if part == "any" else part) for n, part in sorted(names)]


def names(cases: tuple[Case, ...]) -> list[str]:
    return [case.name for case in cases]


def test_patients_whose_part_is_given_stay_in_it():
    cases = patients(train=5, val=2, test=3)
    data = split(cases, "A", 0.5, 0.25, seed=0)
    for part in ("train", "val", "test"):
        assert names(getattr(data, part)) == [c.name for c in cases if c.part == part]


def test_who_has_no_part_is_trained_on_where_others_have_one():
    data = split(patients(any=4, val=1, test=1), "A", 0.25, 0.25, seed=0)
    assert names(data.train) == [f"any{n}" for n in range(4)]


@pytest.mark.parametrize(("missing", "other"), [("val", "test"), ("test", "val")])
def test_a_part_that_the_data_do_not_name_is_drawn_from_those_trained_on(missing, other):
    cases = patients(train=8, **{other: 2})
    data = split(cases, "A", 0.2, 0.2, seed=3)
    assert names(getattr(data, other)) == [f"{other}0", f"{other}1"]
    drawn = names(getattr(data, missing))
    assert len(drawn) == 2 and all(name.startswith("train") for name in drawn)
    assert sorted(names(data.train) + drawn) == sorted(f"train{n}" for n in range(8))
    assert names(data.train) == sorted(names(data.train)), "in order"
    again = split(cases, "A", 0.2, 0.2, seed=3)
    assert names(getattr(again, missing)) == drawn
    others = {
        tuple(names(getattr(split(cases, "A", 0.2, 0.2, seed=seed), missing))) for seed in range(9)
    }
    assert len(others) > 3


def test_both_parts_may_be_drawn():
    data = split(patients(train=10), "A", 0.2, 0.3, seed=0)
    assert [len(part) for part in (data.train, data.val, data.test)] == [5, 2, 3]
    every = names(data.train) + names(data.val) + names(data.test)
    assert sorted(every) == sorted(f"train{n}" for n in range(10))


def test_too_few_are_refused():
    with pytest.raises(DataError, match=r"site A: by the given split there is no patient for test"):
        split(patients(train=1, val=1), "A", 0.5, 0.5, seed=0)
    with pytest.raises(DataError, match="no patient for train"):
        split(patients(val=1, test=2), "A", 0.5, 0.5, seed=0)
    with pytest.raises(DataError, match="site A: 2 patients are too few"):
        split(patients(any=2), "A", 0.3, 0.3, seed=0)
    smallest = split(patients(train=3), "A", 0.4, 0.4, seed=0)
    assert [len(part) for part in (smallest.train, smallest.val, smallest.test)] == [1, 1, 1]
