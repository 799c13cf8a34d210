"""Averaging, checking and storing named arrays."""

from pathlib import Path

import numpy as np
import pytest

from fedcl import arrays
from fedcl.errors import RunError
from fedcl.hospital.store import SiteState
from fedcl.wire import records


def test_weighted_mean_by_hand():
    one, two = {"w": np.float32([1, 2])}, {"w": np.float32([4, 8])}
    mean = arrays.weighted_mean([one, two], [1, 2])
    assert mean["w"].tolist() == [3, 6]
    assert mean["w"].dtype == np.float32


def test_sums_are_kept_in_float64():
    tiny = [{"w": np.float32([value])} for value in (1e8, 1.0, -1e8)]
    assert arrays.weighted_mean(tiny, [1, 1, 1])["w"][0] == pytest.approx(1 / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        ([254.6, 300.0, -1.0], "uint8", [255, 255, 0]),
        ([2147483647.0, 3e9, -3e9], "int32", [2**31 - 1, 2**31 - 1, -(2**31)]),
        ([9.3e18, -9.3e18, 7.5], "int64", [2**63 - 1024, -(2**63), 8]),
        ([0.3, 0.7, 1.0], "bool", [False, True, True]),
        ([0.25, 1e-3, 2.0], "float32", [0.25, np.float32(1e-3), 2.0]),
    ],
)
def test_a_mean_stays_in_the_range_of_its_type(values: list[float], kind: str, found: list):
    array = arrays.as_type(np.array(values), np.dtype(kind))
    assert array.dtype == kind and array.tolist() == found


def test_counters_stay_integers():
    counts = [{"n": np.int64(10)}, {"n": np.int64(13)}]
    mean = arrays.weighted_mean([{k: np.asarray(v) for k, v in c.items()} for c in counts], [1, 1])
    assert mean["n"].dtype == np.int64
    assert mean["n"] in (11, 12)


REFERENCE = {"w": np.zeros((2, 2), np.float32), "n": np.zeros((), np.int64)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"w": np.full((2, 2), np.nan, np.float32)}, "w is not finite"),
        ({"w": np.full((2, 2), np.inf, np.float32)}, "w is not finite"),
        ({"w": np.zeros((2, 3), np.float32)}, "w has shape (2, 3), not (2, 2)"),
        ({"w": np.zeros((2, 2), np.float64)}, "w has type float64, not float32"),
        ({"x": np.zeros(1)}, "its arrays are not the model's: x"),
    ],
)
def test_bad_updates_are_refused_by_name(change: dict[str, np.ndarray], said: str):
    assert arrays.mismatch(REFERENCE | change, REFERENCE) == said
    assert arrays.mismatch(REFERENCE, REFERENCE) is None
    missing = {"w": REFERENCE["w"]}
    assert arrays.mismatch(missing, REFERENCE) == "its arrays are not the model's: n"


def test_records_and_files_keep_every_bit(tmp_path: Path):
    there = {"w": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)} | {
        "n": np.array(7)
    }
    back = records.from_record(records.to_record(there))
    arrays.save_file(tmp_path / "a.safetensors", there)
    loaded = arrays.load_file(tmp_path / "a.safetensors")
    for copy in (back, loaded):
        assert copy.keys() == there.keys()
        assert all(copy[k].tobytes() == v.tobytes() for k, v in there.items())
        assert all(copy[k].shape == v.shape for k, v in there.items())
        assert arrays.digest(copy) == arrays.digest(there)


def test_the_digest_follows_key_order_and_content():
    a, b = np.float32([1]), np.float32([2])
    assert arrays.digest({"x": a, "y": b}) == arrays.digest({"y": b, "x": a})
    assert arrays.digest({"x": a, "y": b}) != arrays.digest({"x": b, "y": a})


def test_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    arrays.save_file(path, {"w": np.zeros(100, np.float32)})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match=r"a\.safetensors: cannot be read"):
        arrays.load_file(path)


def test_a_pickle_is_not_read(tmp_path: Path):
    import pickle

    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps({"w": [1]}))
    with pytest.raises(RunError, match="cannot be read"):
        arrays.load_file(path)


def test_site_state_keeps_versions_and_drops_old_ones(tmp_path: Path):
    state = SiteState(tmp_path)
    assert state.load(0) == {}
    for version in range(1, 7):
        state.save(version, {"w": np.float32([version])}, version - 1)
    assert state.load(6)["w"] == 6
    assert state.load(4)["w"] == 4
    with pytest.raises(RunError, match="round-000001"):
        state.load(1)


def test_versions_at_the_ends_of_stages_stay(tmp_path: Path):
    state = SiteState(tmp_path)
    for version in range(1, 9):
        state.save(version, {"w": np.float32([version])}, version - 1, needed=(2, 4))
    kept = [path.name for path in sorted(tmp_path.iterdir())]
    assert kept == [f"round-{number:06d}.safetensors" for number in (2, 4, 5, 6, 7, 8)]


def test_a_repeated_round_overwrites_its_version_and_spares_the_one_it_starts_from(tmp_path: Path):
    state = SiteState(tmp_path)
    for version in (1, 2, 3, 4, 5, 3):  # the run was resumed from round 2
        state.save(version, {"w": np.float32([version])}, min(version - 1, 2))
    assert state.load(3)["w"] == 3
    assert state.load(2)["w"] == 2, "the server may still ask for it"


def test_the_version_the_server_knows_survives_lost_answers(tmp_path: Path):
    state = SiteState(tmp_path)
    for version in (1, 2, 3, 4, 5, 6):  # the server never heard of 2 to 6
        state.save(version, {"w": np.float32([version])}, min(version - 1, 1))
    assert state.load(1)["w"] == 1


def test_a_running_mean_has_the_bits_of_the_sum_where_the_weights_are_as_expected():
    rng = np.random.default_rng(3)
    updates = [{"w": rng.normal(size=1000).astype(np.float32)} for _ in range(6)]
    weights = [20, 24, 31, 20, 7, 1]
    by_hand = np.zeros(1000, np.float64)
    for update, weight in zip(updates, weights, strict=True):
        by_hand += update["w"].astype(np.float64) * (weight / sum(weights))
    right, wrong = arrays.Mean(sum(weights)), arrays.Mean(1000)
    for update, weight in zip(updates, weights, strict=True):
        right.add(update, weight)
        wrong.add(update, weight)
    assert right.result()["w"].tolist() == by_hand.astype(np.float32).tolist()
    np.testing.assert_allclose(wrong.result()["w"], by_hand, rtol=1e-6)
