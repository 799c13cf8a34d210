"""What fedcl must know of a model, besides its weights, to answer with it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from fedcl.data.preparing import MOST
from fedcl.errors import ConfigError
from fedcl.registry import MODEL, SCENARIO, STRATEGY, Kind, describe, name_of
from fedcl.release.described import decided
from fedcl.server.results import Results
from fedcl.settings import travelling
from fedcl.timeline import can_name

FILE = "configs/fedcl.json"
"""Where a bundle has it."""
LARGEST = 2**20
"""Bytes that it may have."""
LONGEST = 2**11
"""Voxels along an axis of a sample."""
CASES = {"assigned", "cohorts", "site_files", "stages", "table_case", "table_site"}
"""Settings of scenarios that say who holds which cases: they may name patients."""


@dataclass(frozen=True, kw_only=True)
class About:
    """Settings and results of a run, as far as its models need them.

    Attributes:
        scenario, strategy, learner: as configured, with what the run has settled.
        models: of every architecture, how it is configured.
        trains: by which sites.
        sites: in the order of arrival.
        samples: the shape of a sample, by site.
        architecture: which of them this is; empty, and there are all.
        site: as whose images others are read; empty for those of no site.
    """

    scenario: dict[str, Any]
    strategy: dict[str, Any]
    learner: dict[str, Any]
    models: dict[str, dict[str, Any]]
    trains: dict[str, list[str]]
    sites: list[str]
    samples: dict[str, list[int]]
    architecture: str = ""
    site: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any], results: Results) -> Self:
        """Return what a run says of its models.

        Args:
            values: its configuration, as stored.
            results: what has come of it so far.
        """
        known = {name_of(MODEL.make(values["model"])): values["model"]}
        known |= values.get("models") or {}
        return cls(
            scenario=decided(values, results),
            strategy=values["strategy"],
            learner=values["learner"],
            models={name: known[name] for name in results.architectures if name in known},
            trains={name: one.sites for name, one in results.architectures.items()},
            sites=results.sites,
            samples=results.samples,
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return what a bundle says of its model; nothing in it is taken on trust.

        Raises:
            ConfigError: it has none of fedcl's, or none that can be used.
        """
        file = folder / FILE
        if not file.is_file():
            raise ConfigError(
                f"MODEL: {folder} is a MONAI bundle, but not one of fedcl's; if you trust it, run "
                "it by MONAI: python -m monai.bundle run --config_file configs/inference.json"
            )
        try:
            if file.stat().st_size > LARGEST:
                raise ValueError(f"over {LARGEST} bytes")
            about = TypeAdapter(cls).validate_json(file.read_bytes(), strict=True)
            about._check()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"MODEL: {file} cannot be used ({where}: {first['msg']})") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"MODEL: {file} cannot be used ({error})") from None
        return about

    def _check(self) -> None:
        """Raise a ValueError for what no run leaves, and for what names places on a machine."""
        kinds = [(SCENARIO, self.scenario), (STRATEGY, self.strategy)]
        kinds += [(MODEL, settings) for settings in self.models.values()]
        for kind, settings in kinds:
            for key in _paths(kind, settings):
                if settings.get(key) is not None:
                    raise ValueError(f"{kind.key}.{key}: a path has no place in it")
        if self.models.keys() != self.trains.keys() or self.architecture not in self.models:
            raise ValueError("models, trains and architecture are at odds")
        for name in (*self.sites, *self.trains, *self.samples):
            if not can_name(name):
                raise ValueError(f"{name!r:.40} is no name")
        if self.site and self.site not in self.sites:
            raise ValueError(f"site: {self.site!r} is none of the sites")
        for site, shape in self.samples.items():
            ends = all(1 <= length <= LONGEST for length in shape)
            if len(shape) not in (3, 4) or not ends or math.prod(shape) > MOST:
                raise ValueError(f"samples.{site}: no shape of a sample")

    def released(
        self, scenario: Any, normalise: str | tuple[str, ...], architecture: str, site: str
    ) -> Self:
        """Return it without paths of this machine and without names of cases.

        Args:
            scenario: made of it.
            normalise: how its images are, where it is to look into the data for that.
            architecture: see the class.
            site: likewise.
        """
        kept = {key: value for key, value in travelling(scenario).items() if key not in CASES}
        if "normalise" in kept:
            kept["normalise"] = normalise if isinstance(normalise, str) else list(normalise)
        return replace(
            self,
            scenario={"name": self.scenario["name"], **kept},
            strategy=describe(STRATEGY.make(self.strategy)),
            models={name: describe(MODEL.make(one)) for name, one in self.models.items()},
            architecture=architecture,
            site=site,
        )

    def text(self) -> str:
        """Return it as a bundle has it."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"


def _paths(kind: Kind, settings: Mapping[str, Any]) -> list[str]:
    """Return which settings of a plug-in say where something lies on a machine."""
    plugin: Any = kind.find(str(settings.get("name")))
    return [one.name for one in fields(plugin) if not one.metadata.get("travels", True)]
