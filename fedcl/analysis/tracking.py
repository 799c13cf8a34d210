"""A comparison written into the MLflow experiment that it is about."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlflow.entities import Metric

from fedcl.analysis.statistics import Line
from fedcl.tracking.client import COMPARISON, asking, connect, spelt


def log_comparison(
    uri: str, experiment: str, out: Path, lines: Sequence[Line], files: Iterable[str]
) -> None:
    """Write a comparison into the experiment it is about: its files, and AVG and BWT."""
    now = int(time.time() * 1000)
    metrics = [
        Metric(spelt(f"{figure}/{line.name}"), value, now, 0)
        for line in lines
        for figure in ("avg", "bwt", "worst_site")
        if (value := line.mean[figure]) is not None
    ]
    client = connect(uri, "--uri")
    with asking(uri, "--uri"):
        known = client.get_experiment_by_name(experiment)
        assert known is not None, "the runs came from it"
        run = client.create_run(
            known.experiment_id, run_name="comparison", tags={COMPARISON: "true"}
        ).info.run_id
        client.log_batch(run, metrics=metrics)
        for name in files:
            client.log_artifact(run, str(out / name))
        client.set_terminated(run, "FINISHED")
