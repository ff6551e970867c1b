"""Reading is lenient where nothing has to be guessed."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgpack
import pytest
from flyteidl2.core import literals_pb2, types_pb2
from google.protobuf.struct_pb2 import Struct

from airside import ConversionError, Directory, File, StructuredDataset
from airside.wire.literals import from_literal, to_literal
from airside.wire.types import to_annotation, to_literal_type

Literal = literals_pb2.Literal


class Color(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int


def packed(value: Any) -> Literal:
    """A value in msgpack, as Flyte makes of a field that a workflow takes out of a struct."""
    binary = literals_pb2.Binary(value=msgpack.packb(value), tag="msgpack")
    return Literal(scalar=literals_pb2.Scalar(binary=binary))


def generic(value: dict[str, Any]) -> Literal:
    """A struct as SDKs before msgpack wrote it."""
    struct = Struct()
    struct.update(value)
    return Literal(scalar=literals_pb2.Scalar(generic=struct), metadata={"format": "json"})


def read(literal: Literal, annotation: Any) -> Any:
    return from_literal(literal, to_literal_type(annotation), "inputs.x")


@pytest.mark.parametrize(
    ("literal", "annotation", "expected"),
    [
        (to_literal(3), float, 3.0),
        (to_literal(7.9), int, 7),
        (to_literal(-7.9), int, -7),
        (generic({"x": 7}), dict, {"x": 7.0}),
        (generic({"x": 7}), Point, {"x": 7.0}),
        (generic({"x": 7}), dict[str, int], {"x": 7}),
        (generic({"x": [{"y": None}]}), dict, {"x": [{"y": None}]}),
        (to_literal(5), int | None, 5),
        (to_literal(None), int | None, None),
        (to_literal(5), float | None, 5.0),
        (to_literal(5), float | int, 5),
        (to_literal(5.0), float | int, 5.0),
        (to_literal([1]), list[str] | list[int], [1]),
        (to_literal([1.5]), list[int] | list[float], [1.5]),
        (to_literal("red"), Color, "red"),
        (to_literal("red"), Color | int, "red"),
        (to_literal(5, to_literal_type(int | str)), int, 5),
        (to_literal(5, to_literal_type(int | str)), float, 5.0),
        (to_literal([1, 2]), list[float], [1.0, 2.0]),
        (to_literal({"a": 1}), dict[str, float], {"a": 1.0}),
        (to_literal({"a": 1}, to_literal_type(dict[str, int])), dict, {"a": 1}),
        (packed(5), int, 5),
        (packed(5), float, 5.0),
        (packed(2.0), int, 2),
        (packed("a"), str, "a"),
        (packed(value=True), bool, True),
        (packed(None), int | None, None),
        (packed([1, 2]), list[int], [1, 2]),
        (packed({"a": [1]}), dict[str, list[float]], {"a": [1.0]}),
        (packed({1: "a"}), dict, {1: "a"}),
        (packed([1, "a"]), dict, [1, "a"]),
        (packed("2024-01-02T03:04:05+02:00"), datetime, datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
        (packed("2024-01-02"), datetime, datetime(2024, 1, 2, tzinfo=UTC)),
        (packed(1.5), timedelta, timedelta(seconds=1.5)),
        (packed("red"), Color, "red"),
        (packed({"path": "s3://b/f"}), File, File("s3://b/f")),
        (packed({"path": "s3://b/f", "name": "f", "format": "csv", "hash": None}), File, File("s3://b/f", "csv")),
        (packed({"path": "s3://b/d"}), Directory, Directory("s3://b/d")),
        (packed({"path": "s3://b/d"}), Directory | int, Directory("s3://b/d")),
        (packed({"uri": "u", "file_format": "csv"}), StructuredDataset, StructuredDataset("u", "csv")),
        (packed({"uri": "u", "format": "csv"}), StructuredDataset, StructuredDataset("u", "csv")),
        (packed({"uri": "u"}), StructuredDataset, StructuredDataset("u", "")),
        (to_literal(File("u")), Annotated[File, "csv"], File("u", "csv")),
        (to_literal(File("u")), Directory, Directory("u")),
        (to_literal(b"ab"), dict, b"ab"),
    ],
)
def test_reads(literal: Literal, annotation: Any, expected: Any) -> None:
    assert repr(read(literal, annotation)) == repr(expected)  # 1.0 is not 1


@pytest.mark.parametrize(
    ("literal", "annotation", "problem"),
    [
        (to_literal("abc"), int, "inputs.x: expected int, got 'abc'"),
        (to_literal("5"), int, "inputs.x: expected int, got '5'"),
        (to_literal(value=True), int, "inputs.x: expected int, got True"),
        (to_literal(value=True), float, "inputs.x: expected float, got True"),
        (to_literal(1), bool, "inputs.x: expected bool, got 1"),
        (to_literal(math.inf), int, "inputs.x: expected int, got inf"),
        (to_literal(math.nan), int, "inputs.x: expected int, got nan"),
        (to_literal(None), int, "inputs.x: expected int, got None"),
        (to_literal(1), None, "inputs.x: expected None, got 1"),
        (to_literal(5), str, "inputs.x: expected str, got 5"),
        (to_literal("soon"), datetime, "inputs.x: expected datetime, got 'soon'"),
        (packed("0001-01-01T00:00:00+05:00"), datetime, "inputs.x: expected datetime of the years 1 to 9999 in UTC"),
        (to_literal(math.nan), timedelta, "inputs.x: expected timedelta, got nan"),
        (to_literal(1e300), timedelta, "inputs.x: expected timedelta, got 1e+300"),
        (to_literal(5), dict, "inputs.x: expected dict, got 5"),
        (to_literal("ab"), list[str], "inputs.x: expected list, got 'ab'"),
        (to_literal(["a", 1]), list[str], "inputs.x[1]: expected str, got 1"),
        (to_literal([1]), dict[str, int], "inputs.x: expected dict, got [1]"),
        (to_literal({"a": {"b": "c"}}), dict[str, dict[str, int]], "inputs.x.a.b: expected int, got 'c'"),
        (to_literal(Directory("u")), File, "inputs.x: expected File, got Directory(uri='u', format='')"),
        (to_literal("u"), File, "inputs.x: expected File, got 'u'"),
        (to_literal("u"), StructuredDataset, "inputs.x: expected StructuredDataset, got 'u'"),
        (to_literal(5), Color, "inputs.x: expected one of 'red', got 5"),
        (to_literal("a"), bytes, "inputs.x: expected bytes, got 'a'"),
        (to_literal("a"), int | bool, "inputs.x: expected int | bool, got 'a'"),
        (to_literal(["a"]), list[int] | None, "inputs.x[0]: expected int, got 'a'"),
        (Literal(), int, "inputs.x: a literal without a value"),
        (Literal(scalar=literals_pb2.Scalar()), int, "inputs.x: a scalar without a value"),
        (
            Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive())),
            int,
            "inputs.x: a primitive without a value",
        ),
    ],
)
def test_refuses(literal: Literal, annotation: Any, problem: str) -> None:
    with pytest.raises(ConversionError) as caught:
        read(literal, annotation)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize("seconds", [-62_135_596_801, 253_402_300_800, 2**63 - 1, -(2**63)])
def test_timestamps_out_of_range_are_refused(seconds: int) -> None:
    literal = Literal()
    literal.scalar.primitive.datetime.seconds = seconds
    with pytest.raises(ConversionError, match=r"^value: timestamp out of range"):
        from_literal(literal)


def test_durations_out_of_range_are_refused() -> None:
    literal = Literal()
    literal.scalar.primitive.duration.seconds = 2**62
    with pytest.raises(ConversionError, match=r"^value: duration out of range"):
        from_literal(literal)


def test_a_blob_without_metadata_takes_the_declared_shape() -> None:
    literal = Literal(scalar=literals_pb2.Scalar(blob=literals_pb2.Blob(uri="s3://b/d")))
    assert read(literal, Directory) == Directory("s3://b/d")
    assert read(literal, File) == File("s3://b/d")
    assert from_literal(literal) == File("s3://b/d")


def test_columns_come_from_the_value_or_else_from_the_type() -> None:
    plain, typed = StructuredDataset("u", ""), StructuredDataset("u", "csv", {"b": str})
    declared = Annotated[StructuredDataset, {"a": int}, "parquet"]
    assert read(to_literal(plain), declared) == StructuredDataset("u", "parquet", {"a": int})
    assert read(to_literal(typed), declared) == typed
    assert from_literal(to_literal(typed)) == typed


def test_a_type_that_is_unknown_or_unset_reads_by_value() -> None:
    newer = types_pb2.LiteralType.FromString(types_pb2.LiteralType(simple=99).SerializeToString())
    for declared in (types_pb2.LiteralType(), newer):
        for value in (5, "a", [1], {"a": 1}, None):
            assert from_literal(to_literal(value), declared) == value
            assert from_literal(to_literal(value, declared), declared) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81\xa1a",
        b"\x81\x80\x01",
        b"\xa2\xff\xfe",
        b"\xc7\x01\x07a",
        b"\x01\x02",
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=["empty", "reserved", "cut", "map as key", "not UTF-8", "extension", "two values", "four billion items"],
)
def test_broken_msgpack_is_a_conversion_error(data: bytes) -> None:
    literal = Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=data, tag="msgpack")))
    with pytest.raises(ConversionError, match=r"^value: not valid msgpack"):
        from_literal(literal)


def test_nesting_is_bounded() -> None:
    def lists(depth: int) -> Literal:
        outer = inner = Literal()
        for _ in range(depth):
            inner = inner.collection.literals.add()
        inner.scalar.primitive.integer = 1
        return outer

    def structs(depth: int) -> Literal:
        literal = Literal()
        struct = literal.scalar.generic
        for _ in range(depth):
            struct = struct.fields["a"].struct_value
        struct.SetInParent()
        return literal

    def maps(depth: int) -> Literal:
        return Literal(
            scalar=literals_pb2.Scalar(
                binary=literals_pb2.Binary(value=b"\x91" * depth + b"\x80", tag="msgpack"),
            )
        )

    makers: list[Callable[[int], Literal]] = [lists, structs, maps]
    for make in makers:
        from_literal(make(30))
        for depth in (66, 400):
            with pytest.raises(ConversionError, match="nested deeper than 64"):
                from_literal(make(depth))


def test_deep_types_are_bounded() -> None:
    deep = types_pb2.LiteralType(simple=types_pb2.INTEGER)
    value: Any = "a"
    for _ in range(90):
        deep = types_pb2.LiteralType(collection_type=deep)
    for _ in range(40):
        value = [value]
    with pytest.raises(ConversionError, match="expected list"):
        from_literal(to_literal(value), deep)
    with pytest.raises(ConversionError, match="type nested deeper than 64"):
        to_annotation(deep)


def test_trying_the_variants_of_nested_unions_takes_no_exponential_time() -> None:
    declared = types_pb2.LiteralType(simple=types_pb2.FLOAT)
    for _ in range(18):
        wider = types_pb2.LiteralType()
        wider.union_type.variants.append(declared)
        wider.union_type.variants.add(simple=types_pb2.BOOLEAN)
        wider.union_type.variants.add(simple=types_pb2.STRING)
        declared = wider
    assert from_literal(to_literal(3), declared) == 3.0
    assert from_literal(to_literal(3, declared), declared) == 3.0
    with pytest.raises(ConversionError):
        to_literal(b"", declared)
    with pytest.raises(ConversionError):
        from_literal(to_literal(b""), declared)


class TestOffloaded:
    def offloaded(self, uri: str) -> Literal:
        return Literal(offloaded_metadata=literals_pb2.LiteralOffloadedMetadata(uri=uri, size_bytes=9))

    def test_is_fetched_and_read_as_declared(self) -> None:
        files = {"s3://b/o": to_literal([1, 2]).SerializeToString()}
        assert from_literal(self.offloaded("s3://b/o"), to_literal_type(list[float]), fetch=files.__getitem__) == [
            1.0,
            2.0,
        ]

    def test_inside_a_list_too(self) -> None:
        files = {"a": to_literal(1).SerializeToString(), "b": self.offloaded("a").SerializeToString()}
        collection = Literal()
        collection.collection.literals.extend([self.offloaded("a"), self.offloaded("b")])
        assert from_literal(collection, fetch=files.__getitem__) == [1, 1]

    def test_cannot_be_read_without_fetch(self) -> None:
        with pytest.raises(ConversionError, match=r"^inputs.x: offloaded to 's3://b/o', which cannot be fetched here$"):
            from_literal(self.offloaded("s3://b/o"), None, "inputs.x")

    def test_file_that_holds_no_literal(self) -> None:
        with pytest.raises(ConversionError, match=r"^value: offloaded to 'u', which does not hold a literal$"):
            from_literal(self.offloaded("u"), fetch=lambda uri: b"\xff\xff")

    def test_file_that_names_itself(self) -> None:
        itself = self.offloaded("u").SerializeToString()
        with pytest.raises(ConversionError, match=r"^value: offloaded literals nested deeper than 2$"):
            from_literal(self.offloaded("u"), fetch=lambda uri: itself)

    def test_what_fetch_raises_passes_through(self) -> None:
        def fetch(uri: str) -> bytes:
            raise TimeoutError(uri)

        with pytest.raises(TimeoutError):
            from_literal(self.offloaded("u"), fetch=fetch)
