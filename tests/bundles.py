"""Bundles run by MONAI in a process that has no fedcl, and what it answers compared."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.conftest import ROOT

ALONE = """
import json, sys
sys.path = [place for place in sys.path if place not in ("", {root!r})]
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fedcl", "sites", "strategies", "flwr", "ray", "mlflow"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import torch, monai.bundle
torch.set_num_threads(1)
for bundle, images, out, more in json.loads(sys.argv[1]):
    monai.bundle.run(
        config_file=bundle + "/configs/inference.json", bundle_root=bundle, dataset_dir=images,
        output_dir=out, **more,
    )
assert not [name for name in sys.modules if name.partition(".")[0] in ("fedcl", "flwr")]
"""
Job = tuple[Path, Path, Path]
"""A bundle, the folder of images that it answers, and that of its masks."""


def run_alone(*jobs: Job, **more: str) -> None:
    """Run bundles, one after the other, by MONAI alone."""
    given = [(*map(str, job), more) for job in jobs]
    code = ALONE.format(root=str(ROOT))
    command = [sys.executable, "-I", "-c", code, json.dumps(given)]
    done = subprocess.run(command, cwd=jobs[0][0], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def same_files(one: Path, other: Path, names: Sequence[str] = ()) -> int:
    """Check that two folders hold the same masks, byte by byte; return how many."""
    found = sorted(path.name for path in one.iterdir() if path.suffix not in (".csv", ".txt"))
    there = sorted(path.name for path in other.iterdir() if path.suffix not in (".csv", ".txt"))
    assert found == there and found
    for name in found:
        mine, its = (folder / name for folder in (one, other))
        assert mine.read_bytes() == its.read_bytes() or equal(mine, its), name
    return len(found)


def equal(one: Path, other: Path) -> bool:
    """Return whether two NIfTI files differ in nothing but how they are packed."""
    import nibabel as nib

    mine, its = nib.load(one), nib.load(other)
    return mine.header == its.header and np.array_equal(mine.dataobj, its.dataobj)
