"""Reading image and mask files of any kind, and saying which one is at fault."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from fedcl.data import pictures
from fedcl.data.files import NIFTI, bad
from fedcl.data.grid import (
    SHEAR,
    SPACING,
    Array,
    Grid,
    Spacing,
    apart,
    cut_of,
    displacement,
    offset,
    shear,
)
from fedcl.data.labels import Labels
from fedcl.data.notes import Notes

LIMIT = 1e15
"""Far above any intensity, yet its square fits float32."""
FARTHEST = 1e9
"""Millimetres that a voxel may lie from the origin."""
MILLIMETRES = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
"""Of the units that NIfTI's `xyzt_units` can name."""


LONGEST = 1e6
"""Seconds between two frames that may be meant."""
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


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
    cut = cut_of(max((grid, mask_grid), key=_told))
    if cut.plane in ("sagittal", "coronal"):
        notes.add(f"cut into {cut.plane} slices, across the coarsest axis", image_file.name)
    return Pair(cut(image), cut(mask), cut.spacing, cut.plane, cut.affine)


def _told(grid: Grid) -> tuple[bool, bool]:
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
        opened = pictures.opened(file)
        if opened.turned:
            notes.add("pictures turned as their EXIF data say", file.name)
        if opened.clear:
            notes.add("transparency of images is not looked at", file.name)
        values, coloured = pictures.grey(opened.image)
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
        opened = pictures.opened(file)
        if opened.turned:
            notes.add("pictures turned as their EXIF data say", file.name)
        if opened.clear:
            raise ValueError(
                "transparent in part; whether colour or transparency is the mask cannot be "
                "known, save it without transparency"
            )
        return np.swapaxes(pictures.marks(opened.image, labels.colours), 0, 1)

    array, grid = _read(site, file, (2, 3), notes, picture)
    try:
        if labels.colours and file.name.lower().endswith(NIFTI):
            raise ValueError(f"{labels.key} gives colours, NIfTI has none; give values")
        encoded = labels.encode(array[:, :, 0] if labels.colours else array)
    except ValueError as error:
        raise bad(site, file, str(error)) from None
    return encoded.reshape(grid.shape), grid


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
        return _nifti(file, axes, notes)
    except Exception as error:  # damaged files make the decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise bad(site, file, f"cannot be read: {reason}") from error


def frame_time(file: Path) -> float:
    """Return the seconds between the frames of a NIfTI file; 0 where it does not say."""
    header: Any = nib.load(file).header
    zooms, unit = header.get_zooms(), SECONDS.get(header.get_xyzt_units()[1], 0.0)
    seconds = float(zooms[3]) * unit if len(zooms) > 3 else 0.0
    return seconds if 0 < seconds < LONGEST else 0.0


def _nifti(file: Path, axes: tuple[int, ...], notes: Notes) -> tuple[Array, Grid]:
    """Return values and grid of a NIfTI file.

    Raises:
        ValueError and many others: it is damaged, or no image of numbers with these axes.
    """
    if file.name.lower().endswith(".gz"):
        # The decoder stops at the last voxel; a file cut short after it shows only here.
        with gzip.open(file) as stream:
            while stream.read(1 << 20):
                pass
    image: Any = nib.load(file)
    array = np.asanyarray(image.dataobj)
    while array.ndim > max(axes) and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in axes or not array.size or array.dtype.kind not in "iuf":
        raise ValueError(f"no slice or volume of numbers: {array.dtype} {array.shape}{_axes(axes)}")
    array = array.reshape(*array.shape, *(1,) * (3 - array.ndim))
    shape = (array.shape[0], array.shape[1], array.shape[2])
    header, raw = image.header, _raw_header(image, file)
    if file.name.lower().endswith(NIFTI) and 0 <= float(raw["vox_offset"]) < raw.single_vox_offset:
        raise ValueError("the header says that the values begin within it (vox_offset)")
    unit = MILLIMETRES[header.get_xyzt_units()[0]]
    if header.get_xyzt_units()[0] == "unknown":
        notes.add("NIfTI without a unit of length, taken to be mm", file.name)
    codes = int(raw["sform_code"]), int(raw["qform_code"])
    # nibabel replaces distances that are none by 1 when it loads a file.
    zooms = [unit * float(zoom) for zoom in raw["pixdim"][1:4]]
    given = [
        zoom if axis < raw["dim"][0] and shape[axis] > 1 else max(zoom, 0.0) or 1.0
        for axis, zoom in enumerate(zooms)
    ]
    measured = all(0 < zoom < LIMIT for zoom in given)
    spacing = (given[0], given[1], given[2])
    if not any(codes):
        notes.add("NIfTI without orientation codes, slices taken as they are stored", file.name)
        if not measured:
            raise ValueError("the header gives no valid spacing (pixdim)")
        return array, Grid(shape, spacing)
    with np.errstate(invalid="ignore", divide="ignore"):
        affine = image.affine.astype(np.float64)
        affine[:3] *= unit
        for axis, size in enumerate(shape):
            if size == 1 and not affine[:3, axis].any():  # the third axis of a slice
                affine[:3, axis] = np.cross(*(affine[:3, (axis + n) % 3] for n in (1, 2)))
                affine[:3, axis] /= np.linalg.norm(affine[:3, axis])
        sizes = [float(size) for size in nib.affines.voxel_sizes(affine)]
        if not np.abs(affine).max() < FARTHEST or not all(0 < size < LIMIT for size in sizes):
            raise ValueError("the header gives no valid spacing or place")
        if not abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-6:
            raise ValueError("the header gives no valid spacing: its axes lie in a plane")
    if shear(affine) > SHEAR:
        what = "axes that are not at right angles; slices are taken as if they were"
        notes.add(what, f"{file.name} {shear(affine):.2g} degrees")
    if (
        codes[0]
        and codes[1]
        and displacement(affine, _scaled(header.get_qform(), unit), shape) > 0.5
    ):
        notes.add("sform and qform of the header differ, the sform is taken", file.name)
    if codes[0] and measured and not np.allclose(sizes, spacing, rtol=SPACING, atol=0):
        notes.add("sform and pixdim of the header differ, the sform is taken", file.name)
    return array, Grid(shape, (sizes[0], sizes[1], sizes[2]), affine)


def _raw_header(image: Any, file: Path) -> Any:
    """Return a NIfTI header as it is in the file, nothing mended."""
    with nib.openers.ImageOpener(str(file)) as opened:
        return type(image.header).from_fileobj(opened, check=False)


def _scaled(affine: Array, unit: float) -> Array:
    """Return an affine matrix in mm."""
    moved = np.array(affine, np.float64)
    moved[:3] *= unit
    return moved


def _axes(axes: tuple[int, ...]) -> str:
    """Return which axes were wanted, where it is not plain."""
    if axes != (4,):
        return ""
    return (
        ", but columns, rows, slices and frames are needed: it has no time axis or, if the third "
        "is time, no slice axis"
    )
