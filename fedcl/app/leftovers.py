"""A search for what a hospital may have left in a folder: the bytes of every file are looked at."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TELLING = 3
"""Signs from which on a name, if it is no number, is searched for inside of longer texts."""
RARE = 8
"""Bytes from which on a name does not come up by chance among those of weights or pictures."""


@dataclass(frozen=True)
class Leftover:
    """Something of the hospital that is still there.

    Attributes:
        file: where, from the folder that was searched.
        what: was found.
        place: the text that it stands in, if any.
    """

    file: Path
    what: str
    place: str = ""

    def __str__(self) -> str:
        """Say in one line what was found where."""
        place = " ".join(self.place.split())
        return f"{self.file}: {self.what}" + (f", in {place[:80]!r}" if place else "")


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Attributes:
        site: the hospital's name.
        cases: names of its cases that no other hospital's case has.
        digests: of its data.
        others: names of the hospitals that stay; what stands inside of one is not looked at.
    """

    site: str
    cases: Collection[str] = ()
    digests: Collection[str] = ()
    others: Collection[str] = ()

    def through(self, folder: Path) -> tuple[list[Leftover], int]:
        """Return what is found in a folder, and how many files were looked at."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        found: list[Leftover] = []
        for path in files:
            file = path.relative_to(folder)
            parts = [*map(self._bare, file.parts), self._bare(file.stem)]
            telling = len(self.site) >= TELLING and not self.site.isdigit()
            if self.site in parts or (telling and any(map(_word(self.site).search, parts))):
                found.append(Leftover(file, f"{self.site} in its path"))
            found += self._in(file, path.read_bytes())
        return found, len(files)

    def _in(self, file: Path, content: bytes) -> Iterator[Leftover]:
        """Yield what a file holds; of every name its first place."""
        for digest in self.digests:
            if digest.encode() in content:
                yield Leftover(file, "the digest of its data")
        texts, structured = _texts(file, content)
        texts, bare = [*map(self._bare, texts)], content
        for other in self._longer:
            bare = bare.replace(other.encode(), b"...")
        for name in (self.site, *self.cases):
            number = name.isdigit()
            telling = len(name) >= TELLING and not number
            pattern = _word(name) if telling or not (structured or number) else _alone(name)
            place = next((text for text in texts if pattern.search(text)), None)
            if place is not None:
                yield Leftover(file, name, place)
            elif telling and len(name.encode()) >= RARE and _in_bytes(name, bare):
                yield Leftover(file, name)

    @property
    def _longer(self) -> list[str]:
        """The names of others that the hospital's is a part of."""
        return [other for other in self.others if self.site in other]

    def _bare(self, text: str) -> str:
        """Return a text without the names of others that the hospital's is a part of."""
        for other in self._longer:
            text = text.replace(other, "...")
        return text


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])")  # "_" parts words


def _alone(name: str) -> re.Pattern[str]:
    """Return what finds a name that may be a number or a letter of the alphabet.

    It is a text of its own, follows on the word "site", or is a part of the name of an array, after
    the number of a stage or "buffer": "0/B/quantiles", "buffer/B/inputs".
    """
    own = re.escape(name)
    return re.compile(rf"^{own}$|\bsites? {own}(?!\w)|(?:^|/)(?:buffer|\d+)/{own}/")


def _in_bytes(name: str, content: bytes) -> bool:
    word = rb"(?<![^\W_])%s(?![^\W_])" % re.escape(name.encode())
    return re.search(word, content) is not None


def _texts(file: Path, content: bytes) -> tuple[list[str], bool]:
    """Return what a file says in words, and whether these are values and keys rather than lines."""
    try:
        if file.suffix in READERS:
            return list(_strings(READERS[file.suffix](content))), True
    except (ValueError, RecursionError, yaml.YAMLError):  # damaged; and searched all the same
        pass
    try:
        return content.decode().splitlines(), False
    except UnicodeDecodeError:
        return [], False


def _strings(read: Any) -> Iterator[str]:
    """Yield all keys and values that are texts."""
    if isinstance(read, str):
        yield read
    elif isinstance(read, Mapping):
        for key, value in read.items():
            yield str(key)
            yield from _strings(value)
    elif isinstance(read, list):
        for one in read:
            yield from _strings(one)


def _header(content: bytes) -> Any:
    """Return the header of a safetensors file: the names of its arrays."""
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


READERS: dict[str, Callable[[bytes], Any]] = {
    ".json": json.loads,
    ".jsonl": lambda content: [json.loads(line) for line in content.splitlines()],
    ".yaml": yaml.safe_load,
    ".safetensors": _header,
}
"""Files that are values and keys: what is a name in them is told apart from what is a word."""
