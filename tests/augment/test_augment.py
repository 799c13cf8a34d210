"""Augmentation: what it changes, from what its randomness comes, and who sees it."""

import numpy as np
import pytest
import torch

from fedcl.data.samples import Change
from fedcl.registry import AUGMENT
from fedcl.seeding import numpy_rng

SHAPES = {2: (24, 32), 3: (10, 24, 32)}


def change(name: str, dims: int, **settings: object) -> Change:
    made = AUGMENT.make({"name": name, **settings}).change(dims)
    assert made is not None
    return made


def sample(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a smooth image of two channels and labels 0, 1, 2 and 255."""
    axes = [torch.linspace(-1, 1, n) for n in SHAPES[dims]]
    far = sum(axis.square() for axis in torch.meshgrid(*axes, indexing="ij"))
    labels = (far < 0.5).long() + (far < 0.2).long()
    labels[far > 1.5] = 255
    return torch.stack([far, -far]), labels[None]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["light", "nnunet"])
def test_a_sample_stays_one(name: str, dims: int):
    """Shapes, kinds and labels stay; the same randomness makes the same sample, other another."""
    image, labels = sample(dims)
    before = image.clone(), labels.clone()
    varied = change(name, dims)
    found = [varied(image, labels, numpy_rng("a", n)) for n in range(12)]
    again = [change(name, dims)(image, labels, numpy_rng("a", n)) for n in range(12)]
    for (one, marks), (other, same) in zip(found, again, strict=True):
        assert torch.equal(one, other) and torch.equal(marks, same)
        assert one.shape == image.shape and one.dtype == torch.float32 and one.isfinite().all()
        assert marks.shape == labels.shape and marks.dtype == torch.int64
        assert set(marks.unique().tolist()) <= {0, 1, 2, 255}
    assert len({one.numpy().tobytes() for one, _ in found}) > 6, "most are varied"
    assert len({marks.numpy().tobytes() for _, marks in found}) > 3, "in place as well"
    assert torch.equal(image, before[0]) and torch.equal(labels, before[1]), "the source is not"


def test_image_and_labels_move_together():
    """An image that is its own label map is still so, but at the rims of interpolation."""
    _, labels = sample(2)
    inside = (labels == 1).long()
    settings = {"intensity": 0.0, "noise": 0.0, "flip": 0.5, "degrees": 40.0, "scale": 0.3}
    varied = change("light", 2, **settings)
    moved = 0
    for number in range(10):
        image, marks = varied(inside.float(), inside, numpy_rng("m", number))
        apart = ((image > 0.5).long() != marks).float().mean()
        assert apart < 0.03
        moved += int(not torch.equal(marks, inside))
    assert moved >= 7


def test_the_mean_of_what_is_drawn_is_no_other_image():
    """Brightness and contrast go up as often as down."""
    image = torch.full((1, 8, 8), 2.0)
    varied = change("light", 2, degrees=0.0, scale=0.0, noise=0.0, intensity=0.3)
    means = [float(varied(image, image.long(), numpy_rng("i", n))[0].mean()) for n in range(400)]
    # Half of the images times 1 + U(-.3, .3), half of them plus U(-.3, .3): deviation .27.
    assert np.mean(means) == pytest.approx(2.0, abs=3 * 0.27 / 20)
    assert np.std(means) == pytest.approx(np.sqrt(0.5 * 0.03 * 4 + 0.5 * 0.03), rel=0.15)


def test_none_changes_nothing():
    assert AUGMENT.make({"name": "none"}).change(2) is None


def test_fields_are_not_varied(cli, tmp_path, capsys):
    assert cli("scenario=cine_domain", "model=siren", "strategy=finetune", "augment=light",
               f"run.dir={tmp_path / 'run'}") == 2  # fmt: skip
    assert "augment: " in capsys.readouterr().err and not (tmp_path / "run").exists()
