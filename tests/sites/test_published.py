"""Layouts as they are published, read from an untouched download: one command each."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedcl.app.cli import main
from fedcl.errors import DataError, FedclError
from fedcl.registry import SCENARIO
from tests import published
from tests.conftest import read
from tests.published import volume

QUICK = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "strategy=lwf",
    "timeline.rounds=1", "learner.steps=2", "model.channels=[4,8]",
]  # fmt: skip


def scenario(name: str, root: Path, **values: Any) -> Any:
    return SCENARIO.make({"name": name, "root": str(root), **values})


@pytest.mark.parametrize(
    ("name", "write", "more", "sites"),
    [
        ("nnunet", published.nnunet, [], ["A", "B"]),
        ("acdc_segmentation", published.acdc, [], ["DCM", "NOR"]),
        ("mnms", published.mnms, [], ["A", "B"]),
    ],
)
@pytest.mark.parametrize("dims", [2, 3])
def test_one_command_runs_it(
    cli, tmp_path: Path, capsys, name: str, write: Callable[[Path], Path], more: list[str],
    sites: list[str], dims: int,
):  # fmt: skip
    """Inspect shows what was understood; a run then scores every site after every stage."""
    write(tmp_path / "data")
    asked = [f"scenario={name}", f"scenario.root={tmp_path / 'data'}", *more]
    asked += [f"scenario.spatial_dims={dims}"]
    assert main(["inspect", *asked]) == 0
    shown = capsys.readouterr().out
    assert all(site in shown for site in sites)
    assert cli(*QUICK, *asked, f"run.dir={tmp_path / 'run'}") == 0
    results = read(tmp_path / "run")
    assert results["sites"] == sites and all(value is not None for value in results["matrix"][-1])


@pytest.mark.parametrize(
    ("name", "write", "site", "slices"),
    [
        ("nnunet", published.nnunet, "A", 8.0),
        ("acdc_segmentation", published.acdc, "DCM", 8.0),
        ("mnms", published.mnms, "A", 9.2),
        ("decathlon", partial(published.nnunet, version=1, channels=1), "A", 8.0),
    ],
)
@pytest.mark.parametrize("dims", [2, 3])
def test_a_site_tells_how_large_its_voxels_are(
    tmp_path: Path, name: str, write: Callable[[Path], Path], site: str, slices: float, dims: int
):
    root = write(tmp_path)
    if name == "decathlon":  # its files have no number of a channel
        for image in (root / "imagesTr").iterdir():
            image.rename(image.with_name(image.name.replace("_0000", "")))
    more = {"cohorts": {"A": {}}} if site == "A" and name != "mnms" else {}
    made = scenario(name, root, spacing="auto", spatial_dims=dims, labels=[0, 1, 2, 3], **more)
    assert made.measures == "spacing" and not scenario(name, root, spacing=2).measures
    assert made.measure(site, root, 0) == pytest.approx([slices, 1.25, 1.25][-dims:])


@pytest.mark.parametrize("version", [1, 2])
def test_nnunet_takes_labels_channels_and_folds_from_its_files(tmp_path: Path, version: int):
    root = published.nnunet(tmp_path, version)
    made = scenario(
        "nnunet", root, spatial_dims=3, normalise="none", cohorts={"A": {}},
        splits=str(root / "splits_final.json"), fold=1,
    )  # fmt: skip
    assert made.classes == 4 and made.task.channels == 2
    data = made.load("A", root, 0)
    assert [case.name for case in data.test] == ["site0_000", "site1_001"]
    assert len(data.train) + len(data.val) == 4
    image, labels = volume(0)
    got = data.test[0].scans[0].content
    for channel in range(2):
        wanted = image.T * (1 + channel)
        np.testing.assert_allclose(got.image()[channel].numpy(), wanted, rtol=1e-6)
    assert np.array_equal(got.labels().numpy(), labels.T)


def test_nnunet_shares_cases_by_a_table(tmp_path: Path):
    root = published.nnunet(tmp_path)
    lines = ["case,scanner,age"] + [f"site{n % 2}_{n:03d},S{n % 2},50" for n in range(6)]
    (root / "who.csv").write_text("\n".join(lines))
    made = scenario("nnunet", root, table=str(root / "who.csv"), table_site="scanner")
    assert made.sites() == ["S0", "S1"] and made.left_out() == []
    names = [case.name for case in made.cases("S1", root)]
    assert names == ["site1_001", "site1_003", "site1_005"]


def test_acdc_has_groups_frames_and_an_official_part(tmp_path: Path):
    root = published.acdc(tmp_path)
    made = scenario("acdc_segmentation", root, official=True)
    assert made.sites() == ["DCM", "NOR"]
    data = made.load("DCM", root, 0)
    assert [case.name for case in data.test] == ["patient003"]
    assert all(len(case.scans) == 2 for case in data.test), "both marked frames"
    inside = scenario("acdc_segmentation", root / "training")
    assert [case.name for case in inside.cases("NOR", root / "training")] == [
        "patient004", "patient005", "patient006",
    ]  # fmt: skip


def test_patients_that_are_there_twice_are_refused(tmp_path: Path):
    root = published.acdc(tmp_path / "acdc")
    shutil.copytree(root / "training" / "patient000", root / "testing" / "patient000")
    with pytest.raises(DataError, match=r"holds this patient too; keep one"):
        scenario("acdc_segmentation", root, official=True).sites()
    shutil.rmtree(root / "testing" / "patient000")
    image = next((root / "training" / "patient000").glob("*frame01.nii.gz"))
    for file in (image, image.with_name(image.name.replace(".nii", "_gt.nii"))):
        nib.save(nib.load(file), file.with_suffix(""))
    with pytest.raises(DataError, match=r"there twice, with another extension; keep one"):
        scenario("acdc_segmentation", root).sites()
    root = published.mnms(tmp_path / "mnms")
    first = next((root / "Training" / "Labeled").iterdir())
    shutil.copytree(first, root / "Testing" / first.name)
    with pytest.raises(DataError, match=r"holds this patient too; keep one"):
        scenario("mnms", root).sites()
    shutil.rmtree(root / "Testing" / first.name)
    (table,) = root.glob("*.csv")
    table.write_text(table.read_text() + table.read_text().splitlines()[-1] + "\n")
    with pytest.raises(DataError, match=r"line \d+: \w+ once more"):
        scenario("mnms", root).sites()


def test_mnms_reads_the_marked_frames_of_its_vendors(tmp_path: Path):
    root = published.mnms(tmp_path)
    made = scenario("mnms", root, spatial_dims=3, normalise="none", official=True)
    assert made.sites() == ["A", "B"], "C has no labels"
    data = made.load("B", root, 0)
    (case,) = data.train
    image, labels = volume(3)
    for scan, factor in zip(case.scans, (1, 2), strict=True):
        np.testing.assert_allclose(scan.content.image()[0].numpy(), image.T * factor, rtol=1e-6)
        assert np.array_equal(scan.content.truth().numpy(), labels.T)
    assert scenario("mnms", root, by="Centre").sites() == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "write", "damage", "said"),
    [
        ("nnunet", published.nnunet, "dataset.json", "dataset.json cannot be read"),
        ("nnunet", published.nnunet, "labelsTr/site0_000.nii.gz", "finds no file labelsTr/site0"),
        ("nnunet", published.nnunet, "imagesTr/site0_000_0001.nii.gz", "has the channels 0"),
        ("acdc_segmentation", published.acdc, "training/patient000/Info.cfg", "Info.cfg"),
        (
            "acdc_segmentation", published.acdc,
            "training/patient000/patient000_frame01_gt.nii.gz", "_frame01_gt.nii.gz is missing",
        ),
        ("mnms", published.mnms, "Validation/A1B1C1/A1B1C1_sa_gt.nii.gz", "_sa_gt.nii.gz is mis"),
        (
            "mnms", published.mnms,
            "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv", "holds 0 CSV files",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line(
    tmp_path: Path, name: str, write: Callable[[Path], Path], damage: str, said: str
):
    root = write(tmp_path)
    (root / damage).unlink()
    with pytest.raises(FedclError) as caught:
        made = scenario(name, root, **({"cohorts": {"A": {}}} if name == "nnunet" else {}))
        for site in made.sites():
            made.cases(site, root)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "scenario.splits"),
        ('{"train": ["a"], "rest": ["b"]}', "no part 'rest'"),
        ('{"train": ["a"], "test": ["a"]}', "a is named twice"),
        ('[{"train": ["a"], "val": ["b"]}]', "there are 1 folds, none of number 3"),
        ('{"train": [1]}', "a list of names"),
    ],
)
def test_splits_that_say_nothing_are_refused(tmp_path: Path, content: str, said: str):
    root = published.nnunet(tmp_path)
    (root / "mine.json").write_text(content)
    with pytest.raises(FedclError, match=said):
        scenario("nnunet", root, splits=str(root / "mine.json"), fold=3)


def test_a_csv_of_splits_leaves_out_whom_it_does_not_name(tmp_path: Path):
    root = published.nnunet(tmp_path)
    rows = ["case,part", "site0_000,train", "site1_001,val", "site0_002,test", "site1_003,train"]
    (root / "mine.csv").write_text("\n".join(rows))
    made = scenario("nnunet", root, cohorts={"A": {}}, splits=str(root / "mine.csv"))
    data = made.load("A", root, 0)
    assert [len(part) for part in (data.train, data.val, data.test)] == [2, 1, 1]
    assert any("scenario.splits does not name them" in str(note) for note in data.notes)
    assert json.dumps(made.assigned), "names alone: they can be sent"
    for first in ("site0_000,Test", "site0_000, train", "site0_000,validation"):  # no header
        (root / "mine.csv").write_text("\n".join([first, *rows[1:]]))
        with pytest.raises(FedclError, match=r"mine\.csv: line 1: give a case and its part"):
            scenario("nnunet", root, cohorts={"A": {}}, splits=str(root / "mine.csv"))
