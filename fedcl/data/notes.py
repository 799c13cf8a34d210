"""What a reader of data left out, guessed or changed, kept to be told where a user looks."""

from dataclasses import dataclass

SHOWN = 3
"""How many of the things that a note is about are named."""


@dataclass(frozen=True)
class Note:
    """One kind of thing that happened in reading a site's data.

    Attributes:
        what: happened, in words that name no file and no patient.
        items: to what: names of files, folders or cases.
    """

    what: str
    items: tuple[str, ...] = ()

    @property
    def brief(self) -> str:
        """The note without names, as it may leave a hospital."""
        return f"{self.what} ({len(self.items)})" if self.items else self.what

    def __str__(self) -> str:
        """The note with the first names and, of several, their number."""
        if not self.items:
            return self.what
        named = ", ".join(self.items[:SHOWN]) + (", ..." if len(self.items) > SHOWN else "")
        return f"{self.what}: {named}" + (f" ({len(self.items)})" if len(self.items) > 1 else "")


class Notes:
    """Collects notes; what happens to many files becomes one note."""

    def __init__(self) -> None:
        self._items: dict[str, list[str]] = {}

    def add(self, what: str, item: str = "") -> None:
        """Note that `what` happened, to `item`."""
        known = self._items.setdefault(what, [])
        if item:
            known.append(item)

    def all(self) -> tuple[Note, ...]:
        """Return the notes, in the order in which their kinds came up."""
        return tuple(Note(what, tuple(items)) for what, items in self._items.items())
