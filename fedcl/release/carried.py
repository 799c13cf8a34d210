"""The modules of fedcl that a bundle carries, so that MONAI alone prepares images as fedcl does."""

from pathlib import Path

import fedcl

MODULES = (
    "data.channels", "data.framing", "data.grid", "data.intensities", "data.nifti", "data.notes",
    "data.pictures", "data.resampling", "data.writing", "errors", "release.images",
)  # fmt: skip
"""They import each other, and nothing else of fedcl."""
PACKAGE = '"""How fedcl reads images, prepares them and writes masks: modules of its own."""\n'


def write_scripts(folder: Path) -> None:
    """Write the modules into a package called `scripts`, which they call fedcl there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(PACKAGE)
    source = Path(fedcl.__file__).parent
    for module in MODULES:
        text = source.joinpath(*module.split(".")).with_suffix(".py").read_text()
        text = text.replace("from fedcl.data", "from scripts").replace("from fedcl", "from scripts")
        (folder / f"{module.rpartition('.')[2]}.py").write_text(text)
