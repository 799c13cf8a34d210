"""A run's model as a MONAI bundle: what is in it; fedcl answers with it as with the run."""

import ast
import csv
import json
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle.properties import InferProperties
from monai.networks.nets import UNet
from monai.utils.enums import BundleProperty

from fedcl.release.carried import MODULES
from fedcl.release.images import listed
from fedcl.release.trained import trained
from tests.bundles import answered, check_same, export, inference
from tests.images import nifti, picture
from tests.predicted import LABELS, hospitals, predict, simulated, volume

VOLUMES = ["scenario.spatial_dims=3", "scenario.spacing=auto", "scenario.normalise=minmax"]
TENSOR = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}
NEEDED = {
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description",
    "required_packages_version", "authors", "copyright", "network_data_format",
}  # fmt: skip
"""What MONAI's schema of July 2024 asks for, of the whole and of a tensor."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the two hospitals."""
    return hospitals(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run over volumes."""
    return simulated(tmp_path_factory.mktemp("runs") / "run", root, *LABELS, *VOLUMES)


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of that run."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    assert export(run, folder) == 0
    return folder


def test_a_bundle_is_laid_out_as_monai_asks(bundle: Path, run: Path):
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert files >= {
        "configs/metadata.json", "configs/inference.json", "configs/fedcl.json", "docs/README.md",
        "models/model.pt", "scripts/__init__.py", "scripts/images.py",
    }  # fmt: skip
    told = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert told.keys() >= NEEDED and told["changelog"].keys() == {told["version"]}
    data = told["network_data_format"]
    image, logits = data["inputs"]["image"], data["outputs"]["pred"]
    assert image.keys() >= TENSOR and logits.keys() >= TENSOR
    assert (image["num_channels"], logits["num_channels"]) == (1, 3)
    assert image["spatial_shape"] == ["2*n"] * 3
    assert "no medical device" in told["intended_use"]
    assert set(told["required_packages_version"]) == {
        "fire", "nibabel", "pillow", "pytorch-ignite", "scipy"
    }  # fmt: skip


def test_monai_builds_the_network_and_loads_its_weights(bundle: Path, run: Path):
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    wanted = trained(run, None, None, None).network.state_dict()
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[key], wanted[key]) for key in wanted)
    network = monai.bundle.load(bundle.name, bundle_dir=bundle.parent, workflow_type="inference")
    assert type(network) is UNet
    assert all(torch.equal(network.state_dict()[key].cpu(), wanted[key]) for key in wanted)
    config = str(bundle / "configs" / "inference.json")
    asked = {key for key, one in InferProperties.items() if one[BundleProperty.REQUIRED]}
    assert asked <= inference(bundle).keys()
    monai.bundle.verify_net_in_out(
        "network_def", str(bundle / "configs" / "metadata.json"), config, device="cpu", n=6
    )


def test_it_carries_modules_that_need_nothing_else_of_fedcl(bundle: Path):
    names = {module.rpartition(".")[2] for module in MODULES}
    assert {file.stem for file in (bundle / "scripts").glob("*.py")} == names | {"__init__"}
    for file in (bundle / "scripts").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "scripts":
                last = node.module.rpartition(".")[2]
                used = [alias.name for alias in node.names] if last == "scripts" else [last]
                assert names.issuperset(used), (file.name, used)
            elif isinstance(node, ast.ImportFrom | ast.Import):
                assert "fedcl" not in ast.unparse(node), file.name


def test_it_names_no_place_on_this_machine_and_no_case(root: Path, run: Path, tmp_path: Path):
    patients = ["+scenario.assigned.test=[A0,B0]", "+scenario.assigned.val=[A1,B1]"]
    named = simulated(tmp_path / "run", root, *LABELS, *VOLUMES, *patients, "learner.steps=1")
    assert export(named, tmp_path / "bundle") == 0
    for file in (tmp_path / "bundle").rglob("*.*"):
        if file.is_file():
            content = file.read_bytes()
            for word in (str(root), str(tmp_path), "A0", "B1"):
                assert word.encode() not in content, (file.name, word)


@pytest.mark.parametrize("site", ["", "A", "B"])
def test_predict_answers_with_it_as_with_the_run(
    root: Path, run: Path, bundle: Path, tmp_path: Path, site: str
):
    """Byte by byte, as the images of any of the hospitals, wherever its data lie by then."""
    more = ["--site", site] if site else []
    for name, model in (("run", run), ("bundle", bundle)):
        assert predict(model, root / "B" / "images", tmp_path / name, *more) == 0
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert len(files) == 7
    for name in files:
        one, other = (tmp_path / folder / name for folder in ("run", "bundle"))
        assert one.read_bytes() == other.read_bytes(), name


def test_a_bundle_for_a_site_is_that_sites(root: Path, run: Path, tmp_path: Path):
    """Its mask values and padding, in what MONAI runs and in what fedcl predicts without --site."""
    assert export(run, tmp_path / "bundle", "--site", "B", "--stage", "1") == 0
    written = inference(tmp_path / "bundle")["postprocessing"]["transforms"][-1]
    assert written["values"] == [[0], [1], [2]]
    more = ["--site", "B", "--stage", "1"]
    assert predict(run, root / "A" / "images", tmp_path / "run", *more) == 0
    assert predict(tmp_path / "bundle", root / "A" / "images", tmp_path / "masks") == 0
    assert check_same(tmp_path / "run", tmp_path / "masks") == 6


def test_what_a_bundle_says_of_images_gives_the_masks_of_predict(
    root: Path, run: Path, bundle: Path, tmp_path: Path
):
    """Volumes of all orientations, with the run's own network in the place of MONAI's."""
    network = trained(run, None, None, None).network
    answered(bundle, root / "A" / "images", tmp_path / "bundle", network)
    assert predict(run, root / "A" / "images", tmp_path / "run") == 0
    assert check_same(tmp_path / "bundle", tmp_path / "run") == 6


def test_a_bundle_of_a_bundle_is_the_same(bundle: Path, tmp_path: Path):
    assert export(bundle, tmp_path / "again") == 0
    for name in ("configs/fedcl.json", "configs/inference.json", "configs/metadata.json"):
        assert (bundle / name).read_text() == (tmp_path / "again" / name).read_text()


def test_images_are_found_by_name(tmp_path: Path):
    for name in ("p10_0000.nii.gz", "p10_0001.nii.gz", "q.NII", "r.png", "note.txt", ".h.png"):
        (tmp_path / name).touch()
    every = [item["case"] for item in listed(str(tmp_path))]
    assert every == ["p10_0000", "p10_0001", "q", "r"]
    (case,) = listed(str(tmp_path), "{case}_{channel}.nii.gz")
    assert case["case"] == "p10"
    assert [Path(file).name for file in case["image"]] == ["p10_0000.nii.gz", "p10_0001.nii.gz"]
    with pytest.raises(ValueError, match="no image is called"):
        listed(str(tmp_path), "{case}.mha")
    for name in ("p11_0000.nii.gz", "p11_0002.nii.gz"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="case p11 has the channels 0, 2, others 0, 1"):
        listed(str(tmp_path), "{case}_{channel}.nii.gz")
    (tmp_path / "r.tif").touch()
    with pytest.raises(ValueError, match="a second image of case r"):
        listed(str(tmp_path))


def test_a_card_a_licence_and_what_is_told_go_into_it(run: Path, tmp_path: Path):
    from fedcl.release.bundle import write_bundle

    told = {"name": "mine", "version": "1.2.0", "eval_metrics": {"dice": 0.5}}
    one = trained(run, None, None, None)
    write_bundle(tmp_path, one, told, card="# A card", licence="CC0", torchscript=True)
    page = (tmp_path / "docs" / "README.md").read_text()
    assert page.startswith("# A card\n\n## How it is run\n") and "monai.bundle run" in page
    assert (tmp_path / "LICENSE").read_text() == "CC0"
    metadata = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    assert {key: metadata[key] for key in told} == told
    loaded = torch.jit.load(tmp_path / "models" / "model.ts")
    assert loaded.state_dict().keys() == one.network.state_dict().keys()


def test_a_damaged_image_is_named(bundle: Path, tmp_path: Path):
    image, _ = volume("A", 0)
    image[3, 3, 3] = float("nan")
    file = nifti(tmp_path / "images" / "p.nii", image)
    with pytest.raises(RuntimeError) as caught:
        answered(bundle, tmp_path / "images", tmp_path / "out", lambda images: images)
    assert f"{file}: pixel values that are not finite" in str(caught.value.__cause__)


def test_pictures_have_no_voxel_size(bundle: Path, tmp_path: Path):
    picture(tmp_path / "images" / "p.png", volume("A", 0)[0][..., 0].clip(0, 255).astype("uint8"))
    with pytest.raises(RuntimeError) as caught:
        answered(bundle, tmp_path / "images", tmp_path / "out", lambda images: images)
    assert "does not say how large its voxels are" in str(caught.value.__cause__)


def test_the_table_of_predictions_is_the_same(root: Path, run: Path, bundle: Path, tmp_path: Path):
    tables = []
    for name, model in (("run", run), ("bundle", bundle)):
        assert predict(model, root / "A" / "images", tmp_path / name) == 0
        with (tmp_path / name / "predictions.csv").open(newline="") as file:
            tables.append(list(csv.reader(file)))
    assert tables[0] == tables[1] and len(tables[0]) == 13
