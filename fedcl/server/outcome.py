"""What a run has led to: pure functions of its configuration and state."""

import contextlib
import hashlib
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fedcl import arrays
from fedcl.config.schema import Config
from fedcl.data.source import Source
from fedcl.registry import name_of
from fedcl.server.metrics import summary
from fedcl.server.results import ArchitectureResults, Results, ScoreResults
from fedcl.server.state import Scores, State
from fedcl.tasks.metrics import class_of


def outcome(
    config: Config, state: State, status: str = "completed", reason: str | None = None
) -> Results:
    """Return the results of a run; the matrices and figures are of what is finished."""
    sites, scores = config.timeline.sites, config.job.task.scores
    first = scores[0]
    matrices = {score: matrix(state.rows, sites, score) for score in scores}
    trained = state.trained[: state.stage]
    task, teaching = config.job.task, config.job.strategy.teaching
    return Results(
        scenario=name_of(config.job.scenario),
        strategy=name_of(config.job.strategy),
        model="+".join(config.job.models),
        seed=config.job.seed,
        engine=config.engine.name,
        status=status,
        reason=reason,
        arrivals=[list(stage) for stage in config.timeline.stages],
        stages=trained,
        sites=sites,
        presence=presence(config),
        cohorts=cohorts(config),
        away=away(config),
        rounds_per_stage=config.timeline.rounds,
        chosen=state.chosen,
        release=state.verdicts,
        score=first,
        case=task.case,
        matrix=matrices[first],
        cases=cases(state.rows, sites, first),
        metrics=figures(config, state, first),
        metrics_by_class={
            score: figures(config, state, score)
            for score in scores
            if class_of(score) and score.startswith(f"{first}_")
        },
        rounds=state.round,
        weights_sha256=_digest(state, sites),
        seconds={name: round(value, 3) for name, value in state.ledger.seconds.items()},
        cpu_seconds={name: round(value, 3) for name, value in state.ledger.cpu.items()},
        peak_memory=state.ledger.memory,
        bytes=state.ledger.bytes,
        bytes_by_stage=_by_stage(state),
        stored=state.stored,
        centralised=config.timeline.centralised,
        aggregation=name_of(config.aggregation),
        tracking={"experiment": state.tracking_experiment, "run": state.tracking_run},
        failures=state.ledger.failures,
        reputation=state.ledger.reputation,
        shares={
            site: {name: round(share, 6) for name, share in one.items()}
            for site, one in state.ledger.shares.items()
        },
        versions=versions(),
        initial=_initial(config, state, first),
        secondary={
            score: ScoreResults(matrices[score], cases(state.rows, sites, score))
            for score in scores[1:]
        },
        architectures={name: _architecture(config, state, name) for name in config.job.models},
        data_sha256=state.digests,
        begun=state.begun,
        changed=state.changed,
        samples=state.samples,
        settled={f"scenario.{name}": value for name, value in state.settled.items()},
        from_data={f"scenario.{name}": value for name, value in state.from_data.items()},
        notes={site: notes for site, notes in state.notes.items() if notes},
        left_out=state.left_out,
        source={site: _source(numbers) for site, numbers in state.sources.items()},
        teacher_sha256=arrays.digest(state.teacher) if teaching and teaching.file else None,
        privacy={
            "name": name_of(config.privacy),
            "leaves": "; ".join(filter(None, (task.leaves, config.job.strategy.leaves))),
            **spent(config, state),
        },
        forgot=state.forgot,
    )


def figures(config: Config, state: State, score: str) -> dict[str, float | None]:
    """Return the figures of the stages that are finished; nothing before there is one.

    Args:
        config: of the run.
        state: its state.
        score: by which they are; of the sites that can have it.
    """
    if not state.rows:
        return {}
    sites, task = config.timeline.sites, config.job.task
    trained = [
        [s for s in cohort if score in task.learned(s)] for cohort in state.trained[: state.stage]
    ]
    seen = [s for s in config.timeline.seen(state.stage - 1) if score in task.scored(s)]
    grid = matrix(state.rows, sites, score)
    return summary(grid, trained, sites, _initial(config, state, score), seen)


def _initial(config: Config, state: State, score: str) -> list[float | None]:
    """Return the scores of the untrained model."""
    return matrix([state.initial or {}], config.timeline.sites, score)[0]


def _source(numbers: Sequence[float]) -> dict[str, Any]:
    """Return where a site's field values come from, in words."""
    source = Source.of(numbers)
    assert source is not None
    return {
        "affine": source.affine.tolist(),
        "axes": source.axes,
        "seconds_per_frame": source.seconds or None,
        "scale": [source.low, source.high],
    }


def _architecture(config: Config, state: State, name: str) -> ArchitectureResults:
    """Return what an architecture costs and, where there are several, its scores at all sites."""
    sites, scores = config.timeline.sites, config.job.task.scores
    own = [site for site in sites if config.job.roles[site].model == name]
    took, cost = state.predicting.get(name, {}), state.costs.get(name, {})
    known = ArchitectureResults(
        model=name_of(config.job.models[name]),
        sites=own,
        parameters=cost.get("parameters", 0),
        macs=cost.get("macs", 0),
        seconds_per_case={site: round(value, 6) for site, value in took.items()},
    )
    if len(config.job.models) == 1:
        return known
    rows: list[Scores] = [
        {site: row[site] for site in own if site in row} | elsewhere.get(name, {})
        for row, elsewhere in zip(state.rows, state.elsewhere, strict=True)
    ]
    first = scores[0]
    grid = matrix(rows, sites, first)
    seen = config.timeline.seen(state.stage - 1)
    trained = [[site for site in stage if site in own] for stage in state.trained[: state.stage]]
    return replace(
        known,
        matrix=grid,
        cases=cases(rows, sites, first),
        metrics=summary(grid, trained, sites, None, seen) if rows else {},
        secondary={
            score: ScoreResults(matrix(rows, sites, score), cases(rows, sites, score))
            for score in scores[1:]
        },
    )


def _by_stage(state: State) -> list[dict[str, int]]:
    """Return the bytes of each finished stage; what came before the first counts as its."""
    before = [dict.fromkeys(state.ledger.bytes, 0), *state.sent]
    pairs = zip(before, state.sent, strict=False)
    return [{kind: new[kind] - old[kind] for kind in new} for old, new in pairs]


def spent(config: Config, state: State) -> dict[str, Any]:
    """Return what the privacy rule guarantees by now."""
    times = _reports if config.privacy.at_hospitals else _rounds
    return config.privacy.spent(times(config, state))


def _reports(config: Config, state: State) -> dict[str, int]:
    """Return how many reports each site was asked for; one counts as soon as its stage has begun.

    Those who train in a stage report at its end, but for the last, which nobody remembers.
    """
    reported = state.trained[: len(config.timeline.stages) - 1]
    return {site: sum(site in sites for sites in reported) for site in config.timeline.sites}


def _rounds(config: Config, state: State) -> dict[str, int]:
    """Return how often each site was asked to train."""
    known = state.ledger.reputation
    answers = ("delivered", "lost", "refused")
    return {
        site: sum(known.get(site, {}).get(what, 0) for what in answers)
        for site in config.timeline.sites
    }


def presence(config: Config) -> dict[str, list[float | None]]:
    """Return, per site and stage, the share of its training cases; None where it is not there."""
    timeline = config.timeline
    there = [set(timeline.present(stage)) for stage in range(len(timeline.stages))]
    return {
        site: [timeline.share(site, t) if site in now else None for t, now in enumerate(there)]
        for site in timeline.sites
    }


def cohorts(config: Config) -> list[list[str]]:
    """Return the sites that are to train in each stage."""
    stages = range(len(config.timeline.stages))
    return [config.job.strategy.plan(config.timeline, stage).cohort for stage in stages]


def away(config: Config) -> dict[str, list[int]]:
    """Return the rounds in which a site of the cohort is away, for sites that ever are."""
    timeline, found = config.timeline, dict[str, list[int]]()
    if not timeline.dropout:
        return found
    for stage, cohort in enumerate(cohorts(config)):
        trainers, first = timeline.trainers(cohort), stage * timeline.rounds + 1
        for round_ in range(first, first + timeline.rounds):
            asked = config.asked(trainers, round_)
            for site in trainers:
                if site not in asked:
                    found.setdefault(site, []).append(round_)
    return found


def matrix(rows: Sequence[Scores], sites: Sequence[str], score: str) -> list[list[float | None]]:
    """Return the mean over cases of `score`, one row per stage, one column per site."""

    def mean(values: dict[str, float]) -> float:
        return sum(values.values()) / len(values)

    return [
        [mean(row[s][score]) if score in row.get(s, {}) else None for s in sites] for row in rows
    ]


def cases(
    rows: Sequence[Scores], sites: Sequence[str], score: str
) -> dict[str, dict[str, list[float | None]]]:
    """Return, per site and case, its `score` after every stage."""
    names = {
        s: list(dict.fromkeys(c for row in rows for c in row.get(s, {}).get(score, {})))
        for s in sites
    }
    return {
        s: {c: [row.get(s, {}).get(score, {}).get(c) for row in rows] for c in names[s]}
        for s in sites
    }


def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on, of what is installed."""
    found = {"python": platform.python_version()}
    for name in ("flwr", "torch", "monai", "ray", "numpy", "mlflow", "hydra-core"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _digest(state: State, sites: Sequence[str]) -> str:
    """Return the digest of the global model and, in site order, of what the sites kept."""
    everything = arrays.digest(state.weights)
    if not state.kept:
        return everything
    parts = [everything, *(state.kept.get(site, "") for site in sites)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
