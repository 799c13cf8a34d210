"""How updates are joined, on numbers small enough to reckon by hand."""

import numpy as np
import pytest

from fedcl.arrays import Arrays
from fedcl.errors import ConfigError
from fedcl.registry import AGGREGATION
from fedcl.wire.local_grid import InProcessGrid


@pytest.fixture(autouse=True, scope="module")
def identity() -> None:
    """Give this process the identity without which Flower makes no message."""
    InProcessGrid("apps:app", [])


def make(name: str, **settings: object):
    return AGGREGATION.make({"name": name, **settings})


def updates(*values: float) -> list[Arrays]:
    return [{"w": np.float32([v, -v]), "n": np.asarray(round(v), np.int64)} for v in values]


def join(name: str, *values: float, samples: list[int] | None = None, **settings: object) -> Arrays:
    return make(name, **settings).join(updates(*values), samples or [1] * len(values))


@pytest.mark.parametrize("name", AGGREGATION.available())
def test_types_are_kept(name: str):
    joined = join(name, 1.0, 2.0, 4.0)
    assert joined["w"].dtype == np.float32 and joined["w"].shape == (2,)
    assert joined["n"].dtype == np.int64 and joined["n"].shape == ()


def test_fedavg_weighs_by_slices():
    np.testing.assert_allclose(join("fedavg", 1.0, 4.0, samples=[1, 2])["w"], [3, -3])


def test_median_and_trimmed_mean_are_not_weighed():
    slices = [100, 1, 1, 1, 1]
    values = (1.0, 2.0, 3.0, 4.0, 100.0)
    np.testing.assert_allclose(join("median", *values, samples=slices)["w"], [3, -3])
    trimmed = join("trimmedmean", *values, samples=slices, beta=0.2)
    np.testing.assert_allclose(trimmed["w"], [3, -3])
    np.testing.assert_allclose(join("trimmedmean", *values, beta=0.1)["w"], [22, -22])


def test_krum_takes_the_one_and_multikrum_the_mean_of_those_closest_to_the_others():
    values = (1.0, 2.0, 2.1, 50.0)
    np.testing.assert_allclose(join("krum", *values)["w"], [2, -2], atol=0.11)
    chosen = join("multikrum", *values, select=2, samples=[1, 1, 3, 1])
    np.testing.assert_allclose(chosen["w"], [(2 + 3 * 2.1) / 4] * 2 * np.array([1, -1]), rtol=1e-6)


def test_counters_do_not_say_who_is_honest():
    """An attacker in the middle of the counters, far off in the weights."""
    counts = (100, 200, 300, 400, 250)
    weights = (0.0, 0.1, 0.05, 0.02, 9.0)
    sent = [
        {"w": np.float32([w]), "n": np.asarray(n, np.int64)}
        for w, n in zip(weights, counts, strict=True)
    ]
    joined = make("krum", malicious=1).join(sent, [1] * 5)
    assert joined["w"] < 0.2 and joined["n"] == 250, "counters are averaged"
    assert make("median").join([{}, {}, {}], [1, 1, 1]) == {}, "nothing is sent by `individual`"


def test_bulyan_leaves_an_attacker_out():
    values = (1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1000.0)
    assert abs(join("bulyan", *values, malicious=1)["w"][0] - 1) < 0.06


OLD, JOINED = (
    {"w": np.float32([1.0]), "s": np.float32([5.0])},
    {
        "w": np.float32([3.0]),
        "s": np.float32([9.0]),
    },
)


def test_fedavgm_carries_half_of_the_old_step_on():
    rule = make("fedavgm", lr=0.5, beta=0.5)
    first, momentum = rule.move(OLD, JOINED, {"w"}, {})
    assert (first["w"], first["s"]) == (1 + 0.5 * 2, 9), "statistics are only ever joined"
    later, momentum = rule.move(first, {"w": np.float32([3.0]), "s": JOINED["s"]}, {"w"}, momentum)
    assert later["w"] == 2 + 0.5 * (0.5 * 2 + 1)
    assert set(momentum) == {"w"}


def test_fedadam_by_hand():
    rule = make("fedadam", lr=0.1, beta_1=0.9, beta_2=0.99, tau=0.001)
    first, momentum = rule.move(OLD, JOINED, {"w"}, {})
    m, v = 0.1 * 2, 0.99 * 0.001**2 + 0.01 * 4
    assert first["w"] == pytest.approx(1 + 0.1 * m / (v**0.5 + 0.001), rel=1e-5)
    assert first["s"] == 9
    again, _ = rule.move(first, JOINED, {"w"}, momentum)
    step = 3 - first["w"][0]
    m, v = 0.9 * m + 0.1 * step, 0.99 * v + 0.01 * step**2
    assert again["w"] == pytest.approx(first["w"] + 0.1 * m / (v**0.5 + 0.001), rel=1e-5)


def test_averaging_keeps_no_momentum():
    assert make("fedavg").move(OLD, JOINED, {"w"}, {}) == (JOINED, {})


@pytest.mark.parametrize(
    ("name", "settings", "least"),
    [
        ("fedavg", {}, 1),
        ("median", {}, 1),
        ("krum", {"malicious": 1}, 5),
        ("multikrum", {"select": 4}, 4),
        ("bulyan", {"malicious": 1}, 7),
    ],
)
def test_how_many_sites_a_rule_needs(name: str, settings: dict[str, int], least: int):
    assert make(name, **settings).least == least


def test_too_few_sites_are_refused_before_the_run(cli, tmp_path, capsys):
    assert cli("aggregation=krum", "engine=inprocess", f"run.dir={tmp_path / 'run'}") == 2
    assert "aggregation: krum needs 3 sites, 2 train in stage 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_unknown_and_bad_rules():
    with pytest.raises(ConfigError, match="did you mean krum"):
        make("krumm")
    with pytest.raises(ConfigError, match=r"aggregation\.beta: must be at most 0\.49"):
        make("trimmedmean", beta=0.5)
