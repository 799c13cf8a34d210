"""The folders of a federation, and who belongs to it."""

import datetime
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

from fedcl.app.cli import main
from fedcl.app.provision.federation import expires
from fedcl.app.provision.hospitals import belonging
from fedcl.errors import ConfigError
from tests.processes import wait_for

PASSPHRASE = "correct horse"
NOBODY_RUNS = "it is told when it starts\n"


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FEDCL_PASSPHRASE", PASSPHRASE)


@pytest.fixture
def fed(tmp_path: Path) -> Path:
    """A federation of RUNMC and BMC behind a gate."""
    folder = tmp_path / "fed"
    assert main(["deploy", str(folder), "--sites", "RUNMC,BMC", "--host", "fl.example.org"]) == 0
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call the command, which refuses; returns the one line that it says."""

    def call(*words: str) -> str:
        assert main(["deploy", *words]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    return call


def test_every_folder_has_its_own_key_and_no_other(fed: Path):
    private = [p for p in fed.rglob("*") if p.is_file() and b"PRIVATE KEY" in p.read_bytes()]
    names = sorted(str(path.relative_to(fed)) for path in private)
    assert names == [
        "authority.key", "server/server.pem", "server/superlink.key", "sites/BMC/key",
        "sites/RUNMC/key",
    ]  # fmt: skip
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private)
    inside = [fed, *(path for path in fed.rglob("*") if path.is_dir())]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in inside)
    context = ssl.create_default_context(cafile=fed / "server" / "ca.crt")
    assert len(context.get_ca_certs()) == 1
    script = (fed / "sites" / "BMC" / "start.sh").read_text()
    assert "--superlink fl.example.org:18001" in script and "site='BMC'" in script
    link = (fed / "server" / "start.sh").read_text()
    assert "--host 127.0.0.1 --port 18002" in link, "nobody else reaches the SuperLink"
    assert "listen 18001 ssl" in (fed / "server" / "nginx.conf").read_text()
    for path in fed.rglob("*.sh"):
        assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
        assert os.access(path, os.X_OK)
    assert "{{" not in "".join(p.read_text() for p in fed.rglob("*.*") if p.is_file())


@pytest.mark.parametrize(
    ("sites", "more", "said"),
    [
        ("A,A", [], "every hospital once"),
        ("A;rm -rf", [], "letters, digits"),
        ("A", ["--port", "80"], "deploy --port"),
        ("A", ["--host", "x y"], "deploy --host"),
        ("A", ["--host", "::1"], "an IPv4 address"),
        ("A", ["--public-key", "a.pub"], "deploy --public-key: with --add or --rotate"),
    ],
)
def test_what_would_break_a_script_is_refused(
    tmp_path: Path, refused: Callable[..., str], sites: str, more: list[str], said: str
):
    assert said in refused(str(tmp_path / "fed"), "--sites", sites, *more)
    assert not (tmp_path / "fed").exists()


def test_nobody_signs_without_the_passphrase(
    fed: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    before = (fed / "server" / "server.pem").read_bytes()
    word = tmp_path / "word"
    word.write_text("wrong horse\n")
    renew = [str(fed), "--renew"]
    assert "authority.key cannot be read" in refused(*renew, "--passphrase-file", str(word))
    word.write_text("short\n")
    assert "8 characters at least" in refused(*renew, "--passphrase-file", str(word))
    assert "word2: No such file" in refused(*renew, "--passphrase-file", f"{word}2")
    monkeypatch.delenv("FEDCL_PASSPHRASE")
    assert "give --passphrase-file or FEDCL_PASSPHRASE" in refused(*renew)
    monkeypatch.setenv("FEDCL_PASSPHRASE", PASSPHRASE)
    (fed / "authority.key").unlink()
    assert "without it nothing can be signed" in refused(*renew)
    assert (fed / "server" / "server.pem").read_bytes() == before


def test_a_renewed_certificate_is_one_that_hospitals_trust(fed: Path):
    shown, kept = fed / "server" / "server.pem", fed / "server" / "superlink.pem"
    before, inner = shown.read_bytes(), kept.read_bytes()
    assert main(["deploy", str(fed), "--renew"]) == 0
    certificate = x509.load_pem_x509_certificate(shown.read_bytes())
    authority = x509.load_pem_x509_certificate((fed / "sites" / "BMC" / "ca.crt").read_bytes())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "fl.example.org" in names.get_values_for_type(x509.DNSName)
    assert shown.read_bytes() != before and kept.read_bytes() == inner
    assert stat.S_IMODE(shown.stat().st_mode) == 0o600
    assert expires(fed) == expires(fed / "server") == certificate.not_valid_after_utc
    left = authority.not_valid_after_utc - expires(fed)
    assert left > datetime.timedelta(days=2000), "the authority outlives it"


def test_without_a_gate_there_is_nothing_to_renew(tmp_path: Path, refused: Callable[..., str]):
    folder = str(tmp_path / "here")
    assert main(["deploy", folder, "--sites", "A"]) == 0
    assert "as long as the authority, until" in refused(folder, "--renew")


def test_a_hospital_joins_and_leaves_and_gets_another_key(
    fed: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
):
    others = {path: path.read_bytes() for path in (fed / "sites").rglob("*") if path.is_file()}
    first = belonging(fed / "server")
    capsys.readouterr()
    assert main(["deploy", str(fed), "--add", "UCL"]) == 0
    assert capsys.readouterr().out.endswith(NOBODY_RUNS)
    assert {path: path.read_bytes() for path in others} == others
    assert "--port 18005" in (fed / "sites" / "UCL" / "start.sh").read_text(), "its own"
    assert belonging(fed / "server") == first | {"UCL": belonging(fed / "server")["UCL"]}
    assert "UCL belongs to it already" in refused(str(fed), "--add", "UCL")

    assert main(["deploy", str(fed), "--rotate", "BMC"]) == 0
    now = belonging(fed / "server")
    assert now["BMC"] != first["BMC"] and now["RUNMC"] == first["RUNMC"]
    key = serialization.load_ssh_private_key((fed / "sites" / "BMC" / "key").read_bytes(), None)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert public == now["BMC"]

    assert main(["deploy", str(fed), "--revoke", "RUNMC"]) == 0
    assert set(belonging(fed / "server")) == {"BMC", "UCL"}
    gate = (fed / "server" / "hospitals.map").read_text()
    assert re.findall(r" (\w+);", gate) == ["BMC", "UCL"]
    assert "RUNMC does not belong" in refused(str(fed), "--revoke", "RUNMC")
    assert "RUNMC does not belong" in refused(str(fed), "--rotate", "RUNMC")
    assert "RUNMC is there already; move it away" in refused(str(fed), "--add", "RUNMC")
    shutil.rmtree(fed / "sites" / "RUNMC")
    assert main(["deploy", str(fed), "--add", "RUNMC"]) == 0
    assert belonging(fed / "server")["RUNMC"] != first["RUNMC"]


def test_a_hospital_may_keep_its_private_key_to_itself(
    fed: Path, tmp_path: Path, refused: Callable[..., str]
):
    own = tmp_path / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(own)], check=True
    )
    given = ["--public-key", f"{own}.pub"]
    assert "of one hospital" in refused(str(fed), "--add", "UCL,HK", *given)
    assert "no public key of" in refused(str(fed), "--add", "UCL", "--public-key", str(own))
    assert not (fed / "sites" / "UCL").exists()
    assert main(["deploy", str(fed), "--add", "UCL", *given]) == 0
    assert not (fed / "sites" / "UCL" / "key").exists()
    public = Path(f"{own}.pub").read_bytes()
    assert (fed / "server" / "hospitals" / "UCL.pub").read_bytes() == public
    assert "has this key, or had it" in refused(str(fed), "--rotate", "UCL", *given)
    assert main(["deploy", str(fed), "--revoke", "UCL"]) == 0
    assert "has this key, or had it" in refused(str(fed), "--add", "HK", *given)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--add", "C", "--host", "a.org"], "--host: with --sites only"),
        (["--revoke", "BMC", "--port", "0"], "--port: with --sites only"),
        (["--renew", "--public-key", "a.pub"], "--public-key: with --add or --rotate only"),
        (["--rotate", "BMC", "--passphrase-file", "a"], "--passphrase-file: with --sites or"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    fed: Path, refused: Callable[..., str], words: list[str], said: str
):
    assert said in refused(str(fed), *words)


def test_a_folder_of_something_else_is_refused(tmp_path: Path, refused: Callable[..., str]):
    for what in ("--add", "--revoke", "--rotate"):
        assert "federation.json cannot be read" in refused(str(tmp_path), what, "A")
    assert "federation.json cannot be read" in refused(str(tmp_path), "--renew")
    assert list(tmp_path.iterdir()) == []


def test_whatever_the_size_of_a_model_its_pieces_go_through_the_gate(fed: Path):
    """Arrays are cut to pieces by Flower; what stands beside them in a request is far smaller."""
    (limit,) = re.findall(r"client_max_body_size (\d+)m;", (fed / "server/nginx.conf").read_text())
    assert int(limit) * 2**20 > FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 2**20


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_understands_the_units(fed: Path, tmp_path: Path):
    units = sorted(fed.rglob("*.service"))
    names = [unit.name for unit in units]
    assert names == ["fedcl-gate.service", "fedcl-server.service", *["fedcl-site.service"] * 2]
    for unit in units:
        script = unit.with_name("gate.sh" if "gate" in unit.name else "start.sh")
        here = tmp_path / unit.name  # where it says that it lies is nothing yet
        here.write_text(re.sub("(?<=ExecStart=).*", str(script), unit.read_text()))
        done = subprocess.run(
            ["systemd-analyze", "verify", str(here)], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_containers_say_how_they_are_and_do_not_fill_the_disk(fed: Path):
    found = {path.parent.name: yaml.safe_load(path.read_text()) for path in fed.rglob("compose.*")}
    services = {name: one["services"] for name, one in found.items()}
    assert {name: set(one) for name, one in services.items()} == {
        "server": {"fedcl", "gate"}, "RUNMC": {"fedcl"}, "BMC": {"fedcl"},
    }  # fmt: skip
    for one in services.values():
        assert all(part["logging"]["options"]["max-size"] == "10m" for part in one.values())
    asked = services["server"]["fedcl"]["healthcheck"]["test"][3]
    assert compile(asked, "the check", "exec") and "'https://127.0.0.1:18002/health'" in asked


@pytest.mark.skipif(
    subprocess.run("docker compose version", shell=True, capture_output=True).returncode != 0,
    reason="no docker compose",
)
def test_docker_understands_the_containers(fed: Path):
    for path in fed.rglob("compose.yaml"):
        done = subprocess.run(
            ["docker", "compose", "-f", str(path), "config", "--quiet"],
            env=os.environ | {"FEDCL_IMAGE": "fedcl"}, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx")
def test_the_gate_ends_with_its_script_and_its_log_stays_small(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = str(free.getsockname()[1] % 40000 + 20000)
    folder, server = tmp_path / "fed", tmp_path / "fed" / "server"
    asked = ["--sites", "A", "--host", "127.0.0.2", "--port", port]
    assert main(["deploy", str(folder), *asked]) == 0
    script = subprocess.Popen([server / "gate.sh"], text=True, stderr=subprocess.PIPE)
    log, number = server / "nginx.log", server / "nginx.pid"
    try:
        wait_for(lambda: number.exists() and bool(number.read_text()), script)
        gate = psutil.Process(int(number.read_text()))
        os.truncate(log, 20_000_000)
        wait_for((server / "nginx.log.1").exists, script)
        wait_for(log.exists, script)
    finally:
        script.terminate()
    assert script.wait(60) == 0 and not gate.is_running()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_certificate_that_is_none_is_named(fed: Path, tmp_path: Path):
    server = shutil.copytree(fed / "server", tmp_path / "server")
    (server / "ca.crt").write_text("nothing")
    with pytest.raises(ConfigError, match=r"ca\.crt cannot be read as a certificate"):
        expires(server)
    (server / "ca.crt").unlink()
    with pytest.raises(ConfigError, match=r"ca\.crt cannot be read as a certificate"):
        expires(server)
