"""Named arrays (weights): records on the wire, safetensors on disk, digests, means.

Nothing here or anywhere else in fedcl unpickles.
"""

import hashlib
import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import nn

from fedcl.errors import RunError
from fedcl.files import write_atomically

Arrays = dict[str, np.ndarray]


def of_network(network: nn.Module) -> Arrays:
    """Return copies of all parameters and buffers."""
    return {key: value.detach().cpu().numpy().copy() for key, value in network.state_dict().items()}


def into_network(network: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Load `arrays` into `network`.

    Raises:
        RuntimeError: keys or shapes are not the network's.
    """
    network.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over the arrays' bytes in key order."""
    sha = hashlib.sha256()
    for key in sorted(arrays):
        sha.update(np.ascontiguousarray(arrays[key]).data)
    return sha.hexdigest()


def mismatch(update: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> str | None:
    """Return why `update` must not be averaged into `reference`, or None if it may."""
    if update.keys() != reference.keys():
        different = sorted(update.keys() ^ reference.keys())
        return f"its arrays are not the model's: {', '.join(different[:3])}"
    for key, array in update.items():
        if array.shape != reference[key].shape:
            return f"{key} has shape {array.shape}, not {reference[key].shape}"
        if array.dtype != reference[key].dtype:
            return f"{key} has type {array.dtype}, not {reference[key].dtype}"
    return not_finite(update)


def not_finite(found: Mapping[str, np.ndarray]) -> str | None:
    """Return which of some arrays has a NaN or an infinity, in words, or None."""
    spoilt = next((key for key, array in found.items() if not np.isfinite(array).all()), None)
    return spoilt and f"{spoilt} is not finite"


def distance(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """Return the L2 norm of the difference of all real arrays, summed in float64."""
    parts = [
        array.astype(np.float64) - other[key]
        for key, array in one.items()
        if array.dtype.kind == "f"
    ]
    return math.sqrt(sum(float(np.vdot(part, part)) for part in parts))


class Mean:
    """A weighted mean that takes in one after the other and holds only their sum.

    The sum runs in the order given, in float64, and comes back in each array's own type;
    integers (batch-normalisation counters) are rounded.

    Args:
        expected: what the weights will add up to, as far as that is known before. If it is so,
            the mean is the sum of a_i (w_i / expected); if not, that is scaled at the end.
    """

    def __init__(self, expected: float) -> None:
        self._expected, self._total = float(expected), 0.0
        self._sums: Arrays = {}
        self._types: dict[str, np.dtype] = {}

    def add(self, update: Arrays, weight: float) -> None:
        """Take in one more, of the same keys and shapes.

        Args:
            update: its arrays.
            weight: positive.
        """
        if not self._total:
            self._sums = {key: np.zeros(one.shape, np.float64) for key, one in update.items()}
            self._types = {key: one.dtype for key, one in update.items()}
        self._total += weight
        for key, acc in self._sums.items():
            acc += update[key].astype(np.float64) * (weight / self._expected)

    def result(self) -> Arrays:
        """Return the mean of at least one."""
        scale = self._expected / self._total  # 1, exactly, where it is as was expected
        return {key: as_type(acc * scale, self._types[key]) for key, acc in self._sums.items()}


def weighted_mean(updates: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
    """Return sum_i w_i a_i / sum_i w_i, key by key; see `Mean`.

    Args:
        updates: arrays of equal keys and shapes, at least one.
        weights: positive, one per update.
    """
    mean = Mean(sum(weights))
    for update, weight in zip(updates, weights, strict=True):
        mean.add(update, weight)
    return mean.result()


def grown(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> Arrays:
    """Return `old` in the shapes of `new`: what is longer ends in the rows of `new`.

    Args:
        old: arrays, all of them in `new` as well.
        new: of equal shapes but for the first dimension, which may have grown.

    Raises:
        RunError: a shape differs in another way.
    """
    result: Arrays = {}
    for key, value in old.items():
        wanted = new[key].shape
        if value.shape != wanted:
            if value.shape[1:] != wanted[1:] or len(value) > wanted[0]:
                raise RunError(f"{key} of shape {value.shape} cannot grow to {wanted}")
            value = np.concatenate([value, new[key][len(value) :]])
        result[key] = value
    return result


def as_type(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return `array` in another type: rounded and within its range where that is an integer.

    What is true or false is so by the majority.
    """
    if dtype == np.bool_:
        return np.asarray(array) > 0.5
    if np.issubdtype(dtype, np.integer) and not np.issubdtype(array.dtype, np.integer):
        ends = np.iinfo(dtype)
        most = float(ends.max)  # of 64 bits one more than there is
        most = most if int(most) == ends.max else np.nextafter(most, 0)
        array = np.clip(np.rint(array), ends.min, most)
    return np.asarray(array, dtype)


def save_file(path: Path, arrays: Mapping[str, np.ndarray], shared: bool = False) -> None:
    """Write `arrays` as safetensors; see `write_atomically`."""
    content = save({key: np.asarray(a, order="C") for key, a in arrays.items()})
    write_atomically(path, content, shared)


def load_file(path: Path) -> Arrays:
    """Read a safetensors file.

    Raises:
        RunError: missing or damaged; names the file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
    return decoded(content, path)


def decoded(content: bytes, path: Path) -> Arrays:
    """Return the arrays in what a safetensors file holds.

    Args:
        content: of the file.
        path: of it, for messages.

    Raises:
        RunError: it is damaged.
    """
    try:
        return load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a type NumPy has not
        raise RunError(f"{path}: cannot be read ({error})") from error


def split(arrays: Mapping[str, np.ndarray], local: Container[str]) -> tuple[Arrays, Arrays]:
    """Return the arrays that may leave a hospital, and the `local` ones, which stay."""
    shared = {key: value for key, value in arrays.items() if key not in local}
    return shared, {key: value for key, value in arrays.items() if key not in shared}


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Return the arrays whose keys begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
