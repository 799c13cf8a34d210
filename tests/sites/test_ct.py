"""CT: the phantom of the abdomen, and volumes in the layout of the Decathlon."""

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from fedcl.errors import ConfigError, DataError
from fedcl.registry import SCENARIO
from sites.ct_phantom import ATTENUATION, HOSPITALS, Tissue, window
from tests.conftest import ROOT, TINY, read

SPLEEN = ROOT.parent / "shared" / "data" / "Task09_Spleen"
REAL = pytest.mark.skipif(not SPLEEN.is_dir(), reason="../shared/data/Task09_Spleen is not there")


def phantom(**settings: Any) -> Any:
    return SCENARIO.make({"name": "ct_phantom", "patients": 6} | settings)


# --- the phantom -----------------------------------------------------------------------------


def test_a_patient_depends_on_nothing_but_seed_hospital_and_number():
    few, many = phantom().cases("C", None), phantom(patients=9).cases("C", None)
    assert all(torch.equal(a.images, b.images) for a, b in zip(few, many, strict=False))
    other = phantom(seed=1).cases("C", None)
    assert not torch.equal(few[0].images, other[0].images)
    assert few[0].scans[0].spacing == (25.0, 360 / 0.9 / 64, 360 / 0.9 / 64)


def test_the_window_maps_units_to_minus_one_and_one():
    units = np.array([-1000.0, -140.0, 60.0, 160.0, 260.0, 3000.0])
    assert window(units, 60.0, 400.0).tolist() == [-1, -1, 0, 0.5, 1, 1]


@pytest.mark.parametrize("site", HOSPITALS)
def test_the_spleen_is_as_bright_as_its_phase_says(site: str):
    """Measured in the middle of the organ, where no neighbour shines in."""
    cases = phantom(patients=12, level=100.0, width=1000.0).cases(site, None)
    inside = []
    for case in cases:
        middle = -torch.nn.functional.max_pool2d(-case.labels.float(), 3, 1, 1) > 0.5
        inside.append(case.images[:, 0][middle])
    found = 100 + 500 * float(torch.cat(inside).mean())
    phase = HOSPITALS[site].phase
    expected = np.interp(phase, [0, 1, 2], ATTENUATION[Tissue.SPLEEN])
    assert found == pytest.approx(expected, abs=12)


def test_hospitals_differ_in_noise_and_at_strength_0_in_nothing_but_patients():
    def noise(site: str, strength: float) -> float:
        images = torch.cat(
            [c.images for c in phantom(strength=strength, level=0, width=2000).cases(site, None)]
        )
        return float((images[..., 2:6, 20:44] * 1000 + 950).std())  # air above the body

    assert noise("D", 1.0) > 2 * noise("A", 1.0)
    assert noise("D", 0.0) == pytest.approx(noise("A", 0.0), rel=0.2)


def test_every_patient_has_a_spleen_of_a_plausible_size():
    for site in HOSPITALS:
        for case in phantom().cases(site, None):
            millilitres = float(case.labels.sum()) * np.prod(case.scans[0].spacing) / 1000
            assert 60 < millilitres < 700, (site, case.name)


def test_thick_slices_blur_what_lies_between_them():
    thin, thick = (HOSPITALS[site].thickness for site in "AD")
    assert (thin, thick) == (2.5, 10.0)
    with pytest.raises(DataError, match="site Z: the phantom has no such hospital"):
        phantom().cases("Z", None)


# --- the Decathlon ---------------------------------------------------------------------------


def task(root: Path, cases: int = 4, **index: Any) -> Path:
    """Write a task: volumes of 3 slices of 8 x 6, case n is n everywhere but at its label."""
    listed = []
    for n in range(1, cases + 1):
        image, label = np.full((8, 6, 3), float(n), np.float32), np.zeros((8, 6, 3), np.uint8)
        image[2:4, 2:4, 1], label[2:4, 2:4, 1] = 500.0, 1
        pair = {}
        for key, folder, array in (("image", "imagesTr", image), ("label", "labelsTr", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            affine = np.diag([2.0, 3.0, 5.0, 1.0])
            nib.save(nib.Nifti1Image(array, affine), root / folder / f"organ_{n}.nii.gz")
            pair[key] = f"./{folder}/organ_{n}.nii.gz"
        listed.append(pair)
    (root / "dataset.json").write_text(json.dumps({"training": listed} | index))
    return root


def decathlon(**settings: Any) -> Any:
    given = {"resize": 8, "normalise": "window", "window": [-20.0, 20.0], "cohorts": {"A": {}}}
    return SCENARIO.make({"name": "decathlon"} | given | settings)


def test_volumes_become_windowed_slices(tmp_path: Path):
    first, *_, last = decathlon().cases("A", task(tmp_path, cases=11))
    assert (first.name, last.name) == ("organ_1", "organ_11"), "in natural order"
    assert first.images.shape == (3, 1, 8, 8)
    assert first.scans[0].spacing == (5.0, 3.0, 2.0)
    assert first.images[0].unique().tolist() == pytest.approx([0.05])
    assert first.images[1].max() == 1.0, "clipped at the window's edge"
    assert first.labels.sum(dim=(1, 2)).tolist()[::2] == [0, 0] and first.labels[1].sum() > 0
    (kept,) = decathlon(margin=0, cohorts={"A": {"cases": ["organ_2"]}}).cases("A", tmp_path)
    assert kept.images.shape == (1, 1, 8, 8) and bool(kept.labels.any())


def test_without_a_window_volumes_are_normalised(tmp_path: Path):
    case = decathlon(normalise="zscore").cases("A", task(tmp_path))[0]
    assert float(case.images.mean()) == pytest.approx(0, abs=1e-6)
    assert float(case.images.std(correction=0)) == pytest.approx(1, abs=1e-5)
    # By hand: 6 rows become 8, those between by linear interpolation of their neighbours.
    volume = torch.ones(1, 3, 6, 8, dtype=torch.float64)
    volume[0, 1, 2:4, 2:4] = 500
    larger = torch.nn.functional.interpolate(volume, (8, 8), mode="bilinear")[0].numpy()
    expected = (larger - larger.mean()) / larger.std()
    np.testing.assert_allclose(case.images[:, 0], expected, atol=1e-5)
    assert case.images[0].unique().tolist() == pytest.approx([expected[0, 0, 0]]), "stays constant"
    nib.save(
        nib.Nifti1Image(np.full((8, 6, 3), 0.1, np.float32), np.diag([2.0, 3.0, 5.0, 1.0])),
        tmp_path / "imagesTr" / "organ_1.nii.gz",
    )
    constant = decathlon(normalise="zscore").cases("A", tmp_path)[0]
    assert not constant.images.any(), "a constant volume is zero"


def test_slices_that_are_left_out_count_in_the_intensities_of_the_others(tmp_path: Path):
    whole = decathlon(normalise="zscore").cases("A", task(tmp_path))[0]
    (kept,) = decathlon(normalise="zscore", margin=0).cases("A", tmp_path)[:1]
    torch.testing.assert_close(kept.images, whole.images[1:2])


@pytest.mark.parametrize(
    ("modality", "same"), [("CT", "window"), ("MRI", "zscore"), (None, "zscore")]
)
def test_intensities_are_treated_as_the_index_says(tmp_path: Path, modality: Any, same: str):
    index = {} if modality is None else {"modality": {"0": modality}}
    auto = decathlon(normalise="auto").cases("A", task(tmp_path, **index))
    given = decathlon(normalise=same).cases("A", tmp_path)
    assert all(torch.equal(a.images, b.images) for a, b in zip(auto, given, strict=True))
    assert not any("window" in str(note) for note in auto.notes)


def test_cases_are_shared_out_in_order_and_each_once(tmp_path: Path):
    root = task(tmp_path, cases=10)
    cohorts = {"A": {"share": 0.3}, "B": {"share": 0.3}, "C": {"share": 0.4}}
    scenario = decathlon(cohorts=cohorts)
    held = [[case.name for case in scenario.cases(site, root)] for site in cohorts]
    assert [len(names) for names in held] == [3, 3, 4]
    assert [name for names in held for name in names] == [f"organ_{n}" for n in range(1, 11)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"training": [{"image": "imagesTr/x.nii.gz", "label": "labelsTr/x.nii.gz"}]},
         "x.nii.gz, which is not there"),
        ({"training": [{"image": "../secret.nii.gz", "label": "labelsTr/organ_1.nii.gz"}]},
         "lies outside of"),
        ({"training": [{"image": "imagesTr/organ_1.nii.gz"}]}, "does not list training cases"),
        ({"training": []}, "lists no training case"),
        ({"training": 7}, "does not list training cases"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_one_line(tmp_path: Path, damage: dict[str, Any], message: str):
    with pytest.raises(DataError, match=f"site A: .*{re.escape(message)}") as error:
        decathlon().cases("A", task(tmp_path / "task", **damage))
    assert "\n" not in str(error.value)


def test_a_missing_index_an_unknown_case_and_a_volume_without_label(tmp_path: Path):
    with pytest.raises(DataError, match=r"site A: no dataset\.json in .*, which lists the cases"):
        decathlon().cases("A", tmp_path)
    root = task(tmp_path)
    many = {site: {"share": 0.04} for site in "AB"}
    with pytest.raises(DataError, match=r"site A: of the 4 cases in .* none is its own"):
        decathlon(cohorts=many).cases("A", root)
    with pytest.raises(DataError, match="there is no case organ_99"):
        decathlon(cohorts={"A": {"cases": ["organ_99"]}}).cases("A", root)
    empty = np.zeros((8, 6, 3), np.uint8)
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    nib.save(nib.Nifti1Image(empty, affine), root / "labelsTr" / "organ_1.nii.gz")
    with pytest.raises(DataError, match=r"organ_1\.nii\.gz: no label in it"):
        decathlon(margin=1).cases("A", root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cohorts": {"A": {"share": 0.7}, "B": {"share": 0.6}}}, "the shares add up to 1.3"),
        ({"cohorts": {"A": {"share": 0.7, "cases": ["x"]}}}, "give share or cases"),
        ({"labels": [1, 1]}, "all different"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        decathlon(**settings)


@REAL
def test_the_real_spleen_is_read():
    scenario = SCENARIO.make({"name": "decathlon", "resize": 64, "cohorts": {"A": {}}, "margin": 0})
    (case,) = scenario.cases("A", SPLEEN)
    assert case.name == "spleen_2" and case.images.shape[1:] == (1, 64, 64)
    assert case.labels.flatten(1).any(dim=1).all()
    assert case.scans[0].spacing == pytest.approx((5.0, 0.795, 0.795), abs=0.001)
    organ = 60 + 200 * case.images[:, 0][case.labels > 0]
    assert 70 < float(organ.median()) < 160, "HU of a spleen with contrast medium"


@REAL
def test_a_run_on_slabs_of_the_real_spleen(cli, tmp_path: Path):
    """One volume is too few to split by patient: its slabs stand in for patients."""
    listed = []
    for kind in ("imagesTr", "labelsTr"):
        image = nib.load(SPLEEN / kind / "spleen_2.nii.gz")
        (tmp_path / "task" / kind).mkdir(parents=True)
        for n in range(8):
            slab = image.slicer[:, :, 3 * n : 3 * n + 3]
            nib.save(slab, tmp_path / "task" / kind / f"slab_{n}.nii.gz")
    for n in range(8):
        listed.append({"image": f"imagesTr/slab_{n}.nii.gz", "label": f"labelsTr/slab_{n}.nii.gz"})
    (tmp_path / "task" / "dataset.json").write_text(json.dumps({"training": listed}))
    own = [option for option in TINY if not option.startswith("scenario.")]
    folder = tmp_path / "run"
    assert cli(
        *own, "scenario=decathlon", f"scenario.root={tmp_path / 'task'}", "scenario.resize=32",
        "scenario.normalise=window",
        "scenario.stages=[[A],[B]]", "~scenario.cohorts.C", "~scenario.cohorts.D",
        "scenario.cohorts.A.share=0.5", "scenario.cohorts.B.share=0.5", f"run.dir={folder}",
    ) == 0  # fmt: skip
    assert read(folder)["failures"] == []
    assert read(folder)["sites"] == ["A", "B"]
