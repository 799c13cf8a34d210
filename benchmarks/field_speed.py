"""Milliseconds per step of a field, beside a plain PyTorch loop of the same mathematics."""

import statistics
import time
from collections.abc import Sequence

import fedcl  # noqa: F401  isort: skip  (sets the environment)

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.running import markdown, write_section
from fedcl.data.samples import Stacked
from fedcl.data.space import Part, Space
from fedcl.learning import loop
from fedcl.learning.learner import Learner
from fedcl.learning.step import Lesson, Rehearsal
from fedcl.models.base import FieldModel
from fedcl.registry import MODEL, STRATEGY
from fedcl.seeding import seeded, torch_rng
from fedcl.tasks.field import Field

SHAPE = (12, 1, 64, 64)
STEPS, BATCH = 400, 1024


def measure(models: Sequence[str], repeats: int) -> None:
    """Measure milliseconds per step and ratios; write them into RESULTS.md."""
    torch.set_num_threads(1)
    old, new = Part((0, 4), (0, 1), (0,)), Part((4, 8), (0, 1), (0,))
    task = Field(Space(SHAPE), {"old": old, "new": new}, ("signal",))
    rows: list[list[str | list[float]]] = []
    for name in models:
        model: FieldModel = MODEL.make({"name": name})
        inputs = task.space.coordinates(new.positions(task.space))
        samples = Stacked(inputs, torch.rand(len(inputs), 1))
        past = task.past([(lambda at: torch.rand(len(at), 1), ["old"])], torch.device("cpu"))
        taught = Rehearsal(past, aligned=False, ratio=1.0)
        times: dict[str, list[float]] = {}
        for _ in range(repeats):
            for kind in ("plain", "fedcl", "plain, distilled", "fedcl, distilled"):
                with seeded("speed"):
                    network = task.build(model, ["old", "new"]).train()
                rehearsal = taught if "distilled" in kind else None
                work = plain if "plain" in kind else ours
                began = time.perf_counter()
                work(task, model, network, samples, rehearsal)
                times.setdefault(kind, []).append((time.perf_counter() - began) / STEPS * 1e3)

        def ratio(one: str, other: str, times: dict[str, list[float]] = times) -> float:
            pairs = zip(times[one], times[other], strict=True)
            return statistics.median(a / b for a, b in pairs)

        milliseconds = statistics.median(times["plain"])
        ratios = (
            ratio("fedcl", "plain"),
            ratio("fedcl, distilled", "fedcl"),
            ratio("plain, distilled", "plain"),
        )
        rows.append([name, f"{milliseconds:.2f}", *(f"{value:.3f}" for value in ratios)])
    heads = ["model", "plain ms", "fedcl / plain", "distilled / fitted", "the same, both plain"]
    text = [
        "# What a step of a field costs",
        "",
        f"Written by `python -m benchmarks.fields --speed`: median of {repeats} alternating runs",
        f"of {STEPS} steps, {BATCH} coordinates, one thread.",
        "",
        *markdown(heads, rows),
    ]
    print("\n".join(text))
    write_section("field speed", "\n".join(text))


def ours(
    task: Field, model: FieldModel, network: nn.Module, samples: Stacked, past: Rehearsal | None
) -> None:
    """Train as a hospital does."""
    teacher = nn.Identity() if past is not None else None
    loop.train(
        Lesson(task=task, student=network, teacher=teacher, past=past, model=model),
        samples,
        Learner(steps=STEPS, batch_size=BATCH, amp=False),
        STRATEGY.make({"name": "field_distillation"}),
        lambda share: 5e-4 * 0.1**share,
        ("speed",),
    )


def plain(
    task: Field, model: FieldModel, network: nn.Module, samples: Stacked, past: Rehearsal | None
) -> None:
    """Do the same, and nothing else."""
    table = [p for name, p in network.named_parameters() if name == "table"]
    others = [p for name, p in network.named_parameters() if name != "table"]
    groups = [{"params": others, "factor": 1.0}]
    groups += [{"params": table, "factor": model.rate("table")}] * bool(table)
    optimiser = torch.optim.Adam(groups, lr=5e-4, fused=True)
    rng = torch_rng("speed")
    for number in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * 5e-4 * 0.1 ** (number / STEPS)
        index = torch.randint(len(samples), (BATCH,), generator=rng)
        loss = F.mse_loss(network(samples.inputs[index]), samples.targets[index])
        if past is not None:
            index = torch.randint(len(past.samples), (BATCH,), generator=rng)
            outputs = network(past.samples.inputs[index])
            loss = loss + past.ratio * F.mse_loss(outputs, past.samples.targets[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
