"""JSON-like values to Struct and back."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from airside import ConversionError
from airside.wire.struct import StructValues, write_loosely, write_struct

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


class Size(enum.Enum):
    BIG = "big"


@dataclass
class Point:
    x: int
    y: float


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=5))
def test_round_trip(values: dict[str, Any]) -> None:
    message = write_struct(values, "config")
    assert dict(StructValues(struct_pb2.Struct.FromString(message.SerializeToString()))) == values


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=5))
def test_loose_writing_agrees_with_strict_on_json(values: dict[str, Any]) -> None:
    assert write_loosely(values) == write_struct(values, "config")


def test_agrees_with_protobufs_own_reading_of_json() -> None:
    values = {"a": [1, 2.5, "x", None, True], "b": {"c": {}}, "d": []}
    assert write_struct(values, "config") == json_format.ParseDict(values, struct_pb2.Struct())


def test_numbers_come_back_as_int_only_where_that_is_exact() -> None:
    message = struct_pb2.Struct()
    message.update({"whole": 3.0, "half": 0.5, "huge": 1e300, "negative": -7.0})
    values = StructValues(message)
    assert [type(values[name]) for name in ("whole", "half", "huge", "negative")] == [int, float, float, int]


def test_reading_a_missing_name_does_not_create_it() -> None:
    message = struct_pb2.Struct()
    values = StructValues(message)
    with pytest.raises(KeyError):
        values["absent"]
    assert values.get("absent", 5) == 5
    assert "absent" not in values
    assert len(values) == 0
    assert not message.fields


def test_values_that_have_a_plain_meaning() -> None:
    values = {
        "e": Size.BIG,
        "d": date(2024, 1, 2),
        "t": datetime(2024, 1, 2, tzinfo=UTC),
        "p": Point(1, 2.5),
        "u": (1,),
    }
    assert dict(StructValues(write_struct(values, "config"))) == {
        "e": "big",
        "d": "2024-01-02",
        "t": "2024-01-02T00:00:00+00:00",
        "p": {"x": 1, "y": 2.5},
        "u": [1],
    }


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"x": [{"y": b"raw"}]}, "config.x[0].y: bytes is not a JSON value"),
        ({"n": math.inf}, "config.n: inf is not a JSON number"),
        ({"n": 2**53 + 1}, "config.n: 9007199254740993 is too large for a JSON number; write it as a string"),
        ({"n": {3: 4}}, "config.n: keys must be strings, got 3"),
    ],
)
def test_what_strict_writing_refuses(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConversionError) as caught:
        write_struct(values, "config")
    assert str(caught.value) == problem


def test_loose_writing_takes_anything() -> None:
    endless: list[Any] = []
    endless.append(endless)
    values = {
        "raw": b"x",
        3: {1, 2},
        "nan": [math.nan, 1],
        "big": 2**60,
        "endless": endless,
        "bad": "\ud800",
        "p": Point(1, math.inf),
    }
    message = write_loosely(values)  # type: ignore[arg-type]
    read = StructValues(struct_pb2.Struct.FromString(message.SerializeToString()))
    assert read["raw"] == "b'x'"
    assert sorted(read["3"]) == [1, 2]
    assert read["nan"] == [1]
    assert read["big"] == str(2**60)
    assert read["bad"] == "?"
    assert read["p"] == {"x": 1}
