"""Generated values survive the way to bytes and back; generated nonsense is refused in one way only."""

from __future__ import annotations

import contextlib
import typing
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import Any, Literal, Union

import msgpack
from flyteidl2.core import literals_pb2, types_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from airside import ConversionError, Directory, File, StructuredDataset
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.literals import from_literal, to_literal
from airside.wire.types import describe, to_annotation, to_literal_type

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
INTS = st.integers(-(2**63), 2**63 - 1)
FORMATS = st.sampled_from(["csv", "parquet"])
PLAIN = st.recursive(
    st.none() | st.booleans() | INTS | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | INTS, inner, max_size=4),
    max_leaves=10,
)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: INTS,
    float: st.floats(),
    str: st.text(),
    bool: st.booleans(),
    datetime: st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=ZONES),  # noqa: DTZ001 - bounds are naive
    timedelta: st.timedeltas(timedelta(seconds=-315_576_000_000), timedelta(seconds=315_576_000_000)),
    bytes: st.binary(),
    type(None): st.none(),
    dict: st.dictionaries(st.text() | INTS, PLAIN, max_size=4),
    File: st.builds(File, st.text(), FORMATS),
    Directory: st.builds(Directory, st.text(), FORMATS),
    StructuredDataset: st.builds(StructuredDataset, st.text(), FORMATS, st.just({"a": int, "b": list[str]})),
    Literal["a", "b"]: st.sampled_from("ab"),
}
ANNOTATIONS = st.recursive(
    st.sampled_from(list(VALUES)),
    lambda inner: st.one_of(
        inner.map(lambda a: list[a]),  # type: ignore[valid-type]  # a type made at run time
        inner.map(lambda a: dict[str, a]),  # type: ignore[valid-type]  # as above
        st.lists(inner, min_size=1, max_size=4).map(lambda args: Union[tuple(args)]),  # noqa: UP007 - of any number
    ),
    max_leaves=6,
)


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        return st.lists(values_of(args[0]), max_size=4)
    if origin is dict:
        return st.dictionaries(st.text(), values_of(args[1]), max_size=4)
    return st.one_of([values_of(arg) for arg in args]) if origin is Union else VALUES[annotation]


def same(one: Any, other: Any) -> bool:
    """Equal in value and type: NaN is itself, 1.0 is not 1, the order of a map does not count."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other) if isinstance(one, float) else bool(one == other)


TYPED = ANNOTATIONS.flatmap(lambda annotation: st.tuples(st.just(annotation), values_of(annotation)))


@given(TYPED)
@settings(max_examples=400)
def test_typed_values_survive(typed: tuple[Any, Any]) -> None:
    annotation, value = typed
    declared = to_literal_type(annotation)
    data = to_literal(value, declared).SerializeToString()
    assert same(from_literal(literals_pb2.Literal.FromString(data), declared), value)


@given(TYPED)
@settings(max_examples=200)
def test_values_survive_without_a_type(typed: tuple[Any, Any]) -> None:
    _, value = typed
    data = to_literal(value).SerializeToString()
    read = from_literal(literals_pb2.Literal.FromString(data))
    assert _has_rich_values_in_a_struct(value) or same(read, value)


def _has_rich_values_in_a_struct(value: Any, *, inside: bool = False) -> bool:
    """Undeclared, a dict travels as a struct: what JSON does not have arrives there as its nearest form."""
    if isinstance(value, dict):
        return any(_has_rich_values_in_a_struct(item, inside=True) for item in value.values())
    if isinstance(value, list):
        return any(_has_rich_values_in_a_struct(item, inside=inside) for item in value)
    return inside and isinstance(value, (datetime, timedelta, File, Directory, StructuredDataset))


@given(st.dictionaries(st.text(), TYPED, max_size=5))
def test_maps_survive_and_the_same_values_give_the_same_bytes(typed: dict[str, tuple[Any, Any]]) -> None:
    declared = {name: to_literal_type(annotation) for name, (annotation, _) in typed.items()}
    values = {name: value for name, (_, value) in typed.items()}
    data, dropped = pack(values, declared)
    assert not dropped
    assert same(dict(LiteralValues(data, declared)), values)
    backwards = dict(reversed(list(values.items())))
    assert pack(backwards, dict(reversed(list(declared.items())))).data == data


# --- nonsense


@cache
def messages(descriptor: Descriptor, depth: int = 5) -> st.SearchStrategy[Message]:
    """Messages with any of their fields set to anything."""
    cls = GetMessageClass(descriptor)
    fields = [field for field in descriptor.fields if depth or field.type != FieldDescriptor.TYPE_MESSAGE]
    if not fields:
        return st.builds(cls)
    chosen = st.lists(st.sampled_from(fields), max_size=3, unique_by=lambda field: field.number)
    return chosen.flatmap(
        lambda some: st.fixed_dictionaries({field.name: _field_values(field, depth) for field in some})
    ).map(lambda values: cls(**values))


_SCALAR_FIELDS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_INT64: INTS,
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 12),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: st.sampled_from(["msgpack", "", "uri", "path"]) | st.text(max_size=5),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20) | PLAIN.map(msgpack.packb),
}


def _field_values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        one = _SCALAR_FIELDS[field.type]
    elif field.message_type.GetOptions().map_entry:
        value = _field_values(field.message_type.fields_by_name["value"], depth)
        return st.dictionaries(st.text(max_size=3), value, max_size=3)
    else:
        one = messages(field.message_type, depth - 1)
    return st.lists(one, max_size=3) if field.is_repeated else one


LITERALS = messages(literals_pb2.Literal.DESCRIPTOR)
TYPES = messages(types_pb2.LiteralType.DESCRIPTOR) | ANNOTATIONS.map(to_literal_type)
OBJECTS = st.recursive(
    st.one_of(
        PLAIN,
        st.integers(),
        st.complex_numbers(),
        st.text(st.characters(), max_size=3),
        st.datetimes(timezones=st.none() | ZONES),
        st.dates(),
        st.timedeltas(),
        st.builds(object),
        st.frozensets(st.integers()),
        st.decimals(),
        st.fractions(),
        st.sampled_from([int, len, ..., NotImplemented, UTC]),
        st.one_of(VALUES[File], VALUES[Directory], VALUES[StructuredDataset]),
        LITERALS,
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner),
    max_leaves=5,
)


def _fetch(uri: str) -> bytes:
    return to_literal(uri).SerializeToString() if len(uri) % 2 else b"\xff"


@given(LITERALS, st.none() | TYPES)
@settings(max_examples=400)
def test_any_literal_is_read_or_refused(literal: Any, declared: Any) -> None:
    with contextlib.suppress(ConversionError):
        from_literal(literal, declared, fetch=_fetch)


@given(OBJECTS, st.none() | TYPES)
@settings(max_examples=300)
def test_any_object_is_written_or_refused(value: Any, declared: Any) -> None:
    refused: ConversionError | None = None
    try:
        literal = to_literal(value, declared)
        literals_pb2.Literal.FromString(literal.SerializeToString())
    except ConversionError as error:
        refused = error
    if refused is not None:
        assert len(refused.problem) < 500
        assert str(refused).encode()


@given(TYPES)
def test_any_type_has_an_annotation_and_a_description(literal_type: Any) -> None:
    with contextlib.suppress(ConversionError):
        to_annotation(literal_type)
    assert describe(literal_type)


@given(TYPED, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4))
@settings(max_examples=300)
def test_damaged_bytes_are_read_or_refused(typed: tuple[Any, Any], damage: list[tuple[int, int]]) -> None:
    annotation, value = typed
    declared = {"x": to_literal_type(annotation)}
    data = bytearray(pack({"x": value}, declared).data)
    for position, byte in damage:
        data[position % len(data)] = byte
    with contextlib.suppress(ConversionError, DecodeError):
        values = LiteralValues(bytes(data), declared, fetch=_fetch)
        values.prefetch()
        dict(values)
