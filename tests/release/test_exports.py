"""A run's network alone, as ONNX and TorchScript: the same numbers, in all sizes that it takes."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from fedcl.release import portable
from fedcl.release.trained import trained
from tests.bundles import answered, check_same, export
from tests.conftest import read
from tests.predicted import LABELS, VALUES, dice, hospitals, predict, simulated, upright

RUNS = {
    "volumes": ["scenario.spatial_dims=3", "scenario.spacing=[3.0,1.5,1.4]"],
    "slices": ["scenario.patch=[16,16]", "scenario.normalise=percentile"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the two hospitals."""
    return hospitals(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=RUNS)
def run(root: Path, tmp_path_factory: pytest.TempPathFactory, request) -> Path:
    """Return the folder of a run."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return simulated(folder, root, *LABELS, *RUNS[request.param])


def session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def test_onnx_with_the_bundles_transforms_has_the_scores_of_the_run(
    root: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "model.onnx"
    assert export(run, file, "--site", "B") == 0
    assert "images of any size, checked on " in capsys.readouterr().out
    model = session(file)
    (opset,) = onnx.load(file).opset_import
    assert opset.version == portable.OPSET
    sizes = [axis for axis in model.get_inputs()[0].shape if isinstance(axis, str)]
    assert sizes == ["batch", "slices", "rows", "columns"][: len(sizes) - 3] or sizes[0] == "batch"

    def network(images: Tensor) -> Tensor:
        return torch.from_numpy(model.run(["logits"], {"image": images.numpy()})[0])

    assert export(run, tmp_path / "bundle", "--site", "B") == 0
    answered(tmp_path / "bundle", root / "B" / "images", tmp_path / "out", network)
    for case, scores in read(run)["cases"]["B"].items():
        name = f"{case}.nii.gz"
        found, wanted = upright(tmp_path / "out" / name), upright(root / "B" / "masks" / name)
        assert dice(found, wanted, VALUES["B"]) == pytest.approx(scores[-1], abs=1e-5)


@pytest.mark.parametrize("name", ["model.ts", "model.pt"])
def test_torchscript_gives_the_masks_of_predict(root: Path, run: Path, tmp_path: Path, name: str):
    assert export(run, tmp_path / name) == 0
    network = torch.jit.load(tmp_path / name)
    assert export(run, tmp_path / "bundle") == 0
    answered(tmp_path / "bundle", root / "A" / "images", tmp_path / "out", network)
    assert predict(run, root / "A" / "images", tmp_path / "masks") == 0
    assert check_same(tmp_path / "out", tmp_path / "masks") == 6


def test_what_a_strategy_makes_of_the_network_is_written(root: Path, tmp_path: Path):
    """CauAug's tests see images through random networks: so do a bundle and TorchScript."""
    run = simulated(tmp_path / "run", root, *LABELS, "strategy=cauaug", "scenario.size=18")
    assert export(run, tmp_path / "bundle") == 0 == export(run, tmp_path / "model.ts")
    network = torch.jit.load(tmp_path / "model.ts")
    answered(tmp_path / "bundle", root / "A" / "images", tmp_path / "out", network)
    for model in (run, tmp_path / "bundle"):
        masks = tmp_path / f"masks of {model.name}"
        assert predict(model, root / "A" / "images", masks) == 0
        assert check_same(tmp_path / "out", masks) == 6


@pytest.mark.parametrize("size", [(8, 8, 8), (4, 26, 10), (16, 16, 32)])
@pytest.mark.parametrize("count", [1, 5])
def test_any_size_and_batch_will_do(run: Path, tmp_path: Path, size: tuple[int, ...], count: int):
    one = trained(run, None, None, None)
    images = torch.randn(count, 1, *size[-one.task.dims :])
    with torch.no_grad():
        wanted = one.network(images).numpy()
    portable.write_onnx(tmp_path / "m.onnx", one)
    portable.write_torchscript(tmp_path / "m.ts", one)
    found = session(tmp_path / "m.onnx").run(None, {"image": images.numpy()})[0]
    assert np.abs(found - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())
    assert np.array_equal(torch.jit.load(tmp_path / "m.ts")(images).detach().numpy(), wanted)


class Fickle(nn.Module):
    """A network that does in a small image, or in another size, what no trace of it shows."""

    def __init__(self, network: nn.Module, seen: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.network, self.seen = network, seen

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return logits if tuple(images.shape[2:]) == self.seen else logits + len(images)


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_what_gives_other_numbers_is_not_left_behind(run: Path, tmp_path: Path, kind: str):
    from dataclasses import replace

    from fedcl.errors import ConfigError

    one = trained(run, None, None, None)
    one = replace(one, answering=Fickle(one.network).eval())
    write = portable.write_onnx if kind == "onnx" else portable.write_torchscript
    with pytest.raises(ConfigError, match="cannot be written for other programs"):
        write(tmp_path / "m.part", one)
    assert not list(tmp_path.iterdir())


def test_of_one_size_is_what_is_always_shown_in_that_size(root: Path, tmp_path: Path):
    from dataclasses import replace

    run = simulated(tmp_path / "run", root, *LABELS, *RUNS["slices"], "learner.steps=1")
    one = trained(run, None, None, None)
    one = replace(one, answering=Fickle(one.network, one.task.window).eval())
    for write, file in ((portable.write_onnx, "m.onnx"), (portable.write_torchscript, "m.ts")):
        assert "images of this one size, checked on 16x16" in write(tmp_path / file, one)
    assert session(tmp_path / "m.onnx").get_inputs()[0].shape == ["batch", 1, 16, 16]


@pytest.mark.exhaustive
def test_a_transformer_is_written_for_the_size_of_its_windows(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """Where torch cannot write it (windows of 32) one line says so, and nothing else is said."""
    own = ["models.own.name=swinunetr", "sites.A.model=own", "sites.B.model=own"]
    for size, status in ((64, 0), (32, 2)):
        given = [*LABELS, f"scenario.size={size}", *own, "learner.steps=1"]
        run = simulated(tmp_path / f"run{size}", root, *given)
        capfd.readouterr()
        assert export(run, tmp_path / f"m{size}.onnx") == status
        assert len("".join(capfd.readouterr()).splitlines()) == 1
    assert export(run, tmp_path / "m.ts") == 0
    assert "images of this one size, checked on 32x64" in capfd.readouterr().out


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_packages_are_named(
    run: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    assert export(run, tmp_path / "m.onnx") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("needs onnx and onnxruntime: pip install 'fedcl[export]'")
    assert not list(tmp_path.iterdir())
