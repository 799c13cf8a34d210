"""From an image as it was read to what networks are shown, against numpy."""

from typing import Any

import numpy as np
import pytest

from fedcl.data.labels import IGNORED
from fedcl.data.preparing import Preparation, distances, sizes, ways
from fedcl.data.reading import Pair
from fedcl.errors import ConfigError
from tests.images import folder

RNG = np.random.default_rng(11)


def pair(image: np.ndarray, labels: np.ndarray | None = None, **more: Any) -> Pair:
    given = {"spacing": (4.0, 2.0, 1.0), "plane": "axial", "affine": None} | more
    labels = np.zeros(image.shape[1:], np.uint8) if labels is None else labels
    return Pair(image.astype(np.float32), labels, **given)


def prepared(one: Pair, **settings: Any) -> np.ndarray:
    return Preparation(**settings)(one)[0].content.image().numpy()


def volume() -> np.ndarray:
    """Return two channels of other scales, skewed and with negative values."""
    return np.stack([RNG.gamma(2, 40, (4, 12, 15)) - 30, RNG.normal(2, 0.1, (4, 12, 15))])


# --- intensities -----------------------------------------------------------------------------


def by_numpy(values: np.ndarray, normalise: str, counts: np.ndarray | bool = True) -> np.ndarray:
    """Return one channel normalised by those of its values that count."""
    known = values[np.broadcast_to(counts, values.shape)].astype(np.float64)
    if normalise == "zscore":
        return (values - known.mean()) / known.std()
    low, high = np.percentile(known, (0.5, 99.5) if normalise == "percentile" else (0, 100))
    ends = {"percentile": (0, 1), "minmax_clipped": (0.001, 0.99)}.get(normalise, (None, None))
    return ((values - low) / (high - low)).clip(*ends)


@pytest.mark.parametrize("normalise", ["zscore", "minmax", "minmax_clipped", "percentile"])
def test_every_channel_is_normalised_over_the_volume(normalise: str):
    image = volume().astype(np.float32)
    found = prepared(pair(image), normalise=normalise)
    for channel, values in zip(found, image, strict=True):
        np.testing.assert_allclose(channel, by_numpy(values, normalise), atol=2e-5)


def test_a_window_becomes_minus_one_to_one_and_is_clipped():
    image = volume()
    found = prepared(pair(image), normalise="window", window=(-10.0, 50.0))
    np.testing.assert_allclose(found, ((image - 20) / 30).clip(-1, 1), atol=1e-5)


def test_without_normalising_values_stay():
    image = volume().astype(np.float32)
    np.testing.assert_allclose(prepared(pair(image), normalise="none"), image, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalise", ["zscore", "minmax", "minmax_clipped", "percentile"])
def test_what_lies_outside_of_a_region_has_no_say_and_becomes_the_minimum(normalise: str):
    image, region = volume()[:1].astype(np.float32), np.ones((4, 12, 15), bool)
    region[:, :5] = False
    other = image.copy()
    other[:, :, :5] = 1e4
    both = (pair(each, region=region) for each in (image, other))
    one, two = (prepared(each, normalise=normalise)[0] for each in both)
    assert np.array_equal(one, two)
    inside = by_numpy(image[0], normalise, region)[:, 5:]
    np.testing.assert_allclose(one[:, 5:], inside, atol=2e-5)
    np.testing.assert_allclose(one[:, :5], inside.min(), atol=2e-5)


@pytest.mark.parametrize("resize", [(6, 8), (24, 30)])
@pytest.mark.parametrize("normalise", ["zscore", "minmax", "percentile"])
def test_what_lies_outside_of_a_region_does_not_shine_in(normalise: str, resize: tuple[int, ...]):
    image, region = volume()[:1].astype(np.float32), np.ones((4, 12, 15), bool)
    region[:, :5] = False
    other = image.copy()
    other[:, :, :5] = 1e4
    both = (pair(each, region=region) for each in (image, other))
    one, two = (prepared(each, normalise=normalise, resize=resize) for each in both)
    assert np.array_equal(one, two) and one.std() > 0


@pytest.mark.parametrize("normalise", ["zscore", "minmax", "minmax_clipped", "percentile"])
def test_an_image_looks_the_same_whatever_its_mask_has_ignored(normalise: str):
    """One to be segmented has no mask to be looked up."""
    image, labels = volume(), np.zeros((4, 12, 15), np.uint8)
    labels[:, :5] = IGNORED
    one, two = (prepared(each, normalise=normalise) for each in (pair(image, labels), pair(image)))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("resize", [(), (6, 8)])
def test_voxels_that_are_0_may_be_left_out_and_stay_0(resize: tuple[int, ...]):
    """As of a brain without its skull, whose intensities may be below 0."""
    image = np.zeros((1, 4, 12, 16), np.float32)
    image[:, :, 4:10, 4:12] = RNG.normal(0.5, 2, (1, 4, 6, 8))
    (scan,) = Preparation(resize=resize, normalise="zscore", nonzero=True)(pair(image))
    found = scan.content.image().numpy()[0]
    shown = image[0] if not resize else image[0].reshape(4, 6, 2, 8, 2).mean((2, 4))
    there = shown != 0
    assert 0 < there.mean() < 0.5 and not found[~there].any()
    np.testing.assert_allclose(
        found, np.where(there, by_numpy(shown, "zscore", there), 0), atol=2e-5
    )


@pytest.mark.parametrize("count", [1, 5])
def test_percentiles_bound_what_is_almost_constant(count: int):
    """A few bright voxels on black: both percentiles are 0, and nothing may be over 1."""
    image = np.zeros((1, 4, 20, 20))
    image[0, 0, 0, :count] = 3000
    found = prepared(pair(image), normalise="percentile")
    assert found.min() == 0 and found.max() <= 1


def test_slices_that_are_kept_are_padded_as_the_whole_volume_is():
    image, labels = volume()[:1].astype(np.float32), np.zeros((4, 12, 15), np.uint8)
    image[0, 3, 0, 0], labels[0, 2:5] = -500, 1
    (scan,) = Preparation(margin=1)(pair(image, labels))
    (whole,) = Preparation()(pair(image))
    assert scan.shape[1] == 2 and scan.lowest == whole.lowest


def test_channels_that_are_ct_in_small_letters_are_ct():
    assert ways("auto", ["ct", "MR"]) == ["window", "zscore"]


def test_an_empty_channel_is_zero():
    image = np.concatenate([volume()[:1], np.full((1, 4, 12, 15), 7.0)])
    for normalise in ("zscore", "minmax"):
        assert not prepared(pair(image), normalise=normalise)[1].any()
    assert not prepared(pair(np.zeros((1, 2, 8, 8))), normalise="zscore", nonzero=True).any()


# --- the grid --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (6, 12, 20)),
        ({"spacing": (1.0, 1.0)}, (6, 24, 20)),
        ({"spacing": (3.0, 4.0)}, (6, 8, 5)),
        ({"spacing": (2.0, 2.0, 2.0)}, (12, 12, 10)),
        ({"spacing": (100.0, 100.0, 100.0)}, (1, 1, 1)),
        ({"resize": (8, 9)}, (6, 8, 9)),
        ({"resize": (3, 8, 9)}, (3, 8, 9)),
    ],
)
def test_voxels_are_brought_to_the_spacing_or_size_asked_for(settings, shape):
    one = pair(RNG.normal(size=(2, 6, 12, 20)), RNG.integers(0, 2, (6, 12, 20)).astype(np.uint8))
    (scan,) = Preparation(**settings)(one)
    assert scan.shape == (2, *shape) and scan.content.labels().shape == shape
    assert scan.own == (6, 12, 20) and scan.spacing == (4.0, 2.0, 1.0)
    assert np.array_equal(scan.content.truth(), one.labels)


def test_spacings_are_kept_in_mm_whatever_the_image_had():
    fine, coarse = (
        pair(RNG.normal(size=(1, 4, n, n)), spacing=(5.0, 64 / n, 64 / n)) for n in (64, 32)
    )
    prepare = Preparation(spacing=(2.0, 2.0))
    assert prepare(fine)[0].shape == prepare(coarse)[0].shape == (1, 4, 32, 32)


# --- settings --------------------------------------------------------------------------------


def test_a_number_is_for_all_axes():
    assert sizes(None, 2, "k") == () and sizes(7, 3, "k") == (7, 7, 7)
    assert sizes([1, 2, 3], 3, "k") == (1, 2, 3)
    assert distances(None, 2, "k") == () and distances(1, 2, "k") == (1.0, 1.0)
    assert distances([5, 0.5, 0.5], 3, "k") == (5.0, 0.5, 0.5)


@pytest.mark.parametrize("value", [0, 2049, 1.5, True, "8", [8], [8, 8, 8], [8, 0], [8, 8.0], {}])
def test_sizes_that_are_none(value: Any):
    with pytest.raises(ConfigError, match=r"^scenario\.size: .* \(rows and columns\)"):
        sizes(value, 2, "scenario.size")


@pytest.mark.parametrize("value", [0, 1001, True, "1", [1], [1, 1, 1], [1, -1], float("nan")])
def test_distances_that_are_none(value: Any):
    with pytest.raises(ConfigError, match=r"^scenario\.spacing: .*row, column"):
        distances(value, 2, "scenario.spacing")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"spacing": 1.0, "resize": 8}, "scenario.spacing: give it or scenario.resize, not both"),
        ({"size": 8, "patch": 8, "resize": None}, "scenario.size: give it or scenario.patch"),
        ({"window": [5, 5]}, "scenario.window: give [low, high]"),
        ({"window": [1]}, "scenario.window: give [low, high]"),
        ({"resize": [8, 8, 8]}, "scenario.resize: give a whole number"),
        ({"resize": 8, "spatial_dims": 3, "size": [4, 4]}, "scenario.size: give a whole number"),
    ],
)
def test_settings_at_odds(settings: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as error:
        folder(**settings)
    assert said in str(error.value)


def test_channels_may_be_normalised_each_its_own_way():
    both = folder(channels=2, normalise=["window", "zscore"])
    assert both.preparation([]).normalise == ("window", "zscore")
    for wrong in (["window"], ["auto", "zscore"], None, 3):
        with pytest.raises(ConfigError, match=r"scenario\.normalise: "):
            folder(channels=2, normalise=wrong)
