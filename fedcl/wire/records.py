"""Named arrays as Flower records, which is how they are sent."""

import hashlib
import io
import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from flwr.app import Array, ArrayRecord

from fedcl.arrays import Arrays

Forms = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape of arrays, by name."""
MOST, LONGEST, AXES = 10_000, 200, 8
"""Arrays in a record, signs in the name of one, axes that it has."""
LARGEST = 16 * 2**30
"""Bytes of a record."""
KINDS = frozenset(
    (
        "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8",
        "uint16", "uint32", "uint64",
    )
)  # fmt: skip
"""Types of arrays; none holds Python objects."""


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return `arrays` as a Flower record."""
    # In C order, as files have it: the same values have the same bytes.
    return ArrayRecord({key: Array(np.asarray(a, order="C")) for key, a in arrays.items()})


def from_record(record: ArrayRecord, expected: Forms | None = None) -> Arrays:
    """Return the arrays of a Flower record; see `check`."""
    check(record, expected)
    return {key: array.numpy() for key, array in record.items()}


def forms_of(record: ArrayRecord) -> Forms:
    """Return what the arrays of a record are."""
    return {key: (array.dtype, tuple(array.shape)) for key, array in record.items()}


def check(record: ArrayRecord, expected: Forms | None = None) -> None:
    """Check arrays before any of them is decoded: their bytes are those of what they say they are.

    Args:
        record: as it came.
        expected: what they must be, where that is known.

    Raises:
        ValueError: they are more, larger or other than they may be.
    """
    if len(record) > MOST:
        raise ValueError(f"{len(record)} arrays, at most {MOST} may be")
    if expected is not None and record.keys() != expected.keys():
        different = sorted(key[:LONGEST] for key in record.keys() ^ expected.keys())
        raise ValueError(
            f"its arrays are not those that were asked for: {', '.join(different[:3])}"
        )
    if size_of(record) > LARGEST:
        raise ValueError(f"{size_of(record)} bytes of arrays, at most {LARGEST} may be")
    for key, array in record.items():
        if len(key) > LONGEST:
            raise ValueError(f"the name of an array has {len(key)} signs, more than {LONGEST}")
        kind, shape = array.dtype, tuple(array.shape)
        if expected is not None and shape != expected[key][1]:
            raise ValueError(f"{key} has shape {shape[:AXES]}, not {expected[key][1]}")
        if expected is not None and kind != expected[key][0]:
            raise ValueError(f"{key} has type {kind[:20]}, not {expected[key][0]}")
        if kind not in KINDS or len(shape) > AXES or min(shape, default=0) < 0:
            raise ValueError(f"{key} is no array of numbers")
        head, there = _head(kind, shape), array.data
        size = len(head) + math.prod(shape) * np.dtype(kind).itemsize
        if array.stype != "numpy.ndarray" or len(there) != size or not there.startswith(head):
            raise ValueError(f"{key} does not hold the {kind} of shape {shape} that it says")


@lru_cache(maxsize=4096)
def _head(kind: str, shape: tuple[int, ...]) -> bytes:
    """Return what the bytes of an array begin with: nobody else's are parsed."""
    stream = io.BytesIO()
    told = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, told)
    return stream.getvalue()


def size_of(record: ArrayRecord) -> int:
    """Return the bytes of a record's arrays as they are sent."""
    return sum(len(array.data) for array in record.values())


def digest(record: ArrayRecord) -> str:
    """Return the SHA-256 of names, types, shapes and values of a record's arrays."""
    sha = hashlib.sha256()
    for key in sorted(record):
        sha.update(f"{len(key)}:{key}".encode())
        sha.update(record[key].data)
    return sha.hexdigest()
