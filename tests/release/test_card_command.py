"""`fedcl card` of a real run: its own numbers, the digest of its weights, the way back to it."""

import json
import shutil
from pathlib import Path

import pytest

from fedcl.app.cli import main
from fedcl.config.hydra import compose
from fedcl.config.stored import stored
from fedcl.release.overrides import overrides
from tests.conftest import read
from tests.predicted import LABELS, hospitals, simulated


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on volumes of two hospitals."""
    root = hospitals(tmp_path_factory.mktemp("data"))
    given = [*LABELS, "scenario.spatial_dims=3", "scenario.patch=[4,16,16]", "seed=3"]
    return simulated(tmp_path_factory.mktemp("run") / "run", root, *given)


def test_the_card_of_a_run_has_its_numbers(run: Path, capsys):
    capsys.readouterr()
    assert main(["card", str(run)]) == 0
    told, results = capsys.readouterr().out, read(run)
    assert told.startswith("# unet, trained on folder with finetune\n")
    for site, mean in zip("AB", results["matrix"][-1], strict=True):
        assert f"| {site} | {mean:.3f} (" in told
    assert f"over hospitals: {results['metrics']['avg']:.3f}" in told
    assert f"`{results['weights_sha256']}`" in told
    assert all(results["data_sha256"][site] in told for site in "AB")
    assert str(run.parent) not in told, "no path of this machine"
    assert "scenario.root=..." in told and "seed=3" in told and ".nii" not in told


def test_a_command_that_does_not_make_the_weights_says_so(run: Path, tmp_path: Path, capsys):
    shutil.copytree(run, tmp_path / "run")
    change = {"round": 1, "setting": "engine.largest_share", "from": 0.9, "to": 0.5}
    changed = read(run) | {"changed": [change], "engine": "superlink"}
    (tmp_path / "run" / "results.json").write_text(json.dumps(changed))
    capsys.readouterr()
    assert main(["card", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "The command alone does not make these weights" in told
    assert "was 0.9 up to round 1, 0.5 from there on." in told
    assert "Hospitals ran it, where the data lie" in told


def test_of_an_earlier_stage_the_digest_is_that_of_its_weights(run: Path, capsys):
    capsys.readouterr()
    assert main(["card", str(run), "--stage", "1"]) == 0
    told, results = capsys.readouterr().out, read(run)
    assert results["weights_sha256"] not in told and "their names: `" in told
    assert f"| A | {results['matrix'][0][0]:.3f} (" in told and "| B |" not in told
    assert "The model is that after stage 1." in told


def test_the_overrides_give_the_configuration_again(run: Path):
    values = stored(run)
    given = [
        one.replace("...", str(values["scenario"]["root"]))
        if one.startswith("scenario.root")
        else one
        for one in overrides(values)
    ]
    again = compose(given)
    for group in ("run", "tracking", "engine"):
        del again[group], values[group]
    assert again == values


def test_it_is_written_into_a_file(run: Path, tmp_path: Path, capsys):
    out = tmp_path / "new" / "card.md"
    assert main(["card", str(run), "--hide-names", "--out", str(out)]) == 0
    assert f"written to {out}" in capsys.readouterr().out
    told = out.read_text()
    assert "| Hospital 1 |" in told and "| A |" not in told and "site_labels.Hospital 2=" in told
    assert main(["card", str(run), "--out", str(run / "config.yaml" / "card.md")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fedcl: --out: ")


def test_without_a_run_it_is_told(run: Path, tmp_path: Path, capsys):
    assert main(["card", str(tmp_path)]) == 2
    assert "RUN: " in capsys.readouterr().err
    shutil.copy(run / "config.yaml", tmp_path)
    assert main(["card", str(tmp_path)]) == 2
    assert "has no results.json: the run has not ended" in capsys.readouterr().err
    assert main(["card", str(run), "--stage", "9"]) == 2
    assert "--stage: give 1 to 2" in capsys.readouterr().err


def test_what_is_nobody_elses_business_is_not_in_the_command():
    """Where the data lie, who the patients are, and what noise is drawn from."""
    asked = ["scenario=folder", "scenario.root=/home/dr/x", "privacy=central_dp", "privacy.seed=57"]
    given = overrides(
        compose([*asked, "+scenario.assigned.test=[doe_john]", "model.weights=/w.pt"])
    )
    told = " ".join(given)
    for secret in ("/home", "57", "doe_john", "/w.pt"):
        assert secret not in told, secret
    assert {"scenario.root=...", "privacy.seed=...", "model.weights=..."} <= {*given}
    assert "+scenario.assigned.test=..." in given and "privacy=central_dp" in given
