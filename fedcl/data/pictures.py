"""Reading pictures (PNG, TIFF, JPEG, ...): the right way up, nothing guessed."""

import gzip
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

Array = np.ndarray[Any, Any]

LARGEST = 2**30
"""Bytes of a picture that is unpacked."""
FORMATS = ("PNG", "TIFF", "JPEG", "BMP", "GIF", "PPM")
"""Content decides how a picture is decoded, and Pillow knows far more formats than these."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations in EXIF data that exchange rows and columns."""
GREY = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Picture:
    """A picture as it is to be looked at.

    Attributes:
        image: upright.
        clear: whether it is transparent in part.
        turned: whether its EXIF data have turned it.
    """

    image: Image.Image
    clear: bool
    turned: bool


def opened(file: Path) -> Picture:
    """Return a picture, turned as its EXIF data say.

    Raises:
        OSError, ValueError, ...: it is damaged, or there are several in one file.
    """
    content = _content(file)
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            picture.verify()  # some damage shows only here
    except UnidentifiedImageError:
        raise ValueError(f"none of {', '.join(FORMATS)}, or damaged") from None
    with Image.open(BytesIO(content), formats=FORMATS) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise ValueError("several pictures in one file")
        turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
        if picture.format == "TIFF" and turn in SIDEWAYS:
            # Pillow 13 mixes up rows and columns of these before it turns them.
            raise ValueError(
                f"a TIFF turned on its side by its orientation {turn}; save it upright"
            )
        _check_depth(picture, content)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    clear = False
    if "A" in upright.getbands() or "transparency" in upright.info:
        clear = upright.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    return Picture(upright, clear, turn != 1)


def _content(file: Path) -> bytes:
    """Return the bytes of a picture, unpacked where they are compressed.

    Raises:
        OSError, ValueError: they cannot be, or are too many.
    """
    if not file.name.lower().endswith(".gz"):
        return file.read_bytes()
    with gzip.open(file) as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"over {LARGEST:,} bytes unpacked")
    return content


def _check_depth(picture: Image.Image, content: bytes) -> None:
    """Raise `ValueError` where Pillow would cut, wrap or invert values without a word."""
    if picture.format == "PNG":
        header = content[:26]
        if header[24] == 16 and header[25] != 0:  # bit depth; colour or transparency
            raise ValueError(
                "16 bits with colours or transparency; save it as 16-bit grey or 8-bit"
            )
    if picture.format == "PPM" and content[:2] in (b"P2", b"P3", b"P5", b"P6"):
        values = re.sub(rb"#[^\n]*\n", b" ", content[:512]).split()[:4]
        most = int(values[3]) if len(values) == 4 and values[3].isdigit() else 255
        if picture.mode == "RGB" and most > 255:
            raise ValueError("colours of more than 8 bits; save it as 16-bit grey or with 8 bits")
        if most not in (255, 65535):
            raise ValueError(f"values up to {most}, which would be stretched; save it with 255")
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        tags = picture.tag_v2
        bits = max(_numbers(tags.get(TiffImagePlugin.BITSPERSAMPLE, 1)))
        kind = max(_numbers(tags.get(TiffImagePlugin.SAMPLEFORMAT, 1)))
        white = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 1) == 0
        if (bits == 8 and kind == 2) or (bits == 32 and kind == 1):
            signed = "signed" if kind == 2 else "unsigned"
            raise ValueError(
                f"a TIFF of {bits}-bit {signed} numbers; save it with 16 bits or floats"
            )
        if bits > 8 and (white or picture.mode not in GREY):
            raise ValueError(
                "a TIFF of over 8 bits in colours or with 0 for white; save it as grey"
            )


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def channels(picture: Image.Image) -> Array:
    """Return the channels of an image: three colours, or one of numbers of over 8 bits."""
    if picture.mode in GREY[1:]:
        return np.asarray(picture)[None]
    return np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)


def marks(picture: Image.Image, colours: bool) -> Array:
    """Return the values of a mask, (rows, columns), or (rows, columns, 3) if asked for `colours`.

    A palette of greys stands for its greys, one of colours for its indices.

    Raises:
        ValueError: its channels differ, so that it is not known which of them is meant.
    """
    if colours:
        if picture.mode in GREY[1:]:
            raise ValueError("classes are given as colours, this has numbers of over 8 bits")
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
