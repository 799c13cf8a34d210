"""A deployed federation goes on: over restarts, with hospitals that come and go, under attack."""

import http.client
import shutil
import socket
import ssl
import stat
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedcl.app.cli import main
from fedcl.app.provision.hospitals import belonging
from tests.conftest import read
from tests.federation import PASSPHRASE, SMALL, Federation

pytestmark = [pytest.mark.network, pytest.mark.slow]

MEGABYTE = 2**20
SOON = 60.0  # seconds; the gate looks every two
needs_nginx = pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx")


class Caller:
    """A hospital as the network knows it: its key, and Flower's client."""

    def __init__(self, fed: Federation, site: str) -> None:
        key = load_ssh_private_key((fed.own(site) / "key").read_bytes(), None)
        self.public = public_key_to_bytes(key.public_key())
        self.client = FleetHttpClient.from_server_address(
            f"{fed.host}:{fed.port}", False, (fed.own("server") / "ca.crt").read_bytes(),
            [NodeAuthHttpInterceptor(key, key.public_key())],
        )  # fmt: skip

    def connect(self) -> int:
        """Return the status that a SuperNode is answered with when it starts; 200: let in."""
        try:
            asked = ActivateNodeRequest(public_key=self.public, heartbeat_interval=30)
            self.node = Node(node_id=self.client.ActivateNode(asked).node_id)
        except httpx.HTTPStatusError as error:
            return error.response.status_code
        return 200

    def ask(self) -> int:
        """Return the status that is answered when it asks whether there is something to do."""
        try:
            self.client.PullMessages(PullMessagesRequest(node=self.node))
        except httpx.HTTPStatusError as error:
            return error.response.status_code
        return 200


def post(fed: Federation, size: int, key: bytes | None) -> int | None:
    """Post megabytes to the gate; return the status, None if the connection was cut."""
    link = http.client.HTTPSConnection(fed.host, fed.port, context=trusting(fed), timeout=30)
    headers = {"Content-Type": "application/protobuf", "Content-Length": str(size * MEGABYTE)}
    if key is not None:
        headers["flwr-public-key"] = b64encode(key).decode()
    pieces = (b"x" * MEGABYTE for _ in range(size))
    try:
        link.request("POST", "/v1/fleet/push-messages", pieces, headers)
        return link.getresponse().status
    except OSError:
        return None


def trusting(fed: Federation) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=fed.own("server") / "ca.crt")


@needs_nginx
def test_strangers_fill_no_memory(federation: Callable[[list[str]], Federation]):
    """Those without a key send gigabytes, those with another's key what the gate lets through."""
    fed = federation(["A"])
    fed.open(registered=["A"], started=[])
    hospital, key = Caller(fed, "A"), belonging(fed.own("server"))["A"]
    assert hospital.connect() == 200
    superlink = psutil.Process(fed.processes["server"].pid)

    def megabytes() -> float:
        return superlink.memory_info().rss / MEGABYTE

    with ExitStack() as held, ThreadPoolExecutor(16) as threads:
        for _ in range(300):  # connections that never say what they want
            link = held.enter_context(socket.create_connection((fed.host, fed.port)))
            link.sendall(b"\x16\x03\x01")
        before = megabytes()
        strange = set(threads.map(lambda _: post(fed, 128, None), range(16)))
        assert strange <= {412, 413, None} and post(fed, 9, key) in (413, None)
        assert hospital.ask() == 200
        assert megabytes() - before < 10, "none of it has come to the SuperLink"
        known = set(threads.map(lambda _: post(fed, 7, key), range(6 * 32)))
        assert known <= {401, 503, None}, "not its key, or too many at a time"
        assert megabytes() - before < 250, "it comes there, and goes again"
        assert hospital.ask() == 200


@needs_nginx
def test_hospitals_come_and_go_while_others_stay(
    federation: Callable[[list[str]], Federation], monkeypatch: pytest.MonkeyPatch
):
    fed = federation(["A", "B"])
    fed.open(registered=["A", "B"], started=[])
    a, b = Caller(fed, "A"), Caller(fed, "B")
    assert (a.connect(), b.connect()) == (200, 200)

    def deploy(*words: str) -> None:
        assert main(["deploy", str(fed.folder), *words]) == 0
        assert a.ask() == 200

    deploy("--add", "C")
    c = Caller(fed, "C")
    fed.until(lambda: c.connect() == 200, SOON)

    deploy("--revoke", "B")
    assert b.ask() in (401, 412), "at once, whether the gate has noticed or not"
    fed.until(lambda: b.ask() == 412, SOON)
    assert b.connect() == 412

    deploy("--rotate", "C")
    fed.until(lambda: c.ask() == 412, SOON)
    fed.until(lambda: Caller(fed, "C").connect() == 200, SOON)

    def shown() -> bytes | None:
        with trusting(fed).wrap_socket(
            socket.create_connection((fed.host, fed.port)), server_hostname=fed.host
        ) as link:
            return link.getpeercert(binary_form=True)

    before = shown()
    monkeypatch.setenv("FEDCL_PASSPHRASE", PASSPHRASE)
    deploy("--renew")
    fed.until(lambda: shown() != before, SOON)
    assert Caller(fed, "A").connect() == 412, "as it is there: one key, one connection"
    assert a.ask() == 200
    log = (fed.own("server") / "superlink.log").read_text()
    assert log.count("Starting the SuperLink Fleet HTTP API") == 1


@pytest.mark.exhaustive
@needs_nginx
def test_a_hospital_comes_back_by_itself_with_its_new_key(
    federation: Callable[[list[str]], Federation],
):
    """Flower's own process would stay where it is refused, and do nothing."""
    fed = federation(["A"])
    script = fed.own("A") / "start.sh"
    script.write_text(script.read_text().replace('code="installed"', 'code="brought"'))
    fed.open(registered=["A"], started=["A"])
    fed.until(lambda: fed.online() == 1)
    assert main(["deploy", str(fed.folder), "--rotate", "A"]) == 0
    fed.until(lambda: fed.said("A").count("Starting Flower SuperNode") > 1)
    fed.until(lambda: fed.online() == 1)
    assert fed.processes["A"].poll() is None


@pytest.mark.exhaustive
def test_a_run_outlives_the_superlink(
    cli: Callable[..., int], tmp_path: Path, federation: Callable[[list[str]], Federation]
):
    """It is killed in round 2, and what comes out is what would have without."""
    asked = [*SMALL[:-1], "timeline.stages=[[A],[B]]", "timeline.rounds=2"]
    fed = federation(["A", "B"])
    fed.open(registered=["A", "B"], started=["A", "B"])
    fed.until(lambda: fed.online() == 2)
    folder = fed.run(asked)
    fed.until(lambda: ": train, stage 1, round 2" in fed.said("A"))
    fed.kill("server")
    fed.start("server")
    fed.until(lambda: fed.said("server").count("the hospitals are known") == 2)
    fed.run([f"run.resume={folder.name}"])
    results = folder / "results.json"
    fed.until(lambda: results.exists() and read(folder)["status"] == "completed")
    here = tmp_path / "here"
    common = ["engine=inprocess", "tracking.enabled=false", "run.figures=false"]
    assert cli(*asked, *common, f"run.dir={here}") == 0
    found, expected = read(folder), read(here)
    for key in ("weights_sha256", "matrix", "cases", "stages"):
        assert found[key] == expected[key], key
    assert all(fed.said(site).count("its server is") == 1 for site in "AB"), "they have waited"
    kept = [fed.own("server") / name for name in ("state.db", "superlink.log", "nginx.log")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
