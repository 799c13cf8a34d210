"""MetaImage, NRRD and DICOM without masks: SimpleITK finds the answer where the image is."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedcl.data.alone import Alone
from tests.images import folder
from tests.volumes import DIRECTIONS, series, sitk, write

RNG = np.random.default_rng(5)
CLASSES = RNG.integers(0, 3, (4, 5, 6)).astype(np.int16)
"""Indexed (k, j, i), as SimpleITK has it; intensities are the numbers of classes."""
VALUES = np.array([0, 300, -1])


def alone(file: Path, **settings: Any) -> Alone:
    """Return an image as a scenario reads it that leaves intensities as they are."""
    plain = {"resize": None, "normalise": "none", "labels": [0, 300, -1]}
    return folder(**plain | settings).alone("case", [file], "")


def written(one: Alone, out: Path) -> Path:
    """Write an answer that is the image's first channel."""
    out.mkdir()
    file = out / one.written
    one.write(np.rint(one.image[0]).astype(np.int64), file)
    assert [path.name for path in out.iterdir()] == [one.written], "one file"
    return file


def same_place(found: Any, given: Any, exact: bool = True) -> bool:
    """Return whether SimpleITK sees two images on one grid."""
    close = np.array_equal if exact else lambda a, b: np.allclose(a, b, rtol=0, atol=1e-6)
    return found.GetSize() == given.GetSize() and all(
        close(getattr(found, name)(), getattr(given, name)())
        for name in ("GetOrigin", "GetSpacing", "GetDirection")
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("extension", "kind"), [("mha", "mha"), ("mhd", "mha"), ("nrrd", "nrrd"), ("nhdr", "nrrd")]
)
def test_an_answer_lies_on_its_image(
    tmp_path: Path, extension: str, kind: str, direction: str, dims: int
):
    image = write(tmp_path / f"p.{extension}", CLASSES, DIRECTIONS[direction])
    file = written(alone(image, spatial_dims=dims), tmp_path / "out")
    assert file.name == f"case.{kind}"
    found = sitk.ReadImage(str(file))
    assert same_place(found, sitk.ReadImage(str(image)))
    assert np.array_equal(sitk.GetArrayFromImage(found), VALUES[CLASSES])
    assert found.GetPixelID() == sitk.sitkInt32


@pytest.mark.parametrize("extension", ["mha", "nrrd"])
def test_a_slice_stays_a_slice(tmp_path: Path, extension: str):
    image = write(tmp_path / f"p.{extension}", CLASSES[0], np.eye(2))
    found = sitk.ReadImage(str(written(alone(image), tmp_path / "out")))
    assert found.GetDimension() == 2 and same_place(found, sitk.ReadImage(str(image)))
    assert np.array_equal(sitk.GetArrayFromImage(found), VALUES[CLASSES[0]])


@pytest.mark.parametrize("extension", ["mha", "nrrd"])
def test_of_several_channels_there_is_one_mask(tmp_path: Path, extension: str):
    both = np.stack([CLASSES, CLASSES * 7], -1)
    image = write(tmp_path / f"p.{extension}", both, DIRECTIONS["permuted"], vector=True)
    found = sitk.ReadImage(str(written(alone(image, channels=2), tmp_path / "out")))
    assert found.GetNumberOfComponentsPerPixel() == 1
    assert same_place(found, sitk.ReadImage(str(image)))
    assert np.array_equal(sitk.GetArrayFromImage(found), VALUES[CLASSES])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("direction", ["as ITK", "permuted", "oblique"])
def test_of_a_folder_of_dicom_slices_the_answer_is_nifti(tmp_path: Path, direction: str, dims: int):
    """In which distances and directions are rounded to 32 bits."""
    image = series(tmp_path / "ct", CLASSES, DIRECTIONS[direction])
    file = written(alone(image, spatial_dims=dims), tmp_path / "out")
    assert file.name == "case.nii.gz"
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(image))
    found = sitk.ReadImage(str(file))
    assert same_place(found, sitk.ReadImage(files), exact=False)
    assert np.array_equal(sitk.GetArrayFromImage(found), VALUES[CLASSES])
    assert np.array_equal(nib.load(file).dataobj, VALUES[CLASSES.T]), "to nibabel as well"


def test_what_an_image_says_of_its_patient_is_not_taken_over(tmp_path: Path):
    image = sitk.GetImageFromArray(CLASSES)
    image.SetMetaData("patient", "Jane Doe")
    sitk.WriteImage(image, str(tmp_path / "p.nrrd"))
    file = written(alone(tmp_path / "p.nrrd"), tmp_path / "out")
    assert b"Jane" in (tmp_path / "p.nrrd").read_bytes() and b"Jane" not in file.read_bytes()
