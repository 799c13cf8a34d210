"""The phantom: reproducible, anatomically plausible, and shifted the way scanners shift."""

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.ndimage import binary_erosion, label

from fedcl.data.cases import Case
from fedcl.errors import ConfigError, DataError
from fedcl.registry import SCENARIO
from fedcl.seeding import numpy_rng
from sites import phantom
from sites.phantom import HOSPITALS, Phantom, Tissue, draw_anatomy, signals, spin_echo
from tests.conftest import ROOT

SITES = list("ABCDEF")
YAML = ROOT / "conf" / "scenario" / "phantom.yaml"


def same(one: list[Case], other: list[Case]) -> bool:
    return all(
        a.name == b.name and torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(one, other, strict=True)
    )


def tissues_of(site: str, number: int) -> np.ndarray:
    """The anatomy behind a patient of the phantom at strength 1."""
    rng = numpy_rng("phantom", 0, site, number)
    return draw_anatomy(HOSPITALS[site], 64, 4, rng)[0]


def test_yaml_is_the_default() -> None:
    values = OmegaConf.to_container(
        OmegaConf.merge({"seed": 0, "scenario": OmegaConf.load(YAML)}), resolve=True
    )["scenario"]
    assert next(iter(values)) == "name"
    assert SCENARIO.make(values) == Phantom()
    with pytest.raises(ConfigError, match=r"scenario\.size"):
        SCENARIO.make(values | {"size": 31})


def test_what_a_case_holds() -> None:
    scenario = Phantom(patients=3, slices=5, size=48, strength=1.0)
    for site in SITES:
        cases = scenario.cases(site, None)
        assert len({case.name for case in cases}) == 3
        for case in cases:
            assert case.images.shape == (5, 1, 48, 48) and case.images.dtype == torch.float32
            assert case.labels.shape == (5, 48, 48) and case.labels.dtype == torch.uint8
            assert case.labels.unique().tolist() == [0, 1]
            assert case.images.isfinite().all()
            assert case.images.mean((1, 2, 3)).abs().max() < 1e-4
            assert (case.images.std((1, 2, 3)) - 1).abs().max() < 1e-3
            height, row, column = case.scans[0].spacing
            assert 5 * height == pytest.approx(phantom.GLAND)
            assert row == column == 180 / HOSPITALS[site].zoom / 48


def test_split() -> None:
    data = Phantom().load("B", None, seed=0)
    assert (len(data.train), len(data.val), len(data.test)) == (10, 4, 10)
    data = Phantom(patients=3).load("B", None, seed=0)
    assert (len(data.train), len(data.val), len(data.test)) == (1, 1, 1)


def test_sites_there_are_and_are_not() -> None:
    assert Phantom().sites() == SITES
    assert Phantom().arrivals() == [["A", "B"], ["C", "D"], ["E", "F"]]
    with pytest.raises(DataError, match=r"site G: .*A, B, C, D, E, F"):
        Phantom().cases("G", None)


def test_more_hospitals_have_the_scanners_of_the_six_and_patients_of_their_own() -> None:
    many = Phantom(hospitals=15, patients=3)
    assert many.sites()[5:9] == ["F", "A2", "B2", "C2"] and many.sites()[-1] == "C3"
    first, second, third = many.arrivals()
    assert first == ["A", "B", "A2", "B2", "A3", "B3"] and third == ["E", "F", "E2", "F2"]
    assert sorted([*first, *second, *third]) == sorted(many.sites())
    own, other = (many.cases(site, None)[0] for site in ("D", "D2"))
    assert own.spacing == other.spacing and not torch.equal(own.images, other.images)
    assert torch.equal(own.images, Phantom(patients=3).cases("D", None)[0].images)


def test_same_seed_same_bits() -> None:
    first = Phantom(seed=3, patients=4).cases("C", None)
    assert same(first, Phantom(seed=3, patients=4).cases("C", None))
    other = Phantom(seed=4, patients=4).cases("C", None)
    for a, b in zip(first, other, strict=True):
        assert not torch.equal(a.images, b.images) and not torch.equal(a.labels, b.labels)


def test_more_patients_or_hospitals_change_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    few = Phantom(patients=3).cases("E", None)
    monkeypatch.setitem(HOSPITALS, "G", HOSPITALS["E"])
    many = Phantom(patients=6)
    new = many.cases("G", None)
    assert same(few, many.cases("E", None)[:3])
    assert not torch.equal(new[0].images, few[0].images)


def test_spin_echo() -> None:
    # By hand: muscle at 3 T, 0.75 (1 - e^-2.8169) e^-2.8571 = 0.75 * 0.94021 * 0.05743.
    assert spin_echo(np.array(0.75), np.array(1420), np.array(35), 4000, 100) == pytest.approx(
        0.040499, abs=2e-6
    )
    a, d = HOSPITALS["A"], HOSPITALS["D"]
    assert signals(a, a.tr, a.te)[Tissue.MUSCLE] == pytest.approx(0.040499, abs=2e-6)
    # Fat at 1.5 T, of which 39 % is suppressed: (1 - e^-11.586) e^-1.98824 * 0.61.
    assert signals(d, d.tr, d.te)[Tissue.FAT] == pytest.approx(0.083530, abs=2e-6)
    assert signals(d, d.tr, d.te)[Tissue.GAS] == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0])
def test_one_plausible_prostate_in_every_slice(strength: float) -> None:
    scenario = Phantom(patients=12, strength=strength)
    for site in SITES:
        for case in scenario.cases(site, None):
            assert case.images.isfinite().all()
            for mask in case.labels.numpy():
                assert label(mask)[1] == 1
                assert 0.01 < mask.mean() < 0.25
                # Beyond 1 a close-up may cut the widest glands.
                border = mask[[0, -1]].any() or mask[:, [0, -1]].any()
                assert strength > 1 or not border


def test_prostate_tapers_and_bladder_lies_at_its_base() -> None:
    areas = np.array(
        [c.labels.sum((1, 2)).tolist() for c in Phantom(slices=5).cases("A", None)], float
    )
    ratio = areas / areas[:, 2:3]
    assert (ratio[:, [0, 4]] < 0.95).all() and (ratio > 0.65**2 * 0.9).all()
    assert abs(areas[:, 1:] / areas[:, :-1] - 1).max() < 0.45
    fluid = [(tissues_of("A", i) == Tissue.FLUID).mean((1, 2)) for i in range(24)]
    assert (np.diff(np.mean(fluid, 0)) < 0).all()


def test_labels_do_not_depend_on_the_scanner(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Phantom(patients=3)
    before = scenario.cases("C", None)
    scanner = dict(
        tesla=3.0, tr=900.0, te=20.0, fat_sat=0.9, bias=1.0, blur=2.0, noise=0.2, gamma=0.5, erc=0.0
    )
    monkeypatch.setitem(HOSPITALS, "C", replace(HOSPITALS["C"], **scanner))
    after = scenario.cases("C", None)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a.labels, b.labels)
        assert (a.images - b.images).abs().mean() > 0.2


def test_contrast_follows_the_protocol() -> None:
    predicted, fat_over_gland = {}, {}
    for site in SITES:
        hospital = HOSPITALS[site]
        signal = signals(hospital, hospital.tr, hospital.te)
        gland = signal[[Tissue.PERIPHERAL, Tissue.TRANSITION]].mean()
        predicted[site] = gland / signal[Tissue.MUSCLE]
        late = site in "ABCD"  # a long echo time
        assert (signal[Tissue.PERIPHERAL] > signal[Tissue.FAT]) == late
        assert (signal[Tissue.FLUID] > signal[Tissue.PERIPHERAL]) == late

        # The same from the images, coils, blur and noise notwithstanding.
        cases = Phantom(patients=16, strength=1.0).cases(site, None)
        image = torch.cat([case.images[:, 0] for case in cases]).numpy()
        tissue = np.concatenate([tissues_of(site, number) for number in range(16)])
        assert np.array_equal(tissue >= Tissue.PERIPHERAL, torch.cat([c.labels for c in cases]))
        muscle, fat, gland = (
            image[binary_erosion(mask, np.ones((1, 3, 3)))].mean()
            for mask in (tissue == Tissue.MUSCLE, tissue == Tissue.FAT, tissue >= Tissue.PERIPHERAL)
        )
        assert gland > muscle + 0.5
        fat_over_gland[site] = (fat - muscle) / (gland - muscle)

    assert min(predicted[s] for s in "ABCD") > 2 * max(predicted[s] for s in "EF")
    assert max(fat_over_gland[s] for s in "ABCD") < 1 < min(fat_over_gland[s] for s in "EF")


def test_endorectal_coil_brightens_its_surroundings() -> None:
    hospital = HOSPITALS["D"]
    tissues, distance = draw_anatomy(hospital, 64, 4, np.random.default_rng(0))

    def near(erc: float) -> float:
        image = phantom.scan(
            tissues, distance, replace(hospital, erc=erc), np.random.default_rng(1)
        )
        image = (image - image.mean((1, 2), keepdims=True)) / image.std((1, 2), keepdims=True)
        return float(image[(distance < 0.15) & (tissues != Tissue.GAS)].mean())

    assert near(hospital.erc) > near(0) + 0.5


def test_strength_goes_from_the_reference_to_the_table() -> None:
    a = HOSPITALS["A"]
    for site in SITES:
        assert HOSPITALS[site].from_reference(a, 0) == a
        assert astuple(HOSPITALS[site].from_reference(a, 1)) == pytest.approx(
            astuple(HOSPITALS[site])
        )
        far = HOSPITALS[site].from_reference(a, 2)
        assert min(far.te, far.tr, far.tesla, far.noise, far.blur, far.zoom, far.rx) > 0
    half = HOSPITALS["E"].from_reference(a, 0.5)
    assert 35 < half.te < 100 and a.y < half.y < HOSPITALS["E"].y


def test_strength_sets_how_far_the_hospitals_lie_apart() -> None:
    def spread(strength: float) -> np.ndarray:
        """Ranges over the hospitals of the prostate's mean brightness, row and noise."""
        rows = []
        for site in SITES:
            cases = Phantom(patients=40, slices=2, strength=strength).cases(site, None)
            images = torch.cat([case.images[:, 0] for case in cases])
            masks = torch.cat([case.labels for case in cases]) == 1
            corner = images[:, :4, :4].std((1, 2)).mean()
            row = masks.nonzero()[:, 1].float().mean()
            rows.append([float(images[masks].mean()), float(row), float(corner)])
        return np.ptp(np.array(rows), axis=0)

    none, full = spread(0.0), spread(1.0)
    assert (full > 4 * none).all()
    assert (none < [0.25, 1.0, 0.05]).all()
