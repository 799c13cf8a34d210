"""Plug-ins that break their contract: told in one line that names the hook."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedcl.contracts import broken
from fedcl.data.cases import Case
from fedcl.errors import ConfigError, DataError, RunError
from fedcl.learning.scenario import PatientScenario, misfit
from fedcl.learning.step import named
from fedcl.learning.strategy import Partition, Plan, Strategy, Teaching
from fedcl.models.base import ImageModel
from fedcl.tasks.segmentation import Segmentation
from fedcl.timeline import Timeline
from tests.conftest import ROOT

TIMELINE = Timeline((("A",), ("B",)), rounds=1)


def strategy(**members: Any) -> type[Strategy]:
    """Return a subclass with these members."""
    return type("Mine", (Strategy,), members)


def model(build: Any) -> type:
    return type("Mine", (ImageModel,), {"build": build})


@pytest.mark.parametrize(
    ("plugin", "contract", "said"),
    [
        (strategy(distill=lambda self, step: {}), Strategy, "did you mean distil?"),
        (strategy(objectiv=lambda self, step: {}), Strategy, "did you mean objective?"),
        (strategy(teaching=lambda self: None), Strategy, "Mine.teaching must be a property"),
        (strategy(plan=property(lambda self: None)), Strategy, "Mine.plan must be a method"),
        (strategy(distil=lambda self: {}), Strategy, r"distil must take \(self, step\)"),
        (model(lambda self: nn.Identity()), ImageModel, r"channels, classes, dims\), it takes"),
        (
            type("Mine", (Strategy,), {"__annotations__": {"weight": float}, "weight": 1.0}),
            Strategy,
            "write @dataclass above the class",
        ),
        (
            dataclass(type("Mine", (Strategy,), {"__annotations__": {"weight": float}})),
            Strategy,
            "Mine.weight has no default",
        ),
        (type("S", (PatientScenario,), {"classes": lambda self: 2}), PatientScenario, "property"),
    ],
)
def test_what_python_would_find_out_too_late(plugin: type, contract: type, said: str):
    problem = broken(plugin, contract)
    assert problem is not None
    with pytest.raises(ConfigError, match=said):
        raise ConfigError(problem)


def test_helpers_of_a_method_and_good_hooks_are_no_slips():
    good = strategy(distil=lambda self, step: {}, soft_loss=lambda self, logits: logits)
    assert broken(good, Strategy) is None


def plan(cohort: Any, evaluated: Any = ("A", "B"), rehearsing: Any = ()) -> type[Strategy]:
    made = Plan(cohort, list(evaluated), frozenset(rehearsing))
    return strategy(plan=lambda self, timeline, stage: made)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (strategy(plan=lambda self, timeline, stage: None), "plan must return Plan, it returned N"),
        (strategy(plan=lambda self, timeline, stage: timeline["Z"]), "plan failed: TypeError"),
        (plan("A"), "cohort that is a list of sites"),
        (plan(["A", "A"]), "each once"),
        (plan(["Q"]), "who is not there: .'Q'"),
        (plan(["B"]), "who is not there: .'B'"),
        (plan(["A"], []), "evaluates nobody after stage 1"),
        (plan(["A"], ["Q"]), "evaluated of stage 1 who is not there"),
        (plan(["A"], rehearsing=["B"]), "rehearse in stage 1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(method: type[Strategy], said: str):
    with pytest.raises(ConfigError, match=said) as caught:
        method().plan(TIMELINE, 0)
    assert str(caught.value).startswith("strategy Mine: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"refresh": "never"}, "refresh must be one of stage, round, ema"),
        ({"refresh": "ema", "decay": float("nan")}, "decay must be from 0 to 1"),
        ({"file": "a.safetensors"}, "file must be a pathlib.Path"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused(values: dict[str, Any], said: str):
    method = strategy(teaching=property(lambda self: Teaching(**values)))
    with pytest.raises(ConfigError, match=f"strategy Mine: teaching failed: ValueError: {said}"):
        _ = method().teaching
    _ = Teaching("stage", file=Path("a"))


def refined(change: Any) -> type[Strategy]:
    return strategy(refine=lambda self, summary: change(dict(summary.joined)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: {}, "refine must return the model's arrays: .* a, b"),
        (lambda arrays: {"a": arrays["a"]}, "arrays are not the model's: b"),
        (lambda arrays: None, "refine must return Mapping"),
        (lambda arrays: arrays | {"a": arrays["a"].astype(np.float64)}, "a has type float64"),
        (lambda arrays: arrays | {"b": arrays["b"] * np.nan}, "b is not finite"),
        (lambda arrays: arrays["c"], "refine failed: KeyError: 'c'"),
    ],
)
def test_what_is_no_global_model_never_becomes_one(change: Any, said: str):
    summary = SimpleNamespace(joined={"a": np.ones(2, np.float32), "b": np.ones(1, np.float32)})
    with pytest.raises(RunError, match=said):
        refined(change)().refine(summary)
    assert refined(lambda arrays: arrays)().refine(summary).keys() == {"a", "b"}


@pytest.mark.parametrize("kept", [None, {"a": "text"}, {1: np.ones(1)}, {"a": np.array([np.inf])}])
def test_what_cannot_be_remembered_is_refused(kept: Any):
    method = strategy(remember=lambda self, summary: kept)
    with pytest.raises(RunError, match="strategy Mine: remember must return"):
        method().remember(SimpleNamespace())


def test_arrays_that_a_network_has_not_cannot_stay_or_be_frozen():
    for value in (Partition(frozenset({"w"})), Partition(frozen=frozenset({"bias", "w"}))):
        method = strategy(partition=lambda self, network, stage, value=value: value)
        with pytest.raises(ConfigError, match=r"names arrays that the network has not: \['w'\]"):
            method().partition(nn.Linear(1, 1), 0)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ([torch.ones(())], "returned list"),
        (None, "returned NoneType"),
        ({"kd": 0.5}, "'kd' is 0.5"),
        ({"kd": torch.ones(2)}, r"'kd' is shape \(2,\)"),
        ({1: torch.ones(())}, "1 is"),
    ],
)
def test_loss_terms_are_named_numbers(terms: Any, said: str):
    with pytest.raises(RunError, match=f"distil must return a dict of named loss terms.*{said}"):
        named("distil", terms)


def case(name: Any = "p", channels: int = 1, label: int = 1) -> Case:
    labels = torch.full((2, 4, 4), label, dtype=torch.uint8)
    return Case.of(name, torch.rand(channels, 2, 4, 4), labels)


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ([case(), case()], "two cases are called p"),
        ([case(3)], "a case's name must be text, one is 3"),
        ([case(channels=3)], "case p: 3 channels, the scenario's task is of 1"),
        (
            [case(label=255 - 1)],
            "case p: label 254 in its mask; of 2 classes the labels are 0 to 1",
        ),
        ([case(label=2)], "case p: label 2"),
        (["p"], "not str"),
    ],
)
def test_a_case_that_is_none_of_the_task_is_named(cases: list[Any], said: str):
    problem = misfit(cases, Segmentation(1, 2))
    assert problem is not None and said in problem
    assert misfit([case("a"), case("b")], Segmentation(1, 2)) is None


IMAGE, LABELS = torch.zeros(1, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("image", "labels", "said"),
    [
        (IMAGE.numpy(), LABELS, "the image must be a torch tensor, it is ndarray"),
        (IMAGE.double(), LABELS, "the image must be float32, it is float64"),
        (IMAGE[0], LABELS, r"of shape .channels, slices, rows, columns., it is .2, 4, 4"),
        (IMAGE, LABELS.long(), "the label map must be uint8, it is int64"),
        (IMAGE, LABELS[:1], "all but the channels must be equal"),
        (IMAGE + torch.nan, LABELS, "not finite"),
    ],
)
def test_arrays_that_are_no_image_are_refused(image: Any, labels: Any, said: str):
    with pytest.raises(DataError, match=f"case p: .*{said}"):
        Case.of("p", image, labels)


def test_a_second_copy_of_fedcl_is_no_second_plugin(tmp_path: Path):
    """As where Flower runs an app beside an installation; two of a user's own are refused."""
    for folder in ("copy/strategies", "mine/strategies"):
        (tmp_path / folder).mkdir(parents=True)
    own = (ROOT / "strategies" / "lwf.py").read_text()
    finetune = (ROOT / "strategies" / "finetune.py").read_text()
    (tmp_path / "copy/strategies/lwf.py").write_text(own)
    (tmp_path / "copy/strategies/finetune.py").write_text(finetune)
    (tmp_path / "mine/strategies/mas.py").write_text(own)
    asked = (
        "from fedcl.registry import STRATEGY\n"
        "print(STRATEGY.find('lwf').__module__)\n"
        "STRATEGY.find('mas')\n"
    )
    path = os.pathsep.join(str(tmp_path / one) for one in ("copy", "mine"))
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.strip() == "strategies.lwf", done.stderr
    assert "strategy: mas is the name of several: " in done.stderr.splitlines()[-1]
    assert str(tmp_path / "mine" / "strategies" / "mas.py") in done.stderr


def test_a_plugin_that_cannot_be_loaded_is_one_line_and_no_bar_to_others(tmp_path: Path):
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "boom.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "strategies" / "typo.py").write_text("import nosuchmodule\n")
    asked = (
        "from fedcl.errors import ConfigError\n"
        "from fedcl.registry import STRATEGY\n"
        "for name in ('boom', 'typo'):\n"
        "    try:\n"
        "        STRATEGY.make({'name': name})\n"
        "    except ConfigError as error:\n"
        "        print(error)\n"
        "print('lwf' in STRATEGY.fitting(lambda one: True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    boom, typo, others = done.stdout.splitlines()
    assert boom == "strategy: boom cannot be loaded: SystemExit: 3 (boom.py, line 1)"
    assert "typo cannot be loaded: ModuleNotFoundError: No module named 'nosuchmodule'" in typo
    assert others == "True"
