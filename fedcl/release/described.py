"""The scenario of a run, with all that its hospitals and their data have decided."""

from collections.abc import Mapping
from typing import Any

from fedcl.learning.scenario import Scenario
from fedcl.registry import SCENARIO
from fedcl.server.results import Results


def decided(values: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """Return the settings of a run's scenario as its model knows it.

    Who held what in the run plays no part: tables and splits are not read. Nor do imaginary
    scanners: a new image comes from a real one.

    Args:
        values: the run's configuration.
        results: of the run.
    """
    found = results.from_data | results.settled
    settings = {key.removeprefix("scenario."): value for key, value in found.items()}
    none: dict[str, Any] = {"table": None, "splits": None, "shift": {}}
    own = {key: none.get(key, value) for key, value in values["scenario"].items()}
    return own | settings


def scenario_of(values: Mapping[str, Any], results: Results) -> Scenario:
    """Return a run's scenario as its model knows it; arguments as for `decided`.

    Raises:
        ConfigError, DataError: it cannot be made.
    """
    scenario: Scenario = SCENARIO.make(decided(values, results))
    return scenario
