"""What the command line of a resumed run may change, and what it must leave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fedcl.app.resuming import changes, resumed
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.errors import ConfigError
from fedcl.learning.learner import Learner
from fedcl.settings import parse
from sites.folder import Folder
from tests.conftest import ROOT, TINY, read, start
from tests.plugins import OWN, install


def hospitals(root: Path) -> Path:
    for site in "AB":
        for n in range(4):
            picture = np.zeros((32, 32), np.uint8)
            picture[8 : 14 + n, 8:16] = 255
            for kind in ("images", "masks"):
                (root / site / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(root / site / kind / f"p{n}.png")
    return root


def command(root: Path, folder: Path, rounds: int) -> list[str]:
    return [
        "engine=inprocess", "tracking.enabled=false", "run.figures=false", "strategy=finetune",
        "scenario=folder", f"scenario.root={root}", "scenario.size=32", "scenario.patient='^(.+)$'",
        "model.channels=[4,8]", f"timeline.rounds={rounds}", "learner.steps=2", f"run.dir={folder}",
    ]  # fmt: skip


def interrupted(root: Path, folder: Path, number: int = signal.SIGTERM) -> str:
    """Interrupt a run after its second round; return what it said."""
    process = start(*command(root, folder, 300))
    log = folder / "log.txt"
    while not (log.exists() and "round 2:" in log.read_text()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    return said


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_every_way_to_stop_a_run_says_how_to_go_on(tmp_path: Path, number: int):
    folder = tmp_path / "run"
    said = interrupted(hospitals(tmp_path / "data"), folder, number)
    name = signal.Signals(number).name
    assert said.splitlines()[-1] == (
        f"fedcl: interrupted by {name}; go on with run.resume={folder}"
    )
    results = read(folder)
    assert (results["status"], results["reason"]) == ("interrupted", f"interrupted by {name}")


def test_a_resumed_run_finds_its_data_elsewhere_and_takes_its_own_command_again(
    cli, tmp_path: Path, capsys
):
    root, folder = hospitals(tmp_path / "data"), tmp_path / "run"
    interrupted(root, folder)
    root.rename(tmp_path / "moved")
    assert cli(f"run.resume={folder}") == 2
    capsys.readouterr()
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    stored["timeline"]["rounds"] = 3  # else the rest would take minutes
    (folder / "config.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    assert cli(f"run.resume={folder}", f"scenario.root={tmp_path / 'moved'}", "seed=3") == 2
    assert "seed: a resumed run keeps its configuration" in capsys.readouterr().err
    repeated = [o for o in command(tmp_path / "moved", folder, 3)]
    assert cli(*repeated, f"run.resume={folder}") == 2
    assert "was begun with 300" in capsys.readouterr().err, "the state knows better"


def change(stored: dict, *arguments: str) -> dict:
    changes(arguments)(stored)
    return stored


BEGUN = [*TINY, "strategy=lwf", "strategy.kd=2", "timeline.stages=[[A],[B]]", "seed=4"]


def stored() -> dict:
    return compose(BEGUN)


@pytest.mark.parametrize(
    "argument",
    [
        "strategy=lwf", "strategy.kd=2", "strategy.kd=2.0", "timeline.stages=[[A],[B]]", "seed=4",
        "scenario=phantom", "run.dir=anywhere", "engine.quorum=0.5", "run.resume=x",
        "hydra.verbose=true", "scenario.seed=4", "model.channels=[4,8]",
    ],
)  # fmt: skip
def test_a_setting_with_the_value_that_the_run_has_is_no_change(argument: str):
    assert change(stored(), argument) == stored()


@pytest.mark.parametrize(
    "argument",
    ["strategy=ted", "strategy.kd=1", "seed=5", "~strategy.kd", "+strategy.new=1", "learner.lr=1"],
)
def test_what_changes_the_results_is_refused(argument: str):
    key = argument.lstrip("+~").partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^{key}: a resumed run keeps its configuration"):
        change(stored(), argument)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("release=x", "^release: a resumed run keeps"),
        ("tracking=none", "tracking"),
        ("engine=null", "^engine: a"),
        ("tracking=[a]", "^track"),
        ("tracking.uri.host=h", r"^tracking\.uri\.host: tracking\.uri has a value"),
    ],
)
def test_what_is_no_setting_is_refused(argument: str, said: str):
    with pytest.raises(ConfigError, match=said):
        change(stored(), argument)


def test_a_setting_within_another_is_found():
    one, other = (
        compose([*TINY, "strategy=contrastive", f"strategy.teacher.file=/{name}.safetensors"])
        for name in "ab"
    )
    assert change(one, "strategy.teacher.file=/b.safetensors") == other


def test_groups_are_chosen_before_what_is_set_in_them_wherever_they_stand():
    assert change(stored(), "tracking.enabled=false", "tracking=mlflow") == stored()
    assert change(stored(), "tracking=mlflow")["tracking"]["enabled"]


@pytest.mark.parametrize("argument", ["~release.name", "~scenario.root", "~learner.threads"])
def test_no_setting_of_a_run_can_be_taken_away(argument: str):
    begun = compose(PUBLISHED)
    with pytest.raises(ConfigError, match=rf"^{argument[1:]}: a run that goes on has all settings"):
        change(begun, argument)


@pytest.mark.parametrize(
    ("key", "may"),
    [("strategy.chunk", True), ("strategy.part.chunk", True), ("strategy.part.width", False)],
)
def test_of_a_strategy_of_ones_own_what_changes_nothing_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, may: bool
):
    install(tmp_path, "strategy", "chunked", OWN)
    monkeypatch.syspath_prepend(tmp_path)
    begun, other = (compose([*TINY, "strategy=chunked", f"{key}={value}"]) for value in (1, 2))
    prints = [Config.parse(values).fingerprint() for values in (begun, other)]
    assert (prints[0] == prints[1]) == may
    if may:
        assert change(begun, f"{key}=2") == other
    else:
        with pytest.raises(ConfigError, match=rf"^{key}: a resumed run keeps"):
            change(begun, f"{key}=2")


def test_of_a_setting_given_twice_the_last_counts():
    assert change(stored(), "strategy.kd=1", "strategy.kd=2") == stored()
    with pytest.raises(ConfigError, match=r"^strategy\.kd: a resumed run keeps"):
        change(stored(), "strategy.kd=2", "strategy.kd=1")


PUBLISHED = ["protocol=ted_mnms", "scenario.root=/data/mnms", "strategy=lwf"]


@pytest.mark.parametrize("more", [[], ["scenario.root=/elsewhere"], ["engine.workers=2"]])
def test_a_protocol_given_again_is_no_change(more: list[str]):
    stored = compose(PUBLISHED)
    changes([*PUBLISHED, *more])(stored)
    assert stored["scenario"]["root"] == (
        "/elsewhere" if "elsewhere" in str(more) else "/data/mnms"
    )


def test_where_and_how_a_run_computes_may_change():
    after = change(
        stored(), "engine=ray", "engine.workers=2", "tracking.uri=http://h:1", "run.figures=true"
    )
    assert after["engine"]["name"] == "ray" and after["engine"]["workers"] == 2
    deciding = ("engine.norm_bound=3", "engine.quorum=1.0", "engine.timeout=60")
    begun = change(stored(), *deciding)
    for others in (["engine=inprocess"], ["engine=ray"]):
        again = change(begun, *others)["engine"]
        assert again["name"] == others[0].partition("=")[2]
        assert (again["norm_bound"], again["quorum"], again["timeout"]) == (3, 1.0, 60)
    assert after["tracking"]["uri"] == "http://h:1" and after["run"]["figures"] is True
    assert {k: after[k] for k in ("seed", "strategy")} == {
        k: stored()[k] for k in ("seed", "strategy")
    }


def test_results_say_which_bounds_were_changed_on_the_way(cli, tmp_path: Path):
    run = tmp_path / "run"
    few = ("timeline.stages=[[A,B]]", "timeline.rounds=1", "faults.crash={B:1.0}")
    assert cli(*TINY, *few, "engine.quorum=1.0", f"run.dir={run}") == 1
    assert cli(f"run.resume={run}", "engine.quorum=0.5", "engine.collapse=null") == 0
    assert [tuple(change.values()) for change in read(run)["changed"]] == [
        (0, "engine.quorum", 1.0, 0.5), (0, "engine.collapse", 0.1, None),
    ]  # fmt: skip


def test_a_table_of_arrivals_given_again_is_no_change(tmp_path: Path):
    from fedcl.config.timeline import inlined

    table = tmp_path / "t.csv"
    table.write_text("site,join\nA,1\nB,2\n")
    before = stored()
    before["timeline"] = inlined(before["timeline"] | {"stages": None, "file": str(table)})
    assert change(dict(before), f"timeline.file={table}") == before
    table.write_text("site,join\nA,1\nC,2\n")
    with pytest.raises(ConfigError, match=r"^timeline\.sites\.\w: a resumed run keeps"):
        change(dict(before), f"timeline.file={table}")


@pytest.mark.parametrize("name", ["run [x]", "a b", "ü,ö", "run"])
def test_folders_of_any_name_are_resumed(tmp_path: Path, name: str):
    folder = tmp_path / name
    assert resumed([f"run.resume='{folder}'"]) == folder
    folder.mkdir()
    assert resumed([f"run.resume={folder}", "seed=1"]) == folder
    assert resumed(["run.resume=null"]) is None and resumed(["seed=1"]) is None


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a${seed}", "\\${x}", "\\\\${x", "${"])
def test_interpolation_in_a_stored_configuration_is_text(text: str):
    assert parse(Folder, {"root": text}, "scenario").root == text


def test_names_that_yaml_takes_for_something_else():
    assert parse(Folder, {"stages": [[1, 2], ["NO"]]}, "scenario").stages == [["1", "2"], ["NO"]]
    assert parse(Folder, {"site_labels": {1: [0, 1]}}, "scenario").site_labels == {"1": [0, 1]}
    with pytest.raises(ConfigError, match=r"scenario\.stages: False was read for a name"):
        parse(Folder, {"stages": [[False]]}, "scenario")
    with pytest.raises(ConfigError, match=r"learner\.keep: True was read for a name"):
        parse(Learner, {"keep": True}, "learner")


def test_sites_called_1_2_and_no(cli, tmp_path: Path):
    (tmp_path / "data").mkdir()
    for name in ("1", "2", "NO"):
        (hospitals(tmp_path / "x") / "A").rename(tmp_path / "data" / name)
    listed = tmp_path / "timeline.yaml"
    listed.write_text("stages: [[1, 2], [NO]]\n")
    folder = tmp_path / "run"
    own = [o for o in command(tmp_path / "data", folder, 1)]
    assert cli(*own, f"timeline.file={listed}") == 0
    assert read(folder)["arrivals"] == [["1", "2"], ["NO"]]
    again = [o for o in command(tmp_path / "data", tmp_path / "again", 1)]
    assert cli(*again, "timeline.stages=[[1,2],[NO]]") == 0
    keys = ("weights_sha256", "matrix")
    one, two = read(folder), read(tmp_path / "again")
    assert [one[key] for key in keys] == [two[key] for key in keys]


def test_a_signal_during_the_imports_is_one_line(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "simulate.py"), *TINY, f"run.dir={tmp_path / 'run'}"],
        stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    time.sleep(1.0)  # the libraries take several seconds
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and not (tmp_path / "run").exists()
    assert said.splitlines()[-1].startswith("fedcl: interrupted by SIGTERM")


def test_what_is_ignored_stays_ignored(tmp_path: Path):
    """`nohup` asks for that."""
    code = (
        "import signal, os; from fedcl.interruption import interruptible\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with interruptible(): os.kill(os.getpid(), signal.SIGHUP); print('on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "on\n"
