"""Which files of a folder belong to which case, by patterns such as `images/{case}_{channel}`."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedcl.data.files import EXTENSIONS, bad, composed, hidden, natural, printable, stem_of
from fedcl.errors import ConfigError, DataError
from fedcl.settings import closest

PLACES = {"case": r"[^/]+?", "channel": r"\d+", "site": r"[^/]+?", "part": r"[^/]+?"}
"""What the placeholders of a pattern stand for."""
READ = "|".join(re.escape(one) for one in sorted(EXTENSIONS, key=len, reverse=True))


@dataclass(frozen=True)
class Pattern:
    """A path within a folder.

    Attributes:
        text: with `{case}`, `{channel}`, `{site}` and `{part}` for what differs, `*` for any text
            within a name. Without an extension, files of all kinds that are read; with a `/` at its
            end, a folder (a DICOM series).
        key: the setting that gives it, for messages.
    """

    text: str
    key: str

    def __post_init__(self) -> None:
        """Raise a ConfigError for a placeholder that there is not, or a path that leads out."""
        names = re.findall(r"\{(.*?)\}", self.text)
        wrong = [name for name in names if name not in PLACES or names.count(name) > 1]
        parts = self.text.rstrip("/").split("/")
        if wrong or "case" not in names or any(one in ("", ".", "..") for one in parts):
            raise ConfigError(
                f"{self.key}: give a path within the site's folder, such as 'images/{{case}}.png', "
                "with {case} once and {channel}, {site}, {part} or * where needed, got "
                f"{self.text!r}"
            )

    @property
    def fixed(self) -> str:
        """The folders above what it means that are the same for all, such as `images`."""
        above = self.text.rstrip("/").split("/")[:-1]
        plain = [not re.search(r"[{*]", part) for part in above]
        return "/".join(above[: plain.index(False)] if False in plain else above)

    @property
    def depth(self) -> int:
        """How many folders lie above what it means."""
        return self.text.rstrip("/").count("/")

    def regex(self, **known: str) -> re.Pattern[str]:
        """Return the expression of paths that it means.

        Args:
            known: what some of the placeholders are.
        """
        parts = re.split(r"(\{\w+\}|\*)", self.text)
        written = [self._part(part, known) for part in parts]
        kind = "" if self.text.endswith("/") or _extended(self.text) else f"(?i:{READ})"
        return re.compile("".join(written) + kind)

    def _part(self, part: str, known: dict[str, str]) -> str:
        if part == "*":
            return "[^/]*"
        name = part[1:-1]
        if not part.startswith("{"):
            return re.escape(part)
        if name in known:
            return re.escape(known[name])
        return f"(?P<{name}>{PLACES[name]})"


def _extended(text: str) -> bool:
    return text.lower().endswith((*EXTENSIONS, "*"))


@dataclass(frozen=True)
class Tree:
    """The files and folders in a folder.

    Attributes:
        site: whose it is, for messages.
        root: the folder.
        depth: how many folders deep it is searched.
    """

    site: str
    root: Path
    depth: int

    @cached_property
    def paths(self) -> dict[str, Path]:
        """What lies in it, by its path from the root; of folders that ends with `/`.

        Raises:
            DataError: it cannot be looked into, or names are no text.
        """
        found: dict[str, Path] = {}

        def refuse(error: OSError) -> None:
            raise DataError(f"site {self.site}: folder {error.filename}: {error.strerror}")

        for place, folders, files in os.walk(self.root, onerror=refuse, followlinks=True):
            here = Path(place)
            inside = [here / name for name in sorted([*folders, *files])]
            within = here.relative_to(self.root).parts
            for path in inside:
                if not hidden(path):
                    end = "/" if path.name in folders else ""
                    name = composed("/".join([*within, path.name])) + end
                    if name in found:
                        raise bad(self.site, path, "another name reads alike (Unicode); rename one")
                    found[name] = path
            folders[:] = [n for n in folders if not hidden(here / n) and len(within) < self.depth]
        for name, path in found.items():
            if not _writable(name):
                raise bad(self.site, path, "a name that is no text (UTF-8); rename it")
        return found

    def match(self, pattern: Pattern, **known: str) -> list[tuple[dict[str, str], Path]]:
        """Return what a pattern means, in the order of the names, and what the placeholders are."""
        regex = pattern.regex(**known)
        matched = ((regex.fullmatch(name), path) for name, path in self.paths.items())
        found = [(match.groupdict(), path) for match, path in matched if match]
        return sorted(found, key=lambda one: natural(str(one[1])))

    @cached_property
    def stems(self) -> dict[str, list[Path]]:
        """The files that are read, by their paths without extension."""
        found: dict[str, list[Path]] = {}
        for name, path in self.paths.items():
            stem = stem_of(name)
            if stem is not None:
                found.setdefault(stem, []).append(path)
        return found

    def _named(self, pattern: Pattern, known: dict[str, str]) -> list[Path]:
        """Return the files that a pattern means once its placeholders are known."""
        name = pattern.text.format_map(_Known(known))
        if "*" in name or "{" in name:
            return [path for _, path in self.match(pattern, **known)]
        if name.endswith("/") or _extended(name):
            return [self.paths[name]] if name in self.paths else []
        return self.stems.get(name, [])

    def one(self, patterns: Sequence[Pattern], image: Path, **known: str) -> Path:
        """Return the one file that one of several patterns means.

        Args:
            patterns: the first that means any counts.
            image: to which it belongs, for messages.
            known: the placeholders.

        Raises:
            DataError: none means any, or one means several.
        """
        for pattern in patterns:
            found = self._named(pattern, known)
            if len(found) > 1:
                several = ", ".join(path.name for path in found[:3])
                raise bad(self.site, image, f"{pattern.key} finds several: {several}; keep one")
            if found:
                return found[0]
        wanted = " or ".join(pattern.text.format_map(_Known(known)) for pattern in patterns)
        place, _, name = wanted.rpartition("/")
        above = {known: known.rstrip("/").rpartition("/")[0] for known in self.paths}
        beside = [path.name for known, path in self.paths.items() if above[known] == place]
        longer = [one for one in beside if one.startswith(name)]
        near = closest(name, longer or beside, surely=bool(longer))
        raise bad(
            self.site,
            image,
            f"{patterns[0].key} finds no file {printable(wanted)}{near}; "
            "add it, or take its image away",
        )


class _Known(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"


def _writable(name: str) -> bool:
    """Return whether a name can be written down and sent."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
