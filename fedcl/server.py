"""A run: stages > rounds > evaluation > checkpoint > whoever watches."""

import hashlib
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Protocol

from flwr.serverapp import Grid

from fedcl import arrays
from fedcl.checkpoint import Checkpoint, Scores, State
from fedcl.config import Config
from fedcl.continual import summary
from fedcl.errors import ConfigError, DataError, RunError
from fedcl.hospital import new_network
from fedcl.hospitals import Hospitals
from fedcl.messages import Hello, Report, Scored
from fedcl.plugins import name_of
from fedcl.seeding import torch_rng
from fedcl.stage import Round, Stage
from strategies.base import Form, Past

log = logging.getLogger("fedcl")


class Watcher(Protocol):
    """Something that is told how a run goes: a progress display, MLflow."""

    def started(self, config: Config, state: State, about: dict[str, Hello]) -> None:
        """The hospitals have answered; `state` is new or resumed."""

    def round_began(self, stage: int, number: int, cohort: list[str]) -> None:
        """The sites of `cohort` have been asked to train round `number` of the run."""

    def round_done(self, done: Round, state: State) -> None:
        """A round is over; told again if the run is resumed from before it was saved."""

    def stage_done(self, config: Config, state: State) -> None:
        """Every site was evaluated after a stage; told again as `round_done` is."""


class Server:
    """Runs the experiment that `config` describes over the hospitals of a grid.

    Args:
        grid: any Flower Grid.
        config: the run, checked.
        checkpoint: where snapshots go.
        state: the state to go on from; None for a new run.
        lanes: sites that can compute at the same time.
        watchers: told how the run goes.
    """

    def __init__(
        self,
        grid: Grid,
        config: Config,
        checkpoint: Checkpoint,
        state: State | None = None,
        lanes: int = 1,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.config, self.checkpoint, self.watchers = config, checkpoint, watchers
        timeline = config.timeline
        self.network = new_network(config.job, timeline.seen(state.stage if state else 0))
        self.state = state or State(arrays.of_network(self.network))
        local = config.job.local(self.network)
        if timeline.centralised and local:
            raise ConfigError(
                f"timeline.centralised: every hospital keeps {', '.join(sorted(local)[:3])} to "
                "itself, which a pool has no use for; change the strategy or scenario.shared"
            )
        if not config.job.scenario.task.shared and not local:
            raise ConfigError(
                "scenario.shared: false, but nothing of this model stays at a site: patients would "
                "overwrite one another; take model=diner, model.latent=16 or strategy=individual"
            )
        self.local = frozenset(local)
        self.hospitals = Hospitals(
            grid, config.job, self.state.ledger, lanes, config.engine.timeout
        )

    def meet(self) -> dict[str, Hello]:
        """Meet the hospitals of the timeline; nothing is written before they all answered.

        Raises:
            DataError: a site cannot take part, or its data are not those of the run resumed.
            ConfigError: what sites are to send cannot be protected.
        """
        sites = self.config.timeline.sites
        met = self.hospitals.meet(sites + self.config.timeline.trainers([]))
        about = {site: met[site] for site in sites}
        digests = {site: hello.digest for site, hello in about.items()}
        for site, old in self.state.digests.items():
            if digests[site] != old:
                raise DataError(f"site {site}: its data have changed since the run began")
        self.state.digests = digests
        self.cases = {site: hello.test for site, hello in about.items()}
        self.shape = about[sites[0]].shape
        forms = self.config.job.strategy.forms
        self.config.privacy.check_sent(
            self.config.job.strategy,
            self.state.weights.keys() - self.local,
            bool(forms(self.network, self.shape)),
        )
        for site in sites:
            if forms(self.network, about[site].shape) != forms(self.network, self.shape):
                raise DataError(
                    f"site {site}: its images are {about[site].shape} (channels, rows, columns), "
                    f"those of {sites[0]} {self.shape}; {name_of(self.config.job.strategy)} "
                    "needs one shape, change scenario.size or the scenario"
                )
        return about

    def run(self, about: dict[str, Hello], started: float) -> None:
        """Run all stages that are left.

        Args:
            about: what `meet` returned.
            started: `time.perf_counter()` when this process began, for the total time.

        Raises:
            RunError: too few updates in a round, or a site that could not be evaluated;
                the last checkpoint can be resumed.
        """
        config, state = self.config, self.state
        self._clock = started
        for watcher in self.watchers:
            watcher.started(config, state, about)
        self._save()
        if state.initial is None:
            state.initial = self._evaluate(-1)
            state.ledger.seconds["setup"] += time.perf_counter() - started
            self._save()
        while state.stage < len(config.timeline.stages):
            self._grow()
            stage = Stage(
                config, self.hospitals, state, self.network, self._began, self._round_done
            )
            stage.run()
            scores = self._evaluate(state.stage)
            if state.stage + 1 < len(config.timeline.stages):
                state.memory = self._remember(stage)
            state.rows.append(scores)
            state.momentum = {}
            teaching = config.job.strategy.teaching
            if teaching is not None and teaching.refresh == "stage":
                state.teacher = state.weights
            arrays.save_file(
                self.checkpoint.folder / f"stage-{state.stage}.safetensors", state.weights
            )
            log.info("stage %d done: %s", state.stage, _in_words(results(config, state)["metrics"]))
            # First tell, then save: a round told twice after a crash can be recognised, one
            # never told cannot be made up for.
            for watcher in self.watchers:
                watcher.stage_done(config, state)
            self._save()

    def _grow(self) -> None:
        """Give the model room for what the sites arriving in this stage bring."""
        state = self.state
        self.network = new_network(self.config.job, self.config.timeline.seen(state.stage))
        room = arrays.of_network(self.network)
        state.weights = arrays.grown(state.weights, room)
        state.teacher = arrays.grown(state.teacher, room)

    def _began(self, stage: int, number: int, cohort: list[str]) -> None:
        for watcher in self.watchers:
            watcher.round_began(stage, number, cohort)

    def _round_done(self, done: Round) -> None:
        log.info(
            "stage %d, round %d: validation %s",
            done.stage + 1,
            done.number,
            _in_words(
                {
                    f"{site} {self.config.job.scenario.task.scored(site)[0]}": value
                    for site, value in done.validation.items()
                }
            ),
        )
        for watcher in self.watchers:
            watcher.round_done(done, self.state)
        self._save()

    def _save(self) -> None:
        now = time.perf_counter()
        self.state.ledger.seconds["total"] += now - self._clock
        self._clock = now
        self.checkpoint.save(self.state)

    def _remember(self, stage: Stage) -> arrays.Arrays:
        """Ask for the strategy's reports, if it wants any, and let it remember the stage."""
        config, state, strategy = self.config, self.state, self.config.job.strategy
        reports: dict[str, Report] = {}
        forms = strategy.forms(self.network, self.shape)
        if forms:
            weights, _ = arrays.split(state.weights, self.local)
            # Who only rehearses has told before.
            data = {site: one for site, one in stage.data().items() if one["learning"]}
            calls = self.hospitals.calls(
                "query.report",
                list(data),
                arrays.to_record(weights),
                state.versions,
                data=data,
                arrivals=config.timeline.stages[: state.stage + 1],
            )
            replies = self.hospitals.grid.send_and_receive(calls, timeout=self.hospitals.timeout)
            reports = self._reports(self.hospitals.answers(Report, list(data), replies), forms)
        arrays.into_network(self.network, state.weights)
        past = Past(
            stage=state.stage,
            network=self.network.requires_grad_(False).eval(),
            shape=tuple(self.shape),
            memory=state.memory,
            reports={site: report.arrays for site, report in reports.items()},
            samples={site: report.samples for site, report in reports.items()},
            rng=torch_rng("remember", config.job.seed, state.stage),
        )
        return strategy.remember(past)

    def _reports(
        self, answers: Mapping[str, Report | str], forms: Mapping[str, Form]
    ) -> dict[str, Report]:
        """Return the reports that are as they should be; the others count as failures.

        Raises:
            RunError: they are fewer than `engine.quorum` asks for.
        """
        reports: dict[str, Report] = {}
        for site, answer in answers.items():
            problem = answer if isinstance(answer, str) else None
            if isinstance(answer, Report):
                if answer.arrays.keys() != forms.keys():
                    problem = "its arrays are not those of the strategy"
                else:
                    said = ((key, forms[key].complaint(answer.arrays[key])) for key in forms)
                    problem = next((f"{key} {what}" for key, what in said if what), None)
                if problem is None:
                    reports[site] = answer
            if problem is not None:
                stage, round_ = self.state.stage, self.state.round
                self.state.ledger.fail(site, stage, round_, "report", problem)
        if len(reports) < self.config.engine.needed(len(answers)):
            raise RunError(
                f"{len(reports)} of {len(answers)} sites reported after stage "
                f"{self.state.stage + 1}, engine.quorum asks for {self.config.engine.quorum}; "
                "log.txt says why"
            )
        return reports

    def _evaluate(self, stage: int) -> Scores:
        """Score the global model on every site's test cases after `stage`."""
        timeline, task = self.config.timeline, self.config.job.scenario.task
        sites = self.config.job.strategy.evaluated(timeline, stage)
        if not task.foresight:
            sites = [site for site in sites if stage >= 0 and site in timeline.seen(stage)]
        weights, _ = arrays.split(self.state.weights, self.local)
        calls = self.hospitals.calls(
            "evaluate",
            sites,
            arrays.to_record(weights),
            self.state.versions,
            arrivals=timeline.stages[: max(stage, 0) + 1],
            split="test",
        )
        replies = self.hospitals.grid.send_and_receive(calls, timeout=self.hospitals.timeout)
        scores: Scores = {}
        for site, answer in self.hospitals.answers(Scored, sites, replies).items():
            if isinstance(answer, str):
                when = f"after stage {stage + 1}" if stage >= 0 else "before the first stage"
                raise RunError(
                    f"site {site} could not be evaluated {when}: {answer.splitlines()[0]}"
                )
            names = task.scored(site)
            if set(answer.scores) != set(names) or len(answer.cases) != self.cases[site]:
                raise RunError(
                    f"site {site} sent scores of {len(answer.cases)} test cases, it has "
                    f"{self.cases[site]}, or left out one of {', '.join(names)}"
                )
            scores[site] = {
                score: dict(zip(answer.cases, answer.scores[score], strict=True)) for score in names
            }
        return scores


def results(config: Config, state: State, status: str = "completed") -> dict[str, Any]:
    """Return the contents of results.json; the matrices and figures of what is finished."""
    sites, scores = config.timeline.sites, config.job.scenario.task.scores
    first = scores[0]
    matrices = {score: matrix(state.rows, sites, score) for score in scores}
    initial = matrix([state.initial or {}], sites, first)[0]
    trained = state.trained[: state.stage]
    task = config.job.scenario.task
    seen = [s for s in config.timeline.seen(state.stage - 1) if first in task.scored(s)]
    return {
        "scenario": name_of(config.job.scenario),
        "strategy": name_of(config.job.strategy),
        "model": name_of(config.job.model),
        "seed": config.job.seed,
        "engine": config.engine.name,
        "status": status,
        "arrivals": [list(stage) for stage in config.timeline.stages],
        "stages": trained,
        "sites": sites,
        "score": first,
        "case": task.case,
        "matrix": matrices[first],
        "cases": cases(state.rows, sites, first),
        "metrics": summary(matrices[first], trained, sites, initial, seen) if state.rows else {},
        "rounds": state.round,
        "weights_sha256": _digest(state, sites),
        "seconds": {name: round(value, 3) for name, value in state.ledger.seconds.items()},
        "bytes": state.ledger.bytes,
        "stored": state.stored,
        "centralised": config.timeline.centralised,
        "aggregation": name_of(config.aggregation),
        "failures": state.ledger.failures,
        "versions": versions(),
        "initial": initial,
        "secondary": {
            score: {"matrix": matrices[score], "cases": cases(state.rows, sites, score)}
            for score in scores[1:]
        },
        "data_sha256": state.digests,
        "privacy": {
            "name": name_of(config.privacy),
            "leaves": task.leaves,
            **config.privacy.spent(_rounds(config, state)),
        },
    }


def _rounds(config: Config, state: State) -> dict[str, int]:
    """Return in how many rounds each site was asked to train."""
    timeline, strategy = config.timeline, config.job.strategy
    asked = dict.fromkeys(timeline.sites, 0)
    for stage in range(len(timeline.stages)):
        for site in strategy.cohort(timeline, stage):
            done = state.round - stage * timeline.rounds
            asked[site] += min(max(done, 0), timeline.rounds)
    return asked


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
    """Return the versions of what the numbers depend on."""
    packages = ("flwr", "torch", "monai", "ray", "numpy", "mlflow", "hydra-core")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _digest(state: State, sites: Sequence[str]) -> str:
    """Return the digest of the global model and, in site order, of what the sites kept."""
    everything = arrays.digest(state.weights)
    if not state.kept:
        return everything
    parts = [everything, *(state.kept.get(site, "") for site in sites)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _in_words(values: Mapping[str, float | None]) -> str:
    return ", ".join(
        f"{name} {'-' if value is None else format(value, '.3f')}" for name, value in values.items()
    )
