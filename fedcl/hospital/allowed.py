"""What a hospital lets runs do, beyond running its own code: its file `allowed.yaml`.

Without the file it answers every run. The file is read for every call: a change counts at once.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from fedcl.errors import ConfigError, RunError
from fedcl.settings import parse, setting

NAME = "allowed.yaml"


@dataclass
class Allowed:
    """What runs may do here; what is not named is not restricted.

    Attributes:
        scenario: scenarios that may read its data.
        strategy: methods.
        model: architectures.
        rounds: of training in a run, over all its stages.
    """

    scenario: list[str] | None = setting(None)
    strategy: list[str] | None = setting(None)
    model: list[str] | None = setting(None)
    rounds: int | None = setting(None, low=0)

    @classmethod
    def of(cls, folder: Path) -> "Allowed":
        """Read the file in a hospital's folder.

        Raises:
            ConfigError: it cannot be read; then nothing is allowed.
        """
        file = folder / NAME
        if not os.path.lexists(file):  # a link to nothing is no leave to do anything
            return cls()
        try:
            values = yaml.safe_load(file.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{NAME}: cannot be read ({reason})") from None
        return parse(cls, {} if values is None else values, NAME)

    def check(self, job: str, round: int = 0) -> None:
        """Raise `RunError` where a job, as JSON, or a round of it is not allowed."""
        try:
            values = json.loads(job)
            asked = {
                "scenario": [str(values["scenario"]["name"])],
                "strategy": [str(values["strategy"]["name"])],
                "model": [str(one["name"]) for one in values["models"].values()],
            }
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise RunError(f"job: not one of this version of fedcl ({error!r})") from None
        for key, names in asked.items():
            self._check_names(key, names, getattr(self, key))
        if self.rounds is not None and round > self.rounds:
            raise RunError(
                f"refused: this hospital allows {self.rounds} rounds of a run, not round {round}"
            )

    def _check_names(self, key: str, asked: Iterable[str], allowed: list[str] | None) -> None:
        for name in asked:
            if allowed is not None and name not in allowed:
                there = ", ".join(allowed) or "none"
                raise RunError(f"refused: this hospital allows {key} {there}, not {name[:50]!r}")
