"""Annotations and literal types, both ways."""

from __future__ import annotations

import collections.abc
import enum
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal, NewType, Optional, Union

import pytest
from flyteidl2.core import interface_pb2, types_pb2
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from airside import ConversionError, Directory, File, StructuredDataset, kwtypes
from airside.wire.types import describe, to_annotation, to_literal_type, to_variable_map

Id = NewType("Id", str)
MSGPACK = {"cache-key-metadata": {"serialization-format": "msgpack"}}


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Number(enum.Enum):
    ONE = 1


@dataclass
class Inner:
    z: float


@dataclass
class Outer:
    a: int
    b: str | None
    c: list[Inner]
    d: dict[str, File]
    e: Any
    f: set[int]


def as_dict(annotation: Any) -> dict[str, Any]:
    return json_format.MessageToDict(to_literal_type(annotation))


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, {"simple": "INTEGER"}),
        (float, {"simple": "FLOAT"}),
        (str, {"simple": "STRING"}),
        (bool, {"simple": "BOOLEAN"}),
        (datetime, {"simple": "DATETIME"}),
        (date, {"simple": "DATETIME"}),
        (timedelta, {"simple": "DURATION"}),
        (None, {"simple": "NONE"}),
        (type(None), {"simple": "NONE"}),
        (bytes, {"simple": "BINARY"}),
        (Id, {"simple": "STRING"}),
        (Annotated[int, "cached by this"], {"simple": "INTEGER"}),
        (Literal[1, 2], {"simple": "INTEGER"}),
        (Literal["a", "b"], {"enumType": {"values": ["a", "b"]}}),
        (Color, {"enumType": {"values": ["red", "blue"]}}),
        (dict, {"simple": "STRUCT", "annotation": {"annotations": MSGPACK}}),
        (dict[int, str], {"simple": "STRUCT", "annotation": {"annotations": MSGPACK}}),
        (dict[str, Any], {"simple": "STRUCT", "annotation": {"annotations": MSGPACK}}),
        (typing.Dict, {"simple": "STRUCT", "annotation": {"annotations": MSGPACK}}),  # noqa: UP006
        (list[int], {"collectionType": {"simple": "INTEGER"}}),
        (typing.List[int], {"collectionType": {"simple": "INTEGER"}}),  # noqa: UP006
        (tuple[int, ...], {"collectionType": {"simple": "INTEGER"}}),
        (Sequence[int], {"collectionType": {"simple": "INTEGER"}}),
        (Mapping[str, int], {"mapValueType": {"simple": "INTEGER"}}),
        (dict[str, list[int]], {"mapValueType": {"collectionType": {"simple": "INTEGER"}}}),
        (File, {"blob": {}}),
        (Annotated[File, "csv"], {"blob": {"format": "csv"}}),
        (Directory, {"blob": {"dimensionality": "MULTIPART"}}),
        (StructuredDataset, {"structuredDatasetType": {}}),
        (
            Annotated[StructuredDataset, kwtypes(a=int, b=list[str]), "csv"],
            {
                "structuredDatasetType": {
                    "columns": [
                        {"name": "a", "literalType": {"simple": "INTEGER"}},
                        {"name": "b", "literalType": {"collectionType": {"simple": "STRING"}}},
                    ],
                    "format": "csv",
                }
            },
        ),
    ],
)
def test_literal_type(annotation: Any, expected: dict[str, Any]) -> None:
    assert as_dict(annotation) == expected


def test_variants_of_a_union_are_tagged_as_flytekit_tags_them() -> None:
    annotation = Union[  # noqa: UP007 - not every member takes `|`
        float, str, bool, datetime, timedelta, list[int], dict[str, int], Color, Inner, File, Directory,
        StructuredDataset, None,
    ]  # fmt: skip
    tags = [variant.structure.tag for variant in to_literal_type(annotation).union_type.variants]
    assert tags == [
        "float", "str", "bool", "datetime", "timedelta", "Typed List", "Typed Dict", "DefaultEnumTransformer",
        "Object-Dataclass-Transformer", "FlyteFilePath", "FlyteDirectory", "StructuredDataset Transformer", "none",
    ]  # fmt: skip
    for spelling in (int | None, Optional[int], Union[int, None]):  # noqa: UP007, UP045
        assert [v.structure.tag for v in to_literal_type(spelling).union_type.variants] == ["int", "none"]
    assert to_literal_type(date | None).union_type.variants[0].structure.tag == "date"
    assert to_literal_type(dict | None).union_type.variants[0].structure.tag == "Typed Dict"


def test_a_dataclass_tells_the_types_of_its_fields_where_flyte_has_them() -> None:
    fields = to_literal_type(Outer).structure.dataclass_type
    assert sorted(fields) == ["a", "b", "c", "d"]
    assert fields["c"].collection_type.structure.dataclass_type["z"] == to_literal_type(float)
    assert not to_literal_type(Outer).HasField("metadata")


@pytest.mark.parametrize(
    ("annotation", "advice"),
    [
        (set[int], "use list"),
        (frozenset, "use list"),
        (list, r"name its items: list\[int\]"),
        (tuple[int, str], "use a list or a dataclass"),
        (Any, "name the type"),
        ("int", "write the type itself, not its name"),
        (Iterable, ""),
        (collections.abc.Callable[[int], int], "use a dataclass or dict"),
        (typing.TypeVar("T"), ""),
        (3, ""),
    ],
)
def test_refused(annotation: Any, advice: str) -> None:
    with pytest.raises(ConversionError, match=rf"^inputs\.x: .* has no Flyte type; .*{advice}"):
        to_variable_map({"x": annotation}, "inputs")


def test_refused_inside() -> None:
    for annotation in (list[set[int]], dict[str, set[int]], int | set[int], Annotated[set[int], 1]):
        with pytest.raises(ConversionError, match=r"^inputs\.x.*: set\[int\] has no Flyte type; use list$"):
            to_literal_type(annotation, "inputs.x")
    with pytest.raises(ConversionError, match=r"^type: the values of enum Number must be str$"):
        to_literal_type(Number)
    with pytest.raises(ConversionError, match=r"^type: Literal\[\.\.\.\] needs values that are all str"):
        to_literal_type(Literal[1, "a"])


def test_the_variable_map_keeps_the_declared_order_and_has_no_descriptions() -> None:
    names = [f"n{index}" for index in range(50)][::-1]
    variables = to_variable_map(dict.fromkeys(names, int)).variables
    assert [entry.key for entry in variables] == names
    assert all(entry.value == interface_pb2.Variable(type=to_literal_type(int)) for entry in variables)


ANNOTATIONS = st.recursive(
    st.sampled_from(
        [
            int, float, str, bool, datetime, timedelta, bytes, dict, File, Directory, StructuredDataset,
            Annotated[File, "csv"], Annotated[Directory, "parts"], Literal["a", "b"], type(None),
            Annotated[StructuredDataset, (("a", int), ("b", list[str])), "csv"],
        ]
    ),
    lambda inner: st.one_of(
        inner.map(lambda a: list[a]),  # type: ignore[valid-type]
        inner.map(lambda a: dict[str, a]),  # type: ignore[valid-type]
        st.lists(inner, min_size=1, max_size=4).map(lambda args: Union[tuple(args)]),  # noqa: UP007
    ),
    max_leaves=8,
)  # fmt: skip


@given(ANNOTATIONS)
def test_round_trip(annotation: Any) -> None:
    literal_type = to_literal_type(annotation)
    read = to_annotation(types_pb2.LiteralType.FromString(literal_type.SerializeToString()))
    assert read == annotation
    assert to_literal_type(read) == literal_type
    assert describe(literal_type)


@pytest.mark.parametrize(
    ("literal_type", "expected"),
    [
        (types_pb2.LiteralType(), Any),
        (types_pb2.LiteralType(union_type=types_pb2.UnionType()), Any),
        (types_pb2.LiteralType(enum_type=types_pb2.EnumType()), str),
        (types_pb2.LiteralType(simple=types_pb2.ERROR), dict),
        (types_pb2.LiteralType(schema=types_pb2.SchemaType()), StructuredDataset),
        (types_pb2.LiteralType(blob=types_pb2.BlobType(format="PythonPickle")), Annotated[File, "PythonPickle"]),
        (to_literal_type(Outer), dict),
        (to_literal_type(Color), Literal["red", "blue"]),
        (to_literal_type(dict[int, str]), dict),
    ],
)
def test_annotation_of_types_that_are_not_written_here(literal_type: types_pb2.LiteralType, expected: Any) -> None:
    assert to_annotation(literal_type) == expected


def test_a_type_newer_than_this_version() -> None:
    newer = types_pb2.LiteralType.FromString(b"\x08\x63")  # simple: 99
    assert to_annotation(newer) is Any
    assert describe(newer) == "a value"


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Literal["a", "b", "c", "d", "e", "f", "g"], "one of 'a', 'b', 'c', 'd', 'e', 'f', ..."),
        (dict[str, list[int | None]], "dict[str, list[int | None]]"),
        (list[list[list[list[list[int]]]]], "list[list[list[...]]]"),
        (File | Directory | StructuredDataset, "File | Directory | StructuredDataset"),
    ],
)
def test_describe(annotation: Any, expected: str) -> None:
    assert describe(to_literal_type(annotation)) == expected
