"""Tables as they are written: columns, CSV, markdown."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: in the CSV file.
        title: for readers.
        text: a row's cell; empty where the figure is not defined.
        help: what it says.
        short: whether it is among those that the report shows first.
    """

    name: str
    title: str
    text: Callable[[Any], str]
    help: str
    short: bool = False


def number(value: float | None, form: str = ".4f") -> str:
    """Return a figure as a cell."""
    return "" if value is None else format(value, form)


def as_csv(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    """Return a whole table; figures that are not defined are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    writer.writerows([[column.text(row) for column in columns] for row in rows])
    return text.getvalue()


def piped(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in markdown."""
    marked = [header, ["---"] * len(header), *rows]
    cells = ([cell.replace("|", r"\|") for cell in row] for row in marked)
    return "\n".join("| " + " | ".join(row) + " |" for row in cells) + "\n"
