"""Differential privacy of sites: clipping, noise, epsilon, and what may not go round it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from fedcl import arrays
from fedcl.aggregations.fedavg import FedAvg
from fedcl.app.simulation import simulate
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.errors import ConfigError
from fedcl.privacy.central_dp import CentralDP, epsilon
from fedcl.server.state import State
from tests.conftest import TINY, TINY_FIELD

OLD = {"a": np.ones(3, np.float32), "b": np.zeros((1, 2), np.float32), "n": np.array(4)}


def moved(*step: float, n: int = 5) -> dict[str, np.ndarray]:
    a, b = np.array(step[:3], np.float32), np.array([step[3:]], np.float32)
    return {"a": OLD["a"] + a, "b": OLD["b"] + b, "n": np.array(n)}


def test_an_update_is_scaled_down_to_the_norm_and_a_smaller_one_left_alone():
    rule = CentralDP(clip=2.5)
    long = rule.limited(moved(3, 0, 0, 0, 4), OLD)  # of norm 5
    assert np.allclose(long["a"], [2.5, 1, 1]) and np.allclose(long["b"], [[0, 2]])
    short = rule.limited(moved(1, 0, 0, 0, 0.5), OLD)
    assert np.array_equal(short["a"], [2, 1, 1]) and np.array_equal(short["b"], [[0, 0.5]])
    assert all(np.array_equal(rule.limited(OLD, OLD)[key], OLD[key]) for key in OLD)
    assert long["n"] == 5


def released(
    rule: CentralDP, ups: list[arrays.Arrays], samples: list[int], old: arrays.Arrays, *secret: int
) -> arrays.Arrays:
    """Return what the server goes on with after these updates of `old`."""
    join = FedAvg().begin(sum(map(rule.weight, samples)))
    for update, count in zip(ups, samples, strict=True):
        join.add(rule.limited(update, old), rule.weight(count))
    return rule.released(join.result(), len(ups), secret)


def test_the_mean_is_over_sites_not_samples_and_its_noise_is_as_stated():
    size = 200_000
    old = {"w": np.zeros(size, np.float32), "n": np.array(0)}
    ups = [{"w": np.zeros(size, np.float32), "n": np.array(n)} for n in (2, 4)]
    ups[0]["w"][0] = 1.0
    rule = CentralDP(clip=1.0, noise=3.0, seed=0)
    joined = released(rule, ups, [1, 9], old, 0, 1)
    assert joined["n"] == 3
    sigma = 3.0 * 1.0 / 2
    assert joined["w"][1:].std() == pytest.approx(sigma, rel=0.01)
    assert abs(joined["w"][1:].mean()) < 5 * sigma / math.sqrt(size)
    quiet = released(CentralDP(clip=1.0, noise=1e-3), ups, [1, 9], old, 0, 1)
    assert quiet["w"][0] == pytest.approx(0.5, abs=0.005)


def test_noise_is_the_runs_secret_unless_it_is_given_a_seed_and_new_in_every_round():
    def noise(seed: int | None, secret: int, round_: int) -> np.ndarray:
        return released(CentralDP(seed=seed), [OLD], [1], OLD, secret, round_)["a"]

    assert np.array_equal(noise(1, 7, 1), noise(1, 8, 1))
    assert not np.array_equal(noise(1, 7, 1), noise(1, 7, 2))
    assert not np.array_equal(noise(None, 7, 1), noise(None, 8, 1))
    assert np.array_equal(noise(None, 7, 1), noise(None, 7, 1)), "a round repeated after a crash"
    assert State({}).secret != State({}).secret


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (2.0, 16), (0.5, 8), (30.0, 1)])
def test_epsilon_is_the_least_that_the_gaussian_mechanism_allows(noise: float, rounds: int):
    """By numbers: the greatest of P(S) - e^eps Q(S), S where the densities' ratio says so."""
    delta, eps = 1e-5, epsilon(noise, rounds, 1e-5)
    mu = math.sqrt(rounds) / noise
    x = np.linspace(-12, 12 + mu, 400_001)
    p, q = norm.pdf(x, mu), norm.pdf(x)
    lost = np.trapezoid(np.maximum(p - math.exp(eps) * q, 0), x)
    assert lost == pytest.approx(delta, rel=1e-3)
    assert epsilon(noise, rounds + 1, delta) > eps > epsilon(noise * 1.1, rounds, delta)


def test_epsilon_is_zero_for_who_never_trained_and_known_for_one_release():
    assert epsilon(1.0, 0, 1e-5) == 0
    # Balle & Wang's calibration: sigma 3.730632 gives (1, 1e-5).
    assert epsilon(3.730632, 1, 1e-5) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [*TINY_FIELD, "strategy=field_server_distillation"],
            "strategy: field_server_distillation reads the update of every single site",
        ),
        ([*TINY, "aggregation=median", "strategy=finetune"], "aggregation: median chooses among"),
        ([*TINY, "timeline.centralised=true", "strategy=finetune"], "timeline.centralised: a pool"),
    ],
)
def test_what_looks_at_single_updates_is_refused(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        Config.parse(compose([*overrides, "privacy=central_dp"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy=ewc"], "strategy: ewc has every site report more than its update"),
        (["strategy=finetune", "model.norm=batch"], "model: noise from privacy central_dp"),
    ],
)
def test_what_cannot_be_protected_is_refused_and_leaves_nothing(
    overrides: list[str], message: str, tmp_path: Path
):
    with pytest.raises(ConfigError, match=message):
        simulate(compose([*TINY, "privacy=central_dp", *overrides]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_tells_what_every_site_is_guaranteed(tmp_path: Path):
    settings = ["strategy=finetune", "privacy=central_dp", "privacy.noise=2", "privacy.seed=0"]
    results = simulate(compose([*TINY, *settings]), tmp_path / "run")
    rounds = results.rounds // len(results.stages)
    told = json.loads((tmp_path / "run" / "results.json").read_text())["privacy"]
    assert told["name"] == "central_dp" and told["delta"] == 1e-5
    expected = dict.fromkeys(results.sites, pytest.approx(epsilon(2.0, rounds, 1e-5)))
    assert told["epsilon"] == expected
    again = simulate(compose([*TINY, *settings]), tmp_path / "again")
    assert again.weights_sha256 == results.weights_sha256
    other = simulate(compose([*TINY, *settings, "privacy.seed=1"]), tmp_path / "other")
    assert other.weights_sha256 != results.weights_sha256


def test_hardly_anything_is_learned_where_updates_are_clipped_to_hardly_anything(tmp_path: Path):
    settings = ["strategy=finetune", "privacy=central_dp", "privacy.clip=1e-6", "privacy.noise=1"]
    simulate(compose([*TINY, *settings]), tmp_path / "run")
    config = Config.parse(compose([*TINY, *settings]))
    first = arrays.of_network(config.job.network("unet", config.timeline.sites))
    last = arrays.load_file(tmp_path / "run" / "checkpoint" / "stage-3.safetensors")
    assert max(np.abs(last[key] - first[key]).max() for key in first) < 1e-4
    assert any((last[key] != first[key]).any() for key in first)
