"""Reading volumes other than NIfTI with SimpleITK: MetaImage, NRRD, folders of DICOM slices."""

from pathlib import Path
from typing import Any

import numpy as np

from fedcl.data.files import data_beside
from fedcl.data.grid import Array, Grid
from fedcl.data.nifti import placed
from fedcl.data.notes import Notes

TURNED = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From ITK's axes, towards left, posterior, superior, to those of NIfTI."""


def read(file: Path, axes: tuple[int, ...], notes: Notes) -> tuple[Array, Grid]:
    """Return the values of a volume, (i, j, k), and where they lie; as `nifti.read`.

    Args:
        file: .mha, .mhd, .nrrd, .nhdr, or a folder that holds one DICOM series.
        axes: how many it may have; channels count as one.
        notes: gets what is guessed.

    Raises:
        ValueError, RuntimeError: it is damaged, no image of numbers with these axes, or a folder
            of no or several series.
        ImportError: SimpleITK is not installed.
    """
    image = opened(file)
    import SimpleITK as sitk  # noqa: N813  its own abbreviation

    if image.GetDimension() not in (2, 3):
        raise ValueError(f"{image.GetDimension()} axes, a slice or a volume is needed")
    array = sitk.GetArrayFromImage(image)  # (slice, row, column[, channel])
    channels = image.GetNumberOfComponentsPerPixel()
    spatial = array if channels > 1 else array[..., None]
    spatial = spatial if image.GetDimension() == 3 else spatial[None]
    stored = spatial.transpose(2, 1, 0, 3)
    if array.dtype.kind not in "iuf" or not array.size:
        raise ValueError(f"no slice or volume of numbers: {array.dtype} {array.shape}")
    if channels == 1:
        stored = stored[..., 0]
    elif 4 not in axes:
        raise ValueError(f"{channels} channels, one is needed")
    shape = (stored.shape[0], stored.shape[1], stored.shape[2])
    affine, spacing = placed(TURNED @ _affine(image), 1.0, shape)
    return stored, Grid(shape, spacing, affine)


def opened(file: Path) -> Any:
    """Return SimpleITK's image of a file or series; errors as of `read`."""
    try:
        import SimpleITK as sitk  # noqa: N813  its own abbreviation
    except ImportError:
        raise ImportError(
            "MetaImage, NRRD and DICOM need SimpleITK: pip install 'fedcl[volumes]'"
        ) from None
    for raw in data_beside(file):
        if raw.name.upper().startswith("LIST") or "%" in raw.name:
            raise ValueError(f"its values lie in several files ({raw.name}); save it in one")
        if raw.parent != file.parent or raw.name in (".", ".."):
            raise ValueError(f"its values lie in another folder ({raw})")
    return sitk.ReadImage(_series(sitk, file) if file.is_dir() else str(file))


def _affine(image: Any) -> Array:
    """Return the matrix from indices to mm, in ITK's axes."""
    dims, affine = image.GetDimension(), np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dims, dims)
    affine[:dims, :dims] = direction * np.array(image.GetSpacing())
    affine[:dims, 3] = image.GetOrigin()
    return affine


def _series(sitk: Any, folder: Path) -> list[str]:
    """Return the files of the one series in a folder, in order.

    Raises:
        ValueError: there is none, or more than one, or slices are missing.
    """
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(found) != 1:
        raise ValueError(f"{len(found)} DICOM series in the folder, one is needed")
    files: list[str] = list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), found[0]))
    gaps = _gaps(sitk, files)
    if gaps is not None:
        raise ValueError(gaps)
    return files


def _gaps(sitk: Any, files: list[str]) -> str | None:
    """Return why the slices of a series are no volume, or None."""
    places = []
    for file in files:
        reader = sitk.ImageFileReader()
        reader.SetFileName(file)
        reader.ReadImageInformation()
        direction = np.array(reader.GetDirection()).reshape(3, 3)
        places.append(float(np.dot(direction[:, 2], reader.GetOrigin())))
    steps = np.abs(np.diff(places))
    if len(steps) and not np.allclose(steps, np.median(steps), rtol=0.05, atol=0.01):
        return (
            f"slices {steps.min():.3g} to {steps.max():.3g} mm apart: some are missing, or the "
            "series has several parts"
        )
    return None
