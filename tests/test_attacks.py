"""The attacks of `benchmarks.leakage`, on numbers small enough to reckon by hand."""

import math

import numpy as np
import pytest

import sites
from benchmarks.attacks import auc, exposure, homer, likeness, retrieved
from fedcl.registry import SCENARIO
from tests.conftest import ROOT


def test_auc_is_the_share_of_pairs_in_which_a_member_scores_higher():
    assert auc([3.0, 1.0], [2.0, 0.0]) == 3 / 4
    assert auc([1.0], [1.0]) == 0.5, "a tie is half"


def test_homer_is_how_much_nearer_a_mean_is_than_a_population():
    known = np.array([[0.0, 4.0], [2.0, 4.0]])  # mean 1, 4; deviation 1, 0: of no use
    assert homer(np.array([3.0, 9.0]), np.array([2.5, 0.0]), known) == pytest.approx(2 - 0.5)


def test_homer_tells_members_of_a_small_mean_from_others():
    rng = np.random.default_rng(0)
    people = rng.normal(size=(60, 200))
    members, others, known = people[:10], people[10:40], people[40:]
    told = members.mean(axis=0)
    scores = [[homer(one, told, known) for one in group] for group in (members, others)]
    assert auc(*scores) > 0.95


@pytest.mark.parametrize(("planted", "bits"), [(0.5, 2.0), (1.5, 1.0), (9.0, 0.0)])
def test_exposure_is_in_bits(planted: float, bits: float):
    assert exposure(planted, [1.0, 2.0, 3.0]) == bits


def test_exposure_of_what_was_never_planted_is_small():
    rng = np.random.default_rng(0)
    found = [exposure(rng.random(), rng.random(255)) for _ in range(500)]
    assert np.mean(found) == pytest.approx(1 / math.log(2), abs=0.2)


def test_an_image_within_known_air_is_found_again_from_its_magnitude():
    """Air around it on two sides makes magnitudes tell an image, up to place and turning."""
    image = np.zeros((32, 32))
    image[:8, :8] = np.random.default_rng(1).random((8, 8))
    found = retrieved(np.abs(np.fft.rfft2(image)), image.shape, np.random.default_rng(3))
    assert found.min() > -0.2
    off = np.abs(np.fft.rfft2(found)) - np.abs(np.fft.rfft2(image))
    assert np.linalg.norm(off) < 0.3 * np.linalg.norm(np.abs(np.fft.rfft2(image)))


def test_likeness_sees_through_shifts_and_turning_over():
    image = np.random.default_rng(0).random((16, 12))
    moved = np.roll(image, (3, 5), (0, 1)) * 4 - 1
    assert likeness(image, moved) == pytest.approx(1) == likeness(image, moved[::-1, ::-1])
    assert likeness(image, np.random.default_rng(1).random((16, 12))) < 0.6


def test_a_canary_is_one_patients_alone(monkeypatch: pytest.MonkeyPatch):
    plugins = str(ROOT / "benchmarks" / "plugins" / "sites")
    monkeypatch.setattr(sites, "__path__", [*sites.__path__, plugins])
    plain = SCENARIO.make({"name": "phantom", "patients": 4})
    carrying = SCENARIO.make({"name": "canaries", "patients": 4, "patient": 2, "canary": 7})
    for site in ("A", "B"):
        pairs = zip(carrying.cases(site, None), plain.cases(site, None), strict=True)
        other = [n for n, (one, own) in enumerate(pairs) if not one.images.equal(own.images)]
        assert other == ([2] if site == "A" else [])
    case, edge = carrying.make("A", 2), carrying.edge
    assert case.labels[:, :edge, :edge].all()
    assert case.images[:, 0, :edge, :edge].abs().unique().tolist() == [3.0]
