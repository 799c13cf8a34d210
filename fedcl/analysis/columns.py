"""Tables as they are written: columns, CSV, markdown."""

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

FORMULA = ("=", "+", "-", "@")
"""How a cell begins that spreadsheets take for a formula."""


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
    return csv_of(
        [column.name for column in columns],
        [[column.text(row) for column in columns] for row in rows],
    )


def csv_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return CSV in which no cell is a formula to the program that opens it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_defused(cell) for cell in row] for row in (header, *rows))
    return text.getvalue()


def _defused(cell: str) -> str:
    """Return a cell as text where a spreadsheet would compute it; numbers stay as they are."""
    line = re.sub(r"[\t\r\n]+", " ", cell).strip()
    return f"'{line}" if line.startswith(FORMULA) and not _is_number(line) else line


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def piped(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in markdown; what cells hold is text, neither HTML nor a further cell."""
    marked = [header, ["---"] * len(header), *rows]
    cells = ([_plain(cell) for cell in row] for row in marked)
    return "\n".join("| " + " | ".join(row) + " |" for row in cells) + "\n"


def _plain(cell: str) -> str:
    return " ".join(html.escape(cell, quote=False).split()).replace("|", r"\|")
