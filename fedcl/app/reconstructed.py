"""Frames of every site, as the fields of several runs on the same data have them."""

from collections.abc import Mapping
from pathlib import Path

import torch

from fedcl.app.export import fitted
from fedcl.config.stored import stored
from fedcl.registry import SCENARIO
from fedcl.server.results import Results
from fedcl.tasks.base import Picture


def reconstructed(runs: Mapping[str, Path]) -> dict[str, dict[str, Picture]]:
    """Return the first frame of every site, by the run's name and by site.

    Args:
        runs: complete ones on the same data, with a name for each.
    """
    first = next(iter(runs.values()))
    results = Results.read(first)
    assert results is not None, "complete"
    scenario = SCENARIO.make(stored(first)["scenario"])
    cases = {
        site: scenario.load(site, scenario.location(site), results.seed).test[0]
        for site in results.sites
    }
    device = torch.device("cpu")
    pictures: dict[str, dict[str, Picture]] = {}
    for name, folder in runs.items():
        field = fitted(folder)
        pictures[name] = {
            site: field.task.picture(case, field.task.predict(field.network, case, device, False))
            for site, case in cases.items()
        }
    return pictures
