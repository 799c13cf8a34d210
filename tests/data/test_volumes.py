"""MetaImage, NRRD and DICOM: the same patient, whatever format holds it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fedcl.data.channels import Channels
from fedcl.data.grid import cut_of
from fedcl.data.notes import Notes
from fedcl.data.reading import Files, Reader, read_image, read_pair
from fedcl.errors import DataError
from tests.images import BINARY, folder, told
from tests.volumes import DIRECTIONS, ORIGIN, SPACING, series, sitk, write

RNG = np.random.default_rng(3)
VOLUME = RNG.integers(-900, 900, (5, 9, 8)).astype(np.int16)
"""Indexed (k, j, i), as SimpleITK has it."""


def nifti(file: Path, array: np.ndarray, direction: np.ndarray) -> Path:
    """Write an array (k, j, i[, channel]) at the same place with nibabel."""
    file.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4)
    affine[:3, :3] = direction * SPACING
    affine[:3, 3] = ORIGIN
    affine = np.diag([-1.0, -1, 1, 1]) @ affine  # NIfTI's axes go right and forward, ITK's do not
    image = nib.Nifti1Image(array.swapaxes(0, 2), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, file)
    return file


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("extension", ["mha", "mhd", "nrrd", "nhdr"])
def test_a_patient_is_the_same_in_whatever_format(
    tmp_path: Path, extension: str, direction: str, dims: int
):
    mask = (VOLUME > 200).astype(np.uint8)
    turn = DIRECTIONS[direction]
    for kind, array in (("images", VOLUME), ("masks", mask)):
        write(tmp_path / "itk" / kind / f"p.{extension}", array, turn)
        nifti(tmp_path / "nifti" / kind / "p.nii.gz", array, turn)
    scenario = folder(resize=None, spatial_dims=dims)
    one, other = (scenario.cases("A", tmp_path / name) for name in ("itk", "nifti"))
    (here,), (there,) = one[0].scans, other[0].scans
    assert one[0].name == other[0].name == "p"
    assert here.digest == there.digest and here.counts == there.counts
    assert here.spacing == pytest.approx(there.spacing, rel=1e-6) and here.plane == there.plane
    assert sorted(here.spacing) == pytest.approx([1.5, 2.0, 4.0])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_voxel_lies_where_simpleitk_has_it(tmp_path: Path, direction: str):
    file = write(tmp_path / "x.mha", VOLUME, DIRECTIONS[direction])
    array, grid = read_image("A", file, Notes())
    assert array.shape == (1, 8, 9, 5) and grid.shape == (8, 9, 5)
    image = sitk.ReadImage(str(file))
    for index in ((0, 0, 0), (7, 2, 4), (3, 8, 1)):
        assert array[0][index] == image.GetPixel(*index)
        left, back, up = image.TransformIndexToPhysicalPoint(index)
        assert (grid.affine @ [*index, 1])[:3] == pytest.approx([-left, -back, up])
    assert grid.spacing == pytest.approx(SPACING)


def test_a_mask_in_another_format_and_along_other_axes(tmp_path: Path):
    """Of an image with ITK's axes, a mask in NIfTI that another program has turned to RAS."""
    mask = (VOLUME > 200).astype(np.uint8)
    write(tmp_path / "images" / "p.nrrd", VOLUME, np.eye(3))
    file = nifti(tmp_path / "masks" / "p.nii.gz", mask, np.eye(3))
    alike = folder(resize=None).cases("A", tmp_path)
    assert told(folder(), tmp_path) == []
    turned = nib.as_closest_canonical(nib.load(file))
    nib.save(nib.Nifti1Image(np.array(turned.dataobj), turned.affine, turned.header), file)
    found = folder(resize=None).cases("A", tmp_path)
    assert alike[0].scans[0].digest == found[0].scans[0].digest
    said = "masks stored along other axes than their images, turned by their headers"
    assert [str(note) for note in found.notes] == [f"{said}: p.nii.gz RAS, image LPS"]


def test_channels_of_a_volume(tmp_path: Path):
    both = np.stack([VOLUME, VOLUME[::-1]], -1)
    file = write(tmp_path / "images" / "p.mha", both, DIRECTIONS["flipped"], vector=True)
    write(tmp_path / "masks" / "p.mha", (VOLUME > 0).astype(np.uint8), DIRECTIONS["flipped"])
    array, grid = read_image("A", file, Notes())
    assert np.array_equal(array, both.transpose(3, 2, 1, 0)) and grid.shape == (8, 9, 5)
    (scan,) = folder(channels=[1], resize=None, normalise="none").cases("A", tmp_path)[0].scans
    assert np.array_equal(scan.content.image()[0], cut_of(grid)(array[1]))
    with pytest.raises(DataError, match=r"p\.mha: 2 channels, scenario\.channels asks for 1"):
        folder().cases("A", tmp_path)
    write(tmp_path / "masks" / "p.mha", both.astype(np.uint8), np.eye(3), vector=True)
    with pytest.raises(DataError, match=r"masks/p\.mha: cannot be read: 2 channels, one is needed"):
        folder(channels=2).cases("A", tmp_path)


def test_a_single_slice(tmp_path: Path):
    write(tmp_path / "images" / "p.mha", VOLUME[0], np.eye(2))
    write(tmp_path / "masks" / "p.mha", (VOLUME[0] > 0).astype(np.uint8), np.eye(2))
    (scan,) = folder(resize=None, normalise="none").cases("A", tmp_path)[0].scans
    assert scan.shape == (1, 1, 9, 8) and scan.spacing[1:] == pytest.approx((2.0, 1.5))
    # ITK's first axes go left and back; shown are columns to the right and rows forward.
    assert np.array_equal(scan.content.image()[0, 0], VOLUME[0, ::-1, ::-1])


@pytest.mark.parametrize("extension", ["mha", "nrrd"])
def test_damaged_volumes_are_one_line(tmp_path: Path, extension: str):
    file = write(tmp_path / "images" / f"p.{extension}", VOLUME, np.eye(3))
    write(tmp_path / "masks" / "p.mha", (VOLUME > 0).astype(np.uint8), np.eye(3))
    whole = file.read_bytes()
    for damaged in (b"", b"x" * 50, whole[: len(whole) // 2], whole[:-9]):
        file.write_bytes(damaged)
        with pytest.raises(
            DataError, match=rf"^site A: images/p\.{extension}: cannot be read: "
        ) as error:
            folder().cases("A", tmp_path)
        assert "\n" not in str(error.value)


def test_more_axes_are_refused(tmp_path: Path):
    file = tmp_path / "x.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 5)), isVector=False), str(file))
    with pytest.raises(DataError, match="4 axes, a slice or a volume is needed"):
        read_image("A", file, Notes())


@pytest.mark.parametrize("extension", ["mha", "mhd", "nrrd", "nhdr"])
def test_values_in_a_file_beside_the_header_are_no_stray_files(tmp_path: Path, extension: str):
    write(tmp_path / "images" / f"p.{extension}", VOLUME, np.eye(3))
    write(tmp_path / "masks" / f"p.{extension}", (VOLUME > 0).astype(np.uint8), np.eye(3))
    assert len(list((tmp_path / "images").iterdir())) == (2 if extension in ("mhd", "nhdr") else 1)
    assert told(folder(), tmp_path) == []


@pytest.mark.parametrize("extension", ["mha", "mhd", "nrrd", "nhdr"])
def test_a_changed_volume_is_prepared_anew(
    tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch
):
    """Also where the values lie in a file beside the header, which stays as it was."""
    monkeypatch.setenv("FEDCL_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "masks" / "p.mha", (VOLUME > 0).astype(np.uint8), np.eye(3))
    kept, read = (folder(cache=cache, resize=None) for cache in ("disk", "memory"))
    seen = []
    for array in (VOLUME, VOLUME[::-1]):
        write(tmp_path / "images" / f"p.{extension}", array, np.eye(3))
        one, other = (each.cases("A", tmp_path)[0].scans[0].digest for each in (kept, read))
        assert one == other
        seen.append(one)
    assert seen[0] != seen[1]


# --- DICOM -----------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["as ITK", "permuted", "oblique"])
def test_a_series_of_slices_is_a_volume(tmp_path: Path, direction: str):
    turn = DIRECTIONS[direction]
    there = series(tmp_path / "series", VOLUME, turn)
    array, grid = read_image("A", there, Notes())
    assert np.array_equal(array[0], VOLUME.T)
    mask = nifti(tmp_path / "mask.nii.gz", (VOLUME > 200).astype(np.uint8), turn)
    image = nifti(tmp_path / "image.nii.gz", VOLUME, turn)
    reader = Reader("A", BINARY, Channels(1))
    one, other = (read_pair(Files((file,), mask), reader, Notes()) for file in (there, image))
    assert np.array_equal(one.image, other.image) and np.array_equal(one.labels, other.labels)
    assert one.spacing == pytest.approx(other.spacing) and one.plane == other.plane
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    assert grid.spacing == pytest.approx(SPACING)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_series_with_a_missing_slice_is_refused(tmp_path: Path, missing: int):
    there = series(tmp_path / "series", VOLUME, np.eye(3))
    next(there.glob(f"{(7 * missing) % 5}-*.dcm")).unlink()
    with pytest.raises(DataError, match=r"series: cannot be read: slices 4 to 8 mm apart") as error:
        read_image("A", there, Notes())
    assert "missing" in str(error.value)


def test_a_folder_of_several_series_or_of_none_is_refused(tmp_path: Path):
    there = series(tmp_path / "series", VOLUME, np.eye(3))
    series(there, VOLUME, np.eye(3), uid="1.2.3.5")
    with pytest.raises(DataError, match="2 DICOM series in the folder, one is needed"):
        read_image("A", there, Notes())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="0 DICOM series in the folder, one is needed"):
        read_image("A", tmp_path / "empty", Notes())
