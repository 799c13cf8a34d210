"""Named arrays as Flower records, which is how they are sent."""

import hashlib
from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord

from fedcl.arrays import Arrays


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return `arrays` as a Flower record."""
    # In C order, as files have it: the same values have the same bytes.
    return ArrayRecord({key: Array(np.asarray(a, order="C")) for key, a in arrays.items()})


def from_record(record: ArrayRecord) -> Arrays:
    """Return the arrays of a Flower record.

    Raises:
        TypeError: something in it is not an array.
    """
    arrays = {key: array.numpy() for key, array in record.items()}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # an archive of arrays loads as well
            raise TypeError(f"{key} is not an array")
    return arrays


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
