"""Where voxels lie: orientation, slices, spacing, masks beside their images."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fedcl.data.grid import Grid, apart, cut_of, offset
from fedcl.data.notes import Notes
from fedcl.data.reading import check_same, read_image
from fedcl.errors import DataError
from tests.images import RAS, RNG, folder, nifti, reoriented, three, told, turned


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR", "SLA", "ILP", "LAS"])
def test_a_patient_is_the_same_in_whatever_orientation_it_is_stored(tmp_path: Path, axes: str):
    volume = RNG.integers(0, 99, (12, 10, 5)).astype(np.int16)
    mask = (volume > 60).astype(np.uint8)
    cases = []
    for name, kept in (("as-drawn", "RAS"), ("stored", axes)):
        for kind, array in (("images", volume), ("masks", mask)):
            nifti(tmp_path / name / kind / "p.nii.gz", *reoriented(array, RAS, kept))
        cases += folder().cases("A", tmp_path / name)
    one, other = cases
    assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    (first,), (second,) = one.scans, other.scans
    assert torch.equal(first.content.truth(), second.content.truth())
    assert first.spacing == second.spacing == (4.0, 2.0, 1.5) and second.plane == "axial"


@pytest.mark.parametrize(
    ("spacing", "plane", "shape"),
    [
        ((1.0, 1.0, 5.0), "axial", (7, 6, 5)),
        ((5.0, 1.0, 1.0), "sagittal", (5, 7, 6)),
        ((1.0, 5.0, 1.0), "coronal", (6, 7, 5)),
        ((1.0, 1.0, 1.0), "axial", (7, 6, 5)),
        ((1.0, 1.004, 1.0), "axial", (7, 6, 5)),  # rounding is no reason to cut otherwise
    ],
)
def test_slices_are_cut_across_the_coarsest_axis(spacing, plane: str, shape: tuple[int, ...]):
    grid = Grid((5, 6, 7), spacing, np.diag([*spacing, 1.0]))
    cut, array = cut_of(grid), RNG.normal(size=(5, 6, 7))
    assert cut.plane == plane and cut(array).shape == shape
    assert cut.spacing[0] == max(spacing) or plane == "axial"
    index = np.array([2, 1, 3])  # column, row, slice
    column, row, slice_ = index
    place = (cut.affine @ [*index, 1])[:3]
    stored = np.round(place / spacing).astype(int)
    assert cut(array)[slice_, row, column] == array[tuple(stored)]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize("coarse", [0, 1, 2])
def test_volumes_are_indexed_alike_whatever_their_planes(tmp_path: Path, axes: str, coarse: int):
    """By superior, anterior, right: also where slices were taken from the side or the front."""
    spacing = [1.0, 1.5, 2.0]
    spacing[coarse] = 6.0
    volume = RNG.integers(0, 99, (7, 6, 5)).astype(np.int16)
    mask = (volume > 60).astype(np.uint8)
    affine = np.diag([*spacing, 1.0])
    nifti(tmp_path / "images" / "p.nii", *reoriented(volume, affine, axes))
    nifti(tmp_path / "masks" / "p.nii", *reoriented(mask, affine, axes))
    found = folder(spatial_dims=3, resize=None, normalise="none").cases("A", tmp_path)
    (scan,) = found[0].scans
    assert np.array_equal(scan.content.image()[0], volume.T)
    assert np.array_equal(scan.content.labels(), mask.T)
    assert scan.spacing == pytest.approx(spacing[::-1])
    assert found.notes == () and scan.plane == "axial"


def test_a_single_slice_is_one_slice_whatever_its_thickness(tmp_path: Path):
    nifti(tmp_path / "x.nii", RNG.normal(size=(1, 8, 9)), np.diag([0.5, 2.0, 2.0, 1]))
    _, grid = read_image("A", tmp_path / "x.nii", Notes())
    assert cut_of(grid)(np.zeros((1, 8, 9))).shape == (1, 9, 8)


def test_planes_other_than_axial_are_told(tmp_path: Path):
    for kind in ("images", "masks"):
        nifti(
            tmp_path / kind / "p.nii",
            np.eye(8, dtype=np.uint8)[None].repeat(3, 0),
            np.diag([9, 1, 1, 1]),
        )
    assert "cut into sagittal slices, across the coarsest axis: p.nii" in told(folder(), tmp_path)
    assert folder().task.describe(folder(val=0.3, test=0.3).load("A", three(tmp_path), 0))["plane"]


def test_without_orientation_codes_nothing_is_guessed(tmp_path: Path):
    volume = RNG.integers(0, 99, (6, 5, 4)).astype(np.int16)
    image = nib.Nifti1Image(volume, None)
    image.header.set_zooms((1.0, 2.0, 3.0))
    image.header.set_xyzt_units("mm")
    assert not int(image.header["sform_code"]) and not int(image.header["qform_code"])
    nib.save(image, tmp_path / "x.nii")
    notes = Notes()
    array, grid = read_image("A", tmp_path / "x.nii", notes)
    assert grid.affine is None and grid.spacing == (1.0, 2.0, 3.0)
    assert np.array_equal(array, volume[None]), "nibabel's own guess would mirror it"
    assert "NIfTI without orientation codes" in str(notes.all()[0])


@pytest.mark.parametrize(
    ("affine", "said"),
    [
        (
            np.diag([1.5, 2.0, 4.2, 1]),
            "spacings in the headers differ: mask 1.5x2x4.2, image 1.5x2x4",
        ),
        (turned(40), "the mask is turned by 40 degrees"),
        (np.diag([-1.5, 2.0, 4.0, 1]), "the mask lies 7 voxels from its image"),
        (RAS + np.outer([8, 0, 0, 0], [0, 0, 0, 1]), "5.33 voxels from its image"),
    ],
)
def test_a_mask_that_lies_elsewhere_is_refused(tmp_path: Path, affine: np.ndarray, said: str):
    shape = (8, 8, 3)
    nifti(tmp_path / "images" / "p.nii", np.zeros(shape, np.int16))
    nifti(tmp_path / "masks" / "p.nii", np.zeros(shape, np.uint8), affine)
    with pytest.raises(DataError, match=r"site A: masks/p\.nii: ") as error:
        folder().cases("A", tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize("axes", ["LPS", "LAS", "PIR", "SLA", "ILP"])
def test_a_mask_stored_along_other_axes_is_turned_and_told(tmp_path: Path, axes: str):
    volume = RNG.integers(0, 99, (12, 10, 5)).astype(np.int16)
    mask = (volume > 60).astype(np.uint8)
    for name, stored in (("alike", "LPS"), ("turned", axes)):
        nifti(tmp_path / name / "images" / "p.nii", *reoriented(volume, RAS, "LPS"))
        nifti(tmp_path / name / "masks" / "p.nii", *reoriented(mask, RAS, stored))
    (alike,), (turned_one,) = (folder().cases("A", tmp_path / name) for name in ("alike", "turned"))
    (one,), (other,) = alike.scans, turned_one.scans
    assert one.digest == other.digest and one.counts == other.counts
    # Independently of the project's reader: in RAS, as drawn.
    assert np.array_equal(other.content.truth().numpy(), mask.T)
    said = "masks stored along other axes than their images, turned by their headers: p.nii "
    expected = [] if axes == "LPS" else [f"{said}{axes}, image LPS"]
    assert told(folder(), tmp_path / "turned") == expected
    assert told(folder(), tmp_path / "alike") == []


def test_notes_name_the_files_of_their_own_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where another site has the same files under other names, and they are on disk."""
    monkeypatch.setenv("FEDCL_CACHE", str(tmp_path / "cache"))
    volume = RNG.integers(0, 99, (8, 8, 3)).astype(np.int16)
    for name in ("one", "two"):
        nifti(tmp_path / name / "images" / f"{name}.nii", *reoriented(volume, RAS, "LPS"))
        nifti(tmp_path / name / "masks" / f"{name}.nii", (volume > 50).astype(np.uint8))
        (said,) = told(folder(cache="disk"), tmp_path / name)
        assert f"{name}.nii RAS, image LPS" in said


def test_a_mask_that_lies_alike_is_not_turned_where_two_axes_are_nearly_as_near(tmp_path: Path):
    """At 45 degrees, rounding decides which axis is called R: that is no reason to turn it."""
    array = RNG.integers(0, 2, (8, 8, 3)).astype(np.uint8)
    even = np.diag([2.0, 2.0, 4.0, 1.0])
    one, other = (turned(degrees) @ np.linalg.inv(RAS) @ even for degrees in (44.95, 45.05))
    assert nib.aff2axcodes(one) != nib.aff2axcodes(other)
    for name, affine in (("alike", one), ("nearly", other)):
        nifti(tmp_path / name / "images" / "p.nii", array.astype(np.int16), one)
        nifti(tmp_path / name / "masks" / "p.nii", array, affine)
    alike, nearly = (folder().cases("A", tmp_path / name)[0] for name in ("alike", "nearly"))
    assert torch.equal(alike.labels, nearly.labels)


def test_rounding_in_headers_and_a_part_of_a_voxel_are_no_reason_to_refuse():
    image = Grid((8, 8, 3), (1.5, 2.0, 4.0), RAS)
    near = turned(0.3)
    near[:3, 3] = [0.9, 0, 0]
    mask = Grid((8, 8, 3), (1.501, 2.001, 4.0), near)
    assert apart(image, mask) is None and offset(image, mask) == pytest.approx(0.6, abs=0.01)
    notes = Notes()
    check_same("A", Path("masks/p.nii"), image, mask, notes)
    assert "elsewhere than the image, taken voxel by voxel: p.nii 0.6 voxels" in str(notes.all()[0])
    near[:3, 3] = [0.01, 0, 0]
    assert offset(image, mask) == 0.0


def test_another_origin_may_be_allowed_and_is_told(tmp_path: Path):
    array = RNG.integers(0, 2, (8, 8, 3)).astype(np.uint8)
    nifti(tmp_path / "images" / "p.nii", array)
    nifti(tmp_path / "masks" / "p.nii", array, RAS + np.outer([30, 0, 0, 0], [0, 0, 0, 1]))
    (case,) = folder(same_origin=False, resize=8).cases("A", tmp_path)
    assert torch.equal(case.images[:, 0], case.labels.float())
    assert any("20 voxels" in note for note in told(folder(same_origin=False), tmp_path))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 1000), ("meter", 0.001)])
def test_spacing_is_in_mm_whatever_the_unit(tmp_path: Path, unit: str, factor: float):
    affine = np.diag([0.5 * factor, 0.5 * factor, 4 * factor, 1])
    for kind in ("images", "masks"):
        nifti(tmp_path / kind / "p.nii", np.eye(8, dtype=np.uint8)[..., None], affine, unit)
    (case,) = folder().cases("A", tmp_path)
    assert case.scans[0].spacing == pytest.approx((4.0, 0.5, 0.5))
    assert told(folder(), tmp_path) == []


def test_a_unit_that_is_not_given_is_told(tmp_path: Path):
    for kind in ("images", "masks"):
        nifti(tmp_path / kind / "p.nii", np.eye(8, dtype=np.uint8)[..., None], RAS, "unknown")
    assert told(folder(), tmp_path) == [
        "NIfTI without a unit of length, taken to be mm: images/p.nii, masks/p.nii (2)"
    ]


def test_a_size_that_no_voxel_has_is_told(tmp_path: Path):
    for kind in ("images", "masks"):
        nifti(tmp_path / kind / "p.nii", np.eye(8, dtype=np.uint8)[..., None], RAS, "meter")
    assert told(folder(), tmp_path) == [
        "voxels of a size that is hardly one in mm (look at the unit that the file gives): "
        "p.nii 1.5e+03 x 2e+03"
    ]


def test_one_patient_has_one_spacing(tmp_path: Path):
    for name, size in (("p-1", 4.0), ("p-2", 5.0)):
        for kind in ("images", "masks"):
            array = np.eye(8, dtype=np.uint8)[..., None].repeat(2, 2)
            nifti(tmp_path / kind / f"{name}.nii", array, np.diag([1, 1, size, 1]))
    with pytest.raises(
        DataError, match=r"p-2\.nii: voxels .* of 5x1x1 mm, those of p-1\.nii .* 4x1x1"
    ):
        folder(patient="^(.+)-").cases("A", tmp_path)


def test_sform_and_qform_that_differ_are_told(tmp_path: Path):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), RAS)
    image.set_sform(RAS, 1)
    image.set_qform(np.diag([3, 3, 3, 1]), 1)
    nib.save(image, tmp_path / "x.nii")
    notes = Notes()
    _, grid = read_image("A", tmp_path / "x.nii", notes)
    assert grid.spacing == (1.5, 2.0, 4.0)
    assert any("sform and qform" in str(note) for note in notes.all())
