"""Bad input from the command line: one clear line, exit 2, nothing left behind."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.nn import functional as F

from fedcl.data.cases import Case
from sites.phantom import Phantom
from tests.conftest import TINY


def site(root: Path, name: str, patients: int = 3) -> Path:
    """Write a site with one slice per patient."""
    for number in range(patients):
        for kind in ("images", "masks"):
            (root / name / kind).mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((16, 16), np.uint8)
            pixels[4:8, 4 : 8 + number] = 255 if kind == "masks" else 90 + number
            Image.fromarray(pixels).save(root / name / kind / f"p{number}-IM-1.png")
    return root / name


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["strategy=tedd"], ["strategy/tedd", "finetune", "ted"]),
        (["scenario=mars"], ["scenario/mars", "phantom", "folder"]),
        (["model=vgg"], ["model/vgg", "unet"]),
        (["engine=slurm"], ["engine/slurm", "inprocess", "ray"]),
        (["timeline.rnds=3"], ["timeline.rnds: no such key", "did you mean timeline.rounds?"]),
        (["+timeline.rnds=3"], ["timeline.rnds: no such key", "did you mean rounds?"]),
        (["+sed=3"], ["sed: no such key", "did you mean seed?"]),
        (["+strategy.kdd=3"], ["strategy.kdd: no such key"]),
        (["strategy=ted", "strategy.kd=1"], ["no such key (did you mean strategy.weight.kd?)"]),
        (["strategy.weight.kd=-1"], ["strategy.weight.kd: must be at least 0, got -1"]),
        (["strategy.weight.kd=much"], ["strategy.weight.kd", "much"]),
        (["strategy=lwf", "strategy.kd=nan"], ["strategy.kd: must be finite"]),
        (["timeline.rounds=0"], ["timeline.rounds: must be at least 1, got 0"]),
        (["timeline.participation=some"], ["timeline.participation", "new, cumulative"]),
        (["timeline.stages=[[A],[X]]"], ["timeline.stages", "'X'", "A, B, C, D, E, F"]),
        (["timeline.stages=[[A],[A]]"], ["timeline.stages: A arrives more than once"]),
        (["timeline.stages=[[A],[]]"], ["timeline.stages: stage 2 has no sites"]),
        (["learner.lr=-1"], ["learner.lr: must be a positive number"]),
        (["learner.batch_size=0"], ["learner.batch_size: must be at least 1"]),
        (["seed=-1"], ["seed: must be a whole number"]),
        (["seed=x"], ["seed: must be a whole number"]),
        (["engine.quorum=3"], ["engine.quorum: 3 sites cannot be reached in stage 1"]),
        (["engine.quorum=0"], ["engine.quorum: must be"]),
        (["engine.quorum=1.5"], ["engine.quorum: must be"]),
        (["engine.workers=0"], ["engine.workers: must be at least 1"]),
        (["model.channels=[8]"], ["model.channels: at least two levels"]),
        (["scenario.patients=2"], ["scenario.patients: must be at least 3"]),
        (["scenario.test=0.9"], ["site A: 6 patients are too few"]),
        (
            [
                "scenario.slices=1",
                "scenario.patients=9",
                "strategy=souvenir",
                "+timeline.sites.A.ramp=2",
            ],
            ["site A: 2 training samples", "give it more cases"],
        ),
        (["tracking.enabled=true", "tracking.uri=nosuch://x"], ["tracking.uri: MLflow", "nosuch"]),
        (["run.resume=/nowhere/at/all"], ["run.resume: /nowhere/at/all holds no run"]),
        (["engine=3"], ["Config group override"]),
        (["scenario=folder", "scenario.patient=^(.+)$"], ["scenario.patient=", "quote a value"]),
    ],
)
def test_bad_configuration(cli, tmp_path: Path, capsys, overrides: list[str], said: list[str]):
    folder = tmp_path / "run"

    group = overrides[0].startswith("scenario=")
    base = [o for o in TINY if not (group and o.startswith("scenario."))]
    assert cli(*base, f"run.dir={folder}", *overrides) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fedcl:")]
    assert len(lines) == 1
    for words in said:
        assert words in lines[0]
    assert not folder.exists(), "nothing is left behind"


def break_nothing(folder: Path) -> None:
    pass


def break_masks(folder: Path) -> None:
    shutil.rmtree(folder / "masks")


def break_shape(folder: Path) -> None:
    Image.new("L", (16, 20)).save(folder / "masks" / "p1-IM-1.png")


def break_values(folder: Path) -> None:
    Image.new("L", (16, 16), 7).save(folder / "masks" / "p1-IM-1.png")


def break_image(folder: Path) -> None:
    path = folder / "images" / "p1-IM-1.png"
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (break_masks, ["site BB", "masks"]),
        (break_shape, ["site BB", "p1-IM-1.png", "16"]),
        (break_values, ["site BB", "p1-IM-1.png", "7", "scenario.labels"]),
        (break_image, ["site BB", "p1-IM-1.png"]),
    ],
)
def test_bad_data(cli, tmp_path: Path, capsys, damage, said: list[str]):
    root, folder = tmp_path / "data", tmp_path / "run"
    site(root, "AA")
    damage(site(root, "BB"))
    base = [o for o in TINY if not o.startswith("scenario.")]
    overrides = [*base, "scenario=folder", f"scenario.root={root}", "scenario.size=16"]
    assert cli(*overrides, f"run.dir={folder}") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl:")]
    for words in said:
        assert words in line
    assert not folder.exists()


def test_the_same_data_undamaged_are_taken(cli, tmp_path: Path):
    root = tmp_path / "data"
    for name in ("AA", "BB"):
        break_nothing(site(root, name))
    base = [o for o in TINY if not o.startswith("scenario.")]
    overrides = [*base, "scenario=folder", f"scenario.root={root}", "scenario.size=16"]
    assert cli(*overrides, f"run.dir={tmp_path / 'run'}") == 0


def test_images_of_another_shape_where_sites_tell_of_theirs(cli, tmp_path, capsys, monkeypatch):
    made = Phantom.cases

    def wider(self: Phantom, site: str, path: Path | None) -> list[Case]:
        by = (0, 8) if site == "C" else (0, 0)
        return [
            Case.of(
                case.name,
                F.pad(case.images.movedim(0, 1), by),
                F.pad(case.labels, by),
            )
            for case in made(self, site, path)
        ]

    monkeypatch.setattr(Phantom, "cases", wider)
    assert cli(*TINY, "strategy=cauaug", "scenario.seed=7", f"run.dir={tmp_path / 'run'}") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl:")]
    assert "site C" in line and "[1, 32, 40]" in line and "those of A [1, 32, 32]" in line


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["scenario=folder"], ["scenario.root"]),
        (["scenario=folder", "scenario.root=/no/such/folder"], ["scenario.root", "/no/such"]),
    ],
)
def test_missing_root(cli, tmp_path: Path, capsys, overrides: list[str], said: list[str]):
    base = [o for o in TINY if not o.startswith("scenario.")]
    assert cli(*base, *overrides, f"run.dir={tmp_path / 'run'}") == 2
    for words in said:
        assert words in capsys.readouterr().err or words == said[-1]
    assert not (tmp_path / "run").exists()


def test_a_site_with_too_few_patients_is_named(cli, tmp_path: Path, capsys):
    site(tmp_path / "data", "AA", patients=2)
    base = [o for o in TINY if not o.startswith("scenario.")]
    overrides = [*base, "scenario=folder", f"scenario.root={tmp_path / 'data'}"]
    assert cli(*overrides, f"run.dir={tmp_path / 'run'}") == 2
    assert "site AA: 2 patients are too few" in capsys.readouterr().err


def test_two_runs_into_one_folder(cli, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    assert cli(*TINY, "timeline.rounds=1", f"run.dir={folder}") == 0
    before = (folder / "results.json").read_bytes()
    assert cli(*TINY, "timeline.rounds=1", "seed=1", f"run.dir={folder}") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (folder / "results.json").read_bytes() == before


def test_a_folder_in_use_is_left_alone(cli, tmp_path: Path, capsys):
    from fedcl.files import lock

    folder = tmp_path / "run"
    folder.mkdir()
    with lock(folder):
        assert cli(*TINY, f"run.dir={folder}") == 2
    assert "another process is running" in capsys.readouterr().err


def test_resume_of_nothing(cli, tmp_path: Path, capsys):
    assert cli(f"run.resume={tmp_path / 'none'}") == 2
    assert "run.resume" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_resume_refuses_other_settings(cli, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    assert cli(*TINY, "timeline.rounds=1", f"run.dir={folder}") == 0
    (folder / "results.json").unlink()
    assert cli(f"run.resume={folder}", "seed=3") == 2
    assert "seed: a resumed run keeps its configuration" in capsys.readouterr().err
