"""Reading image and mask files of any kind, and saying which one is at fault."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fedcl.data import nifti, pictures
from fedcl.data.files import NIFTI, bad
from fedcl.data.grid import Array, Grid, Spacing, apart, cut_of, offset
from fedcl.data.labels import Labels
from fedcl.data.nifti import LIMIT
from fedcl.data.notes import Notes


@dataclass(frozen=True)
class Pair:
    """An image and its labels, cut into slices.

    Attributes:
        image: float32, shape (D, rows, columns), or (frames, D, rows, columns).
        labels: classes, uint8, shape (D, rows, columns).
        spacing: distance between voxels (slice, row, column), in mm where a file says so, else 1.
        plane: of the slices, or "as stored".
        affine: from (column, row, slice) to mm; None where no orientation is given.
    """

    image: Array
    labels: Array
    spacing: Spacing
    plane: str
    affine: Array | None


def read_pair(
    site: str,
    image_file: Path,
    mask_file: Path,
    labels: Labels,
    notes: Notes,
    same_origin: bool = True,
) -> Pair:
    """Read an image and its mask, one slice or a volume of several.

    Args:
        site: whose files they are.
        image_file: an image.
        mask_file: of the same shape, spacing and direction.
        labels: says which of the mask's values are which class.
        notes: gets what was guessed.
        same_origin: whether a mask that its header places elsewhere is refused.

    Raises:
        DataError: a file is unreadable, or the two are at odds.
    """
    image, grid = read_image(site, image_file, (2, 3), notes)
    mask, mask_grid = read_mask(site, mask_file, labels, notes)
    check_same(site, mask_file, grid, mask_grid, notes, same_origin)
    # Where one of the two does not say how it lies, it is taken to lie like the other.
    cut = cut_of(max((grid, mask_grid), key=_detail))
    if cut.plane in ("sagittal", "coronal"):
        notes.add(f"cut into {cut.plane} slices, across the coarsest axis", image_file.name)
    return Pair(cut(image), cut(mask), cut.spacing, cut.plane, cut.affine)


def _detail(grid: Grid) -> tuple[bool, bool]:
    """Return how much a file says of its grid, so that grids can be ordered by it."""
    return grid.affine is not None, grid.spacing is not None


def check_same(
    site: str, mask_file: Path, image: Grid, mask: Grid, notes: Notes, same_origin: bool = True
) -> None:
    """Check that a mask lies where its image does.

    A place less than a voxel away is noted, one further away as well where it need not be the
    same: the mask is then taken voxel by voxel.

    Raises:
        DataError: shape, spacing, direction or place differ.
    """
    if image.shape != mask.shape:
        sizes = (grid.shape[::-1] for grid in (mask, image))
        told = "shapes (slices, rows, columns) differ: mask {}, image {}".format(*sizes)
        raise bad(site, mask_file, told)
    problem = apart(image, mask)
    if problem is not None:
        raise bad(site, mask_file, problem)
    away = offset(image, mask)
    if away > 1 and same_origin:
        raise bad(
            site,
            mask_file,
            f"origins in the headers differ: the mask lies {away:.3g} voxels from its image; "
            "resample it, or if voxel and voxel belong together give scenario.same_origin=false",
        )
    if away:
        what = "masks that their headers place elsewhere than the image, taken voxel by voxel"
        notes.add(what, f"{mask_file.name} {away:.2g} voxels")
    if (image.affine is None) != (mask.affine is None):
        notes.add("orientation given for image or mask alone, taken for both", mask_file.name)


def read_image(site: str, file: Path, axes: tuple[int, ...], notes: Notes) -> tuple[Array, Grid]:
    """Return the values of an image as stored, float32, (i, j, k) or (i, j, k, frames).

    Args:
        site: whose file it is.
        file: a picture, indexed (column, row), or NIfTI.
        axes: how many axes it may have; a single slice gets a third one.
        notes: gets what was given up or guessed.

    Raises:
        DataError: it cannot be read, or has values that are no intensities.
    """

    def picture() -> Array:
        image, clear = _opened(file, notes)
        if clear:
            notes.add("transparency of images is not looked at", file.name)
        values, coloured = pictures.grey(image)
        if coloured:
            notes.add("colour images are turned to grey (luminance)", file.name)
        return values.T

    array, grid = _read(site, file, axes, notes, picture)
    with np.errstate(over="ignore", invalid="ignore"):  # found and told in the next line
        values = array.astype(np.float32)
    if not (np.abs(values) < LIMIT).all():
        raise bad(site, file, f"pixel values that are not finite, or over {LIMIT:g}")
    return values, grid


def read_mask(site: str, file: Path, labels: Labels, notes: Notes) -> tuple[Array, Grid]:
    """Return the class of every voxel of a mask as stored, uint8, (i, j, k).

    Raises:
        DataError: it cannot be read, or has values that are no class.
    """

    def picture() -> Array:
        image, clear = _opened(file, notes)
        if clear:
            raise ValueError(
                "transparent in part; whether colour or transparency is the mask cannot be "
                "known, save it without transparency"
            )
        return np.swapaxes(pictures.marks(image, labels.colours), 0, 1)

    array, grid = _read(site, file, (2, 3), notes, picture)
    try:
        if labels.colours and file.name.lower().endswith(NIFTI):
            raise ValueError(f"{labels.key} gives colours, NIfTI has none; give values")
        encoded = labels.encode(array[:, :, 0] if labels.colours else array)
    except ValueError as error:
        own = f"; +scenario.site_labels.{site}=[...] is for this site alone"
        raise bad(site, file, f"{error}{own * (labels.key == 'scenario.labels')}") from None
    return encoded.reshape(grid.shape), grid


def _opened(file: Path, notes: Notes) -> tuple[Image.Image, bool]:
    """Return a picture and whether it is transparent in part; note whether it was turned."""
    opened = pictures.opened(file)
    if opened.turned:
        notes.add("pictures turned as their EXIF data say", file.name)
    return opened.image, opened.clear


def _read(
    site: str, file: Path, axes: tuple[int, ...], notes: Notes, picture: Callable[[], Array]
) -> tuple[Array, Grid]:
    """Return a file's values and where they lie; `picture` reads what is no NIfTI.

    Raises:
        DataError: it cannot be read.
    """
    try:
        if not file.name.lower().endswith(NIFTI):
            array = picture()[:, :, None]
            return array, Grid((array.shape[0], array.shape[1], 1))
        return nifti.read(file, axes, notes)
    except Exception as error:  # damaged files make the decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise bad(site, file, f"cannot be read: {reason}") from error
