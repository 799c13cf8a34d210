"""Reading pictures (PNG, TIFF, JPEG, ...): one channel, the right way up, nothing guessed."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

Array = np.ndarray[Any, Any]

FORMATS = ("PNG", "TIFF", "JPEG", "BMP", "GIF", "PPM")
"""Content decides how a picture is decoded, and Pillow knows far more formats than these."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations in EXIF data that exchange rows and columns."""
GREY = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def opened(file: Path) -> tuple[Image.Image, bool]:
    """Return a picture, turned as its EXIF data say, and whether it is transparent in part.

    Raises:
        OSError, ValueError, ...: it is damaged, or there are several in one file.
    """
    with Image.open(file, formats=FORMATS) as picture:  # some damage shows only here
        picture.verify()
    with Image.open(file, formats=FORMATS) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise ValueError("several pictures in one file")
        turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
        if picture.format == "TIFF" and turn in SIDEWAYS:
            # Pillow 13 mixes up rows and columns of these before it turns them.
            raise ValueError(
                f"a TIFF turned on its side by its orientation {turn}; save it upright"
            )
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    clear = False
    if "A" in upright.getbands() or "transparency" in upright.info:
        clear = upright.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    return upright, clear


def grey(picture: Image.Image) -> tuple[Array, bool]:
    """Return the values (rows, columns) of an image, and whether colours were given up.

    Of channels that differ, what is left is the luminance (ITU-R 601).
    """
    if picture.mode in GREY:
        return np.asarray(picture), False
    channels = np.asarray(picture.convert("RGB"))
    return np.asarray(picture.convert("L")), bool((channels != channels[..., :1]).any())


def marks(picture: Image.Image, colours: bool) -> Array:
    """Return the values of a mask, (rows, columns), or (rows, columns, 3) if asked for `colours`.

    A palette of greys stands for its greys, one of colours for its indices.

    Raises:
        ValueError: its channels differ, so that it is not known which of them is meant.
    """
    if colours:
        return np.asarray(picture.convert("RGB"))
    if picture.mode in GREY:
        return np.asarray(picture)
    if picture.mode == "P":
        palette = np.array(picture.getpalette()).reshape(-1, 3)
        if (palette != palette[:, :1]).any():
            return np.asarray(picture)
    channels = np.asarray(picture.convert("RGB"))
    if (channels != channels[..., :1]).any():
        raise ValueError(
            "its colour channels differ; save it with one channel, or name the colours of the "
            "classes in scenario.labels, such as ['#000000','#ff0000']"
        )
    return np.asarray(channels[..., 0])
