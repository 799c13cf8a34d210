"""The scenario of a run, with all that its hospitals and their data have decided."""

from collections.abc import Mapping
from typing import Any

from fedcl.learning.scenario import Scenario
from fedcl.registry import SCENARIO
from fedcl.server.results import Results


def scenario_of(values: Mapping[str, Any], results: Results) -> Scenario:
    """Return a run's scenario as its model knows it.

    Who held what in the run plays no part: tables and splits are not read.

    Args:
        values: the run's configuration.
        results: of the run.

    Raises:
        ConfigError, DataError: it cannot be made.
    """
    decided = results.from_data | results.settled
    settings = {key.removeprefix("scenario."): value for key, value in decided.items()}
    scenario: Scenario = SCENARIO.make(
        {**values["scenario"], **settings}
        | {key: None for key in ("table", "splits") if key in values["scenario"]}
    )
    return scenario
