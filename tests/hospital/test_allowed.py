"""What a hospital's file `allowed.yaml` lets runs do."""

from pathlib import Path

import pytest

from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.errors import ConfigError, FedclError, RunError
from fedcl.hospital.allowed import NAME, Allowed
from tests.conftest import TINY


@pytest.fixture(scope="module")
def job() -> str:
    return Config.parse(compose([*TINY, "strategy=lwf"])).job.to_json()


def allowed(folder: Path, text: str) -> Allowed:
    (folder / NAME).write_text(text)
    return Allowed.of(folder)


def test_without_a_file_every_run_is_answered(tmp_path: Path, job: str):
    Allowed.of(tmp_path).check(job, round=10**6)


@pytest.mark.parametrize("text", ["", "scenario: [folder, phantom]\nstrategy: [lwf]\nrounds: 8\n"])
def test_what_is_named_is_allowed(tmp_path: Path, job: str, text: str):
    allowed(tmp_path, text).check(job, round=8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scenario: [folder]", "allows scenario folder, not 'phantom'"),
        ("scenario: []", "allows scenario none, not 'phantom'"),
        ("strategy: [ted, ewc]", "allows strategy ted, ewc, not 'lwf'"),
        ("model: [swinunetr]", "allows model swinunetr, not 'unet'"),
        ("rounds: 7", "allows 7 rounds of a run, not round 8"),
    ],
)
def test_what_is_not_named_is_refused_in_one_line(tmp_path: Path, job: str, text: str, said: str):
    with pytest.raises(RunError, match=said) as refused:
        allowed(tmp_path, text).check(job, round=8)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scenarios: [folder]", r"allowed.yaml.scenarios: no such key \(did you mean scenario"),
        ("rounds: many", "allowed.yaml.rounds"),
        ("scenario: [", "allowed.yaml: cannot be read"),
        ("folder", "allowed.yaml: must be a group"),
        *((text, "allowed.yaml: must be a group") for text in ("[]", "false", "''", "0")),
    ],
)
def test_a_file_that_cannot_be_meant_allows_nothing(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError, match=said):
        allowed(tmp_path, text)


def test_a_link_to_a_file_that_is_gone_allows_nothing(tmp_path: Path):
    (tmp_path / NAME).symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match="cannot be read"):
        Allowed.of(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scenario": 1}', "null"])
def test_a_job_that_is_none_is_refused(tmp_path: Path, text: str):
    with pytest.raises(FedclError, match="job: not one of this version"):
        Allowed().check(text)
