"""Nothing is resolved that is not on a user's own command line: elsewhere "${...}" is text."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedcl.app.resuming import changes
from fedcl.config.hydra import compose
from fedcl.config.job import Job
from fedcl.config.schema import Config
from fedcl.config.stored import stored
from fedcl.config.timeline import arrivals_of
from fedcl.errors import ConfigError

ASKED = ["${oc.env:FEDCL_SECRET}", "x\\${oc.env:FEDCL_SECRET}", "${x:${oc.env:FEDCL_SECRET}}"]
SECRET = "a word that only this machine knows"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDCL_SECRET", SECRET)


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return compose(["strategy=ted", "scenario=phantom", "tracking.enabled=false"])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where single values stand in nested ones."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        if isinstance(one, dict | list) and one:
            yield from places(one, (*path, key))
        else:
            yield (*path, key)


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return nested values of which one is another."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_value(value[path[0]], path[1:], new)
    return copy


def answer(read: Callable[[], Any]) -> str:
    """Return what comes of it, or the one line by which it is refused."""
    try:
        return repr(read())
    except ConfigError as error:
        assert "\n" not in str(error)
        return str(error)


def test_a_job_resolves_nothing_wherever_it_stands(values: dict[str, Any]):
    job = json.loads(Config.parse(values).job.to_json())
    every = list(places(job))[::5]
    assert len(every) > 10
    for number, place in enumerate(every):
        text = json.dumps(with_value(job, place, ASKED[number % len(ASKED)]))
        assert SECRET not in answer(lambda text=text: Job.from_json(text)), place


def test_text_of_a_job_stays_as_it_is(values: dict[str, Any]):
    job = json.loads(Config.parse(values).job.to_json())
    for asked in ASKED:
        job["roles"]["A"]["model"] = asked
        assert "oc.env:FEDCL_SECRET" in answer(lambda: Job.from_json(json.dumps(job)))


@pytest.mark.parametrize("key", ["sites", "stages", "rounds"])
def test_text_does_not_stand_for_what_is_no_text(key: str):
    with pytest.raises(ConfigError, match=rf"timeline\.{key}: .* is text"):
        arrivals_of({"timeline": {key: ASKED[0]}})


def test_a_stored_configuration_resolves_nothing(values: dict[str, Any], tmp_path: Path):
    for number, place in enumerate(list(places(values))[::3]):
        asked = ASKED[number % len(ASKED)]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(with_value(values, place, asked)))
        assert SECRET not in answer(lambda: Config.parse(stored(tmp_path))), place


def test_what_a_command_line_says_of_a_stored_configuration_alone_is_resolved(
    values: dict[str, Any],
):
    told = with_value(values, ("tracking", "uri"), ASKED[0])
    changes(["tracking.enabled=true", f"run.figures={ASKED[0]}"])(told)
    assert (told["tracking"]["uri"], told["run"]["figures"]) == (ASKED[0], SECRET)
    changes(["run.figures=${tracking.uri}"])(told)
    assert told["run"]["figures"] == ASKED[0]


@pytest.mark.parametrize("asked", ASKED)
def test_a_timeline_of_a_file_resolves_nothing(tmp_path: Path, asked: str):
    listed, table = tmp_path / "t.yaml", tmp_path / "t.csv"
    listed.write_text(yaml.safe_dump({"stages": [[asked]], "sites": {asked: {"leave": 2}}}))
    table.write_text(f"site,join\n{asked},1\n")
    read = arrivals_of({"timeline": {"file": str(listed)}})
    assert read.stages == [[asked]] and list(read.sites) == [asked]
    assert list(arrivals_of({"timeline": {"file": str(table)}}).sites) == [asked]
    table.write_text(f"site,join\nA,{asked}\n")
    assert SECRET not in answer(lambda: arrivals_of({"timeline": {"file": str(table)}}))


def test_a_value_that_is_yet_to_be_given_is_none(values: dict[str, Any]):
    """OmegaConf would take the default without a word."""
    told = with_value(values, ("learner", "epochs"), "???")
    with pytest.raises(ConfigError, match=r"learner\.epochs: \?\?\? is no value"):
        Config.parse(told)
