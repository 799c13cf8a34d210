"""Every limit of every field of every message is overstepped, and refused in one line."""

import inspect
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict

from fedcl.wire import answers, forgetting, records, requests
from fedcl.wire.answers import Hello, Missing, Report, Scored, Update
from fedcl.wire.fields import MalformedError
from fedcl.wire.forgetting import ForgetRequest, Kept
from fedcl.wire.limits import DETAILS, MESSAGES, Bundle, Values, told
from fedcl.wire.requests import EvaluateRequest, Greeting, ReportRequest, TrainRequest

WEIGHTS = {"w": np.ones((2, 3), np.float32), "count": np.int64(3)}
SENT: dict[str, Any] = {
    "job": "{}", "model": "unet", "arrays": records.to_record(WEIGHTS), "run": "run-1",
    "arrivals": [["A"], ["B"]], "state": 1,
}  # fmt: skip
HONEST = [
    Greeting("{}"),
    Hello("A", "", "ff", 3, 1, 2, 12, [1, 32, 32], ["a note"]),
    Missing(["teacher"]),
    Update(WEIGHTS, 7, 4, {"seg": 0.5}, 1.0, "ff", holds=["aa"]),
    Report({"mean": np.ones(3, np.float32)}, 4, 1.0),
    Scored(["p", "q"], {"dice": [0.1, 0.2]}, 1.0, 0.5),
    TrainRequest(
        **SENT, teacher=SENT["arrays"], memory=SENT["arrays"], digests={"teacher": "ff"},
        keep=["teacher"], needed=[1], lost=["B"], shares={"A": 0.5}, rehearsing=["B"], round=3,
    ),
    EvaluateRequest(**SENT, split="test"),
    ReportRequest(**SENT, shares={"A": 1.0}),
    ForgetRequest("run-1", "run-2", [1, 2]),
    Kept("A", {1: "ff"}, 2),
]  # fmt: skip
BY_NAME = {type(one).__name__.lower(): one for one in HONEST}


def over(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield values that oversteps each limit that a value has; one without limits is an error."""
    if "enum" in schema:
        yield from ("other", 7)
        return
    kind = schema["type"]
    if kind == "string":
        yield from ("x" * (schema["maxLength"] + 1), 7, ["x"])
        if schema.get("minLength"):
            yield ""
        if "pattern" in schema:
            yield "a\nb"
    elif kind in ("integer", "number"):
        high, low = (schema.get(f"{end}imum", schema.get(f"exclusive{end.title()}imum"))
                     for end in ("max", "min"))  # fmt: skip
        assert math.isfinite(high) and math.isfinite(low), "a number needs both ends"
        step = 1 if kind == "integer" else max(1.0, abs(high))
        yield from (high + step, low - step, True, "1", math.inf, math.nan, [low + 1])
    elif kind == "boolean":
        yield from (1, "true")
    else:
        assert kind == "array"
        fits = next(iter(valid(schema["items"])))
        yield from ([fits] * (schema["maxItems"] + 1), "x", 7)
        if schema.get("minItems"):
            yield []
        yield from ([bad] for bad in over(schema["items"]) if not isinstance(bad, list))


def valid(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield a value within the limits."""
    if "enum" in schema:
        yield schema["enum"][0]
    elif schema["type"] == "string":
        yield "a"
    else:
        yield max(1, schema.get("minimum", 1))


def attacks() -> Iterator[Any]:
    """Yield message, record, key and values: one that is too much in everything there is."""
    for message, rules in MESSAGES.items():
        for record, rule in rules.items():
            if not isinstance(rule, Values):
                continue
            schema = rule.kind.json_schema()
            if "properties" in schema:
                assert schema["additionalProperties"] is False
                fields = schema["properties"]
            else:  # of any names
                assert schema["maxProperties"] < 10_000
                (one,) = schema["patternProperties"].values()
                fields = {"name": one}
            for key, one in fields.items():
                yield pytest.param(
                    message, record, key, list(over(one)), id=f"{message}.{record}.{key}"
                )


def content_of(message: str) -> RecordDict:
    return BY_NAME[message].pack()


def refused(message: str, content: RecordDict) -> str:
    """Return in what line a message is refused."""
    with pytest.raises(MalformedError) as error:
        type(BY_NAME[message]).unpack(content)
    line = str(error.value)
    assert "\n" not in line and len(line) <= 500
    return line


def test_every_message_has_its_place_in_the_table():
    classes = {
        name.lower()
        for module in (answers, requests, forgetting)
        for name, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__ and hasattr(one, "unpack")
    }
    assert classes - {"request"} == MESSAGES.keys() == BY_NAME.keys()
    for message, one in BY_NAME.items():
        assert type(one).unpack(content_of(message)) is not None


@pytest.mark.parametrize(("message", "record", "key", "values"), attacks())
def test_what_is_too_much_is_refused_by_name(
    message: str, record: str, key: str, values: list[Any]
):
    for value in values:
        content = content_of(message)
        there = {"name": 0.5} if key == "name" else dict(content[record])
        content[record] = ConfigRecord({**there, key: value})
        assert f"{record}.{key}" in refused(message, content), value


@pytest.mark.parametrize("message", MESSAGES)
def test_nothing_is_missing_and_nothing_comes_along(message: str):
    for extra in (ConfigRecord({"a": 1}), MetricRecord({"a": 1}), records.to_record(WEIGHTS)):
        content = content_of(message)
        content["further"] = extra
        assert "'further' is no record" in refused(message, content)
    for record, rule in MESSAGES[message].items():
        content = content_of(message)
        wrong = records.to_record(WEIGHTS) if isinstance(rule, Values) else ConfigRecord({})
        content[record] = wrong
        assert record in refused(message, content)
        if isinstance(rule, Bundle) and not rule.needed:
            continue
        del content[record]
        assert record in refused(message, content)


def fixed() -> Iterator[tuple[str, str]]:
    for message, rules in MESSAGES.items():
        for record, rule in rules.items():
            if isinstance(rule, Values) and "properties" in rule.kind.json_schema():
                yield message, record


@pytest.mark.parametrize(("message", "record"), fixed())
def test_a_record_has_its_keys_and_no_others(message: str, record: str):
    for key in list(content_of(message)[record]):
        content = content_of(message)
        del content[record][key]
        assert key in refused(message, content)
    content = content_of(message)
    content[record] = ConfigRecord({**content[record], "more": "x" * 10**6})
    assert "keys, at most" in refused(message, content)
    content = content_of(message)
    content[record] = ConfigRecord({f"k{number}": 1 for number in range(1000)})
    assert "1000 keys, at most" in refused(message, content)


@pytest.mark.parametrize("name", ["..", ".", "", "../../etc", "a/b", "-x", "x" * 51, "a\nb", "a b"])
def test_no_loss_and_no_score_has_a_name_that_leads_elsewhere(name: str):
    for message, record, value in (("update", "losses", 0.5), ("scored", "scores", [0.5, 0.5])):
        content = content_of(message)
        content[record] = MetricRecord({name: value})
        assert record in refused(message, content)


@pytest.mark.parametrize("case", ["a\nb", "a\x1b[2Jb", "a\u2028b", "", "x" * 201])
def test_no_case_has_a_name_that_is_more_than_a_word(case: str):
    content = content_of("scored")
    content["names"]["cases"] = [case, "q"]
    assert "names.cases.0" in refused("scored", content)


# --- arrays ----------------------------------------------------------------------------------

FLOATS = np.ones(3, np.float32)


def saved(array: np.ndarray, **how: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **how)
    return stream.getvalue()


def headed(shape: tuple[int, ...], data: bytes = b"\0" * 12) -> bytes:
    """Return the bytes of an array that says to be of some shape."""
    stream = io.BytesIO()
    told = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, told)
    return stream.getvalue() + data


HUGE = (10**12,)
ARRAYS = {
    "a header of a huge array": Array("float32", (3,), "numpy.ndarray", headed(HUGE)),
    "a huge array": Array("float32", HUGE, "numpy.ndarray", headed(HUGE)),
    "bytes after it": Array("float32", (3,), "numpy.ndarray", saved(FLOATS) + b"\0"),
    "bytes missing": Array("float32", (3,), "numpy.ndarray", saved(FLOATS)[:-1]),
    "another type": Array("float32", (3,), "numpy.ndarray", saved(np.ones(3, np.int32))),
    "another shape": Array("float32", (3,), "numpy.ndarray", saved(np.ones((3, 1), np.float32))),
    "objects": Array("object", (1,), "numpy.ndarray", saved(np.array([{}]), allow_pickle=True)),
    "objects under a mask": Array(
        "float32", (1,), "numpy.ndarray", saved(np.array([{}]), allow_pickle=True)
    ),
    "text": Array("<U3", (1,), "numpy.ndarray", saved(np.array(["abc"]))),
    "a negative axis": Array("float32", (-1, -3), "numpy.ndarray", headed((-1, -3))),
    "many axes": Array("float32", (1,) * 9, "numpy.ndarray", headed((1,) * 9, b"\0" * 4)),
    "another form": Array("float32", (3,), "torch.tensor", saved(FLOATS)),
    "nothing": Array("float32", (3,), "numpy.ndarray", b""),
}
BUNDLES = [
    (message, record)
    for message, rules in MESSAGES.items()
    for record, rule in rules.items()
    if isinstance(rule, Bundle)
]


@pytest.mark.parametrize(("message", "record"), BUNDLES)
def test_arrays_are_checked_before_they_are_decoded(
    message: str, record: str, monkeypatch: pytest.MonkeyPatch
):
    def decoded(array: Array) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Array, "numpy", decoded)
    for what, array in ARRAYS.items():
        content = content_of(message)
        content[record] = ArrayRecord({"key": array})
        assert "key" in refused(message, content), what
    content[record] = ArrayRecord({"x" * 201: Array(FLOATS)})
    assert "has 201 signs" in refused(message, content)
    content[record] = ArrayRecord(dict.fromkeys(map(str, range(10_001)), Array(FLOATS)))
    assert "10001 arrays" in refused(message, content)
    monkeypatch.setattr(records, "LARGEST", 1000)
    content[record] = ArrayRecord({"a": Array(np.ones(300, np.float32))})
    assert "bytes of arrays, at most 1000" in refused(message, content)


WRONG = {
    "further ones": ({**WEIGHTS, "more": FLOATS}, "not those that were asked for: more"),
    "fewer": ({"w": WEIGHTS["w"]}, "not those that were asked for: count"),
    "a larger one": ({**WEIGHTS, "w": np.ones((2000, 3), np.float32)}, "w has shape (2000, 3)"),
    "another type": ({**WEIGHTS, "w": np.ones((2, 3))}, "w has type float64, not float32"),
}


@pytest.mark.parametrize(("arrays", "said"), WRONG.values(), ids=WRONG)
def test_an_update_holds_what_was_sent_and_is_not_decoded_otherwise(
    arrays: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
):
    wanted = next(one for one in HONEST if isinstance(one, TrainRequest)).answered
    Update.unpack(content_of("update"), wanted)
    monkeypatch.setattr(Array, "numpy", lambda array: pytest.fail("it was decoded"))
    content = content_of("update")
    content["arrays"] = records.to_record(arrays)
    with pytest.raises(MalformedError) as error:
        Update.unpack(content, wanted)
    assert said in str(error.value)


def test_a_report_holds_what_was_asked_for():
    wanted = ReportRequest(**SENT, forms={"mean": (3,)}).answered
    assert Report.unpack(content_of("report"), wanted).samples == 4
    with pytest.raises(MalformedError, match=r"mean has shape \(3,\), not \(4,\)"):
        Report.unpack(content_of("report"), ReportRequest(**SENT, forms={"mean": (4,)}).answered)


# --- errors ----------------------------------------------------------------------------------


def test_of_an_error_no_more_is_kept_than_a_line_and_some_details():
    said = told(Error(2, "x\x1b[2J" + "y" * 10**6 + "\n" + "z" * 10**6))
    first, details = said.split("\n")
    assert len(first) == 500 and "\x1b" not in first and len(details) == DETAILS
    assert told(Error(2, "")) == "error 2"
