"""TED's terms and figures against what its published code gives on recorded tensors.

ted.npz holds logits and labels drawn from a seed (K = 2 and 3 classes, batch 3, 16 x 16), and the
values and gradients that TED_DCMIS at commit 2c6e411 gave for them on a CPU: numbers only. Its
`*_width` are those of the rungs of its ladder, which sum over the width in place of the classes.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedcl.analysis.runs import Run
from fedcl.analysis.statistics import ravg
from fedcl.server.metrics import summary
from fedcl.server.results import Results
from strategies.parts.distillation import soft_cross_entropy
from tests.small import make

RECORDED = np.load(Path(__file__).parent / "ted.npz")
TOLERANCE = 1e-6  # relative


def recorded(classes: int, name: str) -> torch.Tensor:
    return torch.from_numpy(RECORDED[f"k{classes}/{name}"])


def check(value: torch.Tensor, student: torch.Tensor, classes: int, term: str) -> None:
    """Hold a term and its gradient in the student's logits to the recorded ones."""
    value.backward()
    assert value.item() == pytest.approx(recorded(classes, f"value/{term}").item(), rel=TOLERANCE)
    gradient = recorded(classes, f"gradient/{term}")
    largest = gradient.abs().max().item()
    torch.testing.assert_close(student.grad, gradient, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("term", "what"), [("kd", ""), ("ska", "_noise")])
def test_kd_and_ska(classes: int, term: str, what: str):
    student = recorded(classes, f"student{what}").requires_grad_()
    teacher = recorded(classes, f"teacher{what}").softmax(dim=1)
    check(soft_cross_entropy(student, teacher), student, classes, term)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("term", "what"), [("kd_width", ""), ("ska_width", "_noise")])
def test_the_rungs_sum_over_the_width_is_a_factor(classes: int, term: str, what: str):
    student = recorded(classes, f"student{what}").requires_grad_()
    teacher = recorded(classes, f"teacher{what}").softmax(dim=1)
    factor = student.shape[-1] / classes
    check(factor * soft_cross_entropy(student, teacher), student, classes, term)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("term", "terms"), [("akt", "kd+akt"), ("akt_gugf_sum", "kd+akt+gugf")])
def test_akt(classes: int, term: str, terms: str):
    student = recorded(classes, "student").requires_grad_()
    teacher = recorded(classes, "teacher").softmax(dim=1)
    ted = make("ted", terms=terms, reduction="sum")
    check(ted.adaptive_transfer(student, teacher), student, classes, term)


def test_figures():
    rows, joint = (RECORDED[f"figures/{name}"].tolist() for name in ("matrix", "joint"))
    sites = [f"S{n}" for n in range(len(rows))]
    figures = summary(rows, [[site] for site in sites], sites, [0.0] * len(sites))
    one, other = (
        Run("", Results(strategy="ted", seed=0, sites=sites, matrix=matrix, cases={}, metrics={},
                        seconds={}, bytes={}), {})
        for matrix in (rows, joint)
    )  # fmt: skip
    figures["ravg"] = ravg(one, other)
    for name in ("avg", "ravg", "bwt", "rbwt"):
        wanted = float(RECORDED[f"figures/value/{name}"])
        assert figures[name] == pytest.approx(wanted, rel=TOLERANCE), name
