"""What a deployed run may be asked for, and what it brings along."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fedcl.app.server_app import asked_for
from fedcl.errors import ConfigError
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("run_config", "said"),
    [
        ({"overrides": "", "code": "x"}, "run-config: no such key 'code'"),
        ({"overrides": "strategy='ted"}, "run-config: overrides cannot be read"),
        ({"overrides": "strategy._target_=os.system"}, "strategy._target_"),
        ({"overrides": "strategy.x={_target_:os.system}"}, "must be a plain value"),
        ({"overrides": "strategy=../../etc"}, "strategy: must be a name"),
        ({"overrides": "scenario=folder scenario.root=/etc"}, "scenario.root: a path"),
        ({"overrides": "strategy=contrastive strategy.teacher={file:/etc/x}"}, "file: a path"),
        ({"overrides": "strategy=contrastive strategy.teacher.file=/x"}, "file: a path"),
        ({"overrides": "timeline.file=/etc/passwd"}, "timeline.file: a path"),
        ({"overrides": "model.weights=/etc/x"}, "run-config: model.weights: a path"),
        ({"overrides": "model=siren scenario=acdc model.weights=x"}, "model.weights: a path"),
        (
            {"overrides": "models.small.name=unet models.small.weights=x"},
            "run-config: models.small.weights: a path; it is the server's",
        ),
        ({"overrides": "models.s={name:unet,weights:/etc/x}"}, "models.s.weights: a path"),
        ({"overrides": "scenario=folder scenario.root=models:/../etc"}, "scenario.root: a path"),
        ({"overrides": "scenario.val=${oc.env:HOME}"}, "must be a plain value"),
        ({"overrides": "run.dir=/tmp/x"}, "run.dir: not for a deployed run"),
        ({"overrides": "run.resume=../run-1"}, "run.resume: give the name of a run"),
        ({"overrides": "run.resume=run-1 seed=3"}, "run.resume: give the name of a run"),
        ({"overrides": "tracking.uri=http://elsewhere"}, "tracking.uri: not for a deployed run"),
        ({"overrides": "engine=ray"}, "engine: not for a deployed run"),
        ({"overrides": "faults.nan=0.5"}, "faults.nan: not for a deployed run"),
        ({"overrides": "timeline.stragglers=0.5"}, "timeline.stragglers: for simulations only"),
        ({"overrides": "hydra.run.dir=/tmp"}, "hydra.run.dir: not for a deployed run"),
        ({"overrides": "+strategy.x=1"}, "must be KEY=VALUE"),
        ({"overrides": "--config-dir=/tmp"}, "must be KEY=VALUE"),
        ({"overrides": "strategy.no_such_key=1"}, "strategy.no_such_key: no such key"),
    ],
)
def test_whoever_starts_a_run_can_name_no_path_and_no_code(run_config: dict[str, str], said: str):
    with pytest.raises(ConfigError) as error:
        asked_for(run_config)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_settings_by_site_and_models_of_earlier_runs_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("FEDCL_RUNS", str(tmp_path))
    given = "scenario=folder scenario.site_labels.RUNMC=[0,255] scenario.unmarked.BMC=[1]"
    pattern = "'scenario.patient=\"^(.+)$\"'"
    values = asked_for({"overrides": f"{given} {pattern} model.weights=run-12"})[0]
    assert values["scenario"]["site_labels"] == {"RUNMC": [0, 255]}
    assert values["scenario"]["unmarked"] == {"BMC": [1]}
    assert values["scenario"]["patient"] == "^(.+)$"
    assert values["model"]["weights"] == str(tmp_path / "run-12")
    small = "models.small.name=unet models.small.weights=run-3"
    assert asked_for({"overrides": small})[0]["models"]["small"]["weights"] == str(
        tmp_path / "run-3"
    )
    for other in ("run-12/..", "run-x", "../run-12"):
        with pytest.raises(ConfigError, match=r"model\.weights: a path"):
            asked_for({"overrides": f"model.weights={other}"})


def test_what_may_be_asked_for_is_understood(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("FEDCL_TRACKING", raising=False)
    registry = "model.weights=models:/prostate@released release.on_refusal=keep"
    begun = asked_for({"overrides": registry})[0]
    assert begun["model"]["weights"] == "models:/prostate@released"
    assert begun["release"]["on_refusal"] == "keep"
    values, resumed = asked_for({"overrides": "strategy=lwf seed=3 engine.quorum=2"})
    assert (values["strategy"]["name"], values["seed"], resumed) == ("lwf", 3, None)
    assert values["engine"] == values["engine"] | {"name": "superlink", "quorum": 2}
    assert not values["tracking"]["enabled"]
    written = """
        scenario=folder 'scenario.patient="^(.+)_"' timeline.stages=[[A],[B]]
    """
    assert asked_for({"overrides": written})[0]["scenario"]["patient"] == "^(.+)_"
    assert asked_for({"overrides": "run.resume=run-12"}) == ({}, "run-12")
    monkeypatch.setenv("FEDCL_TRACKING", "sqlite:///x.db")
    assert asked_for({})[0]["tracking"] == {"enabled": True, "uri": "sqlite:///x.db"}


def test_a_run_brings_its_code_along_and_nothing_else(tmp_path: Path):
    """Hospitals get what is packed: no run, no result of another hospital, no key."""
    app = tmp_path / "app"
    for part in ("fedcl", "sites", "strategies", "conf"):
        shutil.copytree(ROOT / part, app / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, app)
    for name in ("federation/server/runs/run-1/results.json", "outputs/config.yaml", "mine.py"):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text("{}")
    program = str(Path(sys.executable).with_name("flwr"))
    home = {"FLWR_HOME": str(tmp_path / "flwr"), "FLWR_TELEMETRY_ENABLED": "0"}
    done = subprocess.run(
        [program, "build", "--app", str(app)], cwd=tmp_path, env=os.environ | home,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (packed,) = tmp_path.glob("*.fab")
    names = zipfile.ZipFile(packed).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"fedcl", "sites", "strategies", "conf", "pyproject.toml", ".info"}
    assert {"fedcl/hospital/client_app.py", "strategies/ted.py", "conf/strategy/ted.yaml"} <= set(
        names
    )
