"""Writing is strict, and says where a value does not fit."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal

import pytest
from flyteidl2.core import literals_pb2, types_pb2

from airside import ConversionError, Directory, File, StructuredDataset
from airside.model.redaction import hide
from airside.wire.literals import from_literal, to_literal
from airside.wire.types import to_literal_type


class Color(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class Path:
    points: list[Point]
    name: str | None = None


def problem(value: Any, annotation: Any) -> str:
    with pytest.raises(ConversionError) as caught:
        to_literal(value, to_literal_type(annotation), "outputs.x")
    return str(caught.value)


def test_a_path_leads_through_lists_maps_and_structs() -> None:
    assert problem(["a"], list[int]) == "outputs.x[0]: expected int, got 'a'"
    assert problem({"k": [1, True]}, dict[str, list[int]]) == "outputs.x.k[1]: expected int, got True"
    assert problem({"not a name": 1}, dict[str, str]) == "outputs.x['not a name']: expected str, got 1"
    points = [Point(1), Point(2), Point(3), {"x": 1, "y": "abc"}]
    assert problem(points, list[Point]) == "outputs.x[3].y: expected float, got 'abc'"
    assert problem(Path([Point("abc")]), Path) == "outputs.x.points[0].x: expected int, got 'abc'"  # type: ignore[arg-type]
    assert problem({7: object}, dict).startswith("outputs.x[7]: a value in a struct must be JSON-like, got <class ")
    assert problem([1, "a"], list[int] | None) == "outputs.x[1]: expected int, got 'a'"


@pytest.mark.parametrize(
    ("annotation", "value", "wanted"),
    [
        (int, True, "int"),
        (int, 1.0, "int"),
        (int, "1", "int"),
        (int, None, "int"),
        (float, False, "float"),
        (float, "1.5", "float"),
        (float, 10**400, "float"),
        (float, Decimal(1), "float"),
        (bool, 1, "bool"),
        (str, b"a", "str"),
        (str, Color.RED, "str"),
        (None, 0, "None"),
        (bytes, "a", "bytes"),
        (datetime, "2024-01-02", "datetime"),
        (timedelta, 3, "timedelta"),
        (list[int], "12", "list"),
        (list[int], {1, 2}, "list"),
        (dict[str, int], [], "dict"),
        (dict[str, int], {1: 1}, "str"),
        (dict, [1], "dict or dataclass"),
        (dict, None, "dict or dataclass"),
        (dict, File("s3://b"), "dict or dataclass"),
        (File, Directory("s3://b"), "File"),
        (File, "s3://b/f", "File"),
        (Directory, File("s3://b"), "Directory"),
        (StructuredDataset, File("s3://b"), "StructuredDataset"),
        (Color, "blue", "one of 'red'"),
        (Literal["a", "b"], "c", "one of 'a', 'b'"),
        (int | str, 1.5, "int | str"),
        (int | str | None, b"", "int | str | None"),
        (float | None, "x", "float"),
    ],
)
def test_refuses(annotation: Any, value: Any, wanted: str) -> None:
    assert f": expected {wanted}, got " in problem(value, annotation)


def test_an_int_widens_to_a_declared_float_everywhere() -> None:
    for annotation, value, expected in (
        (float, 3, 3.0),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (float | None, 3, 3.0),
        (float | str, 3, 3.0),
        (Point, Point(1, 2), {"x": 1, "y": 2.0}),
        (list[Point] | None, [{"x": 1, "y": 2}], [{"x": 1, "y": 2.0}]),
    ):
        read = from_literal(to_literal(value, to_literal_type(annotation)))
        assert read == expected
        assert repr(read) == repr(expected)  # 1.0 is not 1


def test_a_union_prefers_the_type_that_fits_exactly() -> None:
    for value in (1, 1.0):
        literal = to_literal(value, to_literal_type(float | int))
        assert literal.scalar.union.type.structure.tag == type(value).__name__
        assert repr(from_literal(literal)) == repr(value)
    literal = to_literal([1, 2], to_literal_type(list[float] | list[int]))
    assert literal.scalar.union.type.collection_type.simple == types_pb2.INTEGER
    literal = to_literal({"a": 1}, to_literal_type(dict | dict[str, int]))
    assert literal.scalar.union.value.WhichOneof("value") == "map"
    literal = to_literal("red", to_literal_type(Color | int))
    assert literal.scalar.union.type.WhichOneof("type") == "enum_type"


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_ints_are_64_bits(value: int) -> None:
    for annotation, holder in ((int, value), (dict, {"a": value}), (dict, {value: 1}), (int | None, value)):
        assert "expected an int of 64 bits, got " in problem(holder, annotation)
    with pytest.raises(ConversionError, match="64 bits"):
        to_literal(value)


def test_the_widest_ints_pass() -> None:
    for value in (2**63 - 1, -(2**63)):
        assert from_literal(to_literal(value)) == value
        assert from_literal(to_literal({"a": value})) == {"a": value}


def test_lone_surrogates_are_refused() -> None:
    for value in ("\ud800", ["\udfff"], {"a": "\ud800"}, {"\ud800": 1}, File("s3://\ud800"), Point("\ud800")):  # type: ignore[arg-type]
        with pytest.raises(ConversionError, match="not valid Unicode"):
            to_literal(value)
    with pytest.raises(ConversionError, match="not valid Unicode"):
        to_literal({"\ud800": 1}, to_literal_type(dict[str, int]))


def test_times_outside_the_range_of_protobuf_are_refused() -> None:
    late = datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))
    early = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
    for value in (late, early):
        assert "expected datetime of the years 1 to 9999 in UTC" in problem(value, datetime)
    assert "expected timedelta of at most 10,000 years" in problem(timedelta.max, timedelta)
    for value in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        assert from_literal(to_literal(value)) == value


def test_nesting_is_bounded() -> None:
    nested: Any = 1
    annotation: Any = int
    for _ in range(60):
        nested, annotation = [nested], list[annotation]
    assert "nested too deeply for protobuf readers" in problem(nested, annotation)
    deep: dict[str, Any] = {}
    for _ in range(64):
        deep = {"a": deep}
    assert from_literal(to_literal(deep)) == deep
    assert problem({"a": deep}, dict).endswith("nested deeper than 64")
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (cycle, {"a": cycle}):
        with pytest.raises(ConversionError, match="nested"):
            to_literal(value)
    with pytest.raises(ConversionError, match="nested deeper than 64"):
        to_literal_type(_nested_type(70))


def _nested_type(depth: int) -> Any:
    annotation: Any = int
    for _ in range(depth):
        annotation = list[annotation]
    return annotation


def test_what_is_written_can_be_read_back_inside_an_answer() -> None:
    from flyteidl2.connector import connector_pb2

    nested: Any = StructuredDataset("s3://b/d", columns={"a": int})
    annotation: Any = StructuredDataset
    depth = 0
    while True:
        try:
            literal = to_literal(nested, to_literal_type(annotation))
        except ConversionError:
            break
        answer = connector_pb2.GetTaskResponse()
        answer.resource.outputs.literals.add(name="x").value.CopyFrom(literal)
        assert connector_pb2.GetTaskResponse.FromString(answer.SerializeToString()) == answer
        nested, annotation, depth = {"a": nested}, dict[str, annotation] | None, depth + 1
    assert depth >= 12


def test_the_value_shown_is_short_and_without_secrets() -> None:
    hide('a secret, "quoted" and\nmore than a line')
    assert problem('a secret, "quoted" and\nmore than a line', int) == "outputs.x: expected int, got '***'"
    assert problem({"k": ['a secret, "quoted" and\nmore than a line']}, int).endswith("got {'k': ['***']}")
    for value in ("x" * 10_000, list(range(10_000)), {"a": "b" * 1000, "c": "d" * 1000}, b"x" * 10_000, 10**6000):
        assert len(problem(value, Color)) <= len("outputs.x: expected one of 'red', got ") + 80

    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError

    assert problem(Rude(), int) == "outputs.x: expected int, got <Rude>"


def test_a_literal_is_taken_as_it_is() -> None:
    from flyteidl.core import literals_pb2 as flyte_1

    mine = to_literal(3)
    theirs = flyte_1.Literal.FromString(mine.SerializeToString())
    for literal in (mine, theirs):
        assert to_literal(literal, to_literal_type(str)) == mine
    assert isinstance(to_literal(theirs), literals_pb2.Literal)


def test_numbers_of_other_libraries_are_numbers() -> None:
    import numbers

    class Int64:
        """Stands for numpy's: an Integral that is no int."""

        def __int__(self) -> int:
            return 5

        def __float__(self) -> float:
            return 5.0

    numbers.Integral.register(Int64)
    for value, annotation, expected in (
        (Int64(), int, 5),
        (Int64(), float, 5.0),
        ({"a": Int64()}, dict, {"a": 5}),
        ([Int64()], list[float], [5.0]),
        (Int64(), float | int, 5),
    ):
        read = from_literal(to_literal(value, to_literal_type(annotation)))
        assert repr(read) == repr(expected)
    assert from_literal(to_literal(Int64())) == 5


def test_a_declared_format_and_columns_are_kept() -> None:
    from typing import Annotated

    csv = to_literal_type(Annotated[File, "csv"])
    assert to_literal(File("s3://b/f"), csv).scalar.blob.metadata.type.format == "csv"
    assert to_literal(File("s3://b/f", "tsv"), csv).scalar.blob.metadata.type.format == "tsv"
    table = to_literal_type(Annotated[StructuredDataset, {"a": int}])
    for value, columns in ((StructuredDataset("u"), ["a"]), (StructuredDataset("u", columns={"b": str}), ["b"])):
        metadata = to_literal(value, table).scalar.structured_dataset.metadata
        assert [column.name for column in metadata.structured_dataset_type.columns] == columns
    assert "columns.a: set has no Flyte type" in problem(StructuredDataset("u", columns={"a": set}), StructuredDataset)


def test_an_error_value() -> None:
    declared = types_pb2.LiteralType(simple=types_pb2.ERROR)
    literal = to_literal({"message": "no such table", "failed_node_id": "n0"}, declared)
    assert from_literal(literal, declared) == {"message": "no such table", "failed_node_id": "n0"}
    with pytest.raises(ConversionError, match="expected dict with 'message'"):
        to_literal("no such table", declared)
