"""Cine volumes in ACDC's layout as fields: what is read and what is refused."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fedcl.app.cli import main
from fedcl.registry import SCENARIO
from tests.conftest import SUNNYBROOK, TINY_FIELD, read


def patient(root: Path, name: str = "patient001", frames: int = 4) -> Path:
    """Write a patient in ACDC's layout: a square that shrinks, at 1.5 x 2 x 8 mm."""
    folder = root / name
    folder.mkdir(parents=True)
    signal = np.full((20, 16, 2, frames), 10.0, np.float32)
    for t in range(frames):
        signal[4 : 16 - 2 * t, 4:12, :, t] = 200
    affine = np.diag([1.5, 2.0, 8.0, 1.0])
    nib.save(nib.Nifti1Image(signal, affine), folder / f"{name}_4d.nii.gz")
    (folder / "Info.cfg").write_text(f"ED: 1\nES: {frames}\nGroup: NOR\n")
    for t in (0, frames - 1):
        mask = (signal[..., t] > 100).astype(np.uint8) * 3
        nib.save(nib.Nifti1Image(mask, affine), folder / f"{name}_frame{t + 1:02d}_gt.nii.gz")
    return folder


ACDC = {
    "name": "acdc", "frames": 4, "slices": 1, "size": 16, "only": 0, "masks": ["lv"],
    "patient": "patient001",
    "parts": {"A": {"outputs": ["signal"]}, "B": {"frames": [3, 4], "outputs": ["lv"]}},
}  # fmt: skip


def test_acdc_axes_scale_masks_and_spacing(tmp_path: Path):
    patient(tmp_path)
    scenario = SCENARIO.make({**ACDC, "root": str(tmp_path)})
    data = scenario.load("A", scenario.location("A"), 0)
    assert [frame.name for frame in data.test] == [f"frame-{t:03d}" for t in range(4)]
    first = data.test[0]
    assert first.values.shape == (1, 1, 16, 16)
    assert first.values.min() == 0 and first.values.max() == 1
    assert first.spacing == pytest.approx((8.0, 2.0, 1.5 * 20 / 16))
    wide = [float(frame.values[0, 0, 8].sum()) for frame in data.test]
    assert wide == sorted(wide, reverse=True), "the square shrinks along a row"
    (mask,) = scenario.load("B", scenario.location("B"), 0).test
    assert mask.name == "frame-003" and set(mask.values.unique().tolist()) == {0.0, 1.0}


def break_time(folder: Path) -> None:
    file = folder / "patient001_4d.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 2), np.float32), np.eye(4)), file)


def break_mask(folder: Path) -> None:
    (folder / "patient001_frame04_gt.nii.gz").unlink()


def break_mask_shape(folder: Path) -> None:
    file = folder / "patient001_frame04_gt.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 2), np.uint8), np.eye(4)), file)


def break_info(folder: Path) -> None:
    (folder / "Info.cfg").write_text("ED: 1\n")


def break_file(folder: Path) -> None:
    file = folder / "patient001_4d.nii.gz"
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "overrides", "said"),
    [
        (break_time, [], ["site early", "no time axis"]),
        (break_mask, [], ["patient001_frame04_gt.nii.gz", "cannot be read"]),
        (break_mask_shape, [], ["frame04_gt", "(2, 8, 8)", "(2, 16, 20)"]),
        (break_info, [], ["Info.cfg", "ED and ES"]),
        (break_file, [], ["patient001_4d.nii.gz", "cannot be read"]),
        (None, ["scenario.frames=5"], ["4 frames", "planned are 5", "scenario.frames"]),
        (None, ["scenario.only=7"], ["2 slices", "scenario.only"]),
        (None, ["scenario.parts.middle.frames=[1,4]"], ["no masks of frames [1, 2]"]),
        (
            None,
            ["scenario.parts.early.frames=[2,9]"],
            ["scenario.parts.early.frames", "planned extent"],
        ),
        (
            None,
            ["scenario.parts.early.outputs=[signl]"],
            ["scenario.parts.early.outputs", "signal, lv"],
        ),
        (None, ["scenario.masks=[liver]"], ["no 'liver'", "rv, myo, lv"]),
        (None, ["strategy=lwf"], ["strategy: lwf is not for", "scenario acdc"]),
        (None, ["model=unet"], ["model: unet is not for", "scenario acdc"]),
        (None, ["scenario.patient=../x"], ["scenario.patient"]),
    ],
)
def test_bad_input_is_one_line(
    cli, tmp_path: Path, capsys, damage: Callable[[Path], None] | None, overrides: list[str],
    said: list[str],
):  # fmt: skip
    folder = patient(tmp_path)
    if damage is not None:
        damage(folder)
    base = [o for o in TINY_FIELD if not o.startswith(("scenario=", "model.width"))]
    given = [
        "scenario=acdc", *base, f"scenario.root={tmp_path}", "scenario.frames=4", "scenario.only=0",
        "scenario.masks=[lv]", "scenario.parts.early.frames=[]", "~scenario.parts.late",
        "scenario.parts.middle.frames=[3,4]", "scenario.parts.middle.outputs=[lv]",
        "strategy=field_distillation", *overrides,
    ]  # fmt: skip
    run = tmp_path / "run"
    assert cli(*given, f"run.dir={run}") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl:")]
    assert all(words in line for words in said), line
    assert not run.exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["strategy=field_distillation", "scenario.shared=false"], "earlier coordinates are those"),
        (["strategy=field_server_distillation", "scenario.shared=false"], "must be parts of one"),
        (["strategy=field_distillation", "strategy.frozen=true"], "only tables and latents"),
        (
            ["strategy=field_distillation", "strategy.frozen=true", "model=diner",
             "scenario.masks=[pool]", "scenario.parts.late.outputs=[pool]"],
            "new outputs are to come",
        ),
        (["scenario.parts.late.frames=[3]"], "is no part of the planned extent"),
        (["scenario.masks=[pool]"], "no site's outputs have pool"),
        (["scenario.parts.late.frames=3"], "scenario.parts.late.frames: must be a list"),
        (["scenario.masks=[liver]"], "there is only pool"),
        (["learner.keep=best"], "no cases to validate on but those"),
        (["scenario.shared=false"], "nothing of this model stays at a site"),
        (
            ["scenario.masks=[pool]", "scenario.parts.late.outputs=[pool]",
             "timeline.stages=[[late]]"],
            "none of late can be scored by psnr",
        ),
        (["scenario.parts.late.outputs=[signal,signal]"], "at most once"),
        (["scenario=folder_signal", "scenario.masks=[]", "scenario.size=16"], "give one name"),
        (["scenario.shared=false", "model=diner", "timeline.centralised=true"], "keep table"),
        (
            ["strategy=field_server_distillation", "timeline.centralised=true"],
            "reads every site's own update",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_one_line(
    cli, tmp_path: Path, capsys, overrides: list[str], said: str
):
    base = [o for o in TINY_FIELD if not o.startswith("model.width")]
    given = [*base, "strategy=finetune", *overrides, f"run.dir={tmp_path / 'run'}"]
    if "scenario=folder_signal" in overrides:
        given = [o for o in given if o != "scenario=cine_domain"]
    assert cli(*given) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl:")]
    assert said in line and not (tmp_path / "run").exists()


@pytest.mark.skipif(not SUNNYBROOK.exists(), reason="../shared/data/sunnybrook is not there")
def test_a_slice_of_sunnybrook_and_its_mask(cli, tmp_path: Path):
    base = [o for o in TINY_FIELD if not o.startswith("scenario=")]
    overrides = ["scenario=folder_signal", *base, f"scenario.root={SUNNYBROOK}", "scenario.size=32"]
    folder = tmp_path / "run"
    assert cli(*overrides, "strategy=field_distillation", f"run.dir={folder}") == 0
    results = read(folder)
    assert results["sites"] == ["image", "mask"] and results["failures"] == []


def test_inspect_tells_of_fields(capsys):
    assert main(["inspect", "scenario=cine_signal", "model=siren", "strategy=finetune"]) == 0
    said = capsys.readouterr().out
    assert "pool" in said and "4096" in said
