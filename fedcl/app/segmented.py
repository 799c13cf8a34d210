"""A test case of every site, segmented by the models of several runs on the same data."""

import re
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from torch import Tensor

from fedcl.config.stored import stored
from fedcl.data.cases import Case
from fedcl.data.resampling import restored
from fedcl.data.scans import Scan
from fedcl.errors import ConfigError
from fedcl.learning.loop import device_of
from fedcl.registry import SCENARIO
from fedcl.release.trained import trained
from fedcl.server.results import Results
from fedcl.tasks.base import Picture

TRUTH = "labels"
"""The folder of what the test cases' masks say."""


def segmented(
    runs: Mapping[str, Path], out: Path
) -> tuple[dict[str, dict[str, Picture]], list[str]]:
    """Write how the last models of runs segment the first test case of every site.

    `out/RUN/SITE/CASE.nii.gz` has the classes, 0, 1, ..., beside `out/labels/SITE/CASE.nii.gz`.

    Args:
        runs: complete ones on the same data, with a name for each.
        out: a folder.

    Returns:
        A picture of each, by the run's name and by site; and which runs have none, and why.
    """
    first = next(iter(runs.values()))
    cases = _cases(first)
    pictures: dict[str, dict[str, Picture]] = {}
    notes = []
    for site, case in cases.items():
        for number, scan in enumerate(case.scans):
            _save(out / TRUTH / _file(site, case, number), scan.content.truth(), scan)
    for name, folder in runs.items():
        try:
            pictures[name] = {
                site: _answered(folder, site, case, out / _named(name))
                for site, case in cases.items()
            }
        except ConfigError as error:  # such as where every hospital has a model of its own
            reason = str(error).replace(str(folder), "its run")
            notes.append(f"{name}: no segmentations ({reason})")
    return pictures, notes


def _cases(folder: Path) -> dict[str, Case]:
    """Return the first test case of every site of a run."""
    results = Results.read(folder)
    assert results is not None, "complete"
    scenario = SCENARIO.make(stored(folder)["scenario"])
    return {
        site: scenario.load(site, scenario.location(site), results.seed).test[0]
        for site in results.sites
    }


def _answered(folder: Path, site: str, case: Case, out: Path) -> Picture:
    """Write how the model of a run segments a case, and return it as a picture."""
    one = trained(folder, site, None, None)
    device = device_of(one.learner)
    found = one.task.predict(one.answering.to(device), case, device, one.learner.amp)
    for number, (answer, scan) in enumerate(zip(found, case.scans, strict=True)):
        _save(out / _file(site, case, number), restored(answer, scan.own).max(0).indices, scan)
    return one.task.picture(case, found)


def _named(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name)


def _file(site: str, case: Case, number: int) -> str:
    several = f"_{number + 1}" if len(case.scans) > 1 else ""
    return f"{_named(site)}/{_named(case.name)}{several}.nii.gz"


def _save(file: Path, classes: Tensor, scan: Scan) -> None:
    """Write classes, (slices, rows, columns), as a volume with voxels of the scan's size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*scan.spacing[::-1], 1.0])
    nib.save(nib.Nifti1Image(classes.numpy().astype(np.uint8).T, affine), file)
