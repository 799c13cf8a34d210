"""The command `fedcl export` for models of images: a MONAI bundle, ONNX or TorchScript."""

import os
import shutil
from pathlib import Path

from fedcl.app.card import tell
from fedcl.config.stored import stored
from fedcl.errors import ConfigError, writing
from fedcl.release.trained import METADATA, trained

SUFFIXES = {"nifti": (".nii", ".nii.gz"), "onnx": (".onnx",), "torchscript": (".ts", ".pt")}
"""Of the files of a format; a bundle is a folder."""
LONGEST = 2**20
"""Bytes of a text of a bundle that is taken over."""
FORMATS = (*SUFFIXES, "bundle")


def format_of(out: Path) -> str:
    """Return the format that a path stands for; empty where its suffix is none of a format's."""
    return next((name for name, ends in SUFFIXES.items() if out.name.endswith(ends)), "")


def release(
    run: Path, out: Path, kind: str, site: str | None, stage: int | None, model: str | None
) -> str:
    """Write the model of a run, or of a bundle.

    Args:
        run: its folder.
        out: a file or, of a bundle, a new folder or an empty one.
        kind: one of `FORMATS` but nifti.
        site: as whose images others are read; see `trained`.
        stage: likewise.
        model: likewise.

    Returns:
        What a user should know of it.

    Raises:
        FedclError: it cannot be read, or written as this; nothing is left.
    """
    ends = SUFFIXES.get(kind, ())
    if ends and not out.name.endswith(ends):
        raise ConfigError(f"export --out: {out} must end in {' or '.join(ends)}")
    if not ends and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise ConfigError(f"export --out: {out} is there already; give a new folder")
    one = trained(run, site, stage, model)
    if kind == "bundle" and not one.reads:
        called = one.about.scenario["name"]
        raise ConfigError(f"MODEL: {called} reads images by code of its own; a bundle has no place")
    out = Path(os.path.abspath(out))  # "." has no name
    part = out.with_name(f".part-{out.name}")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)  # what an export that was killed has left is of another model
    try:
        if kind == "bundle":
            from fedcl.release.bundle import write_bundle

            words, licence = _words(run, stage, one.architecture)
            write_bundle(part, one, card=words, licence=licence)
            told = f"python -m monai.bundle run, in it, or fedcl predict {out} answers images"
        else:
            from fedcl.release.portable import write_onnx, write_torchscript

            told = (write_onnx if kind == "onnx" else write_torchscript)(part, one)
        with writing(out):
            part.replace(out)
    finally:
        _remove(part)
    return told


def _remove(part: Path) -> None:
    """Remove a file, a folder or nothing."""
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part)
    part.unlink(missing_ok=True)


def _words(run: Path, stage: int | None, architecture: str) -> tuple[str, str]:
    """Return card and licence of a model: those of a bundle, or those of a run.

    Raises:
        ConfigError: a bundle's, which may come from anybody, are no text of its own.
    """
    if (run / METADATA).is_file():
        return _own(run, "docs/README.md"), _own(run, "LICENSE")
    told = tell(run, None, hidden=False, stage=stage, model=architecture) or ""
    return told, (stored(run, "MODEL").get("release") or {}).get("licence") or ""


def _own(bundle: Path, name: str) -> str:
    """Return a text of a bundle; empty where it has none."""
    file = bundle / name
    if not file.is_file():
        return ""
    if not file.resolve().is_relative_to(bundle.resolve()):
        raise ConfigError(f"MODEL: {file} lies elsewhere; what is there is not the bundle's")
    try:
        with file.open("rb") as stream:
            return stream.read(LONGEST).decode(errors="replace")
    except OSError as error:
        raise ConfigError(f"MODEL: {file} cannot be read ({error.strerror})") from None
