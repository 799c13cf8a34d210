"""Image and mask files of a few pixels, for tests of reading."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from fedcl.data.labels import Labels
from fedcl.settings import parse
from sites.folder import Folder

RNG = np.random.default_rng(0)


BINARY = Labels(((0,), (1,)))


RAS = np.diag([1.5, 2.0, 4.0, 1.0])


def folder(**values: Any) -> Folder:
    defaults = {"resize": 16, "normalise": "minmax", "patient": "^(.+)$", "labels": [0, 1]}
    return parse(Folder, defaults | values, "scenario")


def nifti(file: Path, array: np.ndarray, affine: Any = RAS, unit: str = "mm") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, file)
    return file


def picture(file: Path, content: Any, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = content if isinstance(content, Image.Image) else Image.fromarray(content)
    image.save(file, **options)
    return file


def reoriented(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the same voxels at the same places, stored along other axes."""
    image = nib.Nifti1Image(array, affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes)
    )
    other = image.as_reoriented(turn)
    return np.asarray(other.dataobj), other.affine


def told(scenario: Any, site: Path) -> list[str]:
    return [str(note) for note in scenario.cases("A", site).notes]


def three(site: Path) -> Path:
    """Return a site with the same patient three times."""
    for kind in ("images", "masks"):
        content = (site / kind / "p.nii").read_bytes()
        for n in "ab":
            (site / kind / f"{n}.nii").write_bytes(content)
    return site


def turned(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return affine @ RAS


DISC = ((np.mgrid[:16, :12] - np.array([6, 4])[:, None, None]) ** 2).sum(0) < 10


def site(root: Path, names: str = "abc", value: int = 255) -> Path:
    for number, name in enumerate(names):
        image = (DISC * 90).astype(np.uint8)
        image[0, number] = 7
        picture(root / "images" / f"{name}.png", image)
        picture(root / "masks" / f"{name}.png", (DISC * value).astype(np.uint8))
    return root


def decathlon(root: Path, names: list[str], bom: bool = False) -> Path:
    listed = []
    for name in names:
        for kind in ("imagesTr", "labelsTr"):
            nifti(root / kind / f"{name}.nii.gz", np.eye(8, dtype=np.uint8)[..., None].repeat(3, 2))
        listed.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    text = json.dumps({"training": listed})
    (root / "dataset.json").write_text(text, encoding="utf-8-sig" if bom else "utf-8")
    return root
