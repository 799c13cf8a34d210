"""Bundles run by MONAI in a process without fedcl give the masks, and the Dice, of fedcl's own."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor

from tests import published
from tests.bundles import answered, check_same, export, run_alone
from tests.conftest import ROOT, SUNNYBROOK, read
from tests.images import nifti, picture
from tests.predicted import (
    LABELS,
    VALUES,
    copied,
    dice,
    hospitals,
    predict,
    simulated,
    upright,
    volume,
)

HIPPOCAMPUS = ROOT.parent / "shared" / "data" / "Task04_Hippocampus"
DATA = "../shared/data is not there"
THREE = "scenario.spatial_dims=3"


def network(name: str, *settings: str) -> list[str]:
    """Return what has both hospitals train another network than the U-Net."""
    own = [f"models.own.{one}" for one in (f"name={name}", *settings)]
    return [*own, "sites.A.model=own", "sites.B.model=own"]


RUNS = {
    "volumes": [THREE, "scenario.spacing=[3.0,1.5,1.4]"],
    "slices": ["scenario.spacing=[1.3,1.7]", "scenario.normalise=minmax"],
    "stretched": ["scenario.resize=[16,24]", "scenario.normalise=percentile"],
    "windows": [THREE, "scenario.patch=[4,16,16]", "scenario.normalise=window",
                "scenario.window=[40,170]"],
    "centred": ["scenario.size=[12,30]", "scenario.normalise=none", "learner.lr=0.002"],
    "nonzero": [THREE, "scenario.resize=[5,20,20]", "scenario.nonzero=true"],
    "plain": [THREE, *network("plain_unet", "channels=[4,8]")],
    "nnunet": ["scenario.patch=[16,16]", *network("dynunet", "filters=[4,8,8]", "supervised=1")],
    "residual": ["scenario.size=24", "learner.steps=12",
                 *network("segresnet", "filters=8", "down=[1,1]", "up=[1]")],
    "teacher": [*network("multitask_unet", "channels=[4,8]", "convolutions=1")],
}  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the two hospitals; some voxels are 0."""
    folder = hospitals(tmp_path_factory.mktemp("data"))
    for site in "AB":
        image, mask = volume(site, 0)
        image[:3, :, 2:] = 0
        nifti(folder / site / "images" / f"{site}0.nii.gz", image)
        nifti(folder / site / "masks" / f"{site}0.nii.gz", mask)
    return folder


@pytest.fixture(scope="module")
def answers(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return, by the name of a run, the folder of its run, bundles and MONAI's masks."""
    folder, jobs = tmp_path_factory.mktemp("runs"), []
    for name, overrides in RUNS.items():
        place = folder / name
        simulated(place / "run", root, *LABELS, *overrides)
        for site in "AB":
            assert export(place / "run", place / f"bundle{site}", "--site", site) == 0
            jobs.append((place / f"bundle{site}", root / site / "images", place / f"masks{site}"))
    run_alone(*jobs)
    return {name: folder / name for name in RUNS}


@pytest.mark.parametrize("site", ["A", "B"])
@pytest.mark.parametrize("name", RUNS)
def test_masks_are_those_of_predict_and_were_scored(
    root: Path, answers: dict[str, Path], tmp_path: Path, name: str, site: str
):
    place = answers[name]
    assert predict(place / "run", root / site / "images", tmp_path / "out", "--site", site) == 0
    assert check_same(place / f"masks{site}", tmp_path / "out") == 6
    for case, scores in read(place / "run")["cases"][site].items():
        file = f"{case}.nii.gz"
        found = upright(place / f"masks{site}" / file)
        own = dice(found, upright(root / site / "masks" / file), VALUES[site])
        assert own == pytest.approx(scores[-1], abs=1e-6)
    found = [np.unique(upright(file)) for file in (place / f"masks{site}").iterdir()]
    assert len({*np.concatenate(found)}) > 1, "masks that would tell"


def test_networks_that_monai_cannot_build_lie_beside_as_torchscript(answers: dict[str, Path]):
    there = {
        name for name, place in answers.items() if (place / "bundleA/models/model.ts").is_file()
    }
    assert there == {"plain", "nnunet", "teacher"}


def test_channels_are_normalised_each_by_its_own_way(tmp_path: Path):
    """In nnU-Net's layout, a file per channel, of which dataset.json calls one CT."""
    data = published.nnunet(tmp_path / "data")
    told = json.loads((data / "dataset.json").read_text())
    told["channel_names"] = {"0": "CT", "1": "PET"}
    (data / "dataset.json").write_text(json.dumps(told))
    window = "scenario.window=[80,230]"
    run = simulated(tmp_path / "run", data, "scenario=nnunet", THREE, window)
    assert export(run, tmp_path / "bundle") == 0
    images = copied(data.glob("imagesTr/*"), tmp_path / "images")
    pattern = "{case}_{channel}.nii.gz"
    for name, model in (("one", run), ("two", tmp_path / "bundle")):
        assert predict(model, images, tmp_path / name, "--pattern", pattern) == 0
        data.rename(tmp_path / "moved") if name == "one" else None
    run_alone((tmp_path / "bundle", images, tmp_path / "out"), pattern=pattern)
    assert check_same(tmp_path / "out", tmp_path / "one") == 6
    assert check_same(tmp_path / "two", tmp_path / "one") == 6


def test_a_volume_of_several_channels_and_pictures_in_colours(tmp_path: Path):
    rng = np.random.default_rng(0)
    for site in "AB":
        for number in range(5):
            image, mask = volume("A", number)
            both = np.stack([image, rng.normal(0, 1, image.shape).astype(np.float32)], axis=3)
            nifti(tmp_path / "four" / site / "images" / f"{site}{number}.nii", both)
            nifti(tmp_path / "four" / site / "masks" / f"{site}{number}.nii", mask)
            colours = rng.integers(0, 255, (18, 26, 3), dtype=np.uint8)
            marks = np.where(colours[..., :1] > 127, (255, 0, 1), (0, 0, 0)).astype(np.uint8)
            picture(tmp_path / "pictures" / site / "images" / f"{site}{number}.png", colours)
            picture(tmp_path / "pictures" / site / "masks" / f"{site}{number}.png", marks)
    given = {
        "four": ["scenario.channels=2", "scenario.labels=[0,7,[3,4]]"],
        "pictures": ["scenario.channels=3", "scenario.labels=['#000000','#ff0001']"],
        "light": ["scenario.channels=luminance", "scenario.labels=['#000000','#ff0001']"],
    }
    jobs = []
    for name, overrides in given.items():
        data = tmp_path / ("four" if name == "four" else "pictures")
        run = simulated(tmp_path / name / "run", data, *overrides)
        images = copied(data.glob("*/images/*"), tmp_path / name / "images")
        assert predict(run, images, tmp_path / name / "out") == 0
        assert export(run, tmp_path / name / "bundle") == 0
        jobs.append((tmp_path / name / "bundle", images, tmp_path / name / "masks"))
    run_alone(*jobs)
    for name in given:
        assert check_same(tmp_path / name / "masks", tmp_path / name / "out") == 10


@cache
def real(folder: Path) -> tuple[Path, ...]:
    """Return some of the images of a real data set."""
    return tuple(sorted(folder.glob("**/images*/*"))[::40])


@pytest.mark.exhaustive
@pytest.mark.skipif(not HIPPOCAMPUS.exists(), reason=DATA)
def test_of_hippocampi_in_three_dimensions(tmp_path: Path):
    cohorts = [f"scenario.cohorts.{site}.share=0.05" for site in "ABCD"]
    run = simulated(
        tmp_path / "run", HIPPOCAMPUS, "scenario=decathlon", THREE, "scenario.labels=[0,1,2]",
        "timeline.stages=[[A],[B]]", "scenario.spacing=1.3", *cohorts,
    )  # fmt: skip
    real_ones(run, real(HIPPOCAMPUS), tmp_path)


@pytest.mark.skipif(not SUNNYBROOK.exists(), reason=DATA)
def test_of_hearts_in_two_dimensions(tmp_path: Path):
    run = simulated(
        tmp_path / "run", SUNNYBROOK, "scenario=folder", "scenario.patient='^(.+)-IM-'",
        "scenario.labels=[0,255]", "scenario.resize=64", "timeline.stages=[[HYP],[N]]",
    )  # fmt: skip
    real_ones(run, real(SUNNYBROOK), tmp_path)


def real_ones(run: Path, files: tuple[Path, ...], place: Path) -> None:
    """Check the masks of some real images, by MONAI alone and by ONNX."""
    images = copied(files, place / "images")
    assert export(run, place / "bundle") == 0
    run_alone((place / "bundle", images, place / "masks"))
    assert predict(run, images, place / "out") == 0
    assert check_same(place / "masks", place / "out") == len(files) > 3
    assert export(run, place / "model.onnx") == 0
    session = InferenceSession(str(place / "model.onnx"), providers=["CPUExecutionProvider"])

    def onnx(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": images.numpy()})[0])

    answered(place / "bundle", images, place / "onnx", onnx)
    assert check_same(place / "onnx", place / "out") == len(files)
