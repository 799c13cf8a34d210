"""A run over Flower's SuperLink and SuperNodes, with TLS and known hospitals: real processes."""

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, read

from fedcl.cli import main
from fedcl.deployment import asked_for
from fedcl.errors import ConfigError
from fedcl.federation import prepare

PATIENCE = 400.0  # seconds for a whole run; one call takes a process of its own, some seconds each
SITES = ["A", "B", "C", "D"]
SMALL = [
    *(one for one in TINY if one.partition("=")[0] in ("scenario.size", "scenario.patients",
      "scenario.slices", "scenario.strength", "model.channels", "learner.epochs")),
    "scenario=phantom", "strategy=ted", "timeline.stages=[[A,B],[C,D]]", "timeline.rounds=1",
]  # fmt: skip


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
    values, resumed = asked_for({"overrides": "strategy=lwf seed=3 engine.quorum=2"})
    assert (values["strategy"]["name"], values["seed"], resumed) == ("lwf", 3, None)
    assert values["engine"] == values["engine"] | {"name": "superlink", "quorum": 2}
    assert not values["tracking"]["enabled"]
    assert asked_for({"overrides": "run.resume=run-12"}) == ({}, "run-12")
    monkeypatch.setenv("FEDCL_TRACKING", "sqlite:///x.db")
    assert asked_for({})[0]["tracking"] == {"enabled": True, "uri": "sqlite:///x.db"}


def test_every_folder_has_its_own_key_and_no_other(tmp_path: Path):
    folder = tmp_path / "fed"
    assert main(["deploy", str(folder), "--sites", "RUNMC,BMC", "--host", "fl.example.org"]) == 0
    private = [p for p in folder.rglob("*") if p.is_file() and b"PRIVATE KEY" in p.read_bytes()]
    names = sorted(str(path.relative_to(folder)) for path in private)
    assert names == ["server/server.key", "sites/BMC/key", "sites/RUNMC/key"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private)
    context = ssl.create_default_context(cafile=folder / "server" / "ca.crt")
    assert len(context.get_ca_certs()) == 1
    script = (folder / "sites" / "BMC" / "start.sh").read_text()
    assert "--superlink fl.example.org:18001" in script and "site='BMC'" in script
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
    ],
)
def test_names_that_would_break_a_script_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sites: str, more: list[str], said: str
):
    assert main(["deploy", str(tmp_path / "fed"), "--sites", sites, *more]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "fed").exists()


class Federation:
    """The processes of a server and its hospitals, on this machine."""

    def __init__(self, folder: Path, sites: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1] % 40000 + 20000
        self.folder, self.sites = folder, sites
        prepare(folder, sites, "127.0.0.1", self.port)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start the server, or a hospital's SuperNode."""
        own = self.folder / ("server" if name == "server" else f"sites/{name}")
        log = (own / "out.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [str(own / "start.sh")], stdout=log, stderr=log, start_new_session=True
        )

    def said(self, name: str) -> str:
        return (self.folder / "sites" / name / "out.log").read_text()

    def flwr(self, *words: str) -> str:
        """Call `flwr` as the server's operator would."""
        home = {"FLWR_HOME": str(self.folder / "server" / "flwr"), "FLWR_TELEMETRY_ENABLED": "0"}
        program = Path(sys.executable).with_name("flwr")
        done = subprocess.run(
            [str(program), *words], capture_output=True, text=True, env=os.environ | home
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def open(self, registered: list[str]) -> None:
        """Start the server, tell it its hospitals, and start these."""
        self.start("server")
        self.until(self.listens)
        for site in registered:
            key = self.folder / "server" / "hospitals" / f"{site}.pub"
            self.flwr("supernode", "register", str(key), "federation", "--name", site)
        for site in self.sites:
            self.start(site)

    def listens(self) -> bool:
        with socket.socket() as link:
            return link.connect_ex(("127.0.0.1", self.port)) == 0

    def online(self) -> int:
        """Return how many hospitals are connected."""
        nodes = json.loads(self.flwr("supernode", "ls", "federation", "--format", "json"))
        return sum(node["status"] == "online" for node in nodes["nodes"])

    def run(self, overrides: list[str]) -> Path:
        """Start a run; return its folder, which may not be there yet."""
        words = f"overrides='{' '.join(overrides)}'"
        said = self.flwr("run", str(ROOT), "federation", "--run-config", words, "--format", "json")
        number = json.loads(said)["run-id"]
        return self.folder / "server" / "runs" / f"run-{number}"

    def until(self, happened: Callable[[], Any], patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not happened():
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.5)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        os.killpg(process.pid, how)
        process.wait(60)

    def close(self) -> None:
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[[list[str]], Federation]]:
    opened: list[Federation] = []

    def make(sites: list[str]) -> Federation:
        opened.append(Federation(tmp_path / "federation", sites))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.mark.skipif("FEDCL_NETWORK" not in os.environ, reason="minutes: set FEDCL_NETWORK=1")
def test_over_the_network_it_is_the_run_of_one_process(
    cli: Callable[..., int], tmp_path: Path, federation: Callable[[list[str]], Federation]
):
    """Four hospitals with keys that the server knows, and one without."""
    fed = federation([*SITES, "stranger"])
    fed.open(registered=SITES)
    fed.until(lambda: fed.online() == len(SITES))
    folder = fed.run(SMALL)
    here = tmp_path / "here"
    common = ["engine=inprocess", "tracking.enabled=false", "run.figures=false"]
    assert cli(*SMALL, *common, f"run.dir={here}") == 0
    fed.until((folder / "results.json").exists)
    there, expected = read(folder), read(here)
    assert (there["status"], there["engine"]) == ("completed", "superlink")
    for key in ("weights_sha256", "matrix", "cases", "stages", "bytes", "failures"):
        assert there[key] == expected[key], key
    assert "2004" in fed.said("stranger") or "not registered" in fed.said("stranger").lower()
    assert not any((fed.folder / "sites" / "stranger" / "state").iterdir())
