"""A snapshot that somebody has changed, digests and all, is found out and named."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcl import arrays
from fedcl.errors import ConfigError, RunError
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.snapshot import read
from tests.servers import config, serve

SETTINGS = config("strategy=lwf", "timeline.stages=[[A],[B]]", "timeline.rounds=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a run that has come to its end."""
    folder = tmp_path_factory.mktemp("run")
    serve(folder, SETTINGS, None)
    return folder / "checkpoint"


@pytest.fixture
def snapshot(finished: Path, tmp_path: Path) -> Path:
    """Return the last snapshot of a copy."""
    shutil.copytree(finished, tmp_path / "checkpoint")
    return sorted((tmp_path / "checkpoint").glob("round-*"))[-1]


def signed(folder: Path) -> None:
    """Write the digests of the files anew, as whoever changes them can."""
    file = folder / "state.json"
    numbers = json.loads(file.read_text())
    numbers["sha256"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*.safetensors")
    }
    file.write_text(json.dumps(numbers))


def number(key: str, value: Any) -> Callable[[Path], None]:
    """Return what sets a value in state.json; `key` may lead into it."""

    def change(folder: Path) -> None:
        file = folder / "state.json"
        numbers = json.loads(file.read_text())
        *path, last = key.split(".")
        place = numbers
        for part in path:
            place = place[int(part) if isinstance(place, list) else part]
        place[last] = value
        file.write_text(json.dumps(numbers))

    return change


def longer(key: str) -> Callable[[Path], None]:
    """Return what repeats the last entry of a list in state.json."""

    def change(folder: Path) -> None:
        entries = json.loads((folder / "state.json").read_text())[key]
        number(key, [*entries, entries[-1]])(folder)

    return change


def array(change: Callable[[dict[str, np.ndarray]], Any], name: str = "weights") -> Any:
    """Return what changes the arrays of a file."""

    def changed(folder: Path) -> None:
        file = folder / f"{name}.safetensors"
        there = arrays.load_file(file)
        change(there)
        arrays.save_file(file, there)
        signed(folder)

    return changed


def first(there: dict[str, np.ndarray]) -> str:
    return min(key for key, value in there.items() if value.dtype.kind == "f")


def linked(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / f"elsewhere-{name}")
        (folder / name).symlink_to(folder.parent / f"elsewhere-{name}")

    return change


def huge(folder: Path) -> None:
    with (folder / "state.json").open("ab") as file:
        file.truncate(2**40)  # it takes no room


def header(folder: Path) -> None:
    told = json.dumps({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}})
    content = len(told).to_bytes(8, "little") + told.encode() + b"\0" * 12
    (folder / "weights.safetensors").write_bytes(content)
    signed(folder)


def nested(folder: Path) -> None:
    (folder / "state.json").write_text("[" * 10**5)


def without_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    signed(folder)


def with_another(folder: Path) -> None:
    shutil.copy(folder / "weights.safetensors", folder / "ledger.safetensors")
    signed(folder)


TAMPERED: dict[str, tuple[Callable[[Path], None], str]] = {
    "an absurd round": (number("round", 10**9), "state.json: round: 1000000000 cannot be after"),
    "a round beyond any number": (number("round", 10**30), "state.json: round: "),
    "a negative round": (number("round", -1), "state.json: round: "),
    "a round that is text": (number("round", "2"), "state.json: round: "),
    "a round that is none": (number("round", True), "state.json: round: "),
    "more rows than stages": (longer("rows"), "state.json: rows: 3 stages, the run has 2"),
    "fewer rows": (number("rows", []), "state.json: round: 2 cannot be after 0 stages"),
    "rows that are no list": (number("rows", {"A": 1}), "state.json: rows: "),
    "more ends than stages": (longer("ended"), "state.json: ended: 3 stages, there are 2"),
    "more choices than stages": (longer("chosen"), "state.json: chosen: 3 stages"),
    "a Dice of 999999": (number("rows.0.A.dice.A0", 999_999.0), "A: dice is 999999, outside of"),
    "a score of no task": (number("rows.0.A.luck", {"p": 1.0}), "A: luck is no score"),
    "a score that is text": (number("rows.0.A.dice.A0", "1"), "state.json: rows.0.A.dice.A0: "),
    "a score that is NaN": (number("rows.0.A.dice.A0", float("nan")), "finite number"),
    "a site of another run": (number("versions.Z", 1), "versions: 'Z' is no site of the run"),
    "versions that are text": (number("versions", {"A": "../../x"}), "state.json: versions.A: "),
    "another key": (number("evil", 1), "state.json: evil: Extra inputs"),
    "costs that are text": (number("ledger.seconds", {"total": "1"}), "ledger.seconds.total: "),
    "costs without an end": (number("ledger.seconds.total", float("inf")), "finite number"),
    "a verdict on nothing": (
        number("verdicts", [{"released": True, "model": 10**6}]), "verdicts: a model of a stage"
    ),
    "a verdict that is none": (number("verdicts", [{"model": 1}]), "verdicts.0.released: "),
    "no configuration left": (number("configuration", {"seed": 0}), "configuration: it says"),
    "nested without end": (
        nested,
        "state.json: cannot be read",
    ),
    "no digests": (number("sha256", 3), "state.json: cannot be read"),
    "a file of a huge size": (huge, "more than a snapshot can have"),
    "a link for the numbers": (linked("state.json"), "state.json: no file of its own but a link"),
    "a link for the weights": (
        linked("weights.safetensors"), "weights.safetensors: no file of its own but a link"
    ),
    "an array missing": (array(lambda w: w.pop(first(w))), "weights.safetensors: its arrays are"),
    "an array more": (array(lambda w: w.update(x=np.ones(2))), "its arrays are not the model's: x"),
    "an array of NaN": (
        array(lambda w: w[first(w)].fill(np.nan)), "weights.safetensors: "
    ),
    "an infinite teacher": (
        array(lambda w: w[first(w)].fill(np.inf), "teacher"), "teacher.safetensors: "
    ),
    "another shape": (
        array(lambda w: w.update({first(w): np.ones((1, 2), np.float32)})), "cannot grow to"
    ),
    "a number for an array": (
        array(lambda w: w.update({first(w): np.float32(1)})), "weights.safetensors: "
    ),
    "another type": (
        array(lambda w: w.update({first(w): w[first(w)].astype(np.float64)})), "has type float64"
    ),
    "an array of a huge size": (header, "weights.safetensors: cannot be read"),
    "no weights": (
        without_weights,
        "weights.safetensors: missing",
    ),
    "another file": (
        with_another,
        "ledger.safetensors: missing, or not of the snapshot",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "said"), TAMPERED.values(), ids=TAMPERED)
def test_what_no_run_has_left_is_named_and_passed_over(
    snapshot: Path, tamper: Callable[[Path], None], said: str, caplog: pytest.LogCaptureFixture
):
    whole = read(snapshot, SETTINGS)
    assert (whole.round, whole.stage) == (2, 2)
    tamper(snapshot)
    with pytest.raises(RunError) as error:
        read(snapshot, SETTINGS)
    line = str(error.value)
    assert said in line and str(snapshot) in line and "\n" not in line and len(line) < 700
    with caplog.at_level(logging.WARNING, "fedcl"):
        before = Checkpoint(snapshot.parent).load(SETTINGS)
    assert before is not None and before.stage < 2 and said in caplog.text


def test_a_whole_snapshot_of_every_moment_is_read(finished: Path):
    moments = sorted(finished.glob("round-*"))
    assert len(moments) >= 3
    for one in moments:
        assert read(one, SETTINGS).weights


def test_of_another_version_is_no_damage(snapshot: Path):
    number("format", 3)(snapshot)
    with pytest.raises(ConfigError, match="written by another version"):
        read(snapshot, SETTINGS)
