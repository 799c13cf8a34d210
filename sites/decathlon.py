"""Volumes in the layout of the Medical Segmentation Decathlon.

`dataset.json` names the files, `imagesTr/` and `labelsTr/` hold them (Antonelli et al., Nature
Communications 2022).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from fedcl.data.files import composed, natural, stem_of, text_of, visible
from fedcl.data.notes import Notes
from fedcl.data.reading import Files
from fedcl.errors import DataError
from fedcl.settings import closest
from sites.parts.cohorts import CohortScenario


@dataclass
class Decathlon(CohortScenario):
    """One task of the Decathlon, its cases shared out among sites.

    Of 4-D images the last axis is the channels (`channels`).
    """

    def modalities(self, site: str, path: Path) -> list[str]:
        """Return what dataset.json says of the channels; empty where it says nothing."""
        try:
            told = json.loads(text_of(path / "dataset.json"))["modality"]
            return [str(told[str(number)]) for number in range(len(told))]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return []

    def found(self, site: str, path: Path, notes: Notes) -> dict[str, list[Files]]:
        """Return the files that dataset.json names; see `CohortScenario.found`.

        Raises:
            DataError: they are missing or at odds; names the site and the file.
        """
        files = _files(site, path, notes)
        return {name: [Files((image,), label)] for name, (image, label) in files.items()}


def _files(site: str, root: Path, notes: Notes) -> dict[str, tuple[Path, Path]]:
    """Return image and label file of every training case, by its name.

    Raises:
        DataError: `dataset.json` is missing or damaged, or names files that are missing or lie
            outside of the folder.
    """
    index = root / "dataset.json"
    try:
        listed = json.loads(text_of(index))["training"]
        pairs = [(Path(one["image"]), Path(one["label"])) for one in listed]
    except FileNotFoundError:
        raise DataError(f"site {site}: no dataset.json in {root}, which lists the cases") from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        reason = said or type(error).__name__
        raise DataError(f"site {site}: {index} does not list training cases ({reason})") from None
    files: dict[str, tuple[Path, Path]] = {}
    used: set[Path] = set()
    for image, label in pairs:
        for file in (image, label):
            # A name may not lead out; whoever owns the folder may well link to other places.
            if file.is_absolute() or ".." in file.parts or "\0" in str(file):
                raise DataError(f"site {site}: {index} names {file}, which lies outside of {root}")
            if not (root / file).is_file():
                taken = {name.name for pair in pairs for name in pair}
                inside = _inside(site, (root / file).parent)
                near = closest(file.name, [p.name for p in inside if p.name not in taken])
                raise DataError(
                    f"site {site}: {index} names {root / file}, which is not there{near}"
                )
        name = stem_of(image.name) or composed(image.name)
        if name in files:
            raise DataError(f"site {site}: {index} names {name} twice")
        if label in used or label == image:
            raise DataError(f"site {site}: {index} names {label} for two images, or as an image")
        used.add(label)
        files[name] = root / image, root / label
    if not files:
        raise DataError(f"site {site}: {index} lists no training case")
    known = {file for pair in files.values() for file in pair}
    for folder in sorted({file.parent for pair in files.values() for file in pair}):
        for path in _inside(site, folder):
            if path not in known:
                notes.add(f"{folder.name}/: not listed for training in dataset.json", path.name)
    return {name: files[name] for name in sorted(files, key=natural)}


def _inside(site: str, folder: Path) -> list[Path]:
    return visible(site, folder) if folder.is_dir() else []
