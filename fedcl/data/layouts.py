"""Image and mask files of every case of a site, found by patterns."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcl.data.files import EXTENSIONS, bad, composed, data_beside, natural, printable
from fedcl.data.notes import Notes
from fedcl.data.patterns import Pattern, Tree
from fedcl.data.reading import Files
from fedcl.errors import ConfigError, DataError
from fedcl.settings import closest

PARTS = ("train", "val", "test")
"""How the names begin of folders for training, validation and testing."""


@dataclass(frozen=True)
class Found:
    """What belongs to a case: its files, and the part of the data that its folder is for."""

    files: Files
    part: str = ""


@dataclass(frozen=True)
class Layout:
    """Where images, their masks and masks of what counts lie in a site's folder.

    Attributes:
        image, mask, region: patterns; the first that means any file counts. What a pattern of masks
            means is no image.
    """

    image: tuple[Pattern, ...]
    mask: tuple[Pattern, ...]
    region: tuple[Pattern, ...] = ()

    @classmethod
    def of(cls, image: Any, mask: Any, region: Any, key: str) -> "Layout":
        """Read the settings `image`, `mask` and `region`: a pattern or a list of some.

        Raises:
            ConfigError: they are none.
        """
        read = []
        for name, given in (("image", image), ("mask", mask), ("region", region)):
            texts = given if isinstance(given, list | tuple) else [given] if given else []
            if not all(isinstance(text, str) for text in texts) or not (texts or name == "region"):
                raise ConfigError(f"{key}.{name}: give a pattern, or a list of some, got {given!r}")
            read.append(tuple(Pattern(text, f"{key}.{name}") for text in texts))
        return cls(*read)

    @property
    def sited(self) -> bool:
        """Whether files of several sites lie in one folder, told apart by `{site}`."""
        return any("{site}" in pattern.text for pattern in self.image)

    def there(self, folder: Path) -> bool:
        """Return whether a folder has the folder in which images are to lie, and that one any."""
        place = folder / self.image[0].fixed
        if not place.is_dir():
            return False
        if self.image[0].fixed:
            return True
        tree = self._tree("there", folder)
        return any(tree.match(pattern) for pattern in self.image)

    def sites(self, root: Path) -> list[str]:
        """Return the sites whose files lie in one folder; see `sited`.

        Raises:
            DataError: the folder cannot be looked into.
        """
        tree = self._tree("in scenario.root", root)
        matched = (known for pattern in self.image for known, _ in tree.match(pattern))
        return sorted({known["site"] for known in matched if "site" in known})

    def images(self, site: str, root: Path) -> dict[str, dict[int, Path]]:
        """Return the image files of every case by the channel's number, where there are no masks.

        Raises:
            DataError: there are none, or two of one name.
        """
        self._check_folder(site, root / self.image[0].fixed)
        found = self._images(self._tree(site, root), set(), {})
        return {
            case: {number: channels[number] for number in sorted(channels)}
            for case, (_, channels) in found.items()
        }

    def found(self, site: str, root: Path, notes: Notes) -> dict[str, Found]:
        """Return the files of every case, in the order of their names.

        Args:
            site: whose.
            root: the folder.
            notes: gets what is left out.

        Raises:
            DataError: none, or one without partner; names the site and the file.
        """
        self._check_folder(site, root / self.image[0].fixed)
        tree, known = self._tree(site, root), {"site": site} if self.sited else {}
        masks = {
            path
            for pattern in (*self.mask, *self.region)
            for _, path in tree.match(pattern, **known)
        }
        images = self._images(tree, masks, known)
        self._check_folder(site, root / self.mask[0].fixed)
        found: dict[str, Found] = {}
        used: dict[Path, Path] = {}
        _, first = next(iter(images.values()))
        for case, (told, channels) in images.items():
            files = tuple(channels[number] for number in sorted(channels))
            if channels.keys() != first.keys():
                has, others = (", ".join(map(str, sorted(one))) for one in (channels, first))
                raise bad(site, files[0], f"case {case} has the channels {has}, the first {others}")
            mask = tree.one(self.mask, files[0], **known, **told)
            if mask in used:
                raise bad(site, mask, f"the mask of {used[mask].name} and {files[0].name}")
            used[mask] = files[0]
            region = tree.one(self.region, files[0], **known, **told) if self.region else None
            part = _part(told["part"], files[0], site) if "part" in told else ""
            found[case] = Found(Files(files, mask, region), part)
        self._check_rest(tree, found, masks, notes)
        return found

    def _check_folder(self, site: str, folder: Path) -> None:
        """Raise `DataError` where there is no such folder."""
        if not folder.is_dir():
            raise DataError(f"site {site}: folder {folder}: No such file or directory")

    def _tree(self, site: str, root: Path) -> Tree:
        """Return what lies in a folder, as deep as patterns go."""
        every = (*self.image, *self.mask, *self.region)
        return Tree(site, root, max(pattern.depth for pattern in every))

    def _images(
        self, tree: Tree, masks: set[Path], known: dict[str, str]
    ) -> dict[str, tuple[dict[str, str], dict[int, Path]]]:
        """Return of every case what its placeholders are, and the image of each channel.

        Raises:
            DataError: there are none, or two of one name.
        """
        for pattern in self.image:
            images: dict[str, tuple[dict[str, str], dict[int, Path]]] = {}
            for told, path in tree.match(pattern, **known):
                # A pattern of images may mean masks as well, which lie beside them.
                if path in masks and pattern.text not in [one.text for one in self.mask]:
                    continue
                channel = int(told.pop("channel", 0))
                _, channels = images.setdefault(told["case"], (told, {}))
                other = channels.setdefault(channel, path)
                if other != path:
                    raise bad(tree.site, path, self._twice(tree, told["case"], other))
            if images:
                return {case: images[case] for case in sorted(images, key=natural)}
        raise DataError(f"site {tree.site}: {self._nothing(tree)}")

    def _twice(self, tree: Tree, case: str, other: Path) -> str:
        """Return that a file is of a case that another one is of, too."""
        where = other.relative_to(tree.root)
        return f"of case {case} like {where}; keep one, or let {{case}} tell them apart"

    def _check_rest(
        self, tree: Tree, found: dict[str, Found], masks: set[Path], notes: Notes
    ) -> None:
        """Note what is not read in the folders that are.

        Raises:
            DataError: a mask has no image.
        """
        read = {path for one in found.values() for path in one.files.every}
        lone = sorted(masks - read)
        if lone:
            images = [one.files.images[0].name for one in found.values()]
            near = closest(lone[0].name, images)
            raise bad(tree.site, lone[0], f"a mask without image{near} ({len(lone)} such in all)")
        folders, above = {path.parent for path in read}, {up for one in read for up in one.parents}
        beside = {raw for path in read for raw in data_beside(path)}
        for name, path in tree.paths.items():
            if path.parent in folders and path not in read | beside | above:
                kind = (
                    "folders are not searched" if name.endswith("/") else "files of a kind not read"
                )
                notes.add(f"{path.parent.name}/: {kind}", path.name)

    def _nothing(self, tree: Tree) -> str:
        """Return that there is no image, and what there is."""
        wanted = " or ".join(pattern.text for pattern in self.image)
        place = tree.root / self.image[0].fixed
        inside = [path for path in tree.paths.values() if path.is_relative_to(place)]
        kinds = Counter(path.suffix or path.name for path in inside if path.is_file())
        parts = [f"{count} {kind}" for kind, count in kinds.most_common(4)]
        folders = [path.name for path in inside if path.is_dir() and path != place]
        parts += [f"folders {', '.join(folders[:3])}"] if folders else []
        told = f" (there is: {', '.join(parts)})" if parts else ""
        return printable(
            f"folder {place}: no file to read as {wanted}{told}; read are {' '.join(EXTENSIONS)}"
        )


def _part(name: str, path: Path, site: str) -> str:
    """Return what a folder is for, by how its name begins.

    Raises:
        DataError: its name says nothing of the kind.
    """
    part = next((part for part in PARTS if composed(name).lower().startswith(part)), None)
    if part is None:
        what = f"{{part}} is {name!r}; names that begin with {', '.join(PARTS)} are known"
        raise bad(site, path, what)
    return part
