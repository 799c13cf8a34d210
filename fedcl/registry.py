"""Find a strategy, scenario, model, ... by its name: nothing else can be asked for.

A name is that of a module in one of the packages below (`SCENARIO` to `SCHEDULE`), where folders
of the same name elsewhere on the Python path add theirs, or of an entry point that an installed
distribution declares in the group "fedcl.KEY". So neither a message nor a checkpoint can name
code of its own.
"""

import importlib
import inspect
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from fedcl.contracts import broken, where
from fedcl.errors import ConfigError, FedclError
from fedcl.settings import closest, parse, travelling

log = logging.getLogger("fedcl")


@dataclass(frozen=True)
class Kind:
    """One kind of plug-in.

    Attributes:
        key: of its group in the configuration.
        package: whose modules are the plug-ins.
        contract: the class that each of them implements, as "module:name".
        ours: one that comes with fedcl, by which the package is known.
    """

    key: str
    package: str
    contract: str
    ours: str

    def installed(self, name: str | None = None) -> list[EntryPoint]:
        """Return the entry points that other distributions declare, of one name or all."""
        found = _declared(f"fedcl.{self.key}", tuple(map(_as_it_is, sys.path)))
        return [one for one in found if name in (None, one.name)]

    def folders(self) -> list[Path]:
        """Return where the modules of the package lie, fedcl's own first.

        Of several copies of fedcl, as where a Flower app is run beside an installation, that one
        counts which Python has found first.

        Raises:
            ConfigError: another module of this name hides fedcl's package.
        """
        try:
            package = importlib.import_module(self.package)
            places = [Path(place) for place in package.__path__]
        except Exception as error:  # somebody else's, whatever it does
            raise ConfigError(
                f"{self.key}: the module {self.package!r} on the path is not fedcl's and hides it "
                f"({where(error)}); rename it, or put fedcl's folder before it on PYTHONPATH"
            ) from error
        ours = [place for place in places if (place / f"{self.ours}.py").is_file()]
        if not ours:
            raise ConfigError(
                f"{self.key}: the package {self.package!r} at {', '.join(map(str, places))} is not "
                "fedcl's and hides it; uninstall it, or put fedcl's folder before it on PYTHONPATH"
            )
        return [ours[0], *(place for place in places if place not in ours)]

    def modules(self) -> list[str]:
        """Return the names of the modules there are.

        Raises:
            ConfigError: see `folders`.
        """
        found = pkgutil.iter_modules(map(str, self.folders()))
        return sorted({m.name for m in found if not m.ispkg and m.name != "base"})

    def available(self) -> list[str]:
        """Return the names there are."""
        return sorted({*self.modules(), *(one.name for one in self.installed())})

    def fitting(self, fits: Callable[[type], bool]) -> list[str]:
        """Return the names of those that fit; what cannot be loaded is passed over."""
        found = []
        for name in self.available():
            try:
                if fits(self.find(name)):
                    found.append(name)
            except ConfigError as error:
                log.debug("%s", error)
        return found

    def find(self, name: str) -> type:
        """Return the class that goes by `name`.

        Raises:
            ConfigError: there is no such name, in which case those there are are listed, or there
                are two; it cannot be loaded, or stands for no such class.
        """
        places = [str(one / f"{name}.py") for one in self.folders() if _holds(one, name)]
        installed = self.installed(name)
        places += [f"{one.value} ({_distribution(one)})" for one in installed]
        if len(places) > 1:
            raise ConfigError(
                f"{self.key}: {name} is the name of several: {', '.join(places)}; rename all but "
                "one, or take them off the path"
            )
        place, _, title = self.contract.partition(":")
        contract = getattr(importlib.import_module(place), title)
        if not places:
            options = self.available()
            raise ConfigError(
                f"{self.key}: there is no {name!r}{closest(str(name), options)}; "
                f"there are: {', '.join(options)} (one of your own must lie in a folder "
                f"{self.package.replace('.', '/')} on PYTHONPATH)"
            )
        try:
            if not installed:
                return self._defined(name, contract)
            found = installed[0].load()
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # the plug-in's own fault, whatever it is
            raise ConfigError(f"{self.key}: {name} cannot be loaded: {where(error)}") from error
        if not inspect.isclass(found) or not issubclass(found, contract):
            raise ConfigError(
                f"{self.key}: {name} is installed as {places[0]}, which is no {title}"
            )
        return self._kept(found, contract)

    def _defined(self, name: str, contract: type) -> type:
        """Return the one class of a module that implements the contract."""
        module = importlib.import_module(f"{self.package}.{name}")
        found = [
            cls
            for _, cls in inspect.getmembers(module, inspect.isclass)
            if issubclass(cls, contract) and cls.__module__ == module.__name__
        ]
        if len(found) != 1:
            raise ConfigError(
                f"{self.key}: {module.__name__} must define exactly one class that inherits from "
                f"{contract.__name__} ({contract.__module__}), it defines {len(found)}"
            )
        return self._kept(found[0], contract)

    def _kept(self, plugin: type, contract: type) -> type:
        """Return a plug-in.

        Raises:
            ConfigError: it breaks its contract.
        """
        problem = broken(plugin, contract)
        if problem is not None:
            raise ConfigError(f"{self.key}: {plugin.__module__}: {problem}")
        return plugin

    def make(self, values: Mapping[str, Any], key: str | None = None) -> Any:
        """Build the plug-in that `values` describes: its `name` and its settings.

        Args:
            values: as configured.
            key: where they stand in the configuration, if not where this kind usually does.

        Raises:
            ConfigError: no or an unknown name, an unknown setting or a bad value.
        """
        key = key or self.key
        if not isinstance(values, Mapping):
            raise ConfigError(f"{key}: give its name and its settings, got {values!r}")
        settings = dict(values)
        if "name" not in settings:
            raise ConfigError(f"{key}.name: missing; give one of {self.available()}")
        name = str(settings.pop("name"))
        try:
            made: Any = parse(self.find(name), settings, key)
        except ConfigError as error:  # a plug-in names its settings by where they usually stand
            raise ConfigError(re.sub(rf"^{self.key}\b", key, str(error))) from None
        except FedclError:
            raise
        except Exception as error:  # settings that cannot be, or a fault in what checks them
            raise ConfigError(f"{key}: {name} cannot be made: {where(error)}") from error
        vars(made)[CALLED] = name
        return made


@lru_cache(maxsize=32)
def _declared(group: str, path: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    """Return what the distributions on a Python path declare; to read them all takes a while."""
    return tuple(entry_points(group=group))


def _as_it_is(entry: str) -> tuple[str, int]:
    """Return a folder of the Python path, and when what is installed there was changed last."""
    folder = os.path.abspath(entry)
    try:
        return folder, os.stat(folder).st_mtime_ns
    except OSError:  # of a path much need not be there
        return folder, 0


CALLED = "_called"
"""The attribute of a plug-in that has the name by which it was asked for."""


def _holds(folder: Path, name: str) -> bool:
    return name.isidentifier() and name != "base" and (folder / f"{name}.py").is_file()


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown distribution"


SCENARIO = Kind("scenario", "sites", "fedcl.learning.scenario:Scenario", "phantom")
STRATEGY = Kind("strategy", "strategies", "fedcl.learning.strategy:Strategy", "finetune")
MODEL = Kind("model", "fedcl.models", "fedcl.models.base:Model", "unet")
AGGREGATION = Kind(
    "aggregation", "fedcl.aggregations", "fedcl.aggregations.base:Aggregation", "fedavg"
)
PRIVACY = Kind("privacy", "fedcl.privacy", "fedcl.privacy.base:Privacy", "none")
AUGMENT = Kind("augment", "fedcl.augment", "fedcl.augment.base:Augmentation", "light")
OPTIMISER = Kind("optimiser", "fedcl.optimisers", "fedcl.optimisers.base:Optimiser", "adam")
SCHEDULE = Kind("schedule", "fedcl.schedules", "fedcl.schedules.base:Schedule", "exponential")
KINDS = (SCENARIO, STRATEGY, MODEL, AGGREGATION, PRIVACY, AUGMENT, OPTIMISER, SCHEDULE)


def name_of(plugin: object) -> str:
    """Return the name by which `plugin` was asked for."""
    return vars(plugin).get(CALLED) or type(plugin).__module__.rpartition(".")[2]


def describe(plugin: object) -> dict[str, Any]:
    """Return name and settings of `plugin`, less what never leaves this machine."""
    return {"name": name_of(plugin), **travelling(plugin)}
