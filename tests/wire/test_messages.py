"""What comes from the network is checked before anything is done with it."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from fedcl.wire.answers import Hello, Report, Scored, Update
from fedcl.wire.fields import MalformedError
from fedcl.wire.limits import LIMIT, MEASURES, NOTES

UPDATE = Update({"w": np.ones(3, np.float32)}, 7, 4, {"seg": 0.5}, 1.0, "ff", holds=["aa"])
SCORED = Scored(["p", "q"], {"dice": [0.1, 0.2], "iou": [0.3, 0.4]}, 1.0, 0.5)


def with_bytes(data: bytes) -> RecordDict:
    content = UPDATE.pack()
    content["arrays"] = ArrayRecord({"w": Array("float32", (3,), "numpy.ndarray", data)})
    return content


def archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, w=np.ones(3))
    return buffer.getvalue()


def test_what_is_packed_comes_back():
    back = Update.unpack(UPDATE.pack())
    assert back.arrays["w"].tolist() == [1, 1, 1]
    assert (back.round, back.samples, back.losses, back.kept) == (7, 4, {"seg": 0.5}, "ff")
    assert back.holds == ["aa"]
    assert Scored.unpack(SCORED.pack()) == SCORED


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04rubbish", archive(), b"\x93NUMPY\x01\x00", b"\x80\x04N."]
)
def test_foreign_bytes_are_malformed_and_nothing_else(data: bytes):
    with pytest.raises(MalformedError, match="malformed update"):
        Update.unpack(with_bytes(data))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scored(["p", "p"], {"dice": [0.1, 0.2]}, 1.0, 0.5),
        lambda: Scored(["p", "q"], {"dice": [0.1]}, 1.0, 0.5),
        lambda: replace(SCORED, predicting=-1.0),
        lambda: Scored(["p"], {"dice": [float("nan")]}, 1.0, 0.5),
        lambda: Scored(["p"], {}, 1.0, 0.5),
        lambda: Scored([], {"dice": []}, 1.0, 0.5),
    ],
)
def test_scores_that_would_falsify_a_mean_are_refused(make: Callable[[], Scored]):
    with pytest.raises(MalformedError):
        Scored.unpack(make().pack())


def test_a_shape_that_no_memory_holds_is_refused():
    with pytest.raises(MalformedError):
        Hello.unpack(replace(HELLO, shape=[8192, 8192, 8192]).pack())


HELLO = Hello("A", "", "ff", 3, 1, 2, 12, [1, 32, 32])


@pytest.mark.parametrize(
    "change",
    [
        {"shape": []},
        {"shape": [1, 32, 0]},
        {"shape": [-1, 32, 32]},
        {"shape": [1, 30000, 30000]},
        {"samples": -5},
        {"train": 0},
        {"test": 10**9},
    ],
)
def test_a_hospital_of_impossible_size_is_refused(change: dict[str, object]):
    assert Hello.unpack(HELLO.pack()) == HELLO
    with pytest.raises(MalformedError, match=r"malformed hello: (hello|impossible)"):
        Hello.unpack(replace(HELLO, **change).pack())


@pytest.mark.parametrize(
    "change",
    [
        {"losses": {"x" * 300: 1.0}},
        {"losses": {"../../etc": 1.0}},
        {"losses": {f"l{number}": 1.0 for number in range(99)}},
        {"seconds": float("nan")},
        {"seconds": -1.0},
        {"stored": -1},
    ],
)
def test_an_update_that_would_spoil_the_books_is_refused(change: dict[str, object]):
    with pytest.raises(MalformedError):
        Update.unpack(replace(UPDATE, **change).pack())


@pytest.mark.parametrize("array", [np.ones(2), np.float32([np.nan]), np.float32([np.inf])])
def test_a_report_is_finite_and_float32(array: np.ndarray):
    with pytest.raises(MalformedError, match="not finite float32"):
        Report.unpack(Report({"w": array}, 4, 1.0).pack())


@pytest.mark.parametrize(
    "source",
    [
        [1.0] * 24,
        [0.0] * 25,
        [float("nan")] * 25,
        [*np.eye(4).flatten(), 0, 1, 1, 1, 3, 1, 0.0, 0.0, 1.0],
        [*np.eye(4).flatten(), 0, 1, 1, 1, 2, 1, 0.0, 1.0, 1.0],
        [*np.eye(4).flatten(), 0, 1, 1, 1, 2, 1, -1.0, 0.0, 1.0],
        [1e300] * 25,
    ],
)
def test_a_source_that_places_no_volume_is_refused(source: list[float]):
    hello = Hello("A", digest="x", train=1, val=1, test=1, samples=1, shape=[1, 8, 8])
    with pytest.raises(MalformedError):
        Hello.unpack(replace(hello, source=[float(one) for one in source]).pack())


def test_a_measure_comes_back_alone():
    told = Hello("A", measured=[1.5, 2.0, 0.1])
    assert Hello.unpack(told.pack()) == told
    assert Hello.unpack(HELLO.pack()).measured == []


@pytest.mark.parametrize(
    "measured",
    [
        [1.0] * (MEASURES + 1), [1.0, float("nan")], [float("inf")], [-float("inf")], [1e300],
        [LIMIT], [-LIMIT],
    ],
)  # fmt: skip
def test_measures_that_no_setting_can_have_are_refused(measured: list[float]):
    for hello in (Hello("A"), HELLO):
        with pytest.raises(MalformedError, match=r"hello\.measured"):
            Hello.unpack(replace(hello, measured=measured).pack())


def test_measures_are_numbers():
    content = Hello("A", measured=[1.0]).pack()
    content["hello"]["measured"] = ["1.0"]
    with pytest.raises(MalformedError, match=r"hello\.measured\.0: .* number"):
        Hello.unpack(content)


def test_notes_are_bounded_in_number_and_length_and_printable():
    hello = Hello("A", digest="x", train=1, val=1, test=1, samples=1, shape=[1, 8, 8])
    notes = ["x" * 10_000, "two\nlines", "bell\a", *map(str, range(100))]
    read = Hello.unpack(replace(hello, notes=notes).pack()).notes
    assert len(read) == NOTES and len(read[0]) == 500
    assert read[1:3] == ["two", "bell"]


@pytest.mark.parametrize("change", [{"cpu": -1.0}, {"cpu": float("inf")}, {"memory": -1}])
def test_an_impossible_effort_is_refused(change: dict[str, float]):
    with pytest.raises(MalformedError):
        Update.unpack(replace(UPDATE, **change).pack())
