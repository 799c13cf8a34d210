"""Markdown that holds together whatever it is made of (CommonMark, with GitHub's tables)."""

import re
from collections.abc import Iterable, Sequence

SIGNS = re.compile(r"[\\`*\[\]<>|~$&#]|(?<![^\W_])_|_(?![^\W_])")
"""What may mean something; underscores within words do not."""


def text(value: object) -> str:
    """Return somebody else's words as text in one line, of which no sign means anything."""
    line = " ".join(str(value).split())
    return SIGNS.sub(r"\\\g<0>", "".join(sign for sign in line if sign.isprintable()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def listed(items: Iterable[str]) -> str:
    """Return a list; items are Markdown already."""
    return "\n".join(f"- {item}" for item in items)
