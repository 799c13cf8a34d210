"""The weights that a run begins from, trained by somebody before: whole, or what fits of them."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from fedcl import arrays
from fedcl.arrays import Arrays
from fedcl.data.files import folder_of, printable
from fedcl.errors import ConfigError
from fedcl.server.architecture import Architecture
from fedcl.tracking.source import at_hand

LARGEST = 32 * 2**30
"""Bytes of a file that may be one of weights."""
NESTED = 4
"""How deep in a checkpoint the weights may lie."""
BUNDLE = ("models/model.safetensors", "models/model.pt")
"""Where a MONAI bundle has its weights."""
ALONE = "save the network's state_dict alone"
FOREIGN = {
    "TorchScript": f"it is TorchScript, a network with its code; {ALONE}",
    "GLOBAL": f"it holds Python objects, which are never loaded; {ALONE}",
    "global": f"it holds Python objects, which are never loaded; {ALONE}",
}
"""What torch says of files that it can read and must not."""


class _OddError(Exception):
    """A tensor that is no array."""


def begun(one: Architecture, uri: str = "") -> tuple[Arrays, dict[str, Any]]:
    """Return the weights that an architecture begins with, and what was taken for them.

    Args:
        one: the architecture.
        uri: of the MLflow in whose registry they may be.

    Raises:
        ConfigError: its `model.weights` cannot be read or, if they must, do not fit.
    """
    fresh, source = arrays.of_network(one.network), one.model.weights
    if source is None:
        return fresh, {}
    key = one.key
    with at_hand(source, uri, f"{key}.weights") as (place, called):
        path = found_at(place, f"{key}.weights")
        given = _aligned(of_architecture(one.name, load(path, f"{key}.weights")), fresh)
    file = called or str(path)
    taken = {key for key, value in fresh.items() if _fits(given.get(key), value)}
    renewed = [key for key in fresh if key not in taken]
    left = [key for key in given if key not in fresh]
    spoilt = arrays.not_finite({name: given[name] for name in sorted(taken)})
    if spoilt is not None:
        raise ConfigError(f"{key}.weights: {file}: {spoilt}")
    if one.model.strict and (renewed or left):
        raise ConfigError(
            f"{key}.weights: {file} is not of {one.name} as configured: "
            f"{_problem(given, fresh, renewed, left)}; {key}.strict=false takes what fits"
        )
    if not taken:
        raise ConfigError(f"{key}.weights: {file} has no array of {one.name}")
    if one.model.teaches and renewed:
        raise ConfigError(
            f"{key}.teaches: {renewed[0]} begins anew, since it does not fit that of {file}, and "
            "would teach what is drawn at random; take false"
        )
    weights = {
        key: given[key].astype(value.dtype) if key in taken else value
        for key, value in fresh.items()
    }
    return weights, {
        "file": called or path.name,
        "sha256": arrays.digest({key: weights[key] for key in taken}),
        "taken": len(taken),
        "renewed": renewed,
        "left": left,
        "teaches": one.model.teaches,
    }


def in_words(name: str, told: Mapping[str, Any]) -> list[str]:
    """Return what an architecture began with, as `begun` tells it, a sentence each."""
    file = told["file"]
    said = [f"{name} begins with {told['taken']} arrays of {file}"]
    kinds = {"renewed": "begin anew, since they do not fit those", "left": "are left unused"}
    for kind, what in kinds.items():
        if told[kind]:
            named = ", ".join(told[kind][:5]) + (", ..." if len(told[kind]) > 5 else "")
            said.append(f"{name}: {len(told[kind])} arrays {what} of {file}: {named}")
    return said


def taught_before(one: Architecture, file: Path) -> Arrays:
    """Return the weights of a teacher that was trained before, of `strategy.teacher.file`.

    Raises:
        ConfigError: they cannot be read, or are of another architecture.
    """
    key = "strategy.teacher.file"
    given = of_architecture(one.name, load(found_at(str(file), key), key))
    problem = arrays.mismatch(given, arrays.of_network(one.network))
    if problem is not None:
        raise ConfigError(f"{key}: {file} holds no {one.name} as configured ({problem})")
    return given


def found_at(source: str, key: str) -> Path:
    """Return the file of weights that a user means.

    Args:
        source: a file, the folder of a run, of which the last stage counts, or of a MONAI bundle.
        key: what names it, for messages.

    Raises:
        ConfigError: there is none.
    """
    path = folder_of(source, key)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"{key}: {printable(source)}: there is no such file or folder")
    stages = sorted(path.glob("checkpoint/stage-*.safetensors"), key=_stage)
    for file in (*reversed(stages), *(path / name for name in BUNDLE)):
        if file.is_file():
            return file
    raise ConfigError(
        f"{key}: {path} has no weights: neither checkpoint/stage-N.safetensors of a run "
        f"nor {BUNDLE[-1]} of a MONAI bundle"
    )


def _stage(file: Path) -> tuple[int, str]:
    number = file.stem.rpartition("-")[2]
    return (int(number) if number.isdecimal() else -1), file.name


def load(file: Path, key: str) -> Arrays:
    """Return the arrays in a file: safetensors, or a torch checkpoint, of which no code is run.

    Of a checkpoint it is the mapping of names to tensors that holds most of them.

    Args:
        file: of weights.
        key: what names it, for messages.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        if file.stat().st_size > LARGEST:
            raise ConfigError(f"{key}: {file}: larger than {LARGEST / 2**30:g} GiB")
        with file.open("rb") as stream:
            if stream.read(9)[8:] == b"{":  # safetensors: a length, then JSON
                found: Any = safetensors.torch.load(file.read_bytes())
            else:
                with warnings.catch_warnings():  # of TorchScript and of pickles: refused below
                    warnings.simplefilter("ignore")
                    found = torch.load(file, map_location="cpu", weights_only=True)
        every = list(_mappings(found, NESTED))
        if not every:
            raise ConfigError(f"{key}: {file} holds no tensors by name")
        return {name: _array(name, value) for name, value in max(every, key=len).items()}
    except ConfigError:
        raise
    except _OddError as error:
        raise ConfigError(
            f"{key}: {file}: {error} is sparse, quantised or without values of its own"
        ) from None
    except SafetensorError as error:
        raise ConfigError(f"{key}: {file} cannot be read ({error})") from None
    except OSError as error:
        raise ConfigError(f"{key}: {file} cannot be read ({error.strerror})") from None
    except Exception as error:  # damaged files make the decoder raise almost anything
        reason = next(
            (words for sign, words in FOREIGN.items() if sign in str(error)),
            "neither safetensors nor a torch checkpoint, or damaged",
        )
        raise ConfigError(f"{key}: {file} cannot be read: {reason}") from None


def _mappings(
    found: Any, depth: int, seen: set[tuple[int, int]] | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield what maps names to tensors in nested mappings, each once at every depth."""
    seen = set() if seen is None else seen
    if not isinstance(found, Mapping) or not depth or (id(found), depth) in seen:
        return
    seen.add((id(found), depth))
    own = {
        key: value
        for key, value in found.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    if own:
        yield own
    for value in found.values():
        yield from _mappings(value, depth - 1, seen)


def _array(name: str, tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array; NumPy has no bfloat16.

    Raises:
        _OddError: it is sparse, quantised, or has no values.
    """
    plain = tensor.detach()
    if plain.layout is not torch.strided or plain.is_meta or plain.is_quantized:
        raise _OddError(name)
    if plain.untyped_storage().nbytes() < plain.nelement() * plain.element_size():
        raise _OddError(name)  # one value over and over: a small file, an array of any size
    return (plain.float() if plain.is_floating_point() else plain).numpy()


def of_architecture(name: str, given: Arrays) -> Arrays:
    """Return the arrays of one architecture of several in a file, or all of them."""
    own = arrays.under(f"{name}/", given)
    return own or given


def _aligned(given: Arrays, wanted: Mapping[str, Any]) -> Arrays:
    """Return arrays by the network's names, where all in a file begin with some word more.

    Such as "module." of torch's DataParallel, or the name of the network in a larger module.
    """
    if given.keys() & wanted.keys():
        return given
    words = Counter(key.removesuffix(end) for key in given for end in _ends(key) if end in wanted)
    best = max(sorted(words), key=words.__getitem__, default="")
    others = {key: value for key, value in given.items() if not key.startswith(best)}
    return arrays.under(best, given) | others


def _ends(key: str) -> Iterator[str]:
    """Yield what is left of a name after each of its parts."""
    for place, sign in enumerate(key):
        if sign in "./":
            yield key[place + 1 :]


def _fits(given: np.ndarray | None, wanted: np.ndarray) -> bool:
    """Return whether an array can be taken: of the shape, and a number where it is to be one."""
    return (
        given is not None
        and given.shape == wanted.shape
        and (given.dtype.kind == "f") == (wanted.dtype.kind == "f")
    )


def _problem(given: Arrays, fresh: Arrays, renewed: list[str], left: list[str]) -> str:
    """Return what of two sets of arrays does not fit, the first of its kind by name."""
    other = [key for key in renewed if key in given]
    absent = [key for key in renewed if key not in given]
    told = []
    if other:
        one, wanted = given[other[0]], fresh[other[0]]
        shapes = f"shape {one.shape}, not {wanted.shape}"
        types = f"type {one.dtype}, not {wanted.dtype}"
        what = shapes if one.shape != wanted.shape else types
        told.append(f"{other[0]} has {what} ({len(other)} such)")
    if absent:
        told.append(f"{absent[0]} is not in it ({len(absent)} such)")
    if left:
        told.append(f"{left[0]} is not the model's ({len(left)} such)")
    return ", ".join(told)
