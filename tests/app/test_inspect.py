"""`fedcl inspect` says what there is, or what is wrong."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedcl.app.cli import main
from tests.conftest import ROOT, SUNNYBROOK
from tests.images import picture


def test_it_says_what_each_site_holds(capsys):
    assert main(["inspect", "scenario.patients=6", "scenario.slices=2"]) == 0
    said = capsys.readouterr().out
    assert all(f" {site} " in said for site in "ABCDEF")
    assert "64x64" in said


def test_it_says_what_the_model_costs(capsys):
    """A SIREN of 2 inputs (one frame: no t), 8 units, one more hidden layer: by hand."""
    model = ["model=siren", "model.width=8", "model.hidden=1"]
    assert main(["inspect", "scenario=cine_signal", *model]) == 0
    said = " ".join(capsys.readouterr().out.split())
    parameters = (2 * 8 + 8) + (8 * 8 + 8) + 2 * (8 + 1)  # two outputs: signal and mask
    operations = 2 * 8 + 8 * 8 + 2 * 8
    assert f"model siren: {parameters} parameters, {operations} multiply" in said


@pytest.mark.parametrize("command", [["-m", "fedcl"], ["-m", "fedcl.app.cli"]])
def test_it_runs_without_its_script(command: list[str]):
    """Where bin/ is not on the path, as in containers."""
    done = subprocess.run(
        [sys.executable, *command, "compare", "/nowhere", "--out", "/nowhere/either"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2 and "'/nowhere' is no folder" in done.stderr


def test_names_and_folders_with_brackets_are_printed_as_they_are(capsys, tmp_path: Path):
    root = tmp_path / "data [v1]"
    for site in ("north", "south"):
        for n in range(3):
            for kind in ("images", "masks"):
                file = root / site / kind / f"p[{n}].png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(file)
    (root / "notes [old]").mkdir()
    given = [f"scenario.root='{root}'", "scenario.patient='^(.+)$'", "model.channels=[4,8]"]
    assert main(["inspect", "scenario=folder", "scenario.size=16", *given]) == 0
    assert "without images/: notes [old] (1)" in capsys.readouterr().out


def test_it_names_images_that_are_there_twice(capsys, tmp_path: Path):
    """Within a site, and at two of them: what is tested at one would be trained on at the other."""
    rng = np.random.default_rng(0)
    for site in "AB":
        for n in range(4):
            image = rng.integers(0, 255, (16, 16)).astype(np.uint8)
            picture(tmp_path / site / "images" / f"p{n}.png", image)
            picture(tmp_path / site / "masks" / f"p{n}.png", np.eye(16, dtype=np.uint8) * 255)
    for kind in ("images", "masks"):
        first = tmp_path / "A" / kind / "p0.png"
        for other in (tmp_path / "A" / kind / "p9.png", tmp_path / "B" / kind / "p8.png"):
            shutil.copy(first, other)
        for site in "AB":  # nothing is told by these
            picture(tmp_path / site / kind / "empty.png", np.zeros((16, 16), np.uint8))
    given = [f"scenario.root={tmp_path}", "scenario.patient='^(.+)$'", "model.channels=[4,8]"]
    assert main(["inspect", "scenario=folder", "scenario.size=16", *given]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "the same image" in line]
    assert notes == [
        "note: site A: the same image and mask in cases that count as others: p0 = p9",
        "note: the same images and masks at A and B: A/p0 = A/p9 = B/p8",
    ]


def test_it_says_which_sites_have_smaller_samples(capsys, tmp_path: Path):
    """As a run does, which warns of it."""
    rng = np.random.default_rng(0)
    for site, size in (("A", 16), ("B b", 24)):
        for n in range(4):
            image = rng.integers(0, 255, (size, size)).astype(np.uint8)
            picture(tmp_path / site / "images" / f"p{n}.png", image)
            picture(tmp_path / site / "masks" / f"p{n}.png", np.eye(size, dtype=np.uint8) * 255)
    given = [f"scenario.root={tmp_path}", "scenario.patient='^(.+)$'", "model.channels=[4,8]"]
    assert main(["inspect", "scenario=folder", *given]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "samples of" in line]
    assert len(notes) == 1
    assert notes[0].startswith("note: site A: samples of 16x16, elsewhere up to 24x24: ")
    for site, advice in (
        ("A", r"scenario.site_labels.A=\["),
        ("B b", "scenario.site_labels in a"),
    ):
        only = f"scenario.stages=[['{site}']]"
        assert main(["inspect", "scenario=folder", "scenario.labels=[0,7]", only, *given]) == 2
        assert re.search(rf"site {site}: .*, {advice}", capsys.readouterr().err)


def test_names_that_must_be_quoted_in_a_list_are_refused_with_how(capsys):
    assert main(["inspect", "scenario=folder", "scenario.stages=[[München],[A]]"]) == 2
    said = capsys.readouterr().err
    assert "not understood" in said and "^:" not in said and "[['a b'],[c]]" in said


def test_many_sites_and_stages_fit_a_terminal(cli, tmp_path: Path, capsys):
    names = [f"H{n:02d}" for n in range(30)]
    for site in names:
        for n in range(3):
            for kind in ("images", "masks"):
                file = tmp_path / "data" / site / kind / f"p{n}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                content = np.eye(8, dtype=np.uint8) * 255
                content[0, 0] = int(site[1:]) + 100 * n
                Image.fromarray(content if kind == "images" else content // 255 * 255).save(file)
    given = [
        "scenario=folder", f"scenario.root={tmp_path / 'data'}", "scenario.patient='^(.+)$'",
        "scenario.size=8", "model.channels=[2,4]",
    ]  # fmt: skip
    assert main(["inspect", *given]) == 0
    out = capsys.readouterr().out
    assert "is there in stages" in out and "30" in out and max(map(len, out.splitlines())) <= 80
    stages = str([names[:15], names[15:]]).replace(" ", "").replace("'", "")
    run = [
        "engine=inprocess", "tracking.enabled=false", "strategy=finetune", "timeline.rounds=1",
        "learner.steps=1", f"timeline.stages={stages}", f"run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    assert cli(*given, *run) == 0
    out = capsys.readouterr().out
    assert "last trained in" in out and all(name in out for name in names)
    assert {p.name for p in (tmp_path / "run" / "figures").iterdir()} >= {"matrix.png"}
    assert main(["compare", str(tmp_path / "run"), "--out", str(tmp_path / "report")]) == 0


@pytest.mark.skipif(not SUNNYBROOK.exists(), reason="../shared/data/sunnybrook is not there")
def test_it_reads_real_data(capsys):
    assert main(["inspect", "scenario=folder", f"scenario.root={SUNNYBROOK}"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("HF-I", "HF-NI", "HYP", "245", "142"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("scenario=fold", "Could not find 'scenario/fold'"),
        ("scenari.size=3", "scenari.size: no such key"),
        ("scenario.sise=3", "did you mean scenario.size?"),
        ("scenario.patients=1", "scenario.patients: must be at least 3"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, override: str, said: str):
    assert main(["inspect", override]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(("name", "across"), [("phantom", 2), ("phantom3d", 4)])
def test_sheets_show_images_labels_and_intensities(tmp_path: Path, capsys, name: str, across: int):
    small = ["scenario.size=32", "scenario.patients=4"]
    asked = ["inspect", f"scenario={name}", *small, "--sheets", str(tmp_path / "sheets")]
    assert main(asked) == 0
    assert f"6 pictures in {tmp_path / 'sheets'}" in capsys.readouterr().out
    files = sorted((tmp_path / "sheets").iterdir())
    assert [file.name for file in files] == [f"{site}.png" for site in "ABCDEF"]
    with Image.open(files[0]) as sheet:
        width, height = sheet.size
        colours = np.asarray(sheet.convert("RGB")).reshape(-1, 3).astype(int)
    assert width == round(2.6 * across * 110) and height > 100
    apart = np.abs(colours - [0, 0x72, 0xB2]).max(axis=1)
    assert (apart < 30).sum() > 50, "outlines in the first colour"


def test_fields_have_no_sheets(tmp_path: Path, capsys):
    asked = ["inspect", "scenario=cine_domain", "model=siren", "strategy=finetune"]
    assert main([*asked, "--sheets", str(tmp_path / "sheets")]) == 0
    assert "have no pictures" in capsys.readouterr().out and not (tmp_path / "sheets").exists()
