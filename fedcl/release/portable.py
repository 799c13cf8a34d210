"""A trained network alone, as TorchScript or ONNX: from an image to logits, checked as written."""

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedcl.data.framing import whole
from fedcl.errors import ConfigError, RunError, one_line, writing
from fedcl.release.trained import Trained
from fedcl.seeding import torch_rng

OPSET = 17
"""Of ONNX's operators, since 2022."""
SMALLEST = 16
"""Voxels along an axis of the smallest image that is tried."""
EQUAL = 1e-3
"""By how much logits may differ, relative to the largest of them."""
Network = Callable[[Tensor], Tensor]
Write = Callable[[Tensor], Network]
"""Write the network as it takes some images, and return what was written, ready to answer."""
MISSING = "--format onnx needs onnx and onnxruntime: pip install 'fedcl[export]'"


def write_torchscript(file: Path, one: Trained) -> str:
    """Write a network as TorchScript, by tracing it.

    Returns:
        Which images it takes, and how near its logits come to the network's.

    Raises:
        ConfigError: what is traced gives other numbers; nothing is left.
    """
    network = one.answering.cpu()

    def traced(images: Tensor) -> Network:
        found: Any = torch.jit.trace(network, images, check_trace=False)
        found.save(str(file))
        loaded: Network = torch.jit.load(str(file), map_location="cpu")
        return loaded

    return _written(file, one, lambda images, dynamic: traced(images))


def write_onnx(file: Path, one: Trained) -> str:
    """Write a network as ONNX: `image` (N, C, ...), `logits` (N, K, ...); see `write_torchscript`.

    Raises:
        ConfigError: what is written gives other numbers, or packages are missing; nothing is left.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise ConfigError(MISSING) from None
    network = one.answering.cpu()

    def exported(images: Tensor, dynamic: bool) -> Network:
        axes = {0: "batch"}
        if dynamic:
            axes |= dict(enumerate(("slices", "rows", "columns")[-one.task.dims :], start=2))
        # Torch's newer exporter takes twenty times as long, for the same numbers.
        torch.onnx.export(
            network, (images,), str(file), dynamo=False, opset_version=OPSET,
            input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": axes, "logits": axes},
        )  # fmt: skip
        onnx.checker.check_model(str(file))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails is told by fedcl
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        return lambda images: torch.from_numpy(session.run(None, {"image": images.numpy()})[0])

    return _written(file, one, exported)


def _written(file: Path, one: Trained, write: Callable[[Tensor, bool], Network]) -> str:
    """Write a network for images of any size, or else for those of the one size that it is shown.

    Args:
        file: what is written.
        one: the model.
        write: given a batch, and whether other sizes must do.
    """
    sizes, window = _sizes(one), one.task.window
    tried = [(sizes, True)] + [([window], False)] * bool(window)
    problem = ""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    for shown, dynamic in tried:
        try:
            with torch.no_grad(), _quiet():
                made = write(_images(one, 2, shown[0]), dynamic)
                off = max(
                    _off(one.answering, made, _images(one, n, s)) for s in shown for n in (1, 3)
                )
        except OSError as error:
            raise RunError(f"{file}: cannot be written ({error.strerror or error})") from None
        except Exception as error:  # whatever tracing and running of any network may raise
            problem = one_line(str(error)) or type(error).__name__
            continue
        if off <= EQUAL:
            words = ", ".join("x".join(map(str, size)) for size in shown)
            kind = "any size" if dynamic else "this one size"
            return f"images of {kind}, checked on {words}: logits differ by {off:.1e} at most"
        problem = f"logits differ by {off:.1e}, relative to the largest"
    file.unlink(missing_ok=True)
    raise ConfigError(
        f"--format: {one.architecture} cannot be written for other programs ({problem})"
    )


def _sizes(one: Trained) -> list[tuple[int, ...]]:
    """Return the sizes of images by which what is written is checked, all that it can be shown."""
    task = one.task
    first = task.window or task.least or whole((SMALLEST,) * task.dims, task.multiples)
    multiples = task.multiples or (1,) * task.dims
    other = [
        n + by * (place + 1) for place, (n, by) in enumerate(zip(first, multiples, strict=True))
    ]
    return [tuple(first), tuple(other)]


def _images(one: Trained, count: int, size: Sequence[int]) -> Tensor:
    """Return some images to try a network by."""
    shape = (count, one.task.channels, *size)
    return torch.randn(shape, generator=torch_rng("export", count, *size))


def _off(network: nn.Module, made: Network, images: Tensor) -> float:
    """Return by how much logits differ at most, relative to the largest of them."""
    wanted, found = network(images), made(images)
    if found.shape != wanted.shape:
        return math.inf
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what tracers and exporters say of a network's code, and of their age.

    Torch's prints all of a graph that it cannot write, past Python.
    """
    before, spoken = logging.root.manager.disable, os.dup(1)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), open(os.devnull, "wb") as nowhere:
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(spoken, 1)
        os.close(spoken)
        logging.disable(before)
