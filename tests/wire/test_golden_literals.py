"""The bytes that Flyte's own SDKs write, and the values they read, row by row.

Maps have no order on the wire, so written literals are compared as parsed messages where a row holds one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Annotated, Any, NamedTuple

import pytest
from flyteidl2.core import literals_pb2, types_pb2
from google.protobuf.struct_pb2 import ListValue, Struct

from airside import ConversionError, Directory, File, StructuredDataset, kwtypes
from airside.wire.literals import from_literal, to_literal
from airside.wire.types import to_annotation, to_literal_type

SAME = object()


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Pm:
    a: int
    b: int | None = None


class Row(NamedTuple):
    name: str
    annotation: Any
    value: Any
    hex: str
    read: Any = SAME


ROWS = [
    Row("int", int, 5, "0a040a020805"),
    Row("int, negative", int, -5, "0a0d0a0b08fbffffffffffffffff01"),
    Row("float", float, 1.5, "0a0b0a0911000000000000f83f"),
    Row("str", str, "hé", "0a070a051a0368c3a9"),
    Row("bool", annotation=bool, value=True, hex="0a040a022001"),
    Row(
        "datetime",
        datetime,
        datetime(2024, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=2))),
        "0a100a0e2a0c0885c2cdac061088eadcc302",
        datetime(2024, 1, 2, 1, 4, 5, 678901, UTC),
    ),
    Row("date", date, date(2024, 1, 2), "0a0a0a082a060880a4cdac06", datetime(2024, 1, 2, tzinfo=UTC)),
    Row("timedelta", timedelta, timedelta(days=1, seconds=2, microseconds=3), "0a0b0a0932070882a30510b817"),
    Row(
        "timedelta, negative",
        timedelta,
        timedelta(seconds=-1.5),
        "0a1a0a18321608ffffffffffffffffff011080b6ca91feffffffff01",
    ),
    Row("None", None, None, "0a022a00"),
    Row("list[int]", list[int], [1, 2], "12100a060a040a0208010a060a040a020802"),
    Row("list[int], empty", list[int], [], "1200"),
    Row("dict[str, int]", dict[str, int], {"a": 1}, "1a0d0a0b0a016112060a040a020801"),
    Row("dict", dict, {"a": 1, "b": [1, None]}, "0a161a140a0982a16101a1629201c012076d73677061636b"),
    Row("Optional[int]", int | None, 5, "0a154a130a060a040a020805120908015a050a03696e74"),
    Row("Optional[int], None", int | None, None, "0a144a120a040a022a00120a08005a060a046e6f6e65"),
    Row("Union[int, str]", int | str, "x", "0a164a140a070a050a031a0178120908035a050a03737472"),
    Row("Enum", Color, Color.BLUE, "0a080a061a04626c7565", "blue"),
    Row("dataclass", Pm, Pm(1), "0a141a120a0782a16101a162c012076d73677061636b", {"a": 1, "b": None}),
    Row("File", File, File("s3://b/k.txt"), "0a1412120a020a001a0c73333a2f2f622f6b2e747874"),
    Row("Directory", Directory, Directory("s3://b/d"), "0a1212100a040a0210011a0873333a2f2f622f64"),
    Row(
        "StructuredDataset",
        StructuredDataset,
        StructuredDataset("s3://b/df", "parquet"),
        "0a1a42180a0973333a2f2f622f6466120b0a09120770617271756574",
    ),
]
by_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


def bytes_of(literal: literals_pb2.Literal) -> str:
    return literal.SerializeToString(deterministic=True).hex()


@by_row
def test_writes(row: Row) -> None:
    assert bytes_of(to_literal(row.value, to_literal_type(row.annotation))) == row.hex


@by_row
def test_reads_by_declared_type(row: Row) -> None:
    literal = literals_pb2.Literal.FromString(bytes.fromhex(row.hex))
    expected = row.value if row.read is SAME else row.read
    value = from_literal(literal, to_literal_type(row.annotation))
    assert value == expected
    assert type(value) is type(expected)


@by_row
def test_reads_by_value(row: Row) -> None:
    literal = literals_pb2.Literal.FromString(bytes.fromhex(row.hex))
    expected = row.value if row.read is SAME else row.read
    value = from_literal(literal)
    assert value == expected
    assert type(value) is type(expected)


@by_row
def test_reads_by_the_annotation_that_a_template_gives(row: Row) -> None:
    literal = literals_pb2.Literal.FromString(bytes.fromhex(row.hex))
    guessed = to_literal_type(to_annotation(to_literal_type(row.annotation)))
    assert from_literal(literal, guessed) == from_literal(literal, to_literal_type(row.annotation))


UNTYPED = [
    row for row in ROWS if row.name not in {"dict[str, int]", "Optional[int]", "Optional[int], None", "Union[int, str]"}
]


@pytest.mark.parametrize("row", UNTYPED, ids=[row.name for row in UNTYPED])
def test_writes_typed_by_the_value(row: Row) -> None:
    assert bytes_of(to_literal(row.value)) == row.hex


def test_annotated_int_with_a_hash() -> None:
    literal = to_literal(4, to_literal_type(Annotated[int, "anything"]), content_hash="h4")
    assert bytes_of(literal) == "0a040a02080422026834"
    assert from_literal(literal, to_literal_type(int)) == 4


def test_naive_datetime_is_utc() -> None:
    naive = datetime(2024, 1, 2)  # noqa: DTZ001 - the point
    assert bytes_of(to_literal(naive)) == "0a0a0a082a060880a4cdac06"


def test_zero_values_are_present_not_absent() -> None:
    for value in (0, 0.0, "", False, datetime(1970, 1, 1, tzinfo=UTC), timedelta(), b"", [], {}):
        literal = literals_pb2.Literal.FromString(to_literal(value).SerializeToString())
        assert from_literal(literal) == value
    for annotation, empty in ((dict[str, int], {}), (list[int], []), (str | None, ""), (str | None, None)):
        literal = to_literal(empty, to_literal_type(annotation))
        assert from_literal(literals_pb2.Literal.FromString(literal.SerializeToString())) == empty


def test_flyte_2_enum_is_declared_by_its_names() -> None:
    declared = types_pb2.LiteralType(enum_type=types_pb2.EnumType(values=["RED", "BLUE"]))
    assert from_literal(to_literal(Color.BLUE, declared), declared) == "BLUE"


def test_protobuf_message_is_a_generic_struct() -> None:
    struct = Struct()
    struct.update({"x": 7, "on": True, "names": ["a", None]})
    declared = to_literal_type(Struct)
    assert declared.simple == types_pb2.STRUCT
    assert declared.metadata["pb_type"] == "google.protobuf.struct_pb2.Struct"
    literal = to_literal(struct, declared)
    assert literal.scalar.generic == struct
    assert from_literal(literal, declared) == {"x": 7.0, "on": True, "names": ["a", None]}
    assert type(from_literal(literal, declared)["x"]) is float
    message = to_literal(types_pb2.BlobType(format="csv"), to_literal_type(types_pb2.BlobType))
    assert from_literal(message) == {"format": "csv"}
    with pytest.raises(ConversionError, match=r"^x: ListValue cannot be written as JSON"):
        to_literal(ListValue(), declared, "x")


def test_flyte_schema_is_a_structured_dataset() -> None:
    column = types_pb2.SchemaType.SchemaColumn
    schema = types_pb2.SchemaType(
        columns=[column(name="a", type=column.INTEGER), column(name="b", type=column.DURATION)]
    )
    declared = types_pb2.LiteralType(schema=schema)
    literal = to_literal(StructuredDataset("s3://b/s"), declared)
    assert literal.scalar.schema == literals_pb2.Schema(uri="s3://b/s", type=schema)
    assert from_literal(literal, declared) == StructuredDataset("s3://b/s", "parquet", {"a": int, "b": timedelta})
    dataset = to_literal_type(Annotated[StructuredDataset, kwtypes(c=str)])
    assert from_literal(to_literal(StructuredDataset("s3://b/s", ""), dataset), declared).columns == {"c": str}


def test_pickled_blob_is_a_file_and_other_binaries_are_bytes() -> None:
    pickled = types_pb2.BlobType(format="PythonPickle")
    blob = literals_pb2.Blob(uri="s3://b/p", metadata=literals_pb2.BlobMetadata(type=pickled))
    kit = literals_pb2.Literal(scalar=literals_pb2.Scalar(blob=blob))
    assert from_literal(kit, types_pb2.LiteralType(blob=pickled)) == File("s3://b/p", "PythonPickle")
    sdk_type = types_pb2.LiteralType()
    sdk_type.union_type.variants.add(blob=pickled).structure.tag = "FlytePickle"
    sdk_type.union_type.variants.add(simple=types_pb2.BINARY).structure.tag = "FlytePickle"
    payload = b"\x80\x04K\x05."  # pickle.dumps(5)
    sdk = literals_pb2.Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=payload)))
    for declared in (None, sdk_type, to_literal_type(bytes)):
        assert from_literal(sdk, declared) == payload
    assert to_literal(payload, to_literal_type(bytes)) == sdk
    assert to_literal(payload, sdk_type) == sdk
    assert to_literal(File("s3://b/p", "PythonPickle"), sdk_type) == kit
    with pytest.raises(ConversionError, match=r"expected File \| bytes, got 5"):
        to_literal(5, sdk_type)


def test_types_without_a_flyte_type_are_refused() -> None:
    for annotation in (Any, set[int], tuple[int, str], object, list):
        with pytest.raises(ConversionError, match=r"^inputs\.x: .* has no Flyte type"):
            to_literal_type(annotation, "inputs.x")
