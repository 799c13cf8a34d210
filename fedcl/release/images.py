"""The transforms and the inferer of a MONAI bundle: from image files to files of masks.

A bundle carries this module and those it imports, word for word, in its folder `scripts`; see
`fedcl.release.carried`. They need MONAI, nibabel, scipy and Pillow, and nothing else of fedcl.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.transforms import Transform
from torch import Tensor

from fedcl.data import nifti, pictures
from fedcl.data.channels import Channels
from fedcl.data.framing import Framing
from fedcl.data.grid import Array, Cut, Grid, along, apart, cut_of, offset
from fedcl.data.intensities import Intensities, shown
from fedcl.data.notes import Notes
from fedcl.data.resampling import in_spacing, restored, stretched
from fedcl.data.writing import stored_values, write_nifti, write_picture

VOLUMES = (".nii.gz", ".nii")
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pnm")
Item = dict[str, Any]
"""What is known of a case: `image`, its files, then what networks are shown; `case`, its name."""


def listed(folder: str, pattern: str = "{case}") -> list[Item]:
    """Return the cases in a folder, in the order of their names.

    Args:
        folder: of NIfTI volumes or pictures.
        pattern: of their names: `{case}` for the name of a case, `{channel}` for the number of a
            channel in a file of its own; without an extension, files of all kinds that are read.

    Raises:
        ValueError: there are none, or one has other channels than the first.
    """
    kinds = "|".join(map(re.escape, (*VOLUMES, *PICTURES)))
    text = re.escape(pattern).replace(r"\{case\}", "(?P<case>.+?)")
    text = text.replace(r"\{channel\}", r"(?P<channel>\d+)")
    known = re.compile(text if re.search(f"({kinds})$", pattern) else f"{text}(?i:{kinds})")
    cases: dict[str, dict[int, str]] = {}
    for file in sorted(Path(folder).iterdir()):
        found = known.fullmatch(file.name)
        if found and not file.name.startswith("."):
            channel = int(found.groupdict().get("channel") or 0)
            if channel in cases.setdefault(found["case"], {}):
                raise ValueError(f"{file}: a second image of case {found['case']}")
            cases[found["case"]][channel] = str(file)
    if not cases:
        raise ValueError(f"{folder}: no image is called {pattern}")
    usual = next(iter(cases.values())).keys()
    for case, files in cases.items():
        if files.keys() != usual:
            raise ValueError(
                f"{folder}: case {case} has the channels {', '.join(map(str, sorted(files)))}, "
                f"others {', '.join(map(str, sorted(usual)))}"
            )
    return [
        {"image": [files[n] for n in sorted(files)], "case": case} for case, files in cases.items()
    ]


class Prepared(Transform):
    """Read an image and make of it what networks are shown, (C, slices, rows, columns).

    Args:
        dims: of an image that a network is shown, 2 (a slice) or 3 (a volume).
        channels: how many it has, or those to take, or "luminance".
        normalise: how each of them is normalised; see `Intensities`.
        window: likewise.
        nonzero: likewise.
        spacing: in mm that voxels are brought to, of (row, column) or (slice, row, column).
        resize: or the rows and columns, or slices as well, to which it is stretched.
    """

    def __init__(
        self,
        dims: int,
        channels: Any,
        normalise: Sequence[str],
        window: Sequence[float],
        nonzero: bool = False,
        spacing: Sequence[float] = (),
        resize: Sequence[int] = (),
    ) -> None:
        low, high = window
        self.ways = [Intensities(how, (low, high), nonzero) for how in normalise]
        self.dims, self.channels = dims, Channels.of(channels)
        self.spacing, self.resize = spacing, resize

    def __call__(self, data: Mapping[str, Any]) -> Item:
        """Return the item with the image, and what is needed to write its mask.

        Raises:
            ValueError: it cannot be used; names the file.
        """
        files = [Path(file) for file in data["image"]]
        try:
            image, grid = read(files)
            cut = cut_of(grid, self.dims)
            pixels = np.stack([cut(one) for one in self.channels.take(image)])
            slices, rows, columns = pixels.shape[1:]
            own = slices, rows, columns
            shape = stretched(own, self.resize)
            if self.spacing:
                if grid.spacing is None:
                    raise ValueError("it does not say how large its voxels are")
                shape = in_spacing(own, cut.spacing, self.spacing)
            pixels = shown(pixels, shape, self.ways)
        except ValueError as error:
            raise ValueError(f"{files[0]}: {error}") from None
        return {
            "image": torch.from_numpy(pixels), "case": data["case"], "file": str(files[0]),
            "own": np.array(own), "turn": np.array(cut.turn), "axis": cut.axis,
        }  # fmt: skip


def read(files: Sequence[Path]) -> tuple[Array, Grid]:
    """Return the channels of an image as stored, float32, (C, i, j, k), and where they lie.

    Args:
        files: one that has all channels, or one per channel, which are laid along the first.

    Raises:
        ValueError: they cannot be used.
    """
    image, grid = _values(files[0])
    parts = [image]
    for file in files[1:]:
        turned, its = along(*_values(file), grid)
        if its.shape != grid.shape:
            raise ValueError(f"{file.name} is of another shape")
        if apart(grid, its) or offset(grid, its) > 1:
            raise ValueError(f"{file.name} lies elsewhere, or has voxels of another size")
        parts.append(turned)
    if len(parts) > 1:
        parts = [np.moveaxis(Channels().take(np.moveaxis(p, -1, 0)), 0, -1) for p in parts]
    whole = np.moveaxis(np.concatenate(parts, axis=-1).astype(np.float32), -1, 0)
    if not (np.abs(whole) < nifti.LIMIT).all():
        raise ValueError(f"pixel values that are not finite, or over {nifti.LIMIT:g}")
    return whole, grid


def _values(file: Path) -> tuple[Array, Grid]:
    """Return a file's values, (i, j, k, C), and where they lie."""
    if file.name.lower().endswith(VOLUMES):
        array, grid = nifti.read(file, (2, 3, 4), Notes())
        return (array if array.ndim == 4 else array[..., None]), grid
    picture = pictures.channels(pictures.opened(file).image)
    array = np.moveaxis(picture, 0, -1).swapaxes(0, 1)[:, :, None]
    return array, Grid((array.shape[0], array.shape[1], 1))


class Framed(Inferer):
    """Answer images in the sizes that the network was trained on; see `Framing`.

    Args:
        dims: of an image that it is shown: volumes as they are, or slice by slice.
        window: see `Framing`, as the rest.
    """

    def __init__(
        self,
        dims: int,
        window: Sequence[int] = (),
        least: Sequence[int] = (),
        multiples: Sequence[int] = (),
        overlap: float = 0.5,
    ) -> None:
        super().__init__()
        self.dims = dims
        self.framing = Framing(tuple(window), tuple(least), tuple(multiples), overlap)

    @torch.no_grad()
    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the class probabilities of volumes, (N, C, D, H, W), shape (N, K, D, H, W)."""

        def logits(images: Tensor) -> Tensor:
            return network(images, *args, **kwargs).float()

        def probabilities(logits: Tensor) -> Tensor:
            return torch.softmax(logits, dim=1)

        found = []
        for image in torch.as_tensor(inputs):
            lowest = image.flatten(1).amin(1).tolist()
            images = image[None] if self.dims == 3 else image.movedim(1, 0)
            answers = self.framing.answered(images, lowest, logits, probabilities)
            found.append(answers[0] if self.dims == 3 else answers.movedim(0, 1))
        return torch.stack(found)


class Restored(Transform):
    """From class probabilities to classes, on the image's own grid."""

    def __call__(self, data: Mapping[str, Any]) -> Item:
        """Return the item with `pred`, (K, D, H, W), as the class of every voxel, (i, j, k)."""
        slices, rows, columns = (int(n) for n in data["own"])
        found = restored(torch.as_tensor(data["pred"]).cpu(), (slices, rows, columns))
        cut = Cut((1.0, 1.0, 1.0), "", None, np.asarray(data["turn"]), int(data["axis"]))
        return {**data, "pred": torch.from_numpy(cut.back(found.max(0).indices.numpy()).copy())}


class Written(Transform):
    """Write masks under their cases' names: NIfTI as the image was, of pictures PNG.

    Args:
        folder: is made where it is not there.
        values: of every class, the mask values or colours (24-bit numbers) that mean it.
        colours: whether they are colours.
    """

    def __init__(self, folder: str, values: Sequence[Sequence[int]], colours: bool = False) -> None:
        self.folder, self.values, self.colours = Path(folder), values, colours

    def __call__(self, data: Mapping[str, Any]) -> Item:
        """Write the mask of `pred`; return the item with `mask`, its file."""
        source = Path(data["file"])
        kind = next((one for one in VOLUMES if source.name.lower().endswith(one)), ".png")
        file = self.folder / f"{data['case']}{kind}"
        stored = stored_values(data["pred"].numpy(), self.values, self.colours)
        self.folder.mkdir(parents=True, exist_ok=True)
        if kind == ".png":
            write_picture(stored, self.colours, file)
        else:
            write_nifti(stored, source, file)
        return {**data, "mask": str(file)}
