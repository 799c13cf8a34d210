"""Find a strategy, scenario, model, ... by its name: nothing else can be asked for.

A name is that of a module in one of the packages below (`SCENARIO` to `PRIVACY`), where folders
of the same name elsewhere on the Python path add theirs, or of an entry point that an installed
distribution declares in the group "fedcl.KEY". So neither a message nor a checkpoint can name
code of its own.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedcl.errors import ConfigError
from fedcl.settings import closest, parse, travelling


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

    @property
    def installed(self) -> dict[str, EntryPoint]:
        """The entry points that other distributions declare, by name."""
        return {one.name: one for one in entry_points(group=f"fedcl.{self.key}")}

    def modules(self) -> list[str]:
        """Return the names of the modules there are.

        Raises:
            ConfigError: another package of this name hides fedcl's.
        """
        path = importlib.import_module(self.package).__path__
        found = sorted(
            m.name for m in pkgutil.iter_modules(path) if not m.ispkg and m.name != "base"
        )
        if self.ours not in found:
            raise ConfigError(
                f"{self.key}: the package {self.package!r} at {', '.join(path)} is not fedcl's and "
                "hides it; uninstall it, or put fedcl's folder before it on PYTHONPATH"
            )
        return found

    def available(self) -> list[str]:
        """Return the names there are."""
        return sorted({*self.modules(), *self.installed})

    def find(self, name: str) -> type:
        """Return the class that goes by `name`.

        Raises:
            ConfigError: there is no such name, in which case those there are are listed, or it
                stands for no such class.
        """
        place, _, title = self.contract.partition(":")
        contract = getattr(importlib.import_module(place), title)
        if name in self.modules():
            return self._defined(name, contract)
        if name in self.installed:
            found = self.installed[name].load()
            if not inspect.isclass(found) or not issubclass(found, contract):
                where = self.installed[name].value
                raise ConfigError(
                    f"{self.key}: {name} is installed as {where}, which is no {title}"
                )
            return found
        options = self.available()
        raise ConfigError(
            f"{self.key}: there is no {name!r}{closest(str(name), options)}; "
            f"there are: {', '.join(options)} (one of your own must lie in a folder "
            f"{self.package.replace('.', '/')} on PYTHONPATH)"
        )

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
                f"{self.key}: {module.__name__} must define exactly one {contract.__name__}, "
                f"it defines {len(found)}"
            )
        return found[0]

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
        try:
            return parse(self.find(str(settings.pop("name"))), settings, key)
        except ConfigError as error:  # a plug-in names its settings by where they usually stand
            raise ConfigError(re.sub(rf"^{self.key}\b", key, str(error))) from None


SCENARIO = Kind("scenario", "sites", "fedcl.learning.scenario:Scenario", "phantom")
STRATEGY = Kind("strategy", "strategies", "fedcl.learning.strategy:Strategy", "finetune")
MODEL = Kind("model", "fedcl.models", "fedcl.models.base:Model", "unet")
AGGREGATION = Kind(
    "aggregation", "fedcl.aggregations", "fedcl.aggregations.base:Aggregation", "fedavg"
)
PRIVACY = Kind("privacy", "fedcl.privacy", "fedcl.privacy.base:Privacy", "none")
KINDS = (SCENARIO, STRATEGY, MODEL, AGGREGATION, PRIVACY)


def name_of(plugin: object) -> str:
    """Return the name by which `plugin` is found."""
    package, _, name = type(plugin).__module__.rpartition(".")
    if any(package == kind.package for kind in KINDS):
        return name
    installed = (one for kind in KINDS for one in kind.installed.values())
    return next((one.name for one in installed if one.load() is type(plugin)), name)


def describe(plugin: object) -> dict[str, Any]:
    """Return name and settings of `plugin`, less what never leaves this machine."""
    return {"name": name_of(plugin), **travelling(plugin)}
