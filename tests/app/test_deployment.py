"""What a deployed run may be asked for, and the folders of a federation."""

import os
import shutil
import ssl
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fedcl.app.cli import main
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


def test_every_folder_has_its_own_key_and_no_other(tmp_path: Path):
    folder = tmp_path / "fed"
    assert main(["deploy", str(folder), "--sites", "RUNMC,BMC", "--host", "fl.example.org"]) == 0
    private = [p for p in folder.rglob("*") if p.is_file() and b"PRIVATE KEY" in p.read_bytes()]
    names = sorted(str(path.relative_to(folder)) for path in private)
    assert names == ["server/server.key", "sites/BMC/key", "sites/RUNMC/key"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private)
    inside = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in inside)
    context = ssl.create_default_context(cafile=folder / "server" / "ca.crt")
    assert len(context.get_ca_certs()) == 1
    script = (folder / "sites" / "BMC" / "start.sh").read_text()
    assert "--superlink fl.example.org:18001" in script and "site='BMC'" in script
    link = (folder / "server" / "start.sh").read_text()
    assert "--host 127.0.0.1 --port 18002" in link, "nobody else reaches the SuperLink"
    assert "listen 18001 ssl" in (folder / "server" / "nginx.conf").read_text()
    for path in folder.rglob("*.sh"):
        assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
        assert os.access(path, os.X_OK)
    assert "{{" not in "".join(p.read_text() for p in folder.rglob("*.*") if p.is_file())


@pytest.mark.parametrize(
    ("sites", "more", "said"),
    [
        ("A,A", [], "every hospital once"),
        ("A;rm -rf", [], "letters, digits"),
        ("A", ["--port", "80"], "deploy --port"),
        ("A", ["--host", "x y"], "deploy --host"),
        ("A", ["--host", "::1"], "an IPv4 address"),
    ],
)
def test_names_that_would_break_a_script_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sites: str, more: list[str], said: str
):
    assert main(["deploy", str(tmp_path / "fed"), "--sites", sites, *more]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "fed").exists()
