"""What runs say about methods, by hand."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from fedcl.analysis import report
from fedcl.analysis.compare import latex, markdown
from fedcl.analysis.runs import Group, Run, chosen, differences, group
from fedcl.analysis.sources import run_folders
from fedcl.analysis.statistics import (
    apart,
    cases,
    gap,
    interval,
    paired,
    patients,
    ravg,
    share,
    signed_rank,
    table,
)
from fedcl.analysis.tables import portion
from fedcl.errors import ConfigError
from fedcl.server.results import Results


def run(
    strategy: str = "ted",
    seed: int = 0,
    last: tuple[float, ...] = (0.5, 0.7),
    arrivals: tuple[str, ...] = ("A", "B"),
    scores: dict[str, dict[str, float]] | None = None,
    **config: Any,
) -> Run:
    """Return a run over sites that arrive one by one, with the last row of its matrix."""
    sites = list(arrivals)
    scores = scores or {site: {"p": value} for site, value in zip(sites, last, strict=True)}
    results = {
        "strategy": strategy,
        "seed": seed,
        "sites": sites,
        "arrivals": [[site] for site in sites],
        "matrix": [[0.9] * len(sites), list(last)],
        "cases": {s: {c: [0.9, v] for c, v in members.items()} for s, members in scores.items()},
        "metrics": {"avg": float(np.mean(last)), "bwt": -0.1},
        "bytes": {"down": 3, "up": 1},
        "seconds": {"train": 2.0},
    }
    return Run("somewhere", Results(**results), {"strategy.name": strategy, **config})


def test_ravg_is_of_all_runs_of_a_row_or_not_given():
    groups = [
        Group("ted", [run(seed=n) for n in range(3)]),
        Group("joint", [run("joint", seed=n, last=(0.8, 0.9)) for n in range(2)]),
    ]
    lines = {line.name: line for line in table(groups, "ted")}
    assert lines["ted"].mean["ravg"] is None and lines["ted"].std["ravg"] is None
    assert lines["ted"].mean["avg"] == pytest.approx(0.6)
    assert lines["joint"].mean["ravg"] == pytest.approx(1)


def test_avg_lies_in_the_middle_of_its_interval_however_many_orders_a_seed_has():
    orders = [("A", "B"), ("B", "A")]
    runs = [run(seed=0, arrivals=order, last=(0.9, 0.9)) for order in orders]
    runs += [run(seed=n, last=(0.6, 0.6 + n / 100)) for n in range(1, 4)]
    (line,) = table([Group("ted", runs)], "ted")
    assert line.interval is not None
    assert line.mean["avg"] == pytest.approx(sum(line.interval) / 2)
    assert line.mean["avg"] == pytest.approx((0.9 + 0.605 + 0.61 + 0.615) / 4)


def test_ravg_is_the_mean_of_the_ratios_to_joint():
    assert ravg(run(last=(0.4, 0.6)), run(last=(0.8, 0.9))) == pytest.approx((0.5 + 2 / 3) / 2)
    assert ravg(run(last=(0.4, 0.6)), run(last=(0.0, 0.9))) == pytest.approx(2 / 3)
    assert ravg(run(last=(0.4, 0.6)), run(last=(0.8,), arrivals=("A",))) is None


def test_a_case_is_averaged_over_orders_and_seeds_are_kept_apart():
    runs = [
        run(last=(0.2, 0.4)),
        run(last=(0.8, 0.6), arrivals=("B", "A")),
        run(seed=1, last=(0.1, 0.3)),
    ]
    assert cases(runs) == pytest.approx(
        {(0, "A", "p"): 0.4, (0, "B", "p"): 0.6, (1, "A", "p"): 0.1, (1, "B", "p"): 0.3}
    )


def test_the_pages_matrix_knows_sites_by_their_names():
    """Within a stage they come in any order, of every seed another."""
    one, other = run(last=(0.9, 0.1)), run(seed=1, last=(0.1, 0.9), arrivals=("B", "A"))
    results = [replace(r.results, arrivals=[["A", "B"]], stages=[["A"]] * 2) for r in (one, other)]
    runs = [replace(r, results=found) for r, found in zip((one, other), results, strict=True)]
    (found,) = report._matrices([Group("ted", runs)]).values()
    assert found["sites"] == ["A", "B"]
    assert found["methods"]["ted"]["mean"][-1] == pytest.approx([0.9, 0.1])


def test_pairs_share_seed_order_and_case():
    one = Group("one", [run(last=(0.1, 0.2)), run(seed=1, last=(0.3, 0.4))])
    other = Group("other", [run(seed=1, last=(0.5, 0.7)), run(seed=2, last=(0.6, 0.8))])
    assert paired(one, other) == {(1, "A", "p"): (0.3, 0.5), (1, "B", "p"): (0.4, 0.7)}


def test_runs_on_other_data_are_not_paired():
    one = Group("one", [run(last=(0.1, 0.2))])
    one.runs[0].results.data_sha256["A"] = "x"
    assert paired(one, Group("other", [run()])) == {}


def test_signed_rank_by_hand():
    a, b = np.arange(6.0), np.zeros(6)
    a[0] = -0.5  # ranks 1 to 6, the first negative: W = 1; P(W <= 1) = 2 / 64, two-sided
    assert signed_rank(a, b) == pytest.approx(2 * 2 / 64)
    assert signed_rank(b, b) == 1.0


def many(strategy: str, shift: float, seeds: int = 2) -> Group:
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(seeds):
        base = {s: {str(i): float(rng.uniform(0.3, 0.6)) for i in range(8)} for s in "AB"}
        moved = {
            s: {
                c: v + shift * (1 + int(c) + seed / 10 + (s == "A") / 100) / 5 for c, v in m.items()
            }
            for s, m in base.items()
        }
        last = tuple(float(np.mean(list(members.values()))) for members in moved.values())
        runs.append(run(strategy, seed, last, scores=moved, **{"scenario.seed": seed}))
    return Group(strategy, runs)


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests():
    groups = [many("ted", 0.1), many("lwf", 0.05), many("finetune", 0.0)]
    lines = {line.name: line for line in table(groups, "ted")}
    # In both tests all 32 pairs have one sign, so both p are the same: Holm doubles the one,
    # and the other must not come out below it.
    pairs = np.array(list(paired(groups[1], groups[0]).values()))
    single = signed_rank(*pairs.T)
    assert single < 1e-6
    assert lines["lwf"].p == lines["finetune"].p == pytest.approx(2 * single)
    assert lines["ted"].p is lines["ted"].difference is None


def test_the_difference_is_that_of_the_averages_with_its_interval():
    lines = {line.name: line for line in table([many("ted", 0.1), many("lwf", 0.05)], "ted")}
    value, low, high = lines["lwf"].difference
    assert value == pytest.approx(lines["lwf"].mean["avg"] - lines["ted"].mean["avg"])
    assert low < value < high
    assert value == pytest.approx((low + high) / 2)


def test_forgetting_is_compared_with_an_interval_too():
    """By hand: seed by seed over orders the distances are 0.15, 0.05 and 0.1."""
    bwt = {"ted": (-0.1, -0.2, -0.2, -0.2, -0.1, 0.0), "lwf": (-0.3, -0.3, -0.3, -0.2, -0.2, -0.1)}
    groups = []
    for name, values in bwt.items():
        runs = [run(name, seed, arrivals=order) for seed in range(3) for order in ("AB", "BA")]
        for one, value in zip(runs, values, strict=True):
            one.results.metrics["bwt"] = value
        groups.append(Group(name, runs))
    ted, lwf = groups
    half = 4.302652730 * 0.05 / 3**0.5
    assert apart("bwt", ted, lwf) == pytest.approx((0.1, 0.1 - half, 0.1 + half))
    (line,) = (line for line in table(groups, "lwf") if line.name == "ted")
    assert line.bwt_difference == apart("bwt", ted, lwf) and line.difference is not None
    assert apart("bwt", Group("ted", ted.runs[:2]), lwf) is None, "of one seed only"
    lwf.runs[3].results.metrics["bwt"] = None
    assert apart("bwt", ted, lwf) is None


def test_closed_is_the_share_of_the_way_from_finetune_to_joint():
    groups = [many("finetune", 0.0), many("ted", 0.03), many("joint", 0.12)]
    lines = {line.name: line for line in table(groups, "ted")}
    assert lines["ted"].closed == pytest.approx((0.25, 0.25, 0.25))  # shifts are linear
    assert lines["finetune"].closed == pytest.approx((0, 0, 0), abs=1e-9)
    assert lines["joint"].closed == pytest.approx((1, 1, 1))
    assert [line.name for line in table(groups, "ted")] == ["joint", "ted", "finetune"]


def test_one_seed_gives_no_interval_and_no_p():
    for line in table([many("ted", 0.1, 1), many("lwf", 0.0, 1)], "ted"):
        assert (line.interval, line.p, line.std["avg"]) == (None, None, None)


def test_the_interval_is_students_over_seeds():
    # Seeds' averages .5, .6 and .7: s = .1, and t(.975; 2) = 4.302653.
    scores = {
        (s, site, "p"): 0.5 + s / 10 + d for s in range(3) for site, d in (("A", -0.1), ("B", 0.1))
    }
    reach = 4.302653 * 0.1 / math.sqrt(3)
    assert interval(scores) == pytest.approx((0.6 - reach, 0.6 + reach), rel=1e-6)
    assert interval(dict.fromkeys(scores, 0.5)) == pytest.approx((0.5, 0.5))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        truth = 0.7 + rng.normal(0, 0.03, 3)  # of three seeds
        scores = {
            (s, site, str(c)): float(rng.normal(truth[s], 0.05))
            for s in range(3)
            for site in "AB"
            for c in range(5)
        }
        low, high = interval(scores)
        covered += low < 0.7 < high
    assert 0.92 < covered / 400 < 0.98


def test_where_takes_values_as_the_command_line_does():
    runs = [run(seed=s, **{"strategy.kd": 1, "learner.lr": [0.002, 0.001]}) for s in (0, 1)]
    for wish in ("strategy.kd=1e0", "learner.lr=[2e-3,0.001]", "strategy=ted"):
        assert chosen(runs, [wish]) == runs
    for wish, said in {
        "strategy.kd=2": "no run has strategy.kd=2; there are 1",
        "strategy.kd": "give KEY=VALUE",
        "strategy.nu=1": "no run has the setting 'strategy.nu'",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(said)):
            chosen(runs, [wish])


def test_variants_of_a_strategy_are_named_by_what_differs():
    runs = [
        run("lwf", **{"strategy.kd": 1.0, "timeline.centralised": False}),
        run("lwf", **{"strategy.kd": 2.0, "timeline.centralised": False}),
        run("joint", **{"timeline.centralised": True}),
        run("joint", **{"timeline.centralised": False}),
    ]
    groups, notes = group(runs)
    assert [g.name for g in groups] == ["lwf", "lwf kd=2.0", "joint centralised", "joint"]
    assert notes == []


def shaken(strategy: str, shift: float, seeds: tuple[float, ...]) -> Group:
    """Return runs whose averages lie `shift` and one of `seeds` above those of the first."""
    runs = []
    for seed, more in enumerate(seeds):
        value = 0.5 + 0.1 * seed + shift + more
        scores = {site: {str(n): value + n / 100 for n in range(8)} for site in "AB"}
        last = tuple(float(np.mean(list(scores[site].values()))) for site in "AB")
        runs.append(run(strategy, seed, last, scores=scores, **{"scenario.seed": seed}))
    return Group(strategy, runs)


def test_no_share_is_given_of_a_distance_that_may_be_nothing():
    none = shaken("finetune", 0.0, (0.0, 0.0, 0.0))
    apart = (0.0, 0.012, -0.009)
    joint = shaken("joint", 0.02, apart)
    far = shaken("joint", 0.2, apart)
    ted = shaken("ted", 0.05, (0.0, 0.0, 0.0))
    value, low, high = gap([none, joint])
    assert value == pytest.approx(0.02 + np.mean(apart))
    half = 4.303 * np.std(apart, ddof=1) / math.sqrt(3)
    assert (low, high) == (
        pytest.approx(value - half, rel=1e-3),
        pytest.approx(value + half, rel=1e-3),
    )
    assert low < 0 < high
    assert all(line.closed is None for line in table([none, joint, ted], "ted"))
    lines = {line.name: line.closed for line in table([none, far, ted], "ted")}
    assert lines["ted"][0] == pytest.approx(0.05 / (0.2 + np.mean(apart)))
    one = [shaken(name, shift, (0.0,)) for name, shift in (("finetune", 0), ("joint", 0.2))]
    assert gap(one) is None and all(line.closed is None for line in table(one, "joint"))


def test_the_interval_of_a_share_holds_what_a_t_test_does_not_rule_out():
    """Its ends are the shares r at which own - low - r (high - low) has p = 0.05."""
    steps = {"low": (0, 0.01, 0, -0.01), "own": (0.02, -0.03, 0.04, 0), "high": (0.01, 0, 0.03, 0)}
    shifts = {"low": 0.0, "own": 0.05, "high": 0.1}
    low, own, high = (shaken(name, shifts[name], more) for name, more in steps.items())
    gained, way = (
        np.array([shifts[name] - shifts["low"]] * 4) + steps[name] - np.array(steps["low"])
        for name in ("own", "high")
    )
    value, *ends = share(low, own, high)
    assert value == pytest.approx(gained.mean() / way.mean())
    assert ends[0] < value < ends[1]
    for end in ends:
        assert ttest_1samp(gained - end * way, 0.0).pvalue == pytest.approx(0.05)
    assert share(high, own, low) is None, "there is no way up"
    assert share(low, own, shaken("high", 0.0, (0.1, -0.1, 0.1, -0.09))) is None


def test_a_share_is_written_with_its_interval_or_not_at_all():
    assert portion((0.826, -0.1, 1.004), "-") == "83% [-10, 100]"
    assert portion(None, "-") == "-"


def test_where_the_interval_does_not_hold_0_and_p_is_large_the_row_says_so():
    """One site gains much with every seed, and the other, which has more cases, loses a little."""
    groups = []
    for name, far in (("ted", 0.0), ("lwf", 0.2)):
        runs = []
        for seed in range(3):
            scores = {
                "A": {str(n): 0.5 + far + n / 100 for n in range(3)},
                "B": {str(n): 0.7 - far / 20 - n / 100 for n in range(9)},
            }
            last = tuple(float(np.mean(list(one.values()))) for one in scores.values())
            runs.append(run(name, seed, last, scores=scores, **{"scenario.seed": 1}))
        groups.append(Group(name, runs))
    line = next(one for one in table(groups, "ted") if one.name == "lwf")
    assert line.p > 0.05 and 0 < line.difference[1] <= line.difference[2]
    assert line.words.startswith(
        "the mean over sites is better (the interval does not hold 0), but"
    )


def test_where_p_is_small_and_the_interval_holds_0_the_row_says_what_each_means():
    groups = [shaken("ted", 0.0, (0.0, 0.0, 0.0)), shaken("lwf", 0.02, (0.03, 0.03, -0.045))]
    line = next(one for one in table(groups, "ted") if one.name == "lwf")
    assert line.p < 0.05 and line.difference[1] < 0 < line.difference[2]
    assert line.words.startswith("the models trained here are better on these test cases (p), but")
    assert line.words in markdown([line], "ted") and line.words in latex([line], "ted").replace(
        "\\", ""
    )
    clear = [shaken("ted", 0.0, (0.0, 0.0, 0.0)), shaken("lwf", 0.02, (0.001, 0.0, -0.001))]
    assert all(one.words == "" for one in table(clear, "ted"))


def test_runs_that_are_mixed_are_other_methods():
    runs = [run(**{"model.name": name}) for name in ("unet", "segresnet")]
    groups, _ = group(runs)
    assert [g.name for g in groups] == ["ted model=unet", "ted model=segresnet"]


def test_a_pool_alone_is_never_taken_for_the_federated_bound():
    groups, _ = group([run("joint", **{"timeline.centralised": True}), run("finetune")])
    assert [g.name for g in groups] == ["joint centralised", "finetune"]
    assert all(line.closed is None for line in table(groups, "finetune"))


def test_linked_folders_of_runs_are_found_once(tmp_path: Path):
    (tmp_path / "store" / "run").mkdir(parents=True)
    for name in ("config.yaml", "results.json"):
        (tmp_path / "store" / "run" / name).touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "mine" / "again").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "mine")
    (found,) = run_folders(tmp_path / "mine")
    assert found.resolve() == (tmp_path / "store" / "run").resolve()


def test_within_a_stage_there_is_no_order():
    one, other = run(), run()
    one.results.arrivals[:], other.results.arrivals[:] = [["A", "B"]], [["B", "A"]]
    assert one.order == other.order == "A+B"


def test_other_sites_are_no_other_order():
    assert differences([run(), run(arrivals=("B", "A"))]) == []
    said = differences([run(), run(arrivals=("A", "C"))])
    assert len(said) == 1 and said[0].startswith("sites: ")


@pytest.mark.parametrize(
    ("world", "pairs"),
    [({}, 2), ({"scenario.seed": 4}, 2), (None, 4), ({"scenario.seed": None}, 4)],
)
def test_a_patient_in_several_seeds_is_one_observation(world: dict[str, Any] | None, pairs: int):
    def of(shift: float) -> Group:
        config = [world if world is not None else {"scenario.seed": seed} for seed in (0, 1)]
        return Group("g", [run(seed=s, last=(0.1 * s + shift, 0.5), **config[s]) for s in (0, 1)])

    one, other = of(0.2), of(0.0)
    a, b = patients(paired(one, other), one.runs)
    assert len(a) == len(b) == pairs
    if pairs == 2:
        assert (a.tolist(), b.tolist()) == (pytest.approx([0.25, 0.5]), pytest.approx([0.05, 0.5]))


def test_names_cannot_break_the_tables():
    lines = table([many("a|b_c{$}%~^\\", 0.0)], "a|b_c{$}%~^\\")
    assert markdown(lines, "x").splitlines()[2].startswith(r"| a\|b_c")
    expected = r"a|b\_c\{\$\}\%\textasciitilde{}\textasciicircum{}\textbackslash{} & 2"
    assert expected in latex(lines, "x")
    assert "strategy & runs & AVG & RAVG & BWT & RBWT & worst site & AVG" in latex(lines, "x")


def test_a_repeated_run_is_used_once_and_said():
    groups, notes = group([run(), run(), run(seed=1)])
    assert [len(g.runs) for g in groups] == [2]
    assert len(notes) == 1 and "2 runs" in notes[0]
