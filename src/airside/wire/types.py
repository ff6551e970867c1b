"""Python types and Flyte's literal types, both ways.

A literal type says how a value travels; an annotation is what an author writes. Types that Flyte does not
know (sets, callables, `Any`) are refused where the author can see it, never sent as a pickle.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Annotated, Any

from flyteidl2.core import interface_pb2, types_pb2
from flyteidl2.core.types_pb2 import LiteralType

from airside.model import ConversionError, Directory, File, StructuredDataset
from airside.wire.misfit import MAX_DEPTH, shown

_SIMPLE: dict[Any, tuple[int, str]] = {
    int: (types_pb2.INTEGER, "int"),
    float: (types_pb2.FLOAT, "float"),
    str: (types_pb2.STRING, "str"),
    bool: (types_pb2.BOOLEAN, "bool"),
    datetime: (types_pb2.DATETIME, "datetime"),
    date: (types_pb2.DATETIME, "date"),
    timedelta: (types_pb2.DURATION, "timedelta"),
    None: (types_pb2.NONE, "none"),
    types.NoneType: (types_pb2.NONE, "none"),
    bytes: (types_pb2.BINARY, "bytes"),
}
_ANNOTATIONS: dict[int, Any] = {
    types_pb2.NONE: types.NoneType,
    types_pb2.INTEGER: int,
    types_pb2.FLOAT: float,
    types_pb2.STRING: str,
    types_pb2.BOOLEAN: bool,
    types_pb2.DATETIME: datetime,
    types_pb2.DURATION: timedelta,
    types_pb2.BINARY: bytes,
    types_pb2.ERROR: dict,
    types_pb2.STRUCT: dict,
}
_LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def to_literal_type(annotation: Any, path: str = "type") -> LiteralType:
    """The literal type of a Python annotation.

    `Annotated[StructuredDataset, kwtypes(a=int), "parquet"]` names columns and format, `Annotated[File, "csv"]`
    a format; other metadata of `Annotated` is ignored. Raises `ConversionError` at `path` for a type that Flyte
    does not know.

    >>> to_literal_type(list[int]).collection_type.simple == types_pb2.INTEGER
    True
    >>> to_literal_type(set[int], "inputs.x")
    Traceback (most recent call last):
    airside.model.errors.ConversionError: inputs.x: set[int] has no Flyte type; use list
    """
    return _typed(annotation, path, ())[0]


def to_variable_map(annotations: Mapping[str, Any], where: str = "interface") -> interface_pb2.VariableMap:
    """The variables of an interface, in the order given, without descriptions.

    >>> [entry.key for entry in to_variable_map({"b": int, "a": str}).variables]
    ['b', 'a']
    """
    variables = interface_pb2.VariableMap()
    for name, annotation in annotations.items():
        entry = variables.variables.add(key=name)
        entry.value.type.CopyFrom(to_literal_type(annotation, f"{where}.{name}"))
    return variables


def to_annotation(literal_type: LiteralType, path: str = "type") -> Any:
    """The Python annotation of a literal type: what `to_literal_type` would make it of, as closely as can be told.

    A struct becomes `dict`, an enum `Literal[...]` of its values, a schema a `StructuredDataset`; a type that is
    not set, or newer than this version, becomes `Any`.

    >>> to_annotation(to_literal_type(dict[str, float | None]))
    dict[str, typing.Optional[float]]
    """
    return _annotation(literal_type, path, 0)


def describe(literal_type: LiteralType, depth: int = 3) -> str:
    """A literal type in the words of an error message.

    >>> describe(to_literal_type(list[int | None]))
    'list[int | None]'
    """
    kind = literal_type.WhichOneof("type")
    if kind == "simple":
        known = _ANNOTATIONS.get(literal_type.simple)
        return "None" if known is types.NoneType else known.__name__ if known else "a value"
    if depth == 0:
        return "..."
    describer = _DESCRIBERS.get(kind)
    return describer(literal_type, depth - 1) if describer else "a value"


def is_none(literal_type: LiteralType) -> bool:
    """Whether a type is that of None."""
    return literal_type.WhichOneof("type") == "simple" and bool(literal_type.simple == types_pb2.NONE)


def sole_variant(union: LiteralType) -> LiteralType | None:
    """The T of an optional T; None if the union has more variants than that."""
    others = [variant for variant in union.union_type.variants if not is_none(variant)]
    return others[0] if len(others) == 1 else None


_DESCRIBERS: dict[str | None, Callable[[LiteralType, int], str]] = {
    "collection_type": lambda t, depth: f"list[{describe(t.collection_type, depth)}]",
    "map_value_type": lambda t, depth: f"dict[str, {describe(t.map_value_type, depth)}]",
    "union_type": lambda t, depth: _listed((describe(v, depth) for v in t.union_type.variants), " | "),
    "enum_type": lambda t, _depth: "one of " + _listed(map(shown, t.enum_type.values), ", "),
    "blob": lambda t, _depth: "Directory" if t.blob.dimensionality else "File",
    "schema": lambda _t, _depth: "StructuredDataset",
    "structured_dataset_type": lambda _t, _depth: "StructuredDataset",
}


def _listed(names: Iterable[str], separator: str) -> str:
    shown = list(names)
    return separator.join([*shown[:6], "..."] if len(shown) > 6 else shown) or "a value"


# --- annotation to literal type; each step also names the type as flytekit tags it inside a union


def _typed(annotation: Any, path: str, inside: tuple[Any, ...]) -> tuple[LiteralType, str]:
    if len(inside) > MAX_DEPTH:
        raise ConversionError(path, f"type nested deeper than {MAX_DEPTH}")
    simple = _SIMPLE.get(annotation) if isinstance(annotation, (type, types.NoneType)) else None
    if simple:
        return LiteralType(simple=simple[0]), simple[1]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _annotated(args[0], args[1:], path, inside)
    if origin in (typing.Union, types.UnionType):
        return _union(args, path, inside), "Typed Union"
    if origin is typing.Literal:
        return _choice(args, path, inside)
    if origin in _DICTS or annotation in _DICTS:
        return _dict(args, path, inside), "Typed Dict"
    if origin in _LISTS:
        return _list(annotation, origin, args, path, inside), "Typed List"
    if hasattr(annotation, "__supertype__"):
        return _typed(annotation.__supertype__, path, (*inside, annotation))
    if hasattr(annotation, "__value__"):
        return _typed(annotation.__value__, path, (*inside, annotation))
    return _class(annotation if origin is None else origin, annotation, path, inside)


def _annotated(annotation: Any, extras: tuple[Any, ...], path: str, inside: tuple[Any, ...]) -> tuple[LiteralType, str]:
    literal_type, tag = _typed(annotation, path, inside)
    if annotation in (File, Directory):
        literal_type.blob.format = next((extra for extra in extras if isinstance(extra, str)), "")
    if annotation is StructuredDataset:
        dataset = literal_type.structured_dataset_type
        for extra in extras:
            if isinstance(extra, str):
                dataset.format = extra
            elif isinstance(extra, (Mapping, tuple)):
                for name, column in dict(extra).items():
                    column_type = _typed(column, f"{path}.{name}", (*inside, annotation))[0]
                    dataset.columns.add(name=name, literal_type=column_type)
    return literal_type, tag


def _union(args: tuple[Any, ...], path: str, inside: tuple[Any, ...]) -> LiteralType:
    union = LiteralType()
    for arg in args:
        variant, tag = _typed(arg, path, (*inside, args))
        variant.structure.tag = tag
        union.union_type.variants.append(variant)
    return union


def _choice(args: tuple[Any, ...], path: str, inside: tuple[Any, ...]) -> tuple[LiteralType, str]:
    kinds = {type(arg) for arg in args}
    if kinds == {str}:
        return LiteralType(enum_type=types_pb2.EnumType(values=args)), "DefaultEnumTransformer"
    if len(kinds) == 1 and kinds <= {int, bool}:
        return _typed(kinds.pop(), path, inside)
    raise ConversionError(path, "Literal[...] needs values that are all str, all int or all bool")


def _dict(args: tuple[Any, ...], path: str, inside: tuple[Any, ...]) -> LiteralType:
    if len(args) == 2 and args[0] is str and args[1] not in (Any, object):
        return LiteralType(map_value_type=_typed(args[1], f"{path}[...]", (*inside, args))[0])
    return _struct()


def _list(annotation: Any, origin: Any, args: tuple[Any, ...], path: str, inside: tuple[Any, ...]) -> LiteralType:
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        raise ConversionError(path, f"{annotation} has no Flyte type; use a list or a dataclass")
    return LiteralType(collection_type=_typed(args[0], f"{path}[...]", (*inside, args))[0])


def _class(cls: Any, annotation: Any, path: str, inside: tuple[Any, ...]) -> tuple[LiteralType, str]:
    if cls is File:
        return LiteralType(blob=types_pb2.BlobType()), "FlyteFilePath"
    if cls is Directory:
        return LiteralType(blob=types_pb2.BlobType(dimensionality=types_pb2.BlobType.MULTIPART)), "FlyteDirectory"
    if cls is StructuredDataset:
        dataset = types_pb2.StructuredDatasetType()
        return LiteralType(structured_dataset_type=dataset), "StructuredDataset Transformer"
    if isinstance(cls, type) and issubclass(cls, enum.Enum):
        return _enum(cls, path), "DefaultEnumTransformer"
    if hasattr(cls, "DESCRIPTOR") and hasattr(cls, "SerializeToString"):
        message = LiteralType(simple=types_pb2.STRUCT)
        message.metadata["pb_type"] = f"{cls.__module__}.{cls.__qualname__}"
        return message, "Protobuf-Transformer"
    names = field_names(cls)
    if names is None:
        raise ConversionError(path, f"{_shown(annotation)} has no Flyte type; {_advice(cls)}")
    return _record(cls, names, inside), "Pydantic Transformer" if hasattr(
        cls, "model_fields"
    ) else "Object-Dataclass-Transformer"


def _enum(cls: type[enum.Enum], path: str) -> LiteralType:
    values = [member.value for member in cls]
    if not all(isinstance(value, str) for value in values):
        raise ConversionError(path, f"the values of enum {cls.__name__} must be str")
    return LiteralType(enum_type=types_pb2.EnumType(values=values))


def field_names(cls: Any) -> list[str] | None:
    """The fields of a dataclass, pydantic model, msgspec struct or TypedDict; None for any other class."""
    if not isinstance(cls, type):
        return None
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    if hasattr(cls, "model_fields") and hasattr(cls, "model_validate"):
        return list(cls.model_fields)
    if hasattr(cls, "__struct_fields__"):
        return list(cls.__struct_fields__)
    return list(cls.__annotations__) if typing.is_typeddict(cls) else None


def _record(cls: type, names: list[str], inside: tuple[Any, ...]) -> LiteralType:
    """A struct that tells the types of its fields, as far as Flyte has types for them."""
    record = _struct()
    if cls in inside:
        return record
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError):  # hints that only a type checker can resolve
        return record
    for name in names:
        try:
            record.structure.dataclass_type[name].CopyFrom(_typed(hints[name], name, (*inside, cls))[0])
        except (ConversionError, KeyError):
            record.structure.dataclass_type.pop(name, None)
    return record


def _struct() -> LiteralType:
    struct = LiteralType(simple=types_pb2.STRUCT)
    struct.annotation.annotations.get_or_create_struct("cache-key-metadata")["serialization-format"] = "msgpack"
    return struct


def _advice(cls: Any) -> str:
    if cls in (list, tuple):
        return "name its items: list[int]"
    if cls in (set, frozenset, collections.abc.Set):
        return "use list"
    if cls is Any or cls is object:
        return "name the type, or use dict for any JSON-like value"
    if isinstance(cls, str):
        return "write the type itself, not its name"
    return "use a dataclass or dict"


def _shown(annotation: Any) -> str:
    if isinstance(annotation, str):
        return repr(annotation)
    plain = isinstance(annotation, type) and not typing.get_args(annotation)
    return annotation.__name__ if plain else str(annotation)


# --- literal type to annotation


def _annotation(literal_type: LiteralType, path: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ConversionError(path, f"type nested deeper than {MAX_DEPTH}")
    kind = literal_type.WhichOneof("type")
    if kind == "simple":
        return _ANNOTATIONS.get(literal_type.simple, Any)
    if kind == "collection_type":
        return list[_annotation(literal_type.collection_type, path, depth + 1)]  # type: ignore[misc]  # a type that is known at run time only
    if kind == "map_value_type":
        return dict[str, _annotation(literal_type.map_value_type, path, depth + 1)]  # type: ignore[misc]  # a type that is known at run time only
    if kind == "union_type":
        variants = tuple(_annotation(v, path, depth + 1) for v in literal_type.union_type.variants)
        return typing.Union[variants] if variants else Any  # noqa: UP007 - built at run time
    if kind == "enum_type":
        values = tuple(literal_type.enum_type.values)
        return typing.Literal[values] if values else str
    if kind == "blob":
        blob: Any = Directory if literal_type.blob.dimensionality else File
        return Annotated[blob, literal_type.blob.format] if literal_type.blob.format else blob
    if kind in ("schema", "structured_dataset_type"):
        return _dataset(getattr(literal_type, kind), path, depth)
    return Any


def _dataset(dataset: Any, path: str, depth: int) -> Any:
    extras: list[Any] = []
    if dataset.columns:
        extras.append(tuple(column_types(dataset, path, depth).items()))
    if getattr(dataset, "format", ""):
        extras.append(dataset.format)
    return Annotated[(StructuredDataset, *extras)] if extras else StructuredDataset


_SCHEMA_COLUMNS: dict[int, Any] = {
    types_pb2.SchemaType.SchemaColumn.INTEGER: int,
    types_pb2.SchemaType.SchemaColumn.FLOAT: float,
    types_pb2.SchemaType.SchemaColumn.STRING: str,
    types_pb2.SchemaType.SchemaColumn.BOOLEAN: bool,
    types_pb2.SchemaType.SchemaColumn.DATETIME: datetime,
    types_pb2.SchemaType.SchemaColumn.DURATION: timedelta,
}


def column_types(dataset: Any, path: str = "type", depth: int = 0) -> dict[str, Any]:
    """The columns of a schema type or structured dataset type: Python annotations by name."""
    if not dataset.columns:
        return {}
    if isinstance(dataset, types_pb2.SchemaType):
        return {column.name: _SCHEMA_COLUMNS.get(column.type, Any) for column in dataset.columns}
    return {column.name: _annotation(column.literal_type, path, depth + 1) for column in dataset.columns}
