"""Cine volumes in ACDC's layout: place, time and scale from the file to the export and back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from fedcl.app.cli import main
from fedcl.data.samples import Stacked
from fedcl.data.source import Source
from fedcl.errors import ConfigError, DataError
from fedcl.learning.step import Rehearsal, Step
from fedcl.registry import SCENARIO, STRATEGY
from tests.conftest import TINY_FIELD, read

LPS = np.array([[-1.5, 0, 0, 30], [0, -2.0, 0, 40], [0, 0, 8, -10], [0, 0, 0, 1.0]])


def patient(root: Path, frames: int = 4, affine: Any = LPS, first: int = 0) -> Path:
    """Write a patient whose bright square shrinks frame by frame, in ACDC's orientation."""
    folder = root / "patient001"
    folder.mkdir(parents=True)
    signal = np.full((20, 16, 2, frames), 10.0, np.float32)
    for t in range(frames):
        signal[2 : 12 - first - t, 3:10, :, t] = 200 + 10 * (first + t)
    image = nib.Nifti1Image(signal, affine)
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_zooms((*image.header.get_zooms()[:3], 30.0))
    nib.save(image, folder / "patient001_4d.nii.gz")
    (folder / "Info.cfg").write_text(f"ED: 1\nES: {frames}\n")
    for t in (0, frames - 1):
        mask = nib.Nifti1Image((signal[..., t] > 100).astype(np.uint8) * 3, affine)
        mask.header.set_xyzt_units("mm")
        nib.save(mask, folder / f"patient001_frame{t + 1:02d}_gt.nii.gz")
    return folder


def acdc(**settings: Any) -> Any:
    given = {
        "name": "acdc", "frames": 4, "slices": 2, "size": 16, "patient": "patient001",
        "parts": {"A": {"frames": [0, 2]}, "B": {"frames": [2, 4]}},
    } | settings  # fmt: skip
    return SCENARIO.make(given)


def test_the_source_of_a_volume_is_known(tmp_path: Path):
    data = acdc().load("A", patient(tmp_path), 0)
    source = data.source
    assert source.axes == "LPS" and source.seconds == pytest.approx(0.030)
    assert (source.low, source.high) == (10.0, 210.0), "of frames 0 and 1, which arrive first"
    # The corner of the planned grid's first voxel is that of the turned file's.
    first = source.affine @ [-0.5, -0.5, -0.5, 1]
    turned = nib.as_closest_canonical(nib.load(tmp_path / "patient001/patient001_4d.nii.gz"))
    assert first[:3] == pytest.approx((turned.affine @ [-0.5, -0.5, -0.5, 1])[:3])
    assert Source.of(source.numbers()).numbers() == source.numbers()


def test_no_scale_depends_on_frames_that_are_still_to_come(tmp_path: Path):
    folder = patient(tmp_path)
    late = acdc().load("B", folder, 0)
    assert late.source.high == 210.0
    assert late.test[-1].values.max() == 1.0
    assert any("of the intensities are clipped to 10 to 210" in str(note) for note in late.notes)
    assert acdc(scale=[0, 400]).load("B", folder, 0).test[-1].values.max() == pytest.approx(
        230 / 400
    )


def test_a_hospital_may_hold_only_its_own_frames(tmp_path: Path):
    whole = acdc(scale=[0, 400]).load("B", patient(tmp_path / "all"), 0)
    alone = acdc(scale=[0, 400]).load("B", patient(tmp_path / "own", frames=2, first=2), 0)
    assert [frame.name for frame in alone.test] == ["frame-002", "frame-003"]
    for one, other in zip(whole.test, alone.test, strict=True):
        assert torch.equal(one.values, other.values) and torch.equal(one.positions, other.positions)
    with pytest.raises(
        DataError, match=r"site B: the scale is that of frames 0 to 1, .*scenario\.scale"
    ):
        acdc().load("B", tmp_path / "own" / "patient001", 0)
    with pytest.raises(
        DataError, match="there are 2 frames, planned are 4, of which the site holds 3"
    ):
        acdc(parts={"A": {"frames": [0, 3]}}).load("A", tmp_path / "own" / "patient001", 0)


def test_a_window_of_a_files_frames_can_be_planned(tmp_path: Path):
    folder = patient(tmp_path)
    parts = {"A": {"frames": []}}
    inner = acdc(frames=2, window=[1, 3], parts=parts, scale=[0, 400]).load("A", folder, 0)
    every = acdc(parts=parts, scale=[0, 400]).load("A", folder, 0)
    assert torch.equal(inner.test[0].values, every.test[1].values)
    with pytest.raises(DataError, match=r"has 4 frames, scenario\.window asks for \[1, 9\]"):
        acdc(frames=8, window=[1, 9], parts=parts).load("A", folder, 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": [3, 1]}, r"scenario\.window"),
        ({"window": [1]}, r"scenario\.window"),
        ({"scale": [4, 4]}, r"scenario\.scale"),
        ({"scale": [1]}, r"scenario\.scale"),
    ],
)
def test_settings_refused(settings: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=f"^{said}: give"):
        acdc(**settings)


def masked(**more: Any) -> Any:
    parts = {"A": {}, "B": {"frames": [0, 1], "outputs": ["lv"]}}
    return acdc(masks=["lv"], parts=parts, **more)


@pytest.mark.parametrize(
    ("affine", "value", "said"),
    [
        (np.diag([1.5, 2.0, 8.0, 1.0]), 3, "the mask lies 5 voxels from its image"),
        (LPS @ np.diag([1, 1, 1.1, 1]), 3, "spacings in the headers differ"),
        (LPS + np.outer([0, 30, 0, 0], [0, 0, 0, 1]), 3, "15 voxels from its image"),
        (LPS, 1, r"no label 3 \(lv\), but rv"),
    ],
)
def test_a_mask_that_lies_elsewhere_or_lacks_its_label(tmp_path, affine, value: int, said: str):
    folder = patient(tmp_path)
    mask = np.zeros((20, 16, 2), np.uint8)
    mask[2:9, 3:9] = value
    nib.save(nib.Nifti1Image(mask, affine), folder / "patient001_frame01_gt.nii.gz")
    with pytest.raises(DataError, match=rf"site B: .*patient001_frame01_gt.*{said}"):
        masked().load("B", folder, 0)


def test_a_mask_stored_along_other_axes_is_turned_and_told(tmp_path: Path):
    folder = patient(tmp_path)
    alike = masked().load("B", folder, 0)
    file = folder / "patient001_frame01_gt.nii.gz"
    stored = nib.as_closest_canonical(nib.load(file))
    assert nib.aff2axcodes(stored.affine) == ("R", "A", "S")
    nib.save(nib.Nifti1Image(np.array(stored.dataobj), stored.affine), file)
    turned = masked().load("B", folder, 0)
    assert torch.equal(alike.test[0].values, turned.test[0].values)
    assert alike.test[0].values.unique().tolist() == [0, 1]
    said = "masks stored along other axes than their images, turned by their headers: "
    assert f"{said}{file.name} RAS, image LPS" in map(str, turned.notes)


def test_stray_files_and_editors_marks(tmp_path: Path):
    folder = patient(tmp_path)
    (folder / "._patient001_4d.nii.gz").write_bytes(b"\0\5\x16\7" * 20)
    (folder / "Info.cfg").write_bytes(b"\xef\xbb\xbfED: 1\r\nES: 4\r\nNote: hypertrophi\xe9\r\n")
    assert len(masked().load("B", folder, 0).test) == 1


def test_a_file_without_time_is_told_which_axis_is_missing(tmp_path: Path):
    folder = patient(tmp_path)
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 4), np.float32), LPS), folder / "patient001_4d.nii.gz")
    with pytest.raises(DataError, match="no time axis or, if the third is time, no slice axis"):
        acdc().load("A", folder, 0)


# --- export ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fit a patient's frames in two stages, then the mask of the first one; return the folder."""

    import simulate

    root = tmp_path_factory.mktemp("cine")
    patient(root)
    own = [o for o in TINY_FIELD if not o.startswith(("scenario", "model", "learner", "timeline"))]
    arguments = [
        *own, "scenario=acdc", f"scenario.root={root}", "scenario.frames=4", "scenario.slices=2",
        "scenario.size=16", "scenario.only=null", "scenario.masks=[lv]", "~scenario.parts",
        "+scenario.parts={early: {frames: [0, 2]}, late: {frames: [2, 4]}, "
        "mask: {frames: [0, 1], outputs: [lv]}}",
        "model=diner", "learner.steps=400", "learner.batch_size=512", f"run.dir={root / 'run'}",
    ]  # fmt: skip
    assert simulate.main(arguments) == 0
    return root / "run"


def centre(image: Any, frame: int) -> np.ndarray:
    values = np.asarray(image.dataobj)[..., frame]
    index = np.argwhere(values > np.nanmax(values) / 2).mean(0)
    return nib.affines.apply_affine(image.affine, index)


def test_parts_can_be_replaced_whole(fitted: Path):
    assert read(fitted)["arrivals"] == [["early"], ["late"], ["mask"]]


def test_an_export_lies_where_its_source_does(fitted: Path, tmp_path: Path):
    out = tmp_path / "field.nii.gz"
    assert main(["export", str(fitted), "--out", str(out), "--stage", "2"]) == 0
    made = nib.load(out)
    there = nib.load(fitted.parent / "patient001" / "patient001_4d.nii.gz")
    assert nib.aff2axcodes(made.affine) == nib.aff2axcodes(there.affine) == ("L", "P", "S")
    assert made.header.get_zooms()[3] == pytest.approx(0.030)
    assert made.header.get_xyzt_units() == ("mm", "sec")
    assert made.shape == (16, 16, 2, 4)
    for frame in range(4):
        assert centre(made, frame) == pytest.approx(centre(there, frame), abs=1.5)
    values = np.asarray(made.dataobj)
    assert values.max() == pytest.approx(210, abs=8) and values.min() == pytest.approx(10, abs=8)
    assert int(made.header["sform_code"]) == 1


def test_frames_that_were_not_learned_are_marked(fitted: Path, tmp_path: Path, capsys):
    """Of a DINER, too, which has no value there."""
    out = tmp_path / "first.nii"
    assert main(["export", str(fitted), "--out", str(out), "--stage", "1"]) == 0
    values = np.asarray(nib.load(out).dataobj)
    assert np.isfinite(values[..., :2]).all() and np.isnan(values[..., 2:]).all()
    assert "4 of 8 slices (over all frames) not learned: NaN" in capsys.readouterr().out
    mask = tmp_path / "mask.nii"
    assert main(["export", str(fitted), "--out", str(mask), "--output", "lv"]) == 0
    values = np.asarray(nib.load(mask).dataobj)
    assert np.isfinite(values[..., 0]).all() and np.isnan(values[..., 1:]).all()
    assert main(["export", str(fitted), "--out", str(mask), "--output", "lv", "--everywhere"]) == 0
    assert np.isfinite(np.asarray(nib.load(mask).dataobj)).all()
    assert main(["export", str(fitted), "--out", str(mask), "--output", "lv", "--stage", "2"]) == 2


def test_other_spacings_keep_directions_and_origin(fitted: Path, tmp_path: Path):
    for name, more in (("a", []), ("b", ["--spacing", "4", "1", "1"])):
        assert main(["export", str(fitted), "--out", str(tmp_path / f"{name}.nii"), *more]) == 0
    one, other = (nib.load(tmp_path / f"{name}.nii") for name in "ab")
    assert nib.affines.voxel_sizes(other.affine) == pytest.approx([1, 1, 4])
    assert nib.aff2axcodes(other.affine) == nib.aff2axcodes(one.affine)


# --- distillation where a new mask lies --------------------------------------------------------


def test_old_outputs_are_distilled_at_a_new_masks_own_points():
    from tests.fields import SPACE, build, field

    at = SPACE.coordinates(torch.arange(8))
    index = torch.tensor([1, 5])
    told = torch.full((8, 1), torch.nan)
    told[5] = 3.0  # of point 1 nobody knows
    step = Step(
        task=field(), student=build("siren", width=4), teacher=torch.nn.Identity(),
        past=Rehearsal(Stacked(at, torch.full((8, 1), 2.0)), False, None, told),
        inputs=at[index], targets=torch.ones(2, 1), index=index,
        rng=torch.Generator().manual_seed(0),
    )  # fmt: skip
    two = replace(field(), names=("signal", "organ"))
    step.task = two
    terms = STRATEGY.make({"name": "field_distillation", "here": 4.0}).distil(step)
    wrong = (step.outputs[1, 0] - 3.0) ** 2
    assert terms["here"].item() == pytest.approx(4 * wrong.item(), rel=1e-5)


@pytest.mark.parametrize("model", ["diner"])
def test_no_frame_is_lost_when_its_mask_is_learned(cli, tmp_path: Path, model: str):
    """Frame by frame: a mean over 12 frames hides one that is lost."""
    own = [o for o in TINY_FIELD if not o.startswith(("learner.steps", "model", "timeline"))]
    lost = {}
    for here in (0.0, 2.0):
        folder = tmp_path / str(here)
        assert cli(
            *own, "scenario.masks=[pool]", "~scenario.parts",
            "+scenario.parts={image: {}, mask: {frames: [0, 1], outputs: [pool]}}",
            f"model={model}", "learner.steps=700", "learner.batch_size=512",
            f"strategy.here={here}", f"run.dir={folder}",
        ) == 0  # fmt: skip
        results = read(folder)
        lost[here] = {name: was - now for name, (was, now) in results["cases"]["image"].items()}
        assert results["secondary"]["dice"]["matrix"][1][1] > 0.95
    assert lost[0.0]["frame-000"] > 10, "that is what it is for"
    assert max(lost[2.0].values()) < 8
