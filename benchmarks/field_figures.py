"""The figures of `benchmarks.fields`, for `docs/`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from torch import Tensor

from fedcl.app.export import fitted
from fedcl.reporting.figures import COLOURS, STYLES
from fedcl.tasks.field import psnr
from sites.parts.field import Volume

WORDS = {"finetune": "fine-tuned", "field_distillation": "distilled", "joint": "pooled"}
Results = Sequence[Mapping[str, Any]]


def reconstructions(runs: Mapping[tuple[str, str], Path], truth: Volume, out: Path) -> None:
    """Draw the first and the last frame as every model and method has them at the end.

    Args:
        runs: a run's folder by model and strategy.
        truth: the volume that they learned.
        out: the file.
    """
    models = list(dict.fromkeys(model for model, _ in runs))
    last = len(truth.signal) - 1
    figure = Figure(figsize=(12.5, 1.9 * len(models)), dpi=110, layout="constrained")
    grid = figure.subplots(len(models), 2 + 2 * len(WORDS), squeeze=False)
    for model, line in zip(models, grid, strict=True):
        halves = (line[: len(line) // 2], line[len(line) // 2 :])
        for t, (there, *others) in zip((0, last), halves, strict=True):
            true = torch.from_numpy(truth.signal[t])
            _show(there, true[0], f"{'first' if t == 0 else 'last'} frame")
            for strategy, axes in zip(WORDS, others, strict=True):
                got = _frame(runs[model, strategy], t)[0]
                _show(axes, got[0], f"{WORDS[strategy]}: {psnr(got, true):.0f} dB")
        line[0].set_ylabel(model)
    _save(figure, out)


def masks(runs: Mapping[tuple[str, str], Path], truth: Volume, out: Path) -> None:
    """Draw an image when learned, and with its mask once that was learned as well.

    Args: as of `reconstructions`.
    """
    models = list(dict.fromkeys(model for model, _ in runs))
    true = torch.from_numpy(truth.signal[0])
    (mask,) = truth.masks.values()
    figure = Figure(figsize=(8.4, 2.1 * len(models)), dpi=110, layout="constrained")
    for model, line in zip(models, figure.subplots(len(models), 4, squeeze=False), strict=True):
        _show(line[0], true[0], "image and mask")
        line[0].contour(mask[0, 0], [0.5], colors="#56B4E9")
        learned = _frame(runs[model, "field_distillation"], 0, stage=1)[0]
        _show(line[1], learned[0], f"image learned: {psnr(learned, true):.0f} dB")
        strategies = ("finetune", "field_distillation")
        for strategy, axes in zip(strategies, line[2:], strict=True):
            signal, found = _frame(runs[model, strategy], 0)
            _show(axes, signal[0], f"then the mask, {WORDS[strategy]}: {psnr(signal, true):.0f} dB")
            axes.contour(found[0].numpy(), [0.5], colors="#E69F00", linestyles="dashed")
        line[0].set_ylabel(model)
    _save(figure, out)


def curves(found: Mapping[tuple[str, str], Results], out: Path) -> None:
    """Draw PSNR of every frame at the end, and of the first site's frames over stages."""
    models = list(dict.fromkeys(model for model, _ in found))
    figure = Figure(figsize=(3.1 * len(models), 5.4), dpi=110, layout="constrained")
    grid = figure.subplots(2, len(models), sharey="row", squeeze=False)
    for model, (frames, stages) in zip(models, grid.T, strict=True):
        for number, (strategy, word) in enumerate(WORDS.items()):
            runs = found[model, strategy]
            kept = [
                [v[-1] for cases in run["cases"].values() for v in cases.values()] for run in runs
            ]
            first = [[row[0] for row in run["matrix"]] for run in runs]
            for axes, series in ((frames, kept), (stages, first)):
                mean = [fmean(values) for values in zip(*series, strict=True)]
                axes.plot(
                    range(1, len(mean) + 1), mean, label=word, marker=".",
                    color=COLOURS[number], linestyle=STYLES[number],
                )  # fmt: skip
        frames.set_title(model)
        frames.set_xlabel("frame")
        frames.set_xticks(range(1, len(kept[0]) + 1))
        stages.set_xlabel("stage")
        stages.set_xticks(range(1, len(mean) + 1))
        for axes in (frames, stages):
            axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel("PSNR at the end (dB)")
    grid[1, 0].set_ylabel("PSNR of the first frames (dB)")
    figure.legend(*frames.get_legend_handles_labels(), loc="outside upper center", ncols=len(WORDS))
    _save(figure, out)


def federation(found: Mapping[tuple[str, int], Results], out: Path) -> None:
    """Draw PSNR against rounds and against megabytes, of one volume at several sites."""
    figure = Figure(figsize=(9.0, 3.6), dpi=110, layout="constrained")
    by_rounds, by_bytes = figure.subplots(1, 2, sharey=True)
    for number, method in enumerate(dict.fromkeys(method for method, _ in found)):
        runs = {rounds: results for (m, rounds), results in found.items() if m == method}
        avg = [fmean(r["metrics"]["avg"] for r in results) for results in runs.values()]
        sent = [fmean(megabytes(r) for r in results) for results in runs.values()]
        style: dict[str, Any] = {
            "color": COLOURS[number],
            "linestyle": STYLES[number % len(STYLES)],
        }
        if len(runs) == 1:
            for axes in (by_rounds, by_bytes):
                axes.axhline(avg[0], label=method, **style)
            continue
        by_rounds.plot(list(runs), avg, marker="o", label=method, **style)
        by_bytes.plot(sent, avg, marker="o", label=method, **style)
    by_rounds.set_ylabel("PSNR (dB)")
    for axes, name in ((by_rounds, "rounds"), (by_bytes, "MB sent")):
        axes.set_xscale("log")
        axes.set_xticks([1, 3, 10, 30, 60])
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    by_bytes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, out)


def megabytes(results: Mapping[str, Any]) -> float:
    """Return what was sent in a run, down and up."""
    return float(results["bytes"]["down"] + results["bytes"]["up"]) / 1e6


def _frame(run: Path, number: int, stage: int | None = None) -> Tensor:
    """Return a field's values in one frame, shape (outputs, D, H, W)."""
    field = fitted(run, stage)
    task, network, known = field.task, field.network, field.known
    points = torch.arange(task.space.size).view(task.space.shape)[number]
    values = task.answers(network, task.space.coordinates(points.flatten()))
    return values.T.reshape(len(known), *points.shape)


def _show(axes: Axes, image: Tensor, title: str) -> None:
    axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, size=8)
    axes.set_xticks([])
    axes.set_yticks([])


def _save(figure: Figure, out: Path) -> None:
    FigureCanvasAgg(figure).print_png(out)
