"""A run predicts where its data are not: what they decided by themselves was kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedcl.errors import ConfigError
from tests import published
from tests.conftest import read
from tests.predicted import copied, predict, simulated, upright

LABELS = "scenario.labels=[0,1,2,3]"
WINDOW = "scenario.window=[80,230]"


def decathlon(root: Path) -> Path:
    """Write a data set of CT with one channel; return its folder."""
    data = published.nnunet(root, version=1, channels=1, cases=12)
    for file in data.glob("imagesTr/*"):
        file.rename(file.with_name(file.name.replace("_0000", "")))
    return data


def masks(folder: Path) -> np.ndarray:
    return np.stack([upright(file) for file in sorted(folder.glob("*.nii.gz"))])


def test_of_the_decathlon_it_is_kept_what_is_ct(tmp_path: Path):
    data = decathlon(tmp_path / "data")
    folder = simulated(tmp_path / "run", data, "scenario=decathlon", LABELS, WINDOW)
    assert read(folder)["from_data"] == {"scenario.normalise": ["window"]}
    images = copied(data.glob("imagesTr/*"), tmp_path / "images")
    assert predict(folder, images, tmp_path / "there") == 0
    (data / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}}))
    assert predict(folder, images, tmp_path / "changed") == 0, "as the run read it, not as now"
    shutil.rmtree(data)
    assert predict(folder, images, tmp_path / "gone") == 0
    wanted = masks(tmp_path / "there")
    assert len(np.unique(wanted)) > 1
    assert np.array_equal(masks(tmp_path / "changed"), wanted)
    assert np.array_equal(masks(tmp_path / "gone"), wanted)


def test_of_nnunet_labels_and_channels_are_kept_as_well(tmp_path: Path):
    data = published.nnunet(tmp_path / "data")
    told = json.loads((data / "dataset.json").read_text())
    told["channel_names"] = {"0": "CT", "1": "PET"}
    (data / "dataset.json").write_text(json.dumps(told))
    folder = simulated(tmp_path / "run", data, "scenario=nnunet", WINDOW)
    assert read(folder)["from_data"] == {
        "scenario.normalise": ["window", "zscore"], "scenario.labels": [0, 1, 2, 3],
        "scenario.ignore": [], "scenario.channels": 2,
    }  # fmt: skip
    images = copied(data.glob("imagesTr/*"), tmp_path / "images")
    pattern = ["--pattern", "{case}_{channel}.nii.gz"]
    assert predict(folder, images, tmp_path / "there", *pattern) == 0
    shutil.rmtree(data)
    assert predict(folder, images, tmp_path / "gone", *pattern) == 0
    assert np.array_equal(masks(tmp_path / "gone"), masks(tmp_path / "there"))


def test_a_run_that_kept_nothing_says_what_it_lacks(tmp_path: Path, capsys):
    """As runs of earlier versions, and deployed ones."""
    data = decathlon(tmp_path / "data")
    folder = simulated(tmp_path / "run", data, "scenario=decathlon", LABELS, WINDOW)
    results = read(folder)
    del results["from_data"]
    (folder / "results.json").write_text(json.dumps(results))
    images = copied(data.glob("imagesTr/*"), tmp_path / "images")
    shutil.rmtree(data)
    capsys.readouterr()
    assert predict(folder, images, tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"fedcl: scenario.normalise: auto asks {data} what is CT; it is not there"
    assert not (tmp_path / "out").exists()


def test_channels_may_be_normalised_each_in_its_own_way(tmp_path: Path):
    from tests.images import folder

    prepare = folder(channels=2, normalise=["minmax", "none"], resize=None).preparation([])
    ways = prepare.ways(2)
    assert ways == ("minmax", "none")
    assert folder(channels=2, normalise=["zscore"] * 2).preparation([]).ways(2) == ("zscore",) * 2
    with pytest.raises(ValueError, match=r"3 channels, but scenario.normalise"):
        prepare.ways(3)
    for wrong in ([], ["auto", "none"], None, {"a": "none"}):
        with pytest.raises(ConfigError, match=r"scenario.normalise: "):
            folder(channels=2, normalise=wrong)
