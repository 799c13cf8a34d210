"""A run's own command changes nothing, and what it would have begun otherwise is refused."""

import re

import pytest

from fedcl.app.resuming import changes
from fedcl.config.hydra import compose
from fedcl.errors import ConfigError
from tests.app.test_resuming import PUBLISHED, change, stored
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("others", "groups", "key"),
    [
        (["protocol=ted_prostate", *PUBLISHED[1:]], "protocol", r"scenario\.\w+ differs"),
        ([*PUBLISHED, "protocol/target=r"], "protocol, protocol/target", "scenario.labels differs"),
        (["protocol=ted_mnms"], "protocol", "strategy.name differs"),
        (["shift=none"], "shift", r"\w+\.\w+ differs"),
        (["shift=none", PUBLISHED[1]], "shift", "scenario.root: no such key.*"),
    ],
)
def test_groups_that_set_values_of_others_are_seen_in_the_whole_command(
    others: list[str], groups: str, key: str
):
    wanted = f"^{groups}: a resumed run keeps its configuration; leave this out, .* \\({key}\\)$"
    with pytest.raises(ConfigError, match=wanted):
        changes(others)(compose(PUBLISHED))


@pytest.mark.parametrize(
    "begun",
    [
        ["scenario.size=${scenario.slices}", "scenario.seed=${seed}", "seed=3"],
        ["model=published/ted"],
        ["model=published/tkrl", "model.window=8"],
        ["strategy=ted", "strategy.weight={kd:0.5}", "strategy.teacher={refresh:both}"],
        ["scenario=ct_phantom", "strategy=contrastive", "sites=ct_phantom-contrastive"],
        ["+sites={A:{data_fraction:0.5}}", "faults.crash={A:0.5}", "augment=light"],
        ["faults.crash={A.1:0.5,St Mary:0.0}", "+timeline.sites={A.1:{join:1}}"],
        ["learner.lr.0=0.01", "run.dir=x-${now:%Y}", "release.name=${now:%Y}"],
    ],
)
def test_the_command_that_a_run_was_begun_with_changes_nothing(begun: list[str]):
    assert change(compose(begun), *begun) == compose(begun)


def test_what_a_value_refers_to_is_looked_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOSPITALS", "/elsewhere")
    given = "scenario.root=${oc.env:HOSPITALS}"
    begun = compose(["scenario=folder", "scenario.root=/here", "scenario.size=64"])
    assert change(begun, given)["scenario"]["root"] == "/elsewhere"
    monkeypatch.delenv("HOSPITALS")
    with pytest.raises(ConfigError, match=r"^scenario\.root: .*HOSPITALS"):
        change(begun, given)


@pytest.mark.parametrize(
    ("begun", "given", "key"),
    [
        ([], ["strategy.teacher=abc"], "strategy.teacher"),
        (["faults.crash={A:0.5}"], ["faults.crash=x"], "faults.crash"),
        (["faults.crash={A:0.5,B:0.1}"], ["faults.crash={A:0.5}"], "faults.crash.B"),
        (["strategy.weight={kd:2}"], ["strategy.weight={akt:9}"], "strategy.weight.akt"),
        ([], ["strategy.weight={kd:9}", "strategy.weight={akt:0.1}"], "strategy.weight.kd"),
        ([], ["+sites={A:{data_fraction:0.1}}"], "sites.A"),
        ([], ["learner.lr.0=0.5"], "learner.lr"),
        ([], ["timeline.rounds.x=1"], "timeline.rounds.x"),
    ],
)
def test_no_mapping_hides_what_differs(begun: list[str], given: list[str], key: str):
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}: "):
        change(compose([*TINY, "strategy=ted", *begun]), *given)


def test_sites_by_a_name_are_compared_both_ways():
    begun = ["scenario=ct_phantom", "strategy=contrastive"]
    more, fewer = compose([*begun, "sites.A.data_fraction=0.1"]), {**compose(begun), "models": {}}
    for values, key in ((more, "sites.A.data_fraction"), (fewer, "models.large.channels")):
        with pytest.raises(ConfigError, match=rf"^sites: .* \({key} differs\)$"):
            change(values, *begun, "sites=ct_phantom-contrastive")


def test_a_model_of_another_name_is_another_one():
    with pytest.raises(ConfigError, match=r"^model: a resumed run keeps"):
        change(compose(["model=published/ted"]), "model=published/tkrl")
    with pytest.raises(ConfigError, match=r"^seed: one run is gone on with"):
        change(stored(), "seed=1,2")


def test_beside_a_protocol_the_setting_that_differs_is_named():
    with pytest.raises(ConfigError, match=r"^learner.epochs: a resumed run keeps"):
        changes([*PUBLISHED, "learner.epochs=3"])(compose(PUBLISHED))
