"""MLflow: one run per simulation, in an experiment named after the scenario.

Before the first round MLflow must answer; after it, nothing that MLflow does ends a run.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fedcl.config.schema import Config
from fedcl.errors import ConfigError
from fedcl.registry import name_of
from fedcl.reporting.spool import Entry, Spool
from fedcl.server.events import Round, Watcher
from fedcl.server.metrics import forgetting_by_site
from fedcl.server.outcome import outcome
from fedcl.server.results import FILE, Results
from fedcl.server.state import State
from fedcl.settings import flat
from fedcl.tracking.client import SQLITE, asking, connect, spelt
from fedcl.tracking.models import aliased, register
from fedcl.tracking.names import RELEASED
from fedcl.wire.answers import Hello

log = logging.getLogger("fedcl")

TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's page open on runs and their charts, not on views of language models."""
WITHOUT = "; tracking.enabled=false runs without it"
PARAMS, BATCH = 100, 1000
"""The most parameters and metrics that MLflow takes at once."""
SPOOL = "tracking.jsonl"
"""In a run's folder: what MLflow is still to be told."""
HURRY = {"FINISHED": 1e9, "FAILED": 5.0, "KILLED": 2.0}
"""At most so many seconds of `tracking.wait` are waited, by how a run has ended."""


class Tracker(Watcher):
    """Writes a run to MLflow as it goes; watches a `Server`.

    Rounds and stages that a resumed run goes through again are written once.

    Args:
        config: of the run.
        folder: the run's folder; files to be kept are taken from it.
        values: the configuration as it is stored.
        state: new or resumed; gets the id of the run in MLflow.
        about: what the hospitals hold.

    Raises:
        ConfigError: MLflow does not answer, or the experiment cannot be written to.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        values: Mapping[str, Any],
        state: State,
        about: Mapping[str, Hello],
    ) -> None:
        self.uri, self.folder, self.wait = config.tracking.uri, folder, config.tracking.wait
        self.values, self.model = values, config.release.name
        self.client = connect(self.uri, "tracking.uri", WITHOUT)
        with asking(self.uri, "tracking.uri", WITHOUT):
            if state.tracking_run is not None and not self._there(state.tracking_run):
                log.warning("MLflow at %s does not know this run: a new one is opened", self.uri)
                state.tracking_run = None
            if state.tracking_run is None:
                state.tracking_run = self._open(config, values, about, state.settled)
            self.run = state.tracking_run
            state.tracking_experiment = str(self.client.get_run(self.run).info.experiment_id)
            self.spool = _spool(self.client, self.uri, folder, self.run)
            if self.spool.drain(self.wait):
                raise TimeoutError(f"{folder / SPOOL} cannot be delivered")
            self.client.set_terminated(self.run, "RUNNING")  # after what waited, such as its end
            self._told = {what: self._last(what) for what in ("round", "stage")}

    def started(self, config: Config, state: State, about: dict[str, Hello]) -> None:
        """Warn where the registry has a model in use that the gate will not compare with."""
        name = config.release.name
        judged = config.release.on_refusal is not None and not state.begun
        if name is None or not judged or state.initial is not None:
            return
        with asking(self.uri, "tracking.uri", WITHOUT):
            now = aliased(self.client, name, RELEASED)
        if now is not None:
            log.warning(
                "release.name: version %s of %s is in use, and is not compared with: this run does "
                "not begin with it (model.weights=models:/%s@%s)",
                now.version, name, name, RELEASED,
            )  # fmt: skip

    def round_done(self, done: Round, state: State) -> None:
        """Write losses and validation scores, under a name that charts show after the scores'."""
        values = {f"train/validation/{site}": value for site, value in done.validation.items()}
        for site, losses in done.losses.items():
            values |= {f"train/loss/{site}/{term}": value for term, value in losses.items()}
        self._write("round", done.number, values, done.number)

    def round_taken_back(self, state: State) -> None:
        """Have the round that takes its place written at the same step, where the last counts."""
        if self._told["round"] > state.round:
            self._told["round"] = -1
            self._write("round", state.round, {}, state.round)

    def stage_done(self, config: Config, state: State) -> None:
        """Write scores, forgetting and the figures of the run so far, and the weights."""
        now = outcome(config, state)
        scores = zip(now.sites, now.matrix[-1], strict=True)
        values = {f"score/{site}": value for site, value in scores if value is not None}
        lost = forgetting_by_site(now.matrix, now.stages, now.sites)
        values |= {f"forgetting/{site}": value for site, value in lost.items()}
        values |= {name: value for name, value in now.metrics.items() if value is not None}
        for name, one in now.architectures.items():
            if one.matrix is not None:
                scores = zip(now.sites, one.matrix[-1], strict=True)
                values |= {f"score/{name}/{site}": v for site, v in scores if v is not None}
                values |= {f"avg/{name}": v for v in [one.metrics["avg"]] if v is not None}
        for verdict in now.release[-1:]:
            values |= {"release/passed": float(verdict.released)}
            for site, judged in verdict.hospitals.items():
                if judged.released is not None and judged.candidate is not None:
                    values[f"release/change/{site}"] = judged.candidate - judged.released
        self._write("stage", state.stage, values, state.round)
        self._keep(f"checkpoint/stage-{state.stage}.safetensors", "weights")
        self._register(now)

    def _register(self, now: Results) -> None:
        """Have the models of the stage that is over kept in the registry, if they are asked for.

        In place of a model that was refused an earlier one was kept, which is there already.
        """
        stage = len(now.matrix)
        verdict = now.release[-1] if now.release else None
        taken_back = verdict is not None and not verdict.released and not now.stages[-1]
        if self.model is None or taken_back:
            return
        from fedcl.release.kept import write_models

        try:
            versions = write_models(self.folder, self.model, self.values, now)
        except Exception as error:  # whatever it is, it takes no stage from the run
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("the model of stage %d is not kept in the registry: %s", stage, reason)
            log.debug("no model", exc_info=True)
            return
        for version in versions:
            released = verdict is None or verdict.released
            about = {"stage": stage, "released": released, "tags": version.tags}
            self.spool.put(
                {"model": version.name, "place": version.folder, "run": self.run, **about}
            )

    def finish(self, status: str) -> None:
        """Close the run, with its files.

        Args:
            status: "FINISHED", "FAILED" or "KILLED".
        """
        for name in ("config.yaml", FILE):
            self._keep(name)
        for file in sorted((self.folder / "figures").glob("*")):
            self._keep(f"figures/{file.name}", "figures")
        self.spool.put({"end": status, "run": self.run})
        left = self.spool.close(min(self.wait, HURRY[status]))
        if left:
            log.warning(
                "MLflow at %s was not told all of this run: %d entries wait in %s; "
                "run.resume=%s delivers them",
                self.uri, left, self.spool.file, self.folder,
            )  # fmt: skip

    def _keep(self, name: str, place: str | None = None) -> None:
        """Have a file of the run's folder kept in MLflow, in a folder of its own there or not."""
        if (self.folder / name).exists():
            self.spool.put({"file": name, "place": place, "run": self.run})

    def _there(self, run: str) -> bool:
        """Return whether MLflow has a run that can be written to."""
        try:
            return bool(self.client.get_run(run).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _open(
        self,
        config: Config,
        values: Mapping[str, Any],
        about: Mapping[str, Hello],
        settled: Mapping[str, Any],
    ) -> str:
        scenario, strategy = name_of(config.job.scenario), name_of(config.job.strategy)
        tags = {"strategy": strategy, "scenario": scenario, "model": "+".join(config.job.models)}
        tags |= {"seed": str(config.job.seed), "folder": str(self.folder)}
        run = self.client.create_run(
            self._experiment(scenario), run_name=f"{strategy}-seed{config.job.seed}", tags=tags
        ).info.run_id
        known = dict(flat(values)) | {f"scenario.{k}": v for k, v in settled.items()}
        params = [Param(spelt(key), str(value)[:500]) for key, value in known.items()]
        for begin in range(0, len(params), PARAMS):
            self.client.log_batch(run, params=params[begin : begin + PARAMS])
        self.client.log_batch(run, tags=[RunTag("engine", config.engine.name)])
        inputs = [
            DatasetInput(
                Dataset(
                    name=f"{scenario}/{site}",
                    digest=hello.digest[:36],
                    source_type="site",
                    source=site,
                    profile=f"{hello.train} train, {hello.val} validation, {hello.test} test",
                )
            )
            for site, hello in about.items()
        ]
        self.client.log_inputs(run, inputs)
        return str(run)

    def _experiment(self, name: str) -> str:
        """Return the id of the experiment `name`, made if there is none.

        Raises:
            ConfigError: it was deleted: MLflow keeps the name, and takes no more runs.
        """
        known = self.client.get_experiment_by_name(name)
        if known is None:
            place = None  # a server knows where its artefacts belong
            if self.uri.startswith(SQLITE):
                database = Path(self.uri.removeprefix(SQLITE)).resolve()
                place = (database.parent / "mlruns" / name).as_uri()
            try:
                return str(
                    self.client.create_experiment(name, artifact_location=place, tags=TRAINING)
                )
            except MlflowException:  # another run that began at the same time has made it
                known = self.client.get_experiment_by_name(name)
                if known is None:
                    raise
        if known.lifecycle_stage != "active":
            raise ConfigError(
                f"tracking.uri: the experiment {name!r} at {self.uri} was deleted; restore it by "
                f"`mlflow experiments restore -x {known.experiment_id}` with MLFLOW_TRACKING_URI "
                f"set to that address, or give another tracking.uri{WITHOUT}"
            )
        for key, value in TRAINING.items():
            if key not in known.tags:  # begun with an earlier version; a user's own choice stays
                self.client.set_experiment_tag(known.experiment_id, key, value)
        return str(known.experiment_id)

    def _last(self, what: str) -> int:
        """Return the step that was written last: a lower one where a round was taken back."""
        history = self.client.get_metric_history(self.run, what)
        return max(((m.timestamp, m.step) for m in history), default=(0, -1))[1]

    def _write(self, what: str, number: int, values: Mapping[str, float], step: int) -> None:
        if step <= self._told[what]:
            return
        now = int(time.time() * 1000)
        metrics = [[spelt(key), value, now, step] for key, value in values.items()]
        metrics.append([what, number, now, step])  # last: once it is there, all are
        for begin in range(0, len(metrics), BATCH):
            self.spool.put({"metrics": metrics[begin : begin + BATCH], "run": self.run})
        self._told[what] = step


def deliver(uri: str, folder: Path, wait: float) -> int:
    """Tell MLflow what a run that is over has left to tell; return how many entries that were.

    Args:
        uri: MLflow's tracking address.
        folder: the run's.
        wait: seconds to wait for it.

    Raises:
        ConfigError: it cannot be told.
    """
    if not (folder / SPOOL).exists():
        return 0
    spool = _spool(connect(uri, "tracking.uri", WITHOUT), uri, folder)
    count = len(spool.waiting)
    if spool.close(wait):
        raise ConfigError(f"tracking.uri: MLflow at {uri} does not take what is in {spool.file}")
    return count


def _spool(client: MlflowClient, uri: str, folder: Path, run: str | None = None) -> Spool:
    """Return what tells MLflow of a run; what waits goes to `run`, or the one that it was of."""
    return Spool(folder / SPOOL, partial(_tell, client, folder, run), f"MLflow at {uri}")


def _tell(client: MlflowClient, folder: Path, now: str | None, entry: Entry) -> None:
    """Tell MLflow one entry of a run's spool; telling it again changes nothing."""
    run = now or str(entry["run"])
    if "metrics" in entry:
        client.log_batch(run, metrics=[Metric(*one) for one in entry["metrics"]])
    elif "model" in entry:
        if (folder / entry["place"]).is_dir():
            client.log_artifacts(run, str(folder / entry["place"]), entry["place"])
            register(
                client, entry["model"], run, entry["place"], entry["stage"], entry["released"],
                entry["tags"],
            )  # fmt: skip
        else:
            log.warning("%s is not there any more; MLflow does not get it", entry["place"])
    elif "file" in entry:
        file = folder / entry["file"]
        if file.exists():
            client.log_artifact(run, str(file), entry["place"])
        else:
            log.warning("%s is not there any more; MLflow does not get it", file)
    else:
        client.set_terminated(run, entry["end"])
