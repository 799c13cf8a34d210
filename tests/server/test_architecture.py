"""Hospitals with different models: one global model per architecture, never mixed."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon
from torch import nn

import simulate
from fedcl import arrays
from fedcl.analysis import architectures
from fedcl.analysis.runs import Group
from fedcl.analysis.sources import read as read_run
from fedcl.app.cli import main
from fedcl.config.hydra import compose
from fedcl.config.job import Job
from fedcl.config.schema import Config
from fedcl.data.cases import SiteData
from fedcl.errors import ConfigError, DataError
from fedcl.server.architecture import cost
from fedcl.server.outcome import outcome
from fedcl.wire import records
from sites.phantom import Phantom
from tests.conftest import MIXED, TINY, TINY_FIELD, read
from tests.servers import serve

OWN = {"large": ["A", "C", "E"], "small": ["B", "D", "F"]}


@pytest.mark.parametrize(
    "strategy",
    [
        "ted",
        *(pytest.param(one, marks=pytest.mark.exhaustive) for one in ("ewc", "replay", "tkrl")),
    ],
)
def test_an_architecture_becomes_what_it_would_without_the_others(
    cli: Callable[..., int], tmp_path: Path, strategy: str
):
    """Average, momentum, teacher and memory are each architecture's own: bit for bit."""
    same = [*TINY, *MIXED[:-1], f"strategy={strategy}", "aggregation=fedavgm"]
    both_stages = "timeline.stages=[[A,B,C,D],[E,F]]"  # two updates to average, then one
    assert cli(*same, both_stages, f"run.dir={tmp_path / 'both'}") == 0
    both = arrays.load_file(tmp_path / "both/checkpoint/stage-2.safetensors")
    for name, sites in OWN.items():
        folder = tmp_path / name
        alone = [one for one in same if not one.startswith("sites.") or one[6] in sites]
        stages = f"timeline.stages=[[{sites[0]},{sites[1]}],[{sites[2]}]]"
        assert cli(*alone, stages, f"run.dir={folder}") == 0
        weights = arrays.load_file(folder / "checkpoint/stage-2.safetensors")
        assert arrays.digest(arrays.under(f"{name}/", both)) == arrays.digest(weights)
        assert read(folder)["model"] == name


def test_results_tell_of_every_architecture_at_every_site(cli: Callable[..., int], tmp_path: Path):
    folder = tmp_path / "run"
    assert cli(*TINY, *MIXED, "strategy=finetune", f"run.dir={folder}") == 0
    found = read(folder)
    assert found["model"] == "large+small"
    assert {name: one["sites"] for name, one in found["architectures"].items()} == OWN
    assert np.shape(found["architectures"]["large"]["matrix"]) == (3, 6)
    for name, sites in OWN.items():
        one = found["architectures"][name]
        for column, site in enumerate(found["sites"]):
            own = [row[column] for row in found["matrix"]]
            there = [row[column] for row in one["matrix"]]
            assert (own == there) == (site in sites), "a site's own model makes the run's matrix"
            for stage, value in enumerate(there):
                scores = [values[stage] for values in one["cases"][site].values()]
                assert value == pytest.approx(sum(scores) / len(scores))
        columns = [found["sites"].index(site) for site in sites[:2]]  # the third came last
        changes = [
            one["matrix"][-1][c] - one["matrix"][stage][c] for stage, c in enumerate(columns)
        ]
        assert one["metrics"]["bwt"] == pytest.approx(sum(changes) / 2), "of sites that trained it"
        last = one["matrix"][-1]
        assert one["metrics"]["avg"] == pytest.approx(sum(last) / len(last))
        assert set(one["seconds_per_case"]) == set(found["sites"])
        assert all(0 < seconds < 10 for seconds in one["seconds_per_case"].values())
        assert "iou" in one["secondary"]
    large, small = (found["architectures"][name] for name in OWN)
    assert large["parameters"] > small["parameters"] > 0 and large["macs"] > small["macs"] > 0


def test_a_run_of_one_model_says_what_it_costs(tiny: Callable[..., dict[str, Any]]):
    (one,) = tiny("strategy=finetune")["architectures"].values()
    assert one["sites"] == list("ABCDEF") and one["parameters"] == 675 and "matrix" not in one


def test_nobody_is_taught_by_a_model_that_nobody_has_trained(
    cli: Callable[..., int], tmp_path: Path
):
    """B is the first with a small model, in stage 2: there is no small teacher yet."""
    settings = [*TINY, *MIXED[:7], "strategy=lwf", "timeline.stages=[[A],[B],[C],[D]]"]
    settings += ["sites.A.model=large", "sites.B.model=small"]
    settings += ["sites.C.model=large", "sites.D.model=small"]
    assert cli(*settings, f"run.dir={tmp_path / 'run'}") == 0
    weights = arrays.load_file(tmp_path / "run/checkpoint/stage-4.safetensors")
    sizes = [records.size_of(records.to_record(arrays.under(f"{name}/", weights))) for name in OWN]
    assert read(tmp_path / "run")["bytes"]["teacher"] == sum(sizes), "C and D, once each"


def test_an_architecture_that_nobody_delivers_stays_as_it_was(tmp_path: Path, caplog: Any):
    settings = Config.parse(compose([*TINY, *MIXED, "strategy=finetune", "aggregation=fedavgm"]))
    clean, spoilt = (serve(tmp_path / name, settings, name) for name in ("", "nan"))
    (failure,) = outcome(settings, spoilt.state).values()["failures"]
    assert failure["site"] == "D" and failure["round"] == 3
    one, two = (arrays.under("large/", server.state.weights) for server in (clean, spoilt))
    assert arrays.digest(one) == arrays.digest(two), "the others' failure is not the large one's"
    assert "nobody delivered small, which stays as it was" in caplog.text


def test_two_architectures_never_get_the_same_noise(cli: Callable[..., int], tmp_path: Path):
    """Else who has both could take it away: two names for one model, and hardly any change."""
    same = [
        f"models.{name}.{what}" for name in OWN for what in ("name=plain_unet", "norm=instance")
    ]
    roles = [one for one in MIXED if one.startswith("sites.") and "fraction" not in one]
    noisy = ["privacy=central_dp", "privacy.seed=1", "privacy.clip=1.0e-6", "privacy.noise=1.0e6"]
    run = [*TINY, *same, *roles, *noisy, "strategy=finetune", "timeline.rounds=1"]
    assert cli(*run, "timeline.stages=[[A,B]]", f"run.dir={tmp_path / 'run'}") == 0
    weights = arrays.load_file(tmp_path / "run/checkpoint/stage-1.safetensors")
    one, two = (
        np.concatenate([value.ravel() for value in arrays.under(f"{name}/", weights).values()])
        for name in OWN
    )
    assert one.std() > 0.5, "noise it is"
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


def test_a_share_of_the_cases_is_a_part_of_a_larger_share_in_the_same_order():
    data = Phantom(size=32, patients=12).load("A", None, 0)
    shares = [data.limited(share, 0, "A") for share in (0.01, 0.5, 0.9, 1.0)]
    names = [[case.name for case in one.train] for one in shares]
    every = [case.name for case in data.train]
    assert [len(one) for one in names] == [1, round(len(every) / 2), round(len(every) * 0.9), 5]
    for smaller, larger in pairwise(names):
        assert set(smaller) < set(larger)
    assert all(one == [name for name in every if name in one] for one in names)
    assert all((one.val, one.test) == (data.val, data.test) for one in shares)
    assert data.limited(0.5, 0, "B").train != shares[1].train, "another site, another draw"
    assert isinstance(shares[0], SiteData)


def test_a_site_limited_to_a_share_trains_on_that_many(tiny: Callable[..., dict[str, Any]]):
    whole, half = tiny("strategy=finetune"), tiny("strategy=finetune", "sites.A.data_fraction=0.5")
    assert whole["data_sha256"]["A"] != half["data_sha256"]["A"]
    assert whole["data_sha256"]["B"] == half["data_sha256"]["B"]
    assert list(whole["cases"]["A"]) == list(half["cases"]["A"]), "all are tested"


@pytest.mark.parametrize("error", [IndexError("tuple index out of range"), KeyError()])
def test_whatever_a_network_makes_of_a_shape_that_a_hospital_told_is_one_line(error: Exception):
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(
        DataError, match=r"site A: the model cannot take samples of shape \(1, 4, 4, 4\)"
    ):
        cost(Odd(), torch.zeros(1, 1, 4, 4, 4), "A")


def test_inspect_tells_who_has_which_model_and_what_each_costs(capsys: Any):
    assert main(["inspect", "scenario=ct_phantom", "strategy=contrastive"]) == 0
    said = capsys.readouterr().out
    assert "model large: 2,680,259 parameters" in said
    assert "model small: 56,866 parameters" in said
    train = next(line for line in said.splitlines() if "train" in line)
    assert [word for word in train.split() if word.isdigit()] == ["10", "5", "10", "5"]


def test_the_job_tells_hospitals_names_and_numbers_alone():
    overrides = [*TINY, *MIXED, "strategy=contrastive", "strategy.teacher.file=/secret/place"]
    job = Config.parse(compose(overrides)).job
    text = job.to_json()
    assert "secret" not in text
    assert json.loads(Job.from_json(text).to_json()) == json.loads(text)
    assert job.roles["D"] == replace(job.roles["B"], data_fraction=0.5)
    assert (job.roles["A"].model, job.roles["B"].model) == ("large", "small")
    assert {role.teacher for role in job.roles.values()} == {"large"}, "the largest teaches"
    known = json.loads(text)
    broken = [known | {"models": {"large": 3}}, known | {"scenario": None}, known | {"models": {}}]
    broken += [known | {"strategy": "ted"}, known | {"roles": {"A": {"model": "../x"}}}]
    broken += [known | {"seed": -1}, known | {"learner": {"lr": "x"}}, {}, []]
    for one in broken:
        with pytest.raises(ConfigError):
            Job.from_json(json.dumps(one))
    with pytest.raises(ConfigError):
        Job.from_json("no JSON")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sites.Z.model=unet"], "sites.Z: no such site; there are: A, B"),
        (["sites.A.modle=unet"], "sites.A.modle: no such key (did you mean model?)"),
        (["sites.A.model=unett"], "sites.A.model: there is no 'unett' (did you mean unet?)"),
        (["sites.A.model=siren"], "model: siren is not for images"),
        (["sites.A.data_fraction=0"], "sites.A.data_fraction: must be greater than 0"),
        (["sites.A.data_fraction=half"], "sites.A.data_fraction"),
        (["models=large"], "models: must be a group of settings, got 'large'"),
        (["sites=none"], "sites: there is no 'none'; there are: ct_phantom-contrastive"),
        (["models.large.name=plain_une"], "models.large: there is no 'plain_une'"),
        (["sites.A=large"], "sites.A: must be a group of settings"),
        (["models.large=unet"], "models.large: give its name and its settings, got 'unet'"),
        (["models.large.channels=[4]"], "models.large.name: missing"),
        (["models.unet.name=unet"], "models.unet: cannot name an architecture"),
        (["models.a/b.name=unet"], "mismatched input '/'"),
        (
            ["models.large.name=plain_unet", "models.large.channels=[4]"],
            "models.large.channels: at least two levels",
        ),
        (["models.large.name=plain_unet", "models.large.chanels=[4,8]"], "models.large.chanels"),
        (["sites.A.model=plain_unet", "timeline.centralised=true"], "timeline.centralised: a pool"),
        (["sites.A.model=plain_unet", "aggregation=median"], None),
        (["sites.A.model=plain_unet", "aggregation=krum"], "1 train plain_unet in stage 1"),
    ],
)
def test_what_cannot_be_is_one_line(
    cli: Callable[..., int], tmp_path: Path, capsys: Any, overrides: list[str], said: str | None
):
    folder = tmp_path / "run"
    status = cli(*TINY, "strategy=finetune", *overrides, f"run.dir={folder}")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fedcl:")]
    if said is None:
        assert status == 0
        return
    assert status == 2 and len(lines) == 1 and said in lines[0], lines
    assert not folder.exists()


def test_fields_are_of_one_model(cli: Callable[..., int], tmp_path: Path, capsys: Any):
    assert cli(*TINY_FIELD, "sites.late.model=finer", f"run.dir={tmp_path / 'run'}") == 2
    assert "must have one model at all sites" in capsys.readouterr().err


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of two methods' runs with two seeds each, and that of their comparison."""
    folder = tmp_path_factory.mktemp("models")
    sweep = ["strategy=finetune,contrastive", "seed=0,1", f"run.dir={folder / 'runs'}"]
    sweep += ["learner.steps=12", "learner.lr=0.008", "models.large.channels=[8,16,16]"]
    assert simulate.main(["-m", *TINY, *MIXED, *sweep]) == 0
    assert main(["compare", str(folder / "runs"), "--out", str(folder / "out")]) == 0
    return folder / "runs", folder / "out"


@pytest.mark.slow
def test_models_are_compared_over_the_cases_of_all_sites(compared: tuple[Path, Path]):
    runs, out = compared
    with (out / "models.csv").open(newline="") as file:
        rows = {(row["strategy"], row["model"]): row for row in csv.DictReader(file)}
    assert set(rows) == {(s, m) for s in ("finetune", "contrastive") for m in ("large", "small")}
    found = [read(path.parent) for path in runs.glob("*/results.json")]
    for (strategy, model), row in rows.items():
        own = [r["architectures"][model] for r in found if r["strategy"] == strategy]
        assert float(row["avg"]) == pytest.approx(
            np.mean([one["metrics"]["avg"] for one in own]), abs=1e-4
        )
        iou = [np.mean(one["secondary"]["iou"]["matrix"][-1]) for one in own]
        assert float(row["iou"]) == pytest.approx(np.mean(iou), abs=1e-4)
        assert int(row["parameters"]) == own[0]["parameters"]
        assert (row["p_holm"] == "") == ((strategy, model) == ("finetune", "small"))
    there = float(rows["contrastive", "large"]["difference_low"]) > 0  # a way to measure
    assert (rows["contrastive", "small"]["way"] != "") == there
    assert rows["finetune", "large"]["way"] == ""
    groups = {}
    for path in sorted(runs.glob("*/results.json")):
        run = read_run(path.parent.name, path.parent)
        method, wanted = run.results.strategy, {"small": 0.5, "large": 0.9}
        wanted["small"] += 0.1 * (method == "contrastive")
        for model, value in wanted.items():
            metrics = run.results.architectures[model].metrics
            metrics["avg"] = value + run.results.seed / 1000
        groups.setdefault(method, []).append(run)
    found, _ = architectures.table([Group(*one) for one in groups.items()], "finetune")
    ways = {(row.method, row.architecture): row.way for row in found}
    assert ways.pop(("contrastive", "small")) == pytest.approx((0.25, 0.25, 0.25), abs=1e-3)
    assert {*ways.values()} == {None}
    assert "| contrastive | small |" in (out / "models.md").read_text()
    assert '<table id="models">' in (out / "report.html").read_text()


@pytest.mark.slow
def test_the_p_of_a_model_is_the_paired_test_over_cases(compared: tuple[Path, Path]):
    runs, out = compared
    with (out / "models.csv").open(newline="") as file:
        rows = {(row["strategy"], row["model"]): row for row in csv.DictReader(file)}
    scores: dict[tuple[str, str], dict[tuple[int, str], float]] = {}
    for path in runs.glob("*/results.json"):
        one = read(path.parent)
        for model, known in one["architectures"].items():
            mine = scores.setdefault((one["strategy"], model), {})
            for members in known["cases"].values():
                mine |= {(one["seed"], case): values[-1] for case, values in members.items()}
    base = scores.pop(("finetune", "small"))
    raw = {key: wilcoxon([one[k] - base[k] for k in base]).pvalue for key, one in scores.items()}
    ranked = sorted(raw, key=lambda key: raw[key])
    worst = 0.0
    for place, key in enumerate(ranked):
        worst = max(worst, min(1.0, raw[key] * (len(ranked) - place)))
        assert float(rows[key]["p_holm"]) == pytest.approx(worst, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one.update(metrics={}),
        lambda one: one.pop("parameters"),
        lambda one: one.pop("macs"),
        lambda one: one.update(parameters="many"),
        lambda one: one.update(matrix=[]),
        lambda one: one.update(seconds_per_case={}),
        lambda one: one["metrics"].update(avg=float("nan")),
    ],
)
def test_runs_with_a_damaged_architecture_are_left_out(
    compared: tuple[Path, Path], tmp_path: Path, capsys: Any, spoil: Callable[[dict], Any]
):
    shutil.copytree(compared[0], tmp_path / "runs")
    path = tmp_path / "runs" / "0" / "results.json"
    found = json.loads(path.read_text())
    spoil(found["architectures"]["small"])
    path.write_text(json.dumps(found))
    assert main(["compare", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "results.json or config.yaml cannot be read" in capsys.readouterr().err


def test_a_site_that_would_tell_too_much_is_refused_before_the_run(
    cli: Callable[..., int], tmp_path: Path, capsys: Any
):
    """D is to report to `ewc` of two slices."""
    assert cli(*TINY, *MIXED, "strategy=ewc", f"run.dir={tmp_path / 'run'}") == 2
    assert "site D: 2 training samples; what strategy ewc tells" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_runs_of_one_model_have_no_table_of_models(cli: Callable[..., int], tmp_path: Path):
    assert cli(*TINY, "strategy=finetune", f"run.dir={tmp_path / 'run'}") == 0
    assert main(["compare", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "models.csv").exists()
    assert '<table id="models">' not in (tmp_path / "out" / "report.html").read_text()
