"""Bundles that are run by MONAI in a process that has no fedcl, or with a network of one's own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser
from torch import Tensor

from fedcl.app.cli import main
from tests.conftest import ROOT

ALONE = """
import json, sys
sys.path = [place for place in sys.path if place not in ("", {root!r})]
OURS = ("fedcl", "sites", "strategies", "flwr", "ray", "mlflow", "hydra")
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import torch, monai.bundle
torch.set_num_threads(1)
for bundle, images, out, more in json.loads(sys.argv[1]):
    monai.bundle.run(
        config_file=bundle + "/configs/inference.json", bundle_root=bundle, dataset_dir=images,
        output_dir=out, device="$torch.device('cpu')", **more,
    )
assert not [name for name in sys.modules if name.partition(".")[0] in OURS]
"""
Job = tuple[Path, Path, Path]
"""A bundle, the folder of images that it answers, and that of its masks."""


def export(model: Path, out: Path, *more: str) -> int:
    """Run `fedcl export`; return its exit status."""
    return main(["export", str(model), "--out", str(out), *more])


def run_alone(*jobs: Job, **more: str) -> None:
    """Run bundles, one after the other, by MONAI alone."""
    given = [(*map(str, job), more) for job in jobs]
    code = ALONE.format(root=str(ROOT))
    command = [sys.executable, "-I", "-c", code, json.dumps(given)]
    done = subprocess.run(command, cwd=jobs[0][0], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def inference(bundle: Path) -> dict[str, Any]:
    """Return what a bundle says of how it is run."""
    return json.loads((bundle / "configs" / "inference.json").read_text())


def answered(bundle: Path, images: Path, out: Path, network: Callable[[Tensor], Tensor]) -> None:
    """Write masks by all of a bundle but its network; `network` answers in its place."""
    given = (bundle / "configs" / "inference.json").read_text()
    parser = ConfigParser(json.loads(given.replace("scripts.images", "fedcl.release.images")))
    parser["dataset_dir"], parser["output_dir"] = str(images), str(out)
    inferer, written = (parser.get_parsed_content(one) for one in ("inferer", "postprocessing"))
    for item in parser.get_parsed_content("dataset"):
        written({**item, "pred": inferer(item["image"][None], network)[0]})


def check_same(one: Path, other: Path) -> int:
    """Check that two folders hold the same masks; return how many."""
    names = {file.name for file in one.iterdir()} - {"predictions.csv"}
    assert names == {file.name for file in other.iterdir()} - {"predictions.csv"}
    for name in names:
        assert same(one / name, other / name), name
    assert names
    return len(names)


def same(one: Path, other: Path) -> bool:
    """Return whether two files are equal, but for how NIfTI is packed."""
    if not one.name.endswith(".nii.gz"):
        return one.read_bytes() == other.read_bytes()
    mine, its = nib.load(one), nib.load(other)
    return mine.header == its.header and np.array_equal(mine.dataobj, its.dataobj)
