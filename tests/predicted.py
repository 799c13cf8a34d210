"""Two hospitals of a few volumes, runs over them, and what their models see in files."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import simulate
from fedcl.app.cli import main
from tests.images import nifti, reoriented

QUICK = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "strategy=finetune",
    "timeline.rounds=1", "learner.steps=5", "learner.lr=0.02", "model.channels=[4,8]",
]  # fmt: skip
AFFINE = np.diag([1.5, 1.2, 4.0, 1.0])
SHAPES = {"A": (20, 17, 6), "B": (24, 22, 7)}
"""Indexed (i, j, k): columns, rows, slices. B's images are the larger ones, along every axis."""
VALUES: dict[str, list[list[int]]] = {"A": [[7], [3, 4]], "B": [[1], [2]]}
"""Per hospital and class, the mask values that mean it; background is 0."""
LABELS = ["scenario.labels=[0,7,[3,4]]", "scenario.site_labels.B=[0,1,2]"]


def volume(site: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, in RAS, and the mask that the hospital has drawn of it."""
    rng, shape = np.random.default_rng([ord(site), number]), SHAPES[site]
    image, mask = rng.normal(100, 10, shape).astype(np.float32), np.zeros(shape, np.int16)
    mask[4:10, 3:9, 1:4] = 7
    mask[12:18, 8:14, 2:5] = 3
    mask[14 : 15 + number % 2, 8:14, 2:5] = 4
    image += 80 * (mask == 7) - 80 * (mask == 3) - 80 * (mask == 4)
    if site == "B":
        mask = np.where(mask == 7, 1, np.where(mask > 0, 2, 0)).astype(np.int16)
    return image, mask


def hospitals(root: Path) -> Path:
    """Write both hospitals' volumes; masks are stored along other axes than some images."""
    for site in SHAPES:
        for number in range(6):
            name, axes = f"{site}{number}.nii.gz", ("RAS", "LPS", "PIR")[number % 3]
            image, mask = volume(site, number)
            nifti(root / site / "images" / name, *reoriented(image, AFFINE, axes))
            nifti(
                root / site / "masks" / name,
                *reoriented(mask, AFFINE, "LAS" if number % 2 else axes),
            )
    return root


def simulated(folder: Path, root: Path, *overrides: str) -> Path:
    """Run a scenario of files in this process; return the run's folder."""
    layout = [] if any(one.startswith("scenario=") for one in overrides) else ["scenario=folder"]
    patient = ["scenario.patient='^(.+)$'"] if layout else []
    given = [*QUICK, *layout, f"scenario.root={root}", *patient, *overrides]
    assert simulate.main([*given, f"run.dir={folder}"]) == 0
    return folder


def predict(run: Path, images: Path, out: Path, *more: str) -> int:
    """Run `fedcl predict` without pictures; return its exit status."""
    return shown(run, images, out, "--no-overlays", *more)


def shown(run: Path, images: Path, out: Path, *more: str) -> int:
    """Run `fedcl predict`; return its exit status."""
    given = [run, "--images", images, "--out", out, "--device", "cpu", *more]
    return main(["predict", *map(str, given)])


def copied(files: Iterable[Path], folder: Path) -> Path:
    """Return a new folder that holds copies of files."""
    folder.mkdir(parents=True)
    for file in files:
        shutil.copy(file, folder)
    return folder


def upright(file: Path) -> np.ndarray:
    """Return the values of a NIfTI file along the patient's axes, by nibabel alone."""
    image: Any = nib.as_closest_canonical(nib.load(file))
    return np.asarray(image.dataobj)


def dice(found: np.ndarray, wanted: np.ndarray, classes: Sequence[Sequence[int]]) -> float:
    """Return the mean Dice of some classes, each given by its values."""
    scores = []
    for values in classes:
        one, other = np.isin(found, values), np.isin(wanted, values)
        both = int(one.sum()) + int(other.sum())
        scores.append(2 * int((one & other).sum()) / both if both else 1.0)
    return sum(scores) / len(scores)
