"""Sites in the folder layout, of a few pixels."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fedcl.errors import DataError, FedclError
from fedcl.settings import parse
from sites.folder import Folder

RNG = np.random.default_rng(0)


IMAGE = RNG.integers(0, 200, (16, 16), dtype=np.uint8)


MASK = np.where(IMAGE > 100, 255, 0).astype(np.uint8)


def folder(**values: Any) -> Folder:
    """Return a scenario with small slices."""
    return parse(Folder, {"resize": 16, "normalise": "minmax", **values}, "scenario")


def write(file: Path, content: Any, affine: Any = None, **options: Any) -> Path:
    """Write bytes as they are, and an array (row, column[, slice]) by the file's extension."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif ".nii" in file.name:
        stored = np.swapaxes(content, 0, 1)  # a file stores (column, row[, slice])
        nib.save(nib.Nifti1Image(stored, np.eye(4) if affine is None else affine), file)
    else:
        picture = content if isinstance(content, Image.Image) else Image.fromarray(content)
        picture.save(file, **options)
    return file


def pair(
    site: Path, image: Any = IMAGE, mask: Any = MASK, name: str = "p1-IM-1.png", **options: Any
) -> None:
    """Write an image and its mask of the same name."""
    write(site / "images" / name, image, **options)
    write(site / "masks" / name, mask, **options)


def refusal(site: Path, *parts: str, kind: type[FedclError] = DataError, **values: Any) -> None:
    """Check that reading fails with one line that has the site's name and `parts`."""
    with pytest.raises(kind) as caught:
        folder(**values).cases(site.name, site)
    message = str(caught.value)
    assert "\n" not in message
    for part in (f"site {site.name}", *parts):
        assert part in message
