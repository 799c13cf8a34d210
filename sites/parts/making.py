"""One image, from its files to what networks are shown of it."""

from dataclasses import dataclass

from fedcl.data.cached import Made
from fedcl.data.files import bad
from fedcl.data.labels import IGNORED
from fedcl.data.notes import Notes
from fedcl.data.preparing import Preparation
from fedcl.data.reading import Files, Reader, read_pair
from sites.parts.shift import Scanning


@dataclass(frozen=True)
class Making:
    """How an image is made.

    Attributes:
        files: of the image.
        reader: reads them.
        prepare: makes scans of what was read.
        scanning: the imaginary scanner that it passes through before; None for none.
    """

    files: Files
    reader: Reader
    prepare: Preparation
    scanning: Scanning | None

    def __call__(self) -> Made:
        """Return the scans, none where no voxel counts, and what was noted.

        Raises:
            DataError: the files cannot be used; names the site and the file.
        """
        try:
            return self._made()
        except MemoryError:
            raise self._bad("too large for the memory there is") from None

    def _made(self) -> Made:
        notes, name = Notes(), self.files.images[0].name
        pair = read_pair(self.files, self.reader, notes)
        if (pair.labels == IGNORED).all():
            notes.add("left out, since all of the mask is ignored", name)
            return [], list(notes.all())
        if self.scanning is not None:
            pair = self.scanning(pair, self.files, self.prepare.nonzero)
        try:
            scans = self.prepare(pair)
        except ValueError as error:
            raise self._bad(str(error)) from None
        left = len(pair.labels) - sum(scan.own[0] for scan in scans)
        if left:
            notes.add("slices beyond scenario.margin left out, in tests too", f"{name} {left}")
        return scans, list(notes.all())

    def _bad(self, what: str) -> Exception:
        return bad(self.reader.site, self.files.images[0], what)
