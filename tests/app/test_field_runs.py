"""Whole runs of neural fields: what is kept, what is refused, and export."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from fedcl import arrays
from fedcl.app.cli import main
from fedcl.config.schema import Config
from fedcl.data.samples import Stacked
from fedcl.data.space import Part, Space
from fedcl.learning import loop
from fedcl.learning.learner import Learner
from fedcl.learning.step import Lesson, Rehearsal
from fedcl.registry import MODEL, SCENARIO, STRATEGY
from fedcl.seeding import seeded
from fedcl.tasks.field import Field, psnr
from tests.conftest import TINY_FIELD, read

LONGER = ["learner.steps=150", "learner.lr=0.002", "timeline.rounds=1"]


@pytest.fixture
def fit(cli: Callable[..., int], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run a tiny field with overrides in tmp_path/run; returns its results."""

    def run(*overrides: str) -> dict[str, Any]:
        assert cli(*TINY_FIELD, f"run.dir={tmp_path / 'run'}", *overrides) == 0
        return read(tmp_path / "run")

    return run


# --- domain expansion ------------------------------------------------------------------------


def test_fine_tuning_forgets_early_frames_and_distillation_keeps_them(cli, tmp_path: Path):
    last = {}
    for strategy in ("finetune", "field_distillation"):
        folder = tmp_path / strategy
        assert cli(*TINY_FIELD, *LONGER, f"strategy={strategy}", f"run.dir={folder}") == 0
        results = read(folder)
        assert results["score"] == "psnr" and results["sites"] == ["early", "middle", "late"]
        assert results["matrix"][0][1:] == [None, None], "what has not arrived has no place yet"
        last[strategy] = results["matrix"][-1]
    assert last["field_distillation"][0] > last["finetune"][0] + 5
    assert len(read(tmp_path / "finetune")["cases"]["early"]) == 4


@pytest.mark.parametrize("model", ["pe", "finer", "diner"])
def test_every_model_runs(fit, model: str):
    results = fit("strategy=field_distillation", f"model={model}", "model.width=16")
    assert results["failures"] == [] and results["metrics"]["avg"] > 10


def test_the_table_of_diner_grows_with_what_arrives(fit, tmp_path: Path):
    fit("strategy=field_distillation", "model=diner", "model.width=16")
    rows = [
        len(arrays.load_file(tmp_path / "run" / "checkpoint" / f"stage-{n}.safetensors")["table"])
        for n in (1, 2, 3)
    ]
    assert rows == [4 * 256, 8 * 256, 12 * 256]


def test_a_frozen_diner_leaves_old_rows_alone(fit, tmp_path: Path):
    fit("strategy=field_distillation", "strategy.frozen=true", "strategy.weight=0", "model=diner",
        "model.width=16")  # fmt: skip
    first, last = (
        arrays.load_file(tmp_path / "run" / "checkpoint" / f"stage-{n}.safetensors") for n in (1, 3)
    )
    np.testing.assert_array_equal(first["table"], last["table"][: 4 * 256])
    np.testing.assert_array_equal(first["layers.0.weight"], last["layers.0.weight"])


def test_a_bank_asks_the_first_field_about_the_first_frames(fit):
    results = fit("strategy=field_distillation", "strategy.bank=true")
    assert results["bytes"]["memory"] > 0 and results["failures"] == []


def test_server_distillation_fits_one_volume_that_three_hospitals_hold(cli, tmp_path: Path):
    scores = {}
    for strategy in ("finetune", "field_server_distillation"):
        folder = tmp_path / strategy
        own = ["strategy.steps=150", "strategy.lr=0.002"] if strategy != "finetune" else []
        assert cli(
            *TINY_FIELD, *LONGER, "timeline.stages=[[early,middle,late]]", f"strategy={strategy}",
            *own, f"run.dir={folder}",
        ) == 0  # fmt: skip
        results = read(folder)
        scores[strategy] = results["metrics"]["avg"]
        assert results["bytes"]["teacher"] == 0
    assert scores["field_server_distillation"] > scores["finetune"] + 3


def test_patients_of_their_own_keep_their_tables(fit):
    results = fit(
        "strategy=finetune", "model=diner", "model.width=16", "scenario.shared=false",
        "timeline.stages=[[early,middle,late]]",
    )  # fmt: skip
    assert results["failures"] == []
    assert results["bytes"]["up"] < 3 * 2 * 10_000, "no table leaves"


def test_patients_of_their_own_keep_their_latents(fit, tmp_path: Path):
    results = fit(
        "strategy=finetune", "model.latent=3", "scenario.shared=false",
        "timeline.stages=[[early,middle,late]]",
    )  # fmt: skip
    checkpoint = tmp_path / "run" / "checkpoint"
    initial = torch.zeros(3)
    kept = []
    for site in results["sites"]:
        *_, file = sorted((checkpoint / "sites" / site).glob("*.safetensors"))
        kept.append(torch.from_numpy(arrays.load_file(file)["weights/latent"]))
    assert all(not torch.equal(latent, initial) for latent in kept)
    assert not torch.equal(kept[0], kept[1]) and not torch.equal(kept[1], kept[2])
    sent = arrays.load_file(checkpoint / "stage-1.safetensors")
    assert "latent" not in sent, "the global model has nobody's latent"
    assert results["metrics"]["avg"] > 15


def test_a_volume_of_slices_can_be_split_over_hospitals(fit):
    results = fit(
        "strategy=finetune", "scenario.slices=4", "scenario.frames=3", "learner.steps=100",
        "scenario.parts.early={frames:[],slices:[0,2]}",
        "scenario.parts.middle={frames:[],slices:[2,3]}",
        "scenario.parts.late={frames:[],slices:[3,4]}",
        "timeline.stages=[[early,middle],[late]]",
    )  # fmt: skip
    assert {site: len(cases) for site, cases in results["cases"].items()} == dict.fromkeys(
        results["sites"], 3
    )
    assert min(value for value in results["matrix"][-1]) > 10


def test_a_step_touches_its_batch_and_never_the_whole_grid():
    """256 x 256 x 30 points: nothing allocated in a step is as large as a coordinate of all."""
    task = Field(Space((30, 1, 256, 256)), {"A": Part((0, 30), (0, 1), (0,))}, ("signal",))
    points = torch.arange(task.space.size)
    samples = Stacked(task.space.coordinates(points), torch.zeros(len(points), 1))
    with seeded("grid"):
        network = task.build(MODEL.make({"name": "siren", "width": 16}), ["A"])
    rehearsal = Rehearsal(samples, aligned=False, ratio=1.0)
    lesson = Lesson(task=task, student=network, teacher=torch.nn.Identity(), past=rehearsal)
    strategy = STRATEGY.make({"name": "field_distillation"})
    settings = Learner(steps=3, batch_size=1024, amp=False)
    with torch.profiler.profile(profile_memory=True) as profile:
        loop.train(lesson, samples, settings, strategy, lambda share: 1e-3, ("grid",))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 1024 * 16 * 4 <= largest < len(points) * 4


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_field_learns_the_same(cli, tmp_path: Path):
    said = []
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        stages = "timeline.stages=[[early]]"
        overrides = [*TINY_FIELD, stages, "strategy=finetune", f"learner.compile={compiled}"]
        assert cli(*overrides, f"run.dir={folder}") == 0
        said.append(arrays.load_file(folder / "checkpoint" / "stage-1.safetensors"))
    assert said[0].keys() == said[1].keys()
    for key in said[0]:
        np.testing.assert_allclose(said[0][key], said[1][key], atol=1e-3)


# --- signal expansion ------------------------------------------------------------------------


def test_the_mask_is_learned_and_the_image_kept(cli, tmp_path: Path):
    base = [o for o in TINY_FIELD if not o.startswith("scenario=")]
    kept = {}
    for strategy in ("finetune", "field_distillation"):
        folder = tmp_path / strategy
        overrides = ["scenario=cine_signal", *base, *LONGER, f"strategy={strategy}"]
        assert cli(*overrides, "learner.steps=300", f"run.dir={folder}") == 0
        results = read(folder)
        assert results["sites"] == ["image", "mask"]
        assert results["matrix"][1][1] is None, "a mask has no PSNR"
        kept[strategy] = results["matrix"][1][0]
        dice = results["secondary"]["dice"]["matrix"]
        assert dice[0] == [None, None] and dice[1][0] is None
        assert dice[1][1] > 0.9
        assert results["metrics"]["avg"] == pytest.approx(kept[strategy])
    assert kept["field_distillation"] > kept["finetune"] + 5


# --- export ----------------------------------------------------------------------------------


def test_a_field_is_exported_at_the_planned_and_at_another_resolution(fit, tmp_path: Path):
    fit("strategy=finetune")
    run, file = str(tmp_path / "run"), tmp_path / "x" / "field.nii.gz"
    assert main(["export", run, "--out", str(file), "--spacing", "8", "2", "1.5"]) == 0
    image = nib.load(file)
    assert image.shape == (16, 16, 1, 12)
    assert image.header.get_zooms()[:3] == pytest.approx((1.5, 2.0, 8.0))
    shape = ["--shape", "23", "1", "31", "31"]
    other = tmp_path / "finer.nii"
    assert main(["export", run, "--out", str(other), *shape, "--spacing", "8", "2", "1.5"]) == 0
    finer = nib.load(other)
    assert finer.shape == (31, 31, 1, 23)
    assert finer.header.get_zooms()[:2] == pytest.approx((0.75, 1.0))
    np.testing.assert_allclose(finer.get_fdata()[::2, ::2, :, ::2], image.get_fdata(), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "pool"], "no 'pool'"),
        (["--stage", "9"], "the run has 3 stages"),
        (["--stage", "0"], "the run has 3 stages"),
        (["--shape", "12", "2", "16", "16"], "has no coordinate"),
    ],
)
def test_what_cannot_be_exported(fit, tmp_path: Path, capsys, arguments: list[str], said: str):
    fit("strategy=finetune")
    out = tmp_path / "field.nii"
    assert main(["export", str(tmp_path / "run"), "--out", str(out), *arguments]) == 2
    assert said in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("model", ["siren", "diner"])
def test_an_exported_field_is_the_one_that_was_scored(fit, tmp_path: Path, model: str):
    results = fit("strategy=finetune", f"model={model}", "model.width=16")
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "f.nii")]) == 0
    exported = torch.from_numpy(nib.load(tmp_path / "f.nii").get_fdata().T.astype(np.float32))
    truth = SCENARIO.make({"name": "cine_domain", "size": 16}).volume("", None, 0).signal
    told = [values[-1] for cases in results["cases"].values() for values in cases.values()]
    frames = zip(exported, truth, strict=True)
    again = [psnr(got, torch.from_numpy(true)) for got, true in frames]
    assert again == pytest.approx(told, abs=1e-3)


def test_sites_arrive_in_the_same_order_when_a_run_is_read_again(fit, tmp_path: Path):
    results = fit("strategy=finetune", "learner.steps=1")
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert [list(stage) for stage in Config.parse(stored).timeline.stages] == results["arrivals"]
    assert results["arrivals"] == [["early"], ["middle"], ["late"]]


def test_diner_has_no_value_between_the_points_of_its_grid(fit, tmp_path: Path, capsys):
    fit("strategy=finetune", "model=diner", "model.width=16")
    out = tmp_path / "field.nii"
    shape = ["--shape", "12", "1", "31", "31"]
    assert main(["export", str(tmp_path / "run"), "--out", str(out), *shape]) == 2
    assert "between the points of the grid" in capsys.readouterr().err
    assert torch.is_grad_enabled() and not out.exists()
