"""Inputs from flags and from JSON files."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airside import ConversionError, Directory, File, StructuredDataset
from airside.cli.durations import read_duration, spell_duration
from airside.cli.inputs import from_json, from_text, type_name
from airside.cli.values import show, to_json


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@dataclass(frozen=True)
class Plan:
    name: str
    points: list[Point] = field(default_factory=list)
    colour: Colour = Colour.RED
    until: datetime | None = None


class Row(TypedDict):
    id: int
    at: NotRequired[date]


UserId = NewType("UserId", int)

TEXTS: list[tuple[Any, str, Any]] = [
    (int, "-3", -3),
    (UserId, "7", 7),
    (float, "3", 3.0),
    (float, "1e3", 1000.0),
    (str, "3", "3"),
    (str, "", ""),
    (bool, "true", True),
    (bool, "No", False),
    (datetime, "2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    (datetime, "2026-01-31T12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    (date, "2026-01-31", date(2026, 1, 31)),
    (timedelta, "1h30m", timedelta(minutes=90)),
    (timedelta, "PT90S", timedelta(seconds=90)),
    (timedelta, "1.5", timedelta(seconds=1.5)),
    (Colour, "blue", Colour.BLUE),
    (Colour, "BLUE", Colour.BLUE),
    (Literal["a", "b"], "b", "b"),
    (Literal[1, 2], "2", 2),
    (bytes, "YWI=", b"ab"),
    (int | None, "null", None),
    (int | None, "4", 4),
    (str | None, "none of it", "none of it"),
    (list[int], "[1, 2]", [1, 2]),
    (Sequence[str], '["a"]', ["a"]),
    (tuple[int, ...], "[1]", (1,)),
    (list[timedelta], '["1m", 30]', [timedelta(minutes=1), timedelta(seconds=30)]),
    (dict[str, float], '{"a": 1}', {"a": 1.0}),
    (dict[int, str], '{"1": "x"}', {1: "x"}),
    (dict, '{"a": [1, null]}', {"a": [1, None]}),
    (Any, "[1]", [1]),
    (Any, "plain", "plain"),
    (int | str, "3", 3),
    (str | int, "3", 3),
    (str | int, "x", "x"),
    (Annotated[int, "rows"], "3", 3),
    (Point, '{"x": 1}', Point(1)),
    (
        Plan,
        '{"name": "p", "points": [{"x": 1, "y": 2}], "colour": "blue", "until": "2026-01-01T00:00:00Z"}',
        Plan("p", [Point(1, 2.0)], Colour.BLUE, datetime(2026, 1, 1, tzinfo=UTC)),
    ),
    (Row, '{"id": 1, "at": "2026-01-31"}', {"id": 1, "at": date(2026, 1, 31)}),
    (File, "s3://bucket/x.csv", File("s3://bucket/x.csv")),
    (File, '{"uri": "s3://b/x", "format": "csv"}', File("s3://b/x", format="csv")),
    (StructuredDataset, "s3://bucket/x.csv", StructuredDataset("s3://bucket/x.csv", format="csv")),
]


@pytest.mark.parametrize(("kind", "text", "expected"), TEXTS, ids=lambda one: str(one)[:40])
def test_text_is_read_as_its_declared_type(kind: Any, text: str, expected: Any) -> None:
    value = from_text(text, kind, "inputs.x")
    assert value == expected
    assert type(value) is type(expected)


WRONG: list[tuple[Any, str, str]] = [
    (int, "abc", "inputs.x: expected int, got 'abc'"),
    (int, "3.0", "inputs.x: expected int, got '3.0'"),
    (bool, "maybe", "inputs.x: expected bool, got 'maybe'"),
    (int | None, "abc", "inputs.x: expected int, got 'abc'"),
    (Colour, "green", "inputs.x: expected one of red, blue, got 'green'"),
    (datetime, "yesterday", "inputs.x: expected a time such as 2026-01-31T12:00:00Z, got 'yesterday'"),
    (timedelta, "soon", "inputs.x: expected a duration such as 1h30m, 90s or PT1H30M, got 'soon'"),
    (list[int], "1,2", "inputs.x: expected list[int] as JSON, got '1,2'"),
    (list[int], '[1, "b"]', "inputs.x[1]: expected int, got 'b'"),
    (list[int], "{}", "inputs.x: expected list[int], got {}"),
    (list[bool], "[1]", "inputs.x[0]: expected bool, got 1"),
    (dict[str, int], '{"a": true}', "inputs.x['a']: expected int, got True"),
    (Point, '{"x": "abc"}', "inputs.x.x: expected int, got 'abc'"),
    (Point, '{"y": 1}', "inputs.x.x: missing"),
    (Point, '{"x": 1, "z": 2}', "inputs.x.z: not a field of Point (fields: x, y)"),
    (Plan, '{"name": "p", "points": [{"x": 1}, {"x": null}]}', "inputs.x.points[1].x: expected int, got None"),
    (Row, "{}", "inputs.x.id: missing"),
    (Row, '{"id": 1, "z": 2}', "inputs.x.z: not a key of Row (keys: id, at)"),
    (int | bool, "abc", "inputs.x: expected int | bool, got 'abc'"),
    (bytes, "~", "inputs.x: expected bytes in Base64, got '~'"),
    (File, "/no/such/file", "inputs.x: no such file: /no/such/file"),
    (complex, '"1j"', "inputs.x: complex cannot be given on the command line; use the Python API"),
]


@pytest.mark.parametrize(("kind", "text", "message"), WRONG, ids=lambda one: str(one)[:40])
def test_wrong_text_is_refused_with_its_path(kind: Any, text: str, message: str) -> None:
    with pytest.raises(ConversionError) as caught:
        from_text(text, kind, "inputs.x")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("a")
    Path("folder").mkdir()
    assert from_text("data.csv", File, "inputs.x") == File(str(tmp_path / "data.csv"))
    assert from_text("folder", Directory, "inputs.x") == Directory(str(tmp_path / "folder"))
    assert from_text("data.csv", StructuredDataset, "inputs.x").format == "csv"
    with pytest.raises(ConversionError, match="expected a file, but folder is a folder"):
        from_text("folder", File, "inputs.x")
    with pytest.raises(ConversionError, match=r"expected a folder, but data.csv is a file"):
        from_text("data.csv", Directory, "inputs.x")


def test_type_names_are_what_a_person_would_write() -> None:
    assert type_name(list[Point | None]) == "list[Point | None]"
    assert type_name(Colour) == "red | blue"
    assert type_name(Annotated[dict[str, int], 1]) == "dict[str, int]"


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_shown_as_json_reads_back(value: Any) -> None:
    shown = to_json({"x": value})["x"]
    if value in (float("inf"), float("-inf")):
        assert from_json(shown, float, "inputs.x") == value
    elif not any(part in str(shown) for part in ("Infinity",)):
        assert from_json(shown, Any, "inputs.x") == value


@given(st.timedeltas(min_value=timedelta(days=-10_000), max_value=timedelta(days=10_000)))
def test_a_duration_that_is_shown_reads_back(duration: timedelta) -> None:
    assert abs(read_duration(spell_duration(duration)) - duration) < timedelta(microseconds=2)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=10_000)))
def test_seconds_are_a_duration(duration: timedelta) -> None:
    assert abs(read_duration(f"{duration.total_seconds():f}") - duration) < timedelta(microseconds=2)


def test_outputs_are_readable() -> None:
    text = show({"rows": 3, "report": "a\nb", "when": datetime(2026, 1, 1, tzinfo=UTC), "file": File("/x")})
    assert text.splitlines() == [
        "rows: 3",
        "report:",
        "  a",
        "  b",
        "when: 2026-01-01T00:00:00+00:00",
        'file: {"uri": "/x", "format": ""}',
    ]
