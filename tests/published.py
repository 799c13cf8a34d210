"""Small data sets in the layouts in which large ones are published, oddities included."""

import json
from pathlib import Path

import numpy as np

from tests.images import nifti

AFFINE = np.diag([1.25, 1.25, 8.0, 1.0])


def volume(seed: int, shape: tuple[int, ...] = (14, 12, 5)) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and labels 0 to 3 of it: three nested blocks that are brighter inside."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for value in (1, 2, 3):
        labels[value + 1 : -value - 1, value + 1 : -value - 1, 1:-1] = value
    return (labels * 40 + rng.normal(0, 5, shape) + 100).astype(np.float32), labels


def nnunet(root: Path, version: int = 2, channels: int = 2, cases: int = 6) -> Path:
    """Write a data set of nnU-Net with two channels, and splits_final.json."""
    names = [f"site{n % 2}_{n:03d}" for n in range(cases)]
    for number, name in enumerate(names):
        image, labels = volume(number)
        for channel in range(channels):
            nifti(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz", image * (1 + channel), AFFINE)
        nifti(root / "labelsTr" / f"{name}.nii.gz", labels, AFFINE)
    nifti(root / "imagesTs" / "unseen_0000.nii.gz", volume(9)[0], AFFINE)
    named = {"0": "T2", "1": "ADC"} if channels == 2 else {"0": "CT"}
    if version == 2:
        told = {
            "channel_names": named, "labels": {"background": 0, "a": 1, "b": 2, "c": 3},
            "numTraining": cases, "file_ending": ".nii.gz",
        }  # fmt: skip
    else:
        listed = [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names
        ]
        told = {
            "modality": named, "labels": {"0": "background", "1": "a", "2": "b", "3": "c"},
            "training": listed, "test": ["./imagesTs/unseen.nii.gz"], "numTraining": cases,
        }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(told))
    folds = [
        {"train": names[:4], "val": names[4:]},
        {"train": names[2:], "val": names[:2]},
    ]
    (root / "splits_final.json").write_text(json.dumps(folds))
    return root


def acdc(root: Path, patients: int = 4) -> Path:
    """Write patients of two groups, in training/ and testing/."""
    for n in range(2 * patients):
        part = "training" if n % patients < patients - 1 else "testing"
        place = root / part / f"patient{n:03d}"
        marked = (1, 9 + n % 2)
        for frame in marked:
            image, labels = volume(n)
            nifti(place / f"patient{n:03d}_frame{frame:02d}.nii.gz", image, AFFINE)
            nifti(place / f"patient{n:03d}_frame{frame:02d}_gt.nii.gz", labels, AFFINE)
        cine = np.stack([volume(n)[0]] * 3, axis=3)
        nifti(place / f"patient{n:03d}_4d.nii.gz", cine, AFFINE)
        group = "DCM" if n < patients else "NOR"
        lines = f"ED: {marked[0]}\nES: {marked[1]}\nGroup: {group}\nHeight: 180.0\nNbFrame: 30\n"
        (place / "Info.cfg").write_text(lines)
    return root


def mnms(root: Path, patients: int = 3) -> Path:
    """Write patients of two vendors and an unlabelled one, with the CSV as it is published."""
    name = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
    lines = [",External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight"]
    places = ("Training/Labeled", "Validation", "Testing")
    for n in range(2 * patients):
        code = f"A{n}B{n}C{n}"
        place = root / places[n % 3] / code
        image, labels = volume(n)
        cine = np.stack([image, image * 0, image, image * 0, image * 2], axis=3)
        marks = np.zeros(cine.shape, np.uint8)
        marks[..., 0], marks[..., 4] = labels, labels
        nifti(place / f"{code}_sa.nii.gz", cine, np.diag([1.25, 1.25, 9.2, 1.0]))
        nifti(place / f"{code}_sa_gt.nii.gz", marks, np.diag([1.25, 1.25, 9.2, 1.0]))
        vendor = ("Siemens,A,1", "Philips,B,2")[n // patients]
        lines.append(f"{n},{code},{vendor},0,4,61,NOR,M,183,86")
    unseen = root / "Training" / "Unlabeled" / "Z9Z9Z9"
    nifti(unseen / "Z9Z9Z9_sa.nii.gz", np.zeros((6, 6, 3, 2), np.float32))
    lines.append(f"{2 * patients},Z9Z9Z9,GE,C,4,0,1,50,NOR,F,170,60")
    (root / name).write_text("\n".join(lines) + "\n")
    return root


def prostate(root: Path, sites: tuple[str, ...] = ("RUNMC", "BMC", "HK"), cases: int = 4) -> Path:
    """Write a folder per site with volumes and masks of two zones, brighter at every site."""
    for place, site in enumerate(sites):
        for n in range(cases):
            image, labels = volume(10 * place + n)
            nifti(root / site / f"Case{n:02d}.nii.gz", image * (1 + place), AFFINE)
            zones = labels.clip(max=2)
            nifti(root / site / f"Case{n:02d}_segmentation.nii.gz", zones, AFFINE)
    return root


def spleen(root: Path, cases: int = 10) -> Path:
    """Write the Decathlon's Task09_Spleen: CT whose spleen is brighter than what is around it."""
    listed = []
    for n in range(cases):
        image, labels = volume(n)
        for folder, array in (("imagesTr", image), ("labelsTr", labels.clip(max=1))):
            nifti(root / folder / f"spleen_{n}.nii.gz", array, AFFINE)
        names = {"image": f"./imagesTr/spleen_{n}.nii.gz", "label": f"./labelsTr/spleen_{n}.nii.gz"}
        listed.append(names)
    told = {
        "modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "training": listed,
        "test": [], "numTraining": cases,
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(told))
    return root


def cine(root: Path, name: str = "patient001", frames: int = 6) -> Path:
    """Write a patient of ACDC as a cine: a heart that beats, with masks at ED and ES alone."""
    place = root / name
    rows, columns = np.mgrid[-1:1:20j, -1:1:16j]
    signal = np.full((20, 16, 2, frames), 20.0, np.float32)
    marks = np.zeros(signal.shape, np.uint8)
    for t in range(frames):
        radius = 0.75 - 0.25 * np.sin(np.pi * t / (frames - 1))
        away = np.hypot(rows, columns)
        marks[away < radius, :, t], marks[away < 0.6 * radius, :, t] = 2, 3
        marks[(away >= radius) & (columns < -0.3) & (np.abs(rows) < 0.5), :, t] = 1
        signal[..., t] += 60 * marks[..., t]
    nifti(place / f"{name}_4d.nii.gz", signal, AFFINE)
    marked = (1, frames // 2 + 1)
    for frame in marked:
        nifti(place / f"{name}_frame{frame:02d}.nii.gz", signal[..., frame - 1], AFFINE)
        nifti(place / f"{name}_frame{frame:02d}_gt.nii.gz", marks[..., frame - 1], AFFINE)
    (place / "Info.cfg").write_text(f"ED: {marked[0]}\nES: {marked[1]}\nGroup: DCM\n")
    return root
