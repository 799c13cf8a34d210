"""The weights that a run begins from: where they may lie, how they are read, what is refused."""

import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import init_bundle
from monai.networks.nets import DynUNet, SegResNet, SwinUNETR
from safetensors.torch import save_file
from torch import Tensor, nn

from fedcl import arrays
from tests.begun import SHORT, Weights, begin, same, unet, weights
from tests.conftest import read

VOLUMES = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "scenario=phantom3d",
    "scenario.patients=6", "scenario.size=32", "model.channels=[4,8]", "timeline.stages=[[A],[B]]",
    "timeline.rounds=1", "learner.steps=2", "strategy=finetune",
]  # fmt: skip
BIAS = "model.2.0.conv.bias"
HEAD = {BIAS, "model.2.0.conv.weight"} | {
    f"model.2.1.conv.unit0.conv.{name}" for name in ("weight", "bias")
}
"""The arrays of MONAI's U-Net whose shapes depend on the number of classes."""


class Lightning(nn.Module):
    """A larger module, in which the network has a name."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def trained(network: nn.Module) -> torch.optim.Optimizer:
    """Return an optimiser with a step behind it: two more tensors per parameter."""
    optimiser = torch.optim.Adam(network.parameters(), lr=0.0)
    network(torch.ones(1, 1, 8, 8)).sum().backward()
    optimiser.step()
    return optimiser


CHECKPOINTS: dict[str, Callable[[nn.Module], Any]] = {
    "state_dict": lambda network: network.state_dict(),
    "Lightning": lambda network: {
        "epoch": 3, "state_dict": Lightning(network).state_dict(), "lr": [0.1, None],
    },
    "MONAI": lambda network: {
        "optimizer": trained(network).state_dict(), "model": network.state_dict(),
    },
    "deep": lambda network: {"epoch": 1, "net": {"best": {"ema": network.state_dict()}}},
    "DataParallel": lambda network: nn.DataParallel(network).state_dict(),
    "both": lambda network: {"net": Lightning(nn.DataParallel(network)).state_dict()},
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", CHECKPOINTS)
def test_of_a_checkpoint_the_weights_are_found(tmp_path: Path, form: str, zipped: bool):
    network, file = unet(norm="batch"), tmp_path / "best.pt"
    counters = [one for name, one in network.named_buffers() if name.endswith("tracked")]
    for one in counters:
        one.fill_(5)  # an integer, which no cast may touch
    made = CHECKPOINTS[form](network.eval())
    torch.save(made, file, _use_new_zipfile_serialization=zipped)
    found, told = begin(f"model.weights={file}", "model.norm=batch")
    assert counters and same(found, network.state_dict())
    assert told == {
        "file": "best.pt", "sha256": arrays.digest(found), "taken": len(found), "renewed": [],
        "left": [], "teaches": False,
    }  # fmt: skip


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_numbers_of_other_types_are_cast(tmp_path: Path, kind: torch.dtype):
    file, exact = tmp_path / "w.pt", {k: v.double() * np.pi for k, v in weights().items()}
    torch.save({key: value.to(kind) for key, value in exact.items()}, file)
    found, _ = begin(f"model.weights={file}")
    assert same(found, {key: value.to(kind).float() for key, value in exact.items()})
    bits = {torch.float64: 24, torch.float16: 11, torch.bfloat16: 8}[kind]
    for key, value in exact.items():
        np.testing.assert_allclose(found[key], value.numpy(), rtol=2.0**-bits, atol=1e-7)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_safetensors_are_known_by_their_content(tmp_path: Path, kind: torch.dtype):
    exact, file = {key: value.to(kind) for key, value in weights().items()}, tmp_path / "weights.pt"
    save_file(exact, file)
    found, _ = begin(f"model.weights={file}")
    assert same(found, {key: value.float() for key, value in exact.items()})


@pytest.mark.parametrize(("dims", "classes", "base"), [(2, 2, SHORT), (3, 3, VOLUMES)])
def test_a_bundle_of_monai_is_taken(tmp_path: Path, dims: int, classes: int, base: list[str]):
    """Its folder, as MONAI's own tool makes it; also its file."""
    network, folder = unet(dims, classes=classes), tmp_path / "bundle"
    init_bundle(folder, network=network)
    for place in (folder, folder / "models" / "model.pt"):
        found, told = begin(f"model.weights={place}", base=base)
        assert same(found, network.state_dict()) and told["file"] == "model.pt"


MONAI: dict[str, Callable[[], nn.Module]] = {
    "segresnet": lambda: SegResNet(2, 8, 1, 2),
    "swinunetr": lambda: SwinUNETR(in_channels=1, out_channels=2, feature_size=12, spatial_dims=2),
    "dynunet": lambda: DynUNet(
        2, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, [16, 32, 64, 128],
        deep_supervision=True, deep_supr_num=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", MONAI)
def test_other_networks_of_monai_are_known_by_their_arrays(tmp_path: Path, model: str):
    """DynUNet has its layers twice; see docs/howto/begin.md."""
    wanted, file = MONAI[model]().state_dict(), tmp_path / "given.pt"
    torch.save(wanted, file)
    base = [one for one in SHORT if not one.startswith("model.")]
    options = f"model={model}", f"model.weights={file}", f"model.strict={model != 'dynunet'}"
    found, told = begin(*options, base=base)
    second = [key for key in wanted if key.startswith("skip_layers.")]
    assert told["renewed"] == [] and told["left"] == second
    assert same(found, {key: value for key, value in wanted.items() if key not in second})


def test_of_many_stages_the_last_counts(tmp_path: Path):
    """By its number: as text, "9" comes after "11"."""
    (tmp_path / "checkpoint").mkdir()
    for stage in (1, 2, 9, 10, 11):
        kept = {key: value.numpy() for key, value in weights(seed=stage).items()}
        arrays.save_file(tmp_path / f"checkpoint/stage-{stage}.safetensors", kept)
    found, told = begin(f"model.weights={tmp_path}")
    assert told["file"] == "stage-11.safetensors" and same(found, weights(seed=11))
    found, told = begin(f"model.weights={tmp_path}/checkpoint/stage-9.safetensors")
    assert told["file"] == "stage-9.safetensors" and same(found, weights(seed=9))


# --- what is refused ---------------------------------------------------------------------------


def refused(cli: Callable[..., int], tmp_path: Path, capsys: Any, *overrides: str) -> str:
    """Return the one line by which a run is refused that leaves nothing behind."""
    folder = tmp_path / "run"
    assert cli(*SHORT, f"run.dir={folder}", *overrides) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("fedcl:")]
    assert not folder.exists(), "nothing is left behind"
    return line


def other(file: Path, **changed: Tensor) -> None:
    """Write good weights, but for some arrays; of a name "_" stands for "."."""
    torch.save(weights() | {key.replace("_", "."): value for key, value in changed.items()}, file)


def cut(file: Path, end: int) -> None:
    """Write good weights, less what lies beyond a byte."""
    torch.save(weights(), file)
    file.write_bytes(file.read_bytes()[:end])


def safetensors(file: Path, end: int) -> None:
    save_file(weights(), file)
    file.write_bytes(file.read_bytes()[:end])


def beside(file: Path) -> None:
    """Write good weights of a network in a larger module that has more than it."""
    named = {f"network.{key}": value for key, value in weights().items()}
    torch.save(named | {"loss.weight": torch.ones(2)}, file)


def huge(file: Path) -> None:
    """Write a number that float32 has not."""
    save_file(weights() | {BIAS: torch.tensor([1e300, 0], dtype=torch.float64)}, file)


def without_bias(file: Path) -> None:
    torch.save({key: value for key, value in weights().items() if key != BIAS}, file)


NOTHING = "has no weights: neither checkpoint/stage-N.safetensors of a run nor models/model.pt"
DAMAGED = "cannot be read: neither safetensors nor a torch checkpoint, or damaged"
CONV = "model.0.conv.unit0.conv.weight"

REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another architecture": (
        lambda file: torch.save(nn.Conv2d(1, 2, 3).state_dict(), file),
        f"is not of unet as configured: {CONV} is not in it (15 such), weight is not the model's "
        "(2 such); model.strict=false",
    ),
    "other classes": (
        lambda file: torch.save(weights(classes=3), file),
        "model.2.0.conv.weight has shape (12, 3, 3, 3), not (12, 2, 3, 3) (4 such)",
    ),
    "other channels": (
        lambda file: torch.save(weights(channels=3), file),
        f"{CONV} has shape (4, 3, 3, 3), not (4, 1, 3, 3) (2 such)",
    ),
    "of volumes": (
        lambda file: torch.save(weights(dims=3), file),
        f"{CONV} has shape (4, 1, 3, 3, 3), not (4, 1, 3, 3) (6 such)",
    ),
    "one missing": (without_bias, f"configured: {BIAS} is not in it (1 such); model.strict=false"),
    "one more": (
        lambda file: other(file, extra=torch.ones(2)),
        "configured: extra is not the model's (1 such); model.strict=false",
    ),
    "NaN": (
        lambda file: other(file, model_2_0_conv_bias=torch.tensor([1.0, torch.nan])),
        f"{BIAS} is not finite",
    ),
    "beyond float32": (
        lambda file: other(file, model_2_0_conv_bias=torch.tensor([1e300, 0], dtype=torch.float64)),
        f"{BIAS} is not finite",
    ),
    "whole numbers": (
        lambda file: other(file, model_2_0_conv_bias=torch.tensor([1, 0])),
        f"is not of unet as configured: {BIAS} has type int64, not float32 (1 such)",
    ),
    "one more beside the network": (beside, "loss.weight is not the model's (1 such)"),
    "beyond float32, in safetensors": (huge, f"{BIAS} is not finite"),
    "sparse": (
        lambda file: other(file, model_2_0_conv_bias=torch.tensor([1.0, 0]).to_sparse()),
        f"{BIAS} is sparse",
    ),
    "without values": (
        lambda file: other(file, model_2_0_conv_bias=torch.empty(2, device="meta")), BIAS,
    ),
    "TorchScript": (
        lambda file: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file), "it is TorchScript",
    ),
    "empty": (lambda file: file.write_bytes(b""), DAMAGED),
    "text": (lambda file: file.write_text("weights: many, all good"), DAMAGED),
    "cut in half": (lambda file: cut(file, 3000), DAMAGED),
    "cut at the end": (lambda file: cut(file, -200), "cannot be read"),
    "safetensors cut in half": (lambda file: safetensors(file, 2500), "cannot be read"),
    "safetensors cut in its header": (lambda file: safetensors(file, 100), "cannot be read"),
    "no names": (lambda file: torch.save([*weights().values()], file), "no tensors by name"),
    "nothing in it": (lambda file: torch.save({}, file), "holds no tensors by name"),
    "not there": (lambda file: None, "there is no such file or folder"),
    "an empty folder": (lambda file: file.mkdir(), NOTHING),
    "a run without a stage": (
        lambda file: (file / "checkpoint" / "round-000001-stage-000").mkdir(parents=True), NOTHING,
    ),
    "a folder called as a stage": (
        lambda file: (file / "checkpoint" / "stage-1.safetensors").mkdir(parents=True), NOTHING,
    ),
    "a name too long": (lambda file: None, "File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_or_cannot_be_read_is_refused(
    cli: Callable[..., int], tmp_path: Path, capsys: Any, case: str
):
    make, said = REFUSED[case]
    file = tmp_path / ("x" * 300 if "too long" in case else "given")
    make(file)
    line = refused(cli, tmp_path, capsys, f"model.weights={file}")
    assert "model.weights: " in line and said in line


class Planted:
    """What writes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.victim), "w")


class Own(torch.optim.SGD):
    """An optimiser with code of its own."""


def planted(victim: Path, network: nn.Module) -> dict[str, Any]:
    """Return objects whose code would run when they are loaded as Python does by itself."""
    return {
        "alone": Planted(victim),
        "beside": {"state_dict": network.state_dict(), "trainer": Planted(victim)},
        "before": {"trainer": Planted(victim), "state_dict": network.state_dict()},
        "network": network,
        "optimiser": {"model": network.state_dict(), "optimizer": Own(network.parameters(), 0.1)},
        "options": {"state_dict": network.state_dict(), "args": Namespace(lr=0.1)},
    }


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("case", planted(Path(), nn.Linear(1, 1)))
def test_no_code_of_a_checkpoint_is_run(
    cli: Callable[..., int], tmp_path: Path, capsys: Any, case: str, strict: bool
):
    victim, file = tmp_path / "victim", tmp_path / "given.pt"
    torch.save(planted(victim, unet())[case], file, _use_new_zipfile_serialization=strict)
    options = f"model.weights={file}", f"model.strict={strict}"
    line = refused(cli, tmp_path, capsys, *options)
    assert "holds Python objects, which are never loaded" in line
    assert not victim.exists()
    if case in ("alone", "beside", "before"):
        torch.load(file, weights_only=False)
        assert victim.exists(), "it would have been run"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nor_of_a_plain_pickle(cli, tmp_path: Path, capsys: Any, protocol: int):
    victim, file = tmp_path / "victim", tmp_path / "given.pkl"
    file.write_bytes(pickle.dumps(Planted(victim), protocol))
    assert "cannot be read: " in refused(cli, tmp_path, capsys, f"model.weights={file}")
    assert not victim.exists()
    pickle.loads(file.read_bytes()).close()
    assert victim.exists()


# --- what need not fit -------------------------------------------------------------------------


def test_what_does_not_fit_begins_anew_where_it_may(cli: Callable[..., int], tmp_path: Path):
    """For three classes, and with one array more: the head alone is as drawn from the seed."""
    file, folder = tmp_path / "three.pt", tmp_path / "run"
    given = weights(classes=3)
    torch.save(given | {"extra": torch.ones(2)}, file)
    options = f"model.weights={file}", "model.strict=false"
    fresh, nothing = begin()
    found, told = begin(*options)
    assert nothing == {} and found.keys() == fresh.keys() == given.keys() > HEAD
    kept = {key: value for key, value in found.items() if key not in HEAD}
    assert same(kept, {key: value for key, value in given.items() if key not in HEAD})
    assert all(found[key].tobytes() == fresh[key].tobytes() for key in HEAD)
    assert any((kept[key] != fresh[key]).any() for key in kept)
    assert told == {
        "file": "three.pt", "sha256": arrays.digest(kept), "taken": len(kept),
        "renewed": [key for key in fresh if key in HEAD], "left": ["extra"], "teaches": False,
    }  # fmt: skip
    assert cli(*SHORT, *options, f"run.dir={folder}") == 0
    assert read(folder)["begun"] == {"unet": told}
    log = (folder / "log.txt").read_text()
    assert "unet begins with 11 arrays of three.pt" in log
    assert "unet: 4 arrays begin anew, since they do not fit those of three.pt: model.2." in log
    assert all(key in log for key in HEAD)
    assert "are left unused of three.pt: extra" in log


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: nn.Conv2d(1, 2, 3).state_dict(), "has no array of unet"),
        (lambda: weights() | {CONV: torch.full((4, 1, 3, 3), torch.inf)}, f"{CONV} is not finite"),
    ],
)
def test_what_would_begin_with_nothing_good_is_refused_all_the_same(
    cli, tmp_path: Path, capsys: Any, given: Callable[[], Weights], said: str
):
    file = tmp_path / "given.pt"
    torch.save(given(), file)
    line = refused(cli, tmp_path, capsys, f"model.weights={file}", "model.strict=false")
    assert "model.weights: " in line and said in line


def test_names_are_found_also_where_the_first_array_is_not(tmp_path: Path):
    """Of a network in a larger module, with another first layer."""
    file = tmp_path / "given.pt"
    torch.save(Lightning(unet(channels=3)).state_dict() | {"loss.weight": torch.ones(2)}, file)
    found, told = begin(f"model.weights={file}", "model.strict=false")
    first = [CONV, "model.0.residual.weight"]
    assert sorted(told["renewed"]) == first and told["left"] == ["loss.weight"]
    wanted = {key: value for key, value in weights(channels=3).items() if key not in first}
    assert same({key: found[key] for key in wanted}, wanted)
    without = {f"module.{key}": value for key, value in weights().items() if key != CONV}
    torch.save(without, file)
    found, told = begin(f"model.weights={file}", "model.strict=false")
    assert told["renewed"] == [CONV] and told["taken"] == 14


def test_what_begins_anew_does_not_teach(cli, tmp_path: Path, capsys: Any):
    file = tmp_path / "three.pt"
    torch.save(weights(classes=3), file)
    options = "strategy=lwf", f"model.weights={file}", "model.strict=false", "model.teaches=true"
    line = refused(cli, tmp_path, capsys, *options)
    assert "model.teaches: model.2.0.conv.weight begins anew" in line
