"""A federation over Flower's SuperLink and SuperNodes, of real processes on this machine."""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedcl.app.provision.federation import prepare
from fedcl.app.provision.hospitals import tell_gate
from tests.conftest import ROOT, TINY

PATIENCE = 400.0  # seconds for a whole run; one call takes a process of its own, some seconds each
PASSPHRASE = "correct horse"
SMALL = [
    *(one for one in TINY if one.partition("=")[0] in ("scenario.size", "scenario.patients",
      "scenario.slices", "scenario.strength", "model.channels", "learner.epochs")),
    "scenario=phantom", "strategy=ted", "timeline.stages=[[A,B],[C,D]]",
]  # fmt: skip


def other_version(folder: Path) -> Path:
    """Return a folder of the code, in a version of its own."""
    for top in ("fedcl", "sites", "strategies", "conf"):
        shutil.copytree(ROOT / top, folder / top, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    with (folder / "strategies" / "lwf.py").open("a") as file:
        file.write("# another\n")
    return folder


class Federation:
    """The processes of a server and its hospitals, on this machine; with a gate if there is nginx.

    Another address than 127.0.0.1 is reached through the gate.
    """

    def __init__(self, folder: Path, sites: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1] % 40000 + 20000
        self.folder, self.sites = folder, sites
        self.gated = shutil.which("nginx") is not None
        self.host = "127.0.0.2" if self.gated else "127.0.0.1"
        self.inner = self.port + self.gated
        prepare(folder, sites, self.host, self.port, PASSPHRASE)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, **more: str) -> None:
        """Start the server, its gate, or a hospital's program, with more in its environment."""
        script = self.own(name) / ("gate.sh" if name == "gate" else "start.sh")
        log = (self.own(name) / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [str(script)], stdout=log, stderr=log, start_new_session=True, env=os.environ | more
        )

    def own(self, name: str) -> Path:
        """Return the folder of a hospital, or of the server, which is the gate's as well."""
        return self.folder / ("server" if name in ("server", "gate") else f"sites/{name}")

    def status(self, path: str, port: int) -> int:
        """Return how a request from the network is answered."""
        context = ssl.create_default_context(cafile=self.folder / "server" / "ca.crt")
        link = http.client.HTTPSConnection(self.host, port, context=context)
        link.request("POST", path)
        return link.getresponse().status

    def said(self, name: str) -> str:
        """Return what a process has printed."""
        return (self.own(name) / f"{name}.log").read_text()

    def flwr(self, *words: str) -> str:
        """Call `flwr` as the server's operator would."""
        home = {"FLWR_HOME": str(self.folder / "server" / "flwr"), "FLWR_TELEMETRY_ENABLED": "0"}
        program = Path(sys.executable).with_name("flwr")
        done = subprocess.run(
            [str(program), *words], capture_output=True, text=True, env=os.environ | home
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def open(self, registered: list[str], started: list[str]) -> None:
        """Start the server, to whom some hospitals belong, and some hospitals."""
        for site in set(self.sites) - set(registered):
            (self.folder / "server" / "hospitals" / f"{site}.pub").unlink()
        tell_gate(self.folder / "server")
        self.start("server")
        if self.gated:
            self.start("gate")
        self.until(self.listens)
        self.until(lambda: "the hospitals are known" in self.said("server"))
        for site in started:
            self.start(site)

    def listens(self) -> bool:
        def taken(host: str, port: int) -> bool:
            with socket.socket() as link:
                return link.connect_ex((host, port)) == 0

        return taken("127.0.0.1", self.inner) and taken(self.host, self.port)

    def online(self) -> int:
        """Return how many hospitals are connected."""
        nodes = json.loads(self.flwr("supernode", "ls", "federation", "--format", "json"))
        return sum(node["status"] == "online" for node in nodes["nodes"])

    def run(self, overrides: list[str], code: Path = ROOT) -> Path:
        """Start a run; return its folder, which may not be there yet."""
        words = f"overrides='{' '.join(overrides)}'"
        said = self.flwr("run", str(code), "federation", "--run-config", words, "--format", "json")
        number = json.loads(said)["run-id"]
        return self.folder / "server" / "runs" / f"run-{number}"

    def until(self, happened: Callable[[], Any], patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not happened():
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.5)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)

    def kill_application(self) -> None:
        """Kill the server's application, which the SuperLink has started."""
        words = f"flwr-serverapp --runtime-api-address 127.0.0.1:{self.inner} "
        found = subprocess.run(["pgrep", "-f", words], capture_output=True, text=True)
        for number in found.stdout.split():
            os.kill(int(number), signal.SIGKILL)

    def close(self) -> None:
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
