"""What a process keeps of the hospitals it answers for: data, networks, what was received."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Cache:
    """Values by kind and key; of every kind those that were asked for last.

    It belongs to one ClientApp and lives as long: two apps of a process share nothing.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, OrderedDict[Hashable, Any]] = {}

    def get(self, kind: str, key: Hashable, make: Callable[[], T], most: int = 64) -> T:
        """Return the value of a key, made where it is not there.

        Args:
            kind: of value.
            key: all that the value depends on.
            make: makes it.
            most: values of this kind to keep.
        """
        values = self._kinds.setdefault(kind, OrderedDict())
        if key not in values:
            values[key] = make()
        values.move_to_end(key)
        while len(values) > most:
            values.popitem(last=False)
        found: T = values[key]
        return found

    def drop(self, *kinds: str) -> None:
        """Forget all values of some kinds: they are made anew when they are asked for."""
        for kind in kinds:
            self._kinds.pop(kind, None)
