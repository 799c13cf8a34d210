"""Find a strategy, scenario, model, ... by its name, in a fixed set of packages.

A name is that of a module in one of the packages below (`SCENARIO` to `PRIVACY`); nothing
else can be asked for, so neither a message nor a checkpoint can name code of its own.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
    """

    key: str
    package: str
    contract: str

    def available(self) -> list[str]:
        """Return the names there are."""
        path = importlib.import_module(self.package).__path__
        return sorted(
            m.name for m in pkgutil.iter_modules(path) if not m.ispkg and m.name != "base"
        )

    def find(self, name: str) -> type:
        """Return the class that the module `name` defines.

        Raises:
            ConfigError: there is no such name; lists those there are.
        """
        options = self.available()
        if name not in options:
            raise ConfigError(
                f"{self.key}: there is no {name!r}{closest(str(name), options)}; "
                f"there are: {', '.join(options)} (one of your own must lie in a folder "
                f"{self.package.replace('.', '/')} on PYTHONPATH)"
            )
        place, _, contract = self.contract.partition(":")
        base = getattr(importlib.import_module(place), contract)
        module = importlib.import_module(f"{self.package}.{name}")
        found = [
            cls
            for _, cls in inspect.getmembers(module, inspect.isclass)
            if issubclass(cls, base) and cls.__module__ == module.__name__
        ]
        if len(found) != 1:
            raise ConfigError(
                f"{self.key}: {module.__name__} must define exactly one {contract}, "
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


SCENARIO = Kind("scenario", "sites", "fedcl.learning.scenario:Scenario")
STRATEGY = Kind("strategy", "strategies", "fedcl.learning.strategy:Strategy")
MODEL = Kind("model", "fedcl.models", "fedcl.models.base:Model")
AGGREGATION = Kind("aggregation", "fedcl.aggregations", "fedcl.aggregations.base:Aggregation")
PRIVACY = Kind("privacy", "fedcl.privacy", "fedcl.privacy.base:Privacy")


def name_of(plugin: object) -> str:
    """Return the name by which `plugin` is found."""
    return type(plugin).__module__.rpartition(".")[2]


def describe(plugin: object) -> dict[str, Any]:
    """Return name and settings of `plugin`, less what never leaves this machine."""
    return {"name": name_of(plugin), **travelling(plugin)}
