"""What is known of an image without its arrays."""

import numpy as np
import pytest
import torch

from fedcl.data.cases import Case, SiteData, vanished
from fedcl.data.labels import IGNORED
from fedcl.data.scans import PLACES, Counts, Scan, places_of
from fedcl.errors import DataError
from tests.images import RNG


def drawn(*shape: int, classes: int = 3) -> torch.Tensor:
    """Return a label map of several classes, some voxels of which are ignored."""
    labels = RNG.integers(0, classes, shape).astype(np.uint8)
    labels[RNG.random(shape) < 0.1] = IGNORED
    return torch.from_numpy(labels)


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=shape).astype(np.float32))


# --- counts ----------------------------------------------------------------------------------


def test_voxels_are_counted_class_by_class():
    labels = drawn(4, 9, 11, classes=5)
    counts = Counts.of(labels)
    values = labels.numpy().ravel()
    assert counts.classes == tuple(np.bincount(values[values != IGNORED]))
    assert counts.ignored == (values == IGNORED).sum()
    assert counts.known + counts.ignored == labels.numel()
    assert [counts[n] for n in (4, 5, 200)] == [counts.classes[4], 0, 0]


@pytest.mark.parametrize(
    ("values", "classes", "ignored"),
    [
        ([0, 0, 3], (2, 0, 0, 1), 0),
        ([IGNORED] * 3, (), 3),
        ([254, IGNORED, 0], (1, *[0] * 253, 1), 1),
        ([0, 0, 0], (3,), 0),
    ],
)
def test_counts_end_with_the_last_class_that_there_is(values, classes, ignored: int):
    counts = Counts.of(torch.tensor(values, dtype=torch.uint8).reshape(1, 1, 3))
    assert (counts.classes, counts.ignored) == (classes, ignored)


def test_a_scan_counts_its_own_grid_and_that_of_the_network():
    own, labels, image = drawn(2, 12, 12), drawn(2, 6, 6, classes=2), noise(3, 2, 6, 6)
    scan = Scan.of(image, labels, (5.0, 2.0, 1.0), own, "axial")
    assert (scan.shape, scan.own, scan.spacing) == ((3, 2, 6, 6), (2, 12, 12), (5.0, 2.0, 1.0))
    assert scan.counts == Counts.of(own) and scan.kept == Counts.of(labels)
    assert scan.lowest == tuple(image.numpy().min((1, 2, 3)).tolist())
    assert torch.equal(scan.content.truth(), own) and torch.equal(scan.content.labels(), labels)
    alone = Scan.of(image, labels)
    assert alone.counts == alone.kept and torch.equal(alone.content.truth(), labels)


def test_classes_lost_in_resampling_are_those_that_no_scan_of_a_patient_keeps():
    two = torch.tensor([[[0, 1, 2, IGNORED]]], dtype=torch.uint8)
    one = torch.tensor([[[0, 1, 1, IGNORED]]], dtype=torch.uint8)
    image = torch.zeros(1, 1, 1, 4)
    loses, keeps = Scan.of(image, one, own=two), Scan.of(image, two, own=two)
    cases = [Case("p", (loses,)), Case("q", (loses, keeps)), Case("r", (keeps,))]
    (note,) = vanished(cases, 3)
    assert str(note) == "class 2 is lost by resampling in cases that have it: p"
    assert vanished(cases[1:], 3) == []


# --- places ----------------------------------------------------------------------------------


def test_every_voxel_of_a_small_class_is_a_place():
    labels = drawn(3, 7, 8, classes=4)
    found = places_of(labels)
    expected = [
        (value, *at) for value in (1, 2, 3) for at in np.argwhere(labels.numpy() == value).tolist()
    ]
    assert sorted(map(tuple, found.tolist())) == sorted(expected)


def test_of_a_large_class_places_are_taken_evenly():
    labels = torch.zeros(10, 64, 64, dtype=torch.uint8)
    labels[:, 8:56, 8:55] = 1  # 22560 voxels
    labels[5, 0, :5] = 2
    labels[:, 60:] = IGNORED
    found = places_of(labels)
    assert set(found[:, 0].tolist()) == {1, 2}, "neither background nor what is ignored"
    assert torch.equal(found[found[:, 0] == 2][:, 1:], (labels == 2).nonzero().int())
    large = found[found[:, 0] == 1][:, 1:].long()
    assert PLACES == 4096 and PLACES <= len(large) < PLACES + len(labels)
    assert (labels[tuple(large.T)] == 1).all() and len(large.unique(dim=0)) == len(large)
    per_slice = torch.bincount(large[:, 0], minlength=10)
    assert per_slice.min() > 0.8 * per_slice.max()
    assert large.float().mean(0).tolist() == pytest.approx([4.5, 31.5, 31.0], abs=1.0)


@pytest.mark.parametrize("count", [4095, 4096, 4097, 8192, 8193])
def test_of_more_voxels_than_that_so_many_are_drawn(count: int):
    labels = torch.zeros(1, 100, 100, dtype=torch.uint8)
    labels.view(-1)[:count] = 7
    found = places_of(labels)
    assert len(found) == min(count, PLACES) == len(found.unique(dim=0))


def test_a_slice_with_few_voxels_of_a_large_class_has_a_place():
    labels = torch.zeros(3, 100, 100, dtype=torch.uint8)
    labels[:2] = 1
    labels[2, 50, 50] = 1
    found = places_of(labels)
    assert found[found[:, 1] == 2].tolist() == [[1, 2, 50, 50]]


def test_an_image_without_labels_has_no_places():
    scan = Scan.of(torch.zeros(1, 2, 4, 4), torch.full((2, 4, 4), IGNORED, dtype=torch.uint8))
    assert scan.content.places().shape == (0, 4)
    own = torch.ones(2, 8, 8, dtype=torch.uint8)
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    labels[1, 2, 3] = 1
    scan = Scan.of(torch.zeros(1, 2, 4, 4), labels, own=own)
    assert scan.content.places().tolist() == [[1, 1, 2, 3]], "on the network's grid"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": np.zeros((1, 2, 4, 4), np.float32)}, "the image must be a torch tensor"),
        ({"image": torch.zeros(1, 2, 4, 4).double()}, "the image must be float32, it is float64"),
        ({"image": torch.zeros(2, 4, 4)}, r"the image must be of shape \(channels, slices"),
        ({"image": torch.full((1, 2, 4, 4), torch.nan)}, "values that are not finite"),
        ({"labels": torch.zeros(2, 4, 4).long()}, "the label map must be uint8, it is int64"),
        ({"labels": torch.zeros(2, 4, 5, dtype=torch.uint8)}, r"shape \(2, 4, 5\), the image of"),
        ({"own": torch.zeros(4, 4, dtype=torch.uint8)}, "the own label map must be of shape"),
    ],
)
def test_arrays_that_are_no_scan_are_refused(change, said: str):
    given = {"image": torch.zeros(1, 2, 4, 4), "labels": torch.zeros(2, 4, 4, dtype=torch.uint8)}
    with pytest.raises(DataError, match=said):
        Scan.of(**(given | change))


# --- parts and digests -----------------------------------------------------------------------


def test_a_part_is_that_of_the_arrays():
    image, labels = noise(2, 5, 6, 7), drawn(5, 6, 7)
    content = Scan.of(image, labels).content
    box = (slice(1, 3), slice(2, 6), slice(0, 5))
    assert np.array_equal(content.image(box), image.numpy()[:, 1:3, 2:6, 0:5])
    assert np.array_equal(content.labels(box), labels.numpy()[1:3, 2:6, 0:5])


def test_the_digest_depends_on_every_array_and_its_shape():
    image, labels, own = noise(1, 2, 6, 6), drawn(2, 6, 6), drawn(2, 12, 12)
    first = Scan.of(image, labels, own=own).digest
    assert first == Scan.of(image.clone(), labels.clone(), own=own.clone(), plane="x").digest
    seen = {first}
    for array in (image, labels, own):
        before = array.view(-1)[17].item()
        array.view(-1)[17] = 9
        seen.add(Scan.of(image, labels, own=own).digest)
        array.view(-1)[17] = before
    for shape in ((2, 4, 9), (4, 3, 6)):
        seen.add(Scan.of(image.reshape(1, *shape), labels.reshape(shape), own=own).digest)
    seen.add(Scan.of(image, labels, own=own.reshape(4, 6, 12)).digest)
    seen.add(Scan.of(image, labels).digest)
    assert len(seen) == 8
    assert Scan.of(image, labels, own=own).digest == first


def test_the_digest_is_that_of_the_values_however_they_lie_in_memory():
    image, labels = noise(1, 2, 6, 8), drawn(2, 6, 8)
    other = image.transpose(2, 3).contiguous().transpose(2, 3)
    assert not other.is_contiguous()
    assert Scan.of(image, labels).digest == Scan.of(other, labels).digest


def test_a_sites_digest_depends_on_names_arrays_and_splits():
    def case(name: str, value: float) -> Case:
        return Case.of(name, torch.full((1, 1, 4, 4), float(value)), drawn(1, 4, 4))

    a, b, c = case("a", 1), case("b", 2), case("c", 3)
    same = SiteData((a,), (b,), (c,)).digest()
    renamed = Case("z", a.scans)
    doubled = Case("a", a.scans * 2)
    seen = {same}
    for train, val, test in (
        ((renamed,), (b,), (c,)),
        ((doubled,), (b,), (c,)),
        ((b,), (a,), (c,)),
        ((a,), (b,), (case("c", 4),)),
        ((a, b), (c,), ()),
        ((a,), (), (b, c)),
    ):
        seen.add(SiteData(train, val, test).digest())
    thick = Case(
        "c", (Scan.of(c.scans[0].content.image(), c.scans[0].content.labels(), (7, 1, 1)),)
    )
    seen.add(SiteData((a,), (b,), (thick,)).digest())
    assert len(seen) == 8 and SiteData((a,), (b,), (c,)).digest() == same


def test_slices_of_several_scans_are_one_stack():
    parts = [(noise(2, n, 4, 5), drawn(n, 4, 5)) for n in (1, 3)]
    case = Case("p", tuple(Scan.of(*part) for part in parts))
    images = np.concatenate([image.numpy().transpose(1, 0, 2, 3) for image, _ in parts])
    assert np.array_equal(case.images, images)
    assert np.array_equal(case.labels, np.concatenate([labels for _, labels in parts]))
