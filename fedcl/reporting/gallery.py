"""A page to look through masks: case by case the picture, the numbers and the notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedcl.data.files import printable
from fedcl.reporting.overlays import PERCENTILES
from fedcl.reporting.sheets import colour_of

FOLDER = "overlays"
"""Where the pictures lie, beside the page."""
SHOWN = (
    "Outlines are those of the mask, a colour per class. Of volumes the slice with most of the "
    "mask is shown, in all three planes where the model works on volumes, and a few more: it is "
    "not the whole mask.",
    "Planes of known orientation lie as in radiology: R, at the left, is the patient's right, A "
    "the front. Slices with no letter lie as they are stored.",
    "Grey values run from the percentile {} to {} of each image; of several channels the first is "
    "shown, photographs in their colours.".format(*PERCENTILES),
    "Means are intensities of the first channel, as they came.",
)


@dataclass(frozen=True)
class Answered:
    """An image that has its mask.

    Attributes:
        name: of the case.
        file: of the mask.
        rows: per class but the background `label`, `voxels`, `ml` and `mean`, in words.
        notes: what was guessed in reading the image.
    """

    name: str
    file: str
    rows: Sequence[Mapping[str, str]]
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The name in one line that any page can hold."""
        return printable(self.name)

    @property
    def picture(self) -> str:
        """The address of the picture."""
        return quote(f"{FOLDER}/{self.name}.png")

    @property
    def mask(self) -> str:
        """The address of the mask."""
        return quote(self.file)


def gallery(
    title: str, facts: Sequence[str], cases: Sequence[Answered], failed: Mapping[str, str]
) -> str:
    """Return the page.

    It needs no network and no other file than the pictures, to which it refers; names may hold
    anything. Without scripts all cases are shown, one below the other.

    Args:
        title: of the page.
        facts: what a reader should know besides `SHOWN`.
        cases: with their masks.
        failed: images without, and why.
    """
    environment = Environment(
        loader=PackageLoader("fedcl.reporting", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("gallery.html").render(
        title=title,
        facts=[*facts, *SHOWN],
        cases=cases,
        failed=failed,
        colour_of=colour_of,
    )
