"""Where voxels lie: spacing, orientation, and the axis that slices are cut across."""

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

Array = np.ndarray[Any, Any]
Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]

SPACING = 0.01  # relative difference of spacings that rounding in headers explains
DIRECTION = 0.01  # of direction cosines: 0.6 degrees
ORIGIN = 0.1  # of a voxel
SHEAR = 0.5  # degrees
PLANES = ("sagittal", "coronal", "axial")
"""What slices across the axes right, anterior, superior are called."""


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an array lie that is indexed (i, j, k), as its file has them.

    Attributes:
        shape: of the array's first three axes.
        spacing: distance between voxels along each, in mm; None where the file does not say.
        affine: from indices to mm, shape (4, 4); None where the file gives no orientation.
    """

    shape: tuple[int, int, int]
    spacing: Spacing | None = None
    affine: Array | None = None

    @property
    def axes(self) -> str:
        """The directions in which the indices grow, such as RAS."""
        return "".join(nib.aff2axcodes(self.affine))


@dataclass(frozen=True)
class Cut:
    """How an array becomes slices: turned to RAS (nearest), cut across the coarsest axis.

    Attributes:
        spacing: distance between voxels (slice, row, column).
        plane: of the slices; "as stored" where there is no orientation.
        affine: from (column, row, slice) to mm; None where there is no orientation.
        turn: the reorientation, as nibabel has it.
        axis: that is cut across, of the array turned.
    """

    spacing: Spacing
    plane: str
    affine: Array | None
    turn: Array
    axis: int

    def distances(self, stored: Spacing) -> Spacing:
        """Return (slice, row, column) of the distances between voxels along (i, j, k)."""
        turned = [stored[int(i)] for i in np.argsort(self.turn[:, 0])]
        across, down = (i for i in range(3) if i != self.axis)
        return turned[self.axis], turned[down], turned[across]

    def __call__(self, array: Array) -> Array:
        """Return (slices, rows, columns) of (i, j, k), or (frames, ...) of (i, j, k, frames)."""
        turned = nib.orientations.apply_orientation(array, self.turn)
        return np.moveaxis(turned, self.axis, 2).T

    def back(self, slices: Array) -> Array:
        """Return (i, j, k) of (slices, rows, columns): what was cut, as it is stored."""
        turned = np.moveaxis(slices.T, 2, self.axis)
        stored = nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), self.turn)
        return np.asarray(nib.orientations.apply_orientation(turned, stored))


def along(array: Array, grid: Grid, other: Grid) -> tuple[Array, Grid]:
    """Return an array and its grid, with axes turned and exchanged to run as those of `other`.

    They stay as they are where one of the two has no orientation.
    """
    if grid.affine is None or other.affine is None or grid.axes == other.axes:
        return array, grid
    if np.allclose(_directions(grid.affine), _directions(other.affine), atol=DIRECTION):
        return array, grid  # between two axes, rounding decides what they are called
    ours, theirs = (nib.io_orientation(one.affine) for one in (grid, other))
    turn = nib.orientations.ornt_transform(ours, theirs)
    moved = nib.orientations.apply_orientation(array, turn)
    affine = grid.affine @ nib.orientations.inv_ornt_aff(turn, grid.shape)
    source = np.argsort(turn[:, 0])  # which axis comes first, second, third
    i, j, k = (int(n) for n in source)
    spacing = grid.spacing and (grid.spacing[i], grid.spacing[j], grid.spacing[k])
    return moved, Grid((moved.shape[0], moved.shape[1], moved.shape[2]), spacing, affine)


def cut_of(grid: Grid, dims: int = 2) -> Cut:
    """Return how an array on `grid` is cut into slices.

    Volumes (3 `dims`) are indexed alike, whatever their planes: across the patient's long axis.
    Slices are cut across an axis of length 1, or else the coarsest one; where it is as fine as
    others, the one that lies nearest to the long axis (or, without orientation, the last one).
    """
    known = grid.affine is not None
    turn = nib.io_orientation(np.eye(4) if grid.affine is None else grid.affine)
    place = np.argsort(turn[:, 0])  # which stored axis comes first, second, third
    shape = [grid.shape[i] for i in place]
    spacing = [(grid.spacing or (1.0, 1.0, 1.0))[i] for i in place]
    single = [i for i, length in enumerate(shape) if length == 1]
    axis = 2 if spacing[2] * (1 + SPACING) >= max(spacing) else int(np.argmax(spacing))
    if len(single) == 1:
        axis = single[0]
    if dims == 3:
        axis = 2
    order = [*(i for i in range(3) if i != axis), axis]
    affine = None
    if grid.affine is not None:
        turned = grid.affine @ nib.orientations.inv_ornt_aff(turn, grid.shape)
        affine = np.column_stack([*(turned[:, i] for i in order), turned[:, 3]])
    across, down, along = (spacing[i] for i in order)
    return Cut((along, down, across), PLANES[axis] if known else "as stored", affine, turn, axis)


def apart(image: Grid, mask: Grid) -> str | None:
    """Return why a mask is not on its image's grid, or None.

    Spacing and direction must agree where both give them; for the origin see `offset`.
    """
    if image.spacing is None or mask.spacing is None:
        return None
    if not np.allclose(image.spacing, mask.spacing, rtol=SPACING, atol=0):
        return (
            f"spacings in the headers differ: mask {written(mask.spacing)}, image "
            f"{written(image.spacing)} mm"
        )
    if image.affine is None or mask.affine is None:
        return None
    one, other = (_directions(grid.affine) for grid in (image, mask))
    if not np.allclose(one, other, atol=DIRECTION):
        if image.axes != mask.axes:
            what = f"mask {mask.axes}, image {image.axes}"
            return f"orientations in the headers differ: {what}; bring the mask to its image's"
        cosines = np.clip((one * other).sum(axis=0), -1, 1)
        angle = float(np.degrees(np.arccos(cosines.min())))
        return f"directions in the headers differ: the mask is turned by {angle:.3g} degrees"
    return None


def offset(image: Grid, mask: Grid) -> float:
    """Return how far a mask's voxels lie from its image's, in voxels; 0 where that is rounding.

    The corner counts, and the axis, along which they are furthest apart: a small turn or another
    spacing moves it more than the origin.
    """
    if image.affine is None or mask.affine is None:
        return 0.0
    farthest = displacement(image.affine, mask.affine, image.shape)
    return farthest if farthest > ORIGIN else 0.0


def displacement(one: Array, other: Array, shape: tuple[int, ...]) -> float:
    """Return how many of the first one's voxels the corners of two grids lie apart, at most."""
    corners = np.array(np.meshgrid(*([0, n - 1] for n in shape), indexing="ij")).reshape(3, -1)
    places = np.vstack([corners, np.ones(corners.shape[1])])
    steps = np.linalg.solve(one[:3, :3], ((other - one) @ places)[:3])
    return float(np.abs(steps).max())


def shear(affine: Array) -> float:
    """Return by how many degrees the axes are off right angles, at most."""
    directions = _directions(affine)
    cosines = np.abs(directions.T @ directions - np.eye(3)).max()
    return float(np.degrees(np.arcsin(min(cosines, 1.0))))


def resized(affine: Array, before: tuple[int, int], after: tuple[int, int]) -> Array:
    """Return the affine of (column, row, slice) once slices were resized about their corners.

    Args:
        affine: before, shape (4, 4).
        before: rows and columns.
        after: likewise.
    """
    scale = np.eye(4)
    for axis, (old, new) in enumerate(zip(before[::-1], after[::-1], strict=True)):
        scale[axis, axis] = old / new
        scale[axis, 3] = (old / new - 1) / 2  # the outer edges stay, not the outer centres
    moved: Array = affine @ scale
    return moved


def written(spacing: Spacing) -> str:
    """Return a spacing in short."""
    return "x".join(f"{size:.4g}" for size in spacing)


def _directions(affine: Array | None) -> Array:
    """Return the direction of every axis as a column of length 1."""
    assert affine is not None
    columns = affine[:3, :3]
    return np.asarray(columns / np.linalg.norm(columns, axis=0))
