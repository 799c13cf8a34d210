"""Imaginary scanners site by site: who gets which, what stays, and where it is told."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcl.app.cli import main
from fedcl.app.server_app import asked_for
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.config.stored import stored
from fedcl.data.cases import Case
from fedcl.data.scanners import SCANNERS
from fedcl.errors import ConfigError
from fedcl.learning.scenario import Scenario
from fedcl.release.described import scenario_of
from fedcl.server.results import Results
from fedcl.settings import parse
from sites.decathlon import Decathlon
from sites.folder import Folder
from sites.parts.shift import Shift
from tests.conftest import ROOT, SUNNYBROOK, read
from tests.images import decathlon, nifti

HIPPOCAMPUS = ROOT.parent / "shared" / "data" / "Task04_Hippocampus"
SITES = ("A", "B", "C")
SMALL = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "strategy=finetune",
    "scenario.patient='^(.+)$'", "scenario.labels=[0,1]", "model.channels=[4,8]",
    "timeline.rounds=1", "learner.steps=1",
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return three sites with four volumes each."""
    rng = np.random.default_rng(3)
    for site in SITES:
        for n in range(4):
            image = rng.normal(100, 20, (12, 10, 6)).astype(np.float32)
            image[:2] = 0
            for kind, array in (("images", image), ("masks", (image > 120).astype(np.uint8))):
                file = nifti(tmp_path / "data" / site / kind / f"p{n}.nii.gz", array)
                os.utime(file, (time.time() - 60, time.time() - 60))
    return tmp_path / "data"


def scenario(root: Path, strength: float = 1.0, **values: Any) -> Folder:
    shift = {"strength": strength, **values.pop("shift", {})}
    defaults = {"patient": "^(.+)$", "labels": [0, 1], "spatial_dims": 3, "root": str(root)}
    return parse(Folder, {**defaults, "shift": shift, **values}, "scenario")


def cases(one: Scenario, site: str) -> list[Case]:
    return one.cases(site, one.location(site))  # type: ignore[attr-defined, no-any-return]


def digests(one: Scenario, site: str) -> list[str]:
    return [scan.digest for case in cases(one, site) for scan in case.scans]


def test_scanners_are_given_in_turn_in_the_scenarios_own_order(root: Path):
    names = list(SCANNERS)
    assert scenario(root).shift.scanners == dict(zip("ABC", names[:3], strict=True))
    staged = scenario(root, stages=[["C"], ["A"]])
    assert staged.shift.scanners == dict(zip("CAB", names[:3], strict=True))
    one = ["scenario=folder", f"scenario.root={root}", *SMALL, "shift=scanners"]
    for order in ("listed", "reversed"):
        config = Config.parse(compose([*one, f"timeline.order={order}"]))
        found = config.job.scenario.shift
        assert found == scenario(root, 0.75).shift, "sites keep their scanners in any order"


def test_sites_of_a_table_have_them_in_its_order(tmp_path: Path):
    data = decathlon(tmp_path / "data", ["a", "b", "c"])
    table = tmp_path / "table.csv"
    table.write_text("case,site\nc,south\na,north\nb,south\n")
    asked = {"root": str(data), "table": str(table), "shift": {"strength": 1}}
    found = parse(Decathlon, asked, "scenario").shift.scanners
    assert found == {"south": "reference", "north": "t2_weighted"}


def test_at_strength_0_nothing_is_another(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FEDCL_CACHE", str(root.parent / "cache"))
    plain = parse(Folder, {"patient": "^(.+)$", "labels": [0, 1], "root": str(root)}, "scenario")
    plain.cache = "disk"
    wanted = [digests(plain, site) for site in SITES]
    kept = sorted((root.parent / "cache").glob("*.safetensors"))
    named = {"seed": 5, "scanners": {"A": "restless"}}
    zero = scenario(root, 0.0, spatial_dims=2, cache="disk", shift=named)
    assert [digests(zero, site) for site in SITES] == wanted
    assert sorted((root.parent / "cache").glob("*.safetensors")) == kept, "by the same names"
    assert not [note for note in zero.cases("A", root / "A").notes if "scanner" in note.what]


def test_images_change_and_masks_do_not(root: Path):
    for number, site in enumerate(SITES):
        plain, shifted = (cases(scenario(root, strength), site) for strength in (0.0, 1.0))
        for one, other in zip(plain, shifted, strict=True):
            assert torch.equal(one.images, other.images) == (number == 0), "the first one keeps its"
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.scans[0].content.truth(), other.scans[0].content.truth())


def test_what_a_patient_gets_depends_on_no_other_patient_or_site(root: Path, tmp_path: Path):
    wanted = digests(scenario(root), "B")
    assert digests(scenario(root), "B") == wanted
    alone = scenario(root, shift={"scanners": {"B": "t2_weighted"}})
    assert digests(alone, "A") == digests(scenario(root, 0.0), "A"), "not named: kept"
    for kind in ("images", "masks"):
        (root / "B" / kind / "p0.nii.gz").unlink()
    assert digests(alone, "B") == wanted[1:]
    assert digests(scenario(root, shift={"seed": 1}), "B") != wanted[1:]


def test_what_is_0_stays_so_where_it_is_no_part_of_the_image(root: Path):
    for site in SITES:
        for case in cases(scenario(root, nonzero=True), site):
            assert ((case.images == 0).sum() == 2 * 10 * 6).all()


def test_prepared_images_are_kept_under_another_name(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FEDCL_CACHE", str(root.parent / "cache"))
    kept, memory = root.parent / "cache", digests(scenario(root), "B")
    for number, shift in enumerate(
        ({"strength": 0}, {}, {"strength": 0.5}, {"seed": 1}, {"scanners": {"B": "restless"}}),
        start=1,
    ):
        found = scenario(root, cache="disk", shift=shift)
        assert digests(found, "B") == digests(found, "B")
        assert (digests(found, "B") == memory) == (shift == {})
        assert len([*kept.glob("*.safetensors")]) == 4 * number
    digests(scenario(root, 0.0, cache="disk"), "A")
    digests(scenario(root, cache="disk"), "A")
    assert len([*kept.glob("*.safetensors")]) == 4 * 6, "the first site's are not changed"


def test_the_run_that_never_had_a_site_gives_the_others_the_same_scanners(root: Path):
    changed = scenario(root).without("A")
    assert changed["shift"]["scanners"] == {"B": "t2_weighted", "C": "low_field"}
    then = scenario(root, shift=changed["shift"])
    assert digests(then, "C") == digests(scenario(root), "C")
    assert "shift" not in scenario(root, 0.0).without("A")


def test_a_new_image_is_not_passed_through_a_scanner(root: Path):
    file = root / "B" / "images" / "p1.nii.gz"
    found = [scenario(root, s).alone("p1", [file], "B").case.images for s in (0.0, 1.0)]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["+scenario.shift.scanners.B=t2_wei"],
            "there is no 't2_wei' (did you mean t2_weighted?",
        ),
        (["+scenario.shift.scanners.D=restless"], "scenario.shift.scanners.D: no such site"),
        (["scenario.shift.strength=3"], "scenario.shift.strength: must be at most 2"),
        (["scenario=phantom"], "scenario.shift: no such key"),
    ],
)
def test_what_cannot_be_is_one_line(root: Path, capsys, given: list[str], said: str):
    asked = ["scenario=folder", f"scenario.root={root}", *SMALL, "shift=scanners", *given]
    if given == ["scenario=phantom"]:
        asked = [*given, "shift=scanners"]
    assert main(["inspect", *asked]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("override", ["shift=scanners", "scenario.shift.strength=0.5"])
def test_images_of_real_hospitals_are_left_alone(override: str):
    with pytest.raises(ConfigError, match=r"run-config: .*shift.*: (not for a depl|for simul)"):
        asked_for({"overrides": f"scenario=folder {override}"})


def test_it_is_told_and_a_run_goes_on_by_its_own_command(root: Path, cli, capsys):
    asked = ["scenario=folder", f"scenario.root={root}", *SMALL, "shift=scanners"]
    asked += ["scenario.shift.strength=0.5"]
    assert main(["inspect", *asked]) == 0
    said = capsys.readouterr().out
    folder = root.parent / "run"
    assert cli(*asked, f"run.dir={folder}") == 0
    notes = read(folder)["notes"]
    for site, name in zip(SITES, SCANNERS, strict=False):
        kept = ", which leaves them as they came" * (site == "A")
        note = f"a simulation: images passed through the imaginary scanner {name}{kept} (scenario"
        assert f"note: site {site}: {note}" in said
        assert any(one.startswith(note) for one in notes[site])
    assert cli(f"run.resume={folder}", *asked) == 0
    for other in ("shift=none", "scenario.shift.strength=0.6", "scenario.shift.seed=1"):
        assert cli(f"run.resume={folder}", other) == 2
        assert "a resumed run keeps its configuration" in capsys.readouterr().err
    results = Results.read(folder)
    shutil.rmtree(root)
    assert results is not None
    assert scenario_of(stored(folder), results).shift == Shift(), "it predicts without the data"


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="../shared/data is not there")
def test_real_volumes():
    held = {"A": {"cases": ["hippocampus_001"]}, "B": {"cases": ["hippocampus_003"]}}
    asked = {"labels": [0, 1, 2], "spatial_dims": 3, "cohorts": held, "root": str(HIPPOCAMPUS)}
    plain, one = (
        parse(Decathlon, {**asked, "shift": {"strength": strength}}, "scenario")
        for strength in (0, 1)
    )
    assert digests(plain, "A") == digests(one, "A") and digests(plain, "B") != digests(one, "B")
    (before,), (after,) = cases(plain, "B"), cases(one, "B")
    assert torch.equal(before.labels, after.labels)
    images = np.stack([before.images.flatten(), after.images.flatten()])
    assert np.corrcoef(images)[0, 1] < -0.8, "the second scanner inverts"


@pytest.mark.skipif(not SUNNYBROOK.is_dir(), reason="../shared/data is not there")
def test_real_slices():
    given = {"train": ["SC-HF-NI-03"]}
    asked = {"labels": [0, 255], "root": str(SUNNYBROOK), "assigned": given}
    plain, one = (
        parse(Folder, {**asked, "shift": {"strength": strength}}, "scenario") for strength in (0, 1)
    )
    (before,), (after,) = cases(plain, "HF-NI"), cases(one, "HF-NI")
    assert len(before.scans) == len(after.scans) > 1
    for was, now in zip(before.scans, after.scans, strict=True):
        assert torch.equal(was.content.labels(), now.content.labels())
        images = np.stack([was.content.image().flatten(), now.content.image().flatten()])
        assert np.corrcoef(images)[0, 1] < -0.8
