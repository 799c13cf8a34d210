"""Hospitals by their names, or numbered where nobody may know who they are."""

import json
import re
import shlex
from collections.abc import Sequence
from unicodedata import normalize

from fedcl.release.markdown import text

SHORT = 3
"""Names of fewer signs are hidden where they stand alone: within words they are just letters."""


class Names:
    """How hospitals are called in what is handed out.

    Args:
        sites: all of a run, in order of arrival.
        hidden: whether they are called Hospital 1, 2, ... in that order.
    """

    def __init__(self, sites: Sequence[str], hidden: bool) -> None:
        self._called = {
            site: f"Hospital {n}" if hidden else site for n, site in enumerate(sites, 1)
        }
        self._pattern: re.Pattern[str] | None = None
        if hidden and sites:
            spelt = {way: self._called[site] for site in sites for way in _spelt(site)}
            spelt |= self._called
            ways = sorted(spelt, key=len, reverse=True)
            self._pattern = re.compile("|".join(f"({_anywhere(w)})" for w in ways), re.IGNORECASE)
            self._spelt, self._ways = spelt, ways

    def cell(self, site: str) -> str:
        """Return a hospital's name as Markdown."""
        return text(self._called.get(site) or self.masked(site))

    def some(self, sites: Sequence[str]) -> str:
        """Return several, as Markdown."""
        return ", ".join(map(self.cell, sites)) or "none"

    def masked(self, words: str) -> str:
        """Return somebody else's words with no hospital's name in them that is to be hidden."""
        if self._pattern is None:
            return words

        def called(found: re.Match[str]) -> str:
            # Which alternative has matched says whose name it is: case folds in many ways.
            way = self._ways[(found.lastindex or 1) - 1]
            return self._spelt.get(found[0], self._spelt[way])

        return self._pattern.sub(called, words)

    def text(self, words: str) -> str:
        """Return the same as Markdown."""
        return text(self.masked(words))

    def code(self, words: Sequence[str]) -> str:
        """Return a command line as Markdown: what is first as it is, the rest quoted."""
        first, *rest = words
        given = [shlex.quote(" ".join(self.masked(one).split())) for one in rest]
        lines = " \\\n  ".join([first, *given])
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", lines)), default=0))
        return f"{fence}\n{lines}\n{fence}"


def _spelt(site: str) -> set[str]:
    """Return how a name may be written by JSON, by Python, in one line, or by a file system."""
    ways = {site, " ".join(site.split()), *(normalize(form, site) for form in ("NFC", "NFD"))}
    escaped = {write(one)[1:-1] for one in ways for write in (json.dumps, _unescaped, repr)}
    return {way for way in ways | escaped if way.strip()}


def _unescaped(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _anywhere(site: str) -> str:
    """Return the pattern of a name, wherever it stands in paths, names of files or sentences."""
    name = re.escape(site)
    return name if len(site) >= SHORT else rf"(?<![^\W_]){name}(?![^\W_])"
