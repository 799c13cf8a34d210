"""Volumes as programs that use ITK write them: MetaImage, NRRD, folders of DICOM slices."""

import locale
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sitk: Any = pytest.importorskip(
    "SimpleITK", reason="SimpleITK reads these formats: pip install 'fedcl[volumes]'"
)

SPACING, ORIGIN = (1.5, 2.0, 4.0), (-30.0, 40.5, 12.0)
TURN = np.deg2rad(20)
DIRECTIONS = {
    "as ITK": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "permuted": np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0.0]]),
    "permuted and flipped": np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0.0]]),
    "oblique": np.array(
        [[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]]
    ),
}


def write(file: Path, array: np.ndarray, direction: np.ndarray, vector: bool = False) -> Path:
    """Write an array (k, j, i[, channel]) with SimpleITK."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=vector)
    dims = image.GetDimension()
    image.SetSpacing(SPACING[:dims])
    image.SetOrigin(ORIGIN[:dims])
    image.SetDirection(direction[:dims, :dims].ravel().tolist())
    sitk.WriteImage(image, str(file))
    return file


def series(folder: Path, array: np.ndarray, direction: np.ndarray, uid: str = "1.2.3.4") -> Path:
    """Write an array (k, j, i) as a series of slices, stored in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    before = locale.setlocale(locale.LC_ALL)  # ITK makes it "C" as it writes DICOM
    for number, values in enumerate(array):
        place = np.array(ORIGIN) + direction[:, 2] * SPACING[2] * number
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(SPACING[:2])
        tags = {
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{number}",
            "0020|0013": str(number),
            "0020|0032": "\\".join(map(str, place.tolist())),
            "0020|0037": "\\".join(map(str, direction[:, :2].T.ravel().tolist())),
            "0018|0050": str(SPACING[2]),
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{(7 * number) % len(array)}-{uid}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)
    return folder
