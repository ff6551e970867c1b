"""Query parameters of BigQuery: each input with the type that BigQuery must be told, as its REST API takes them."""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from airside.model import ConversionError, Directory, File, StructuredDataset

Type = dict[str, Any]
"""A `QueryParameterType` of the API: `{"type": "ARRAY", "arrayType": {"type": "INT64"}}`."""

_OF_NONE: Type = {"type": "STRING"}  # nothing tells the type of a None in a dictionary, unless its neighbours do

_SCALARS: dict[Any, str] = {
    bool: "BOOL",
    int: "INT64",
    float: "FLOAT64",
    str: "STRING",
    bytes: "BYTES",
    datetime: "DATETIME",  # as Flyte's own plugins send it; a task may declare TIMESTAMP
    date: "DATE",
    time: "TIME",
    Decimal: "NUMERIC",
    timedelta: "INTERVAL",
    File: "STRING",
    Directory: "STRING",
    StructuredDataset: "STRING",
}
_SYNONYMS = {
    "BOOLEAN": "BOOL",
    "INTEGER": "INT64",
    "INT": "INT64",
    "BIGINT": "INT64",
    "FLOAT": "FLOAT64",
    "DECIMAL": "NUMERIC",
    "BIGDECIMAL": "BIGNUMERIC",
}
_KNOWN = {*_SCALARS.values(), "TIMESTAMP", "BIGNUMERIC", "GEOGRAPHY", "JSON", "ARRAY", "STRUCT", "RANGE"}
_TOKEN = re.compile(r"\s*([A-Za-z_]\w*|[<>,])")


def to_parameters(
    inputs: Mapping[str, Any], annotations: Mapping[str, Any], declared: Mapping[str, Type]
) -> list[dict[str, Any]]:
    """The named parameters for these inputs. A declared type wins over that of the task's interface.

    Raises `ConversionError` with the path of a value that BigQuery has no parameter for.

    >>> to_parameters({"n": 3}, {"n": int}, {})
    [{'name': 'n', 'parameterType': {'type': 'INT64'}, 'parameterValue': {'value': '3'}}]
    """
    made = []
    for name, value in inputs.items():
        path = f"inputs.{name}"
        kind = declared.get(name) or type_of(annotations.get(name, Any), value, path)
        made.append({"name": name, "parameterType": kind, "parameterValue": value_of(value, kind, path)})
    return made


def parse_type(text: str) -> Type:
    """The type that a text of BigQuery's SQL names. Raises `ValueError` for one that is none.

    >>> parse_type("ARRAY<STRUCT<name STRING, born DATE>>")["arrayType"]["structTypes"][1]
    {'name': 'born', 'type': {'type': 'DATE'}}
    """
    tokens: list[str] = []
    place = 0
    stripped = text.rstrip()
    while place < len(stripped):
        match = _TOKEN.match(stripped, place)
        if match is None:
            raise ValueError(f"{text!r} is no type of BigQuery")
        tokens.append(match[1])
        place = match.end()
    try:
        kind = _parse(tokens)
    except IndexError:
        tokens = ["?"]
    if tokens:
        raise ValueError(f"{text!r} is no type of BigQuery")
    return kind


def _parse(tokens: list[str]) -> Type:
    word = tokens.pop(0).upper()
    name = _SYNONYMS.get(word, word)
    if name not in _KNOWN:
        raise ValueError(f"{word} is no type of BigQuery")
    if name not in {"ARRAY", "STRUCT", "RANGE"}:
        return {"type": name}
    _take(tokens, "<")
    made: Type = {"type": name}
    if name == "ARRAY":
        made["arrayType"] = _parse(tokens)
    elif name == "RANGE":
        made["rangeElementType"] = _parse(tokens)
    else:
        made["structTypes"] = [_parse_field(tokens)]
        while tokens[0] == ",":
            tokens.pop(0)
            made["structTypes"].append(_parse_field(tokens))
    _take(tokens, ">")
    return made


def _parse_field(tokens: list[str]) -> dict[str, Any]:
    name = tokens.pop(0)
    return {"name": name, "type": _parse(tokens)}


def _take(tokens: list[str], expected: str) -> None:
    found = tokens.pop(0)
    if found != expected:
        raise ValueError(f"expected {expected} in the type, found {found}")


def type_of(annotation: Any, value: Any, path: str) -> Type:
    """The type of a parameter, from what the task declares, else from its value."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_of(args[0], value, path)
    if origin in (typing.Union, types.UnionType):
        others = [arg for arg in args if arg is not type(None)]
        return type_of(others[0] if len(others) == 1 else Any, value, path)
    if origin is list:
        return _array_of(args[0], value, path)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"type": "STRING"}
    if dataclasses.is_dataclass(annotation) and annotation not in _SCALARS:
        return _struct_of(typing.get_type_hints(annotation), _fields_of(value), path)
    if annotation in _SCALARS:
        return {"type": _SCALARS[annotation]}
    return _type_of_value(value, path)


def _type_of_value(value: Any, path: str) -> Type:
    if value is None:
        return _OF_NONE
    if isinstance(value, enum.Enum):
        return {"type": "STRING"}
    if dataclasses.is_dataclass(value) and type(value) not in _SCALARS:
        return _struct_of(typing.get_type_hints(type(value)), _fields_of(value), path)
    if isinstance(value, Mapping):
        return _struct_of({}, value, path)
    if isinstance(value, list | tuple):
        return _array_of(Any, value, path)
    for kind in type(value).__mro__:
        if kind in _SCALARS:
            return {"type": _SCALARS[kind]}
    raise ConversionError(path, f"BigQuery has no parameter for a {type(value).__name__}")


def _array_of(annotation: Any, value: Any, path: str) -> Type:
    """The type of an array: nulls, and fields that only some of its structs have, take theirs from the others."""
    kinds = [type_of(annotation, one, f"{path}[{at}]") for at, one in enumerate(value or ()) if one is not None]
    inner = functools.reduce(_common, kinds) if kinds else type_of(annotation, None, f"{path}[0]")
    if inner["type"] == "ARRAY":
        raise ConversionError(path, "BigQuery has no array of arrays; make it an array of structs")
    return {"type": "ARRAY", "arrayType": inner}


def _common(one: Type, other: Type) -> Type:
    """The type for values of both; the first one if there is none, and then the other's value does not fit."""
    if one is _OF_NONE or {one["type"], other["type"]} == {"INT64", "FLOAT64"}:
        return other if one is _OF_NONE or other["type"] == "FLOAT64" else one
    if other is _OF_NONE or one["type"] != other["type"]:
        return one
    match one["type"]:
        case "ARRAY":
            return {"type": "ARRAY", "arrayType": _common(one["arrayType"], other["arrayType"])}
        case "STRUCT":
            fields = {field["name"]: field["type"] for field in one["structTypes"]}
            for field in other["structTypes"]:
                name = field["name"]
                fields[name] = _common(fields.get(name, _OF_NONE), field["type"])
            return {"type": "STRUCT", "structTypes": [{"name": name, "type": kind} for name, kind in fields.items()]}
    return one


def _struct_of(annotations: Mapping[str, Any], values: Mapping[str, Any], path: str) -> Type:
    names = list(annotations) or list(values)
    if not names:
        raise ConversionError(path, "BigQuery has no struct without fields; name its type in ParameterTypes")
    fields = [
        {"name": name, "type": type_of(annotations.get(name, Any), values.get(name), f"{path}.{name}")}
        for name in names
    ]
    return {"type": "STRUCT", "structTypes": fields}


def _fields_of(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return value
    return {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}


def value_of(value: Any, kind: Type, path: str) -> dict[str, Any]:
    """A `QueryParameterValue` of the API. Raises `ConversionError` if the value does not fit the type."""
    name = kind["type"]
    if name == "ARRAY":
        if not isinstance(value, list | tuple | None):
            raise ConversionError(path, f"expected a list for an ARRAY, got {value!r}")
        inner = kind["arrayType"]
        return {"arrayValues": [value_of(one, inner, f"{path}[{at}]") for at, one in enumerate(value or ())]}
    if value is None:
        return {"value": None}
    if name == "STRUCT":
        return {"structValues": _struct_values(value, kind, path)}
    if name == "RANGE":
        ends = _mapping(value, "RANGE", path)
        inner = kind["rangeElementType"]
        return {"rangeValue": {end: value_of(ends.get(end), inner, f"{path}.{end}") for end in ("start", "end")}}
    try:
        return {"value": _WRITERS[name](value)}
    except (TypeError, ValueError, InvalidOperation, AttributeError) as exc:
        why = f" ({exc})" if type(exc) is ValueError and str(exc) else ""
        raise ConversionError(path, f"{value!r} is no {name}{why}") from exc


def _struct_values(value: Any, kind: Type, path: str) -> dict[str, Any]:
    values = _mapping(value, "STRUCT", path)
    known = [field["name"] for field in kind["structTypes"]]
    for name in values:
        if name not in known:
            raise ConversionError(f"{path}.{name}", f"the STRUCT has no such field (fields: {', '.join(known)})")
    return {
        field["name"]: value_of(values.get(field["name"]), field["type"], f"{path}.{field['name']}")
        for field in kind["structTypes"]
    }


def _mapping(value: Any, what: str, path: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping) or dataclasses.is_dataclass(value):
        return _fields_of(value)
    raise ConversionError(path, f"expected a mapping for a {what}, got {value!r}")


def _bool(value: Any) -> str:
    if not isinstance(value, bool):
        raise TypeError
    return "true" if value else "false"


def _int64(value: Any) -> str:
    number = Decimal(value) if isinstance(value, str) else value
    if isinstance(value, bool) or number != int(number):
        raise TypeError
    if not -(2**63) <= int(number) < 2**63:
        raise ValueError("it has more than 64 bits")
    return str(int(number))


def _float64(value: Any) -> str:
    number = float(value)
    if math.isnan(number):
        return "NaN"
    return repr(number) if math.isfinite(number) else ("Infinity" if number > 0 else "-Infinity")


def _numeric(value: Any) -> str:
    if isinstance(value, bool):
        raise TypeError
    number = Decimal(repr(value) if isinstance(value, float) else value)
    if not number.is_finite():
        raise ValueError("it is not finite")
    return f"{number:f}"


def _string(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, File | Directory | StructuredDataset):
        return value.uri
    if not isinstance(value, str):
        raise TypeError
    return value


def _bytes(value: Any) -> str:
    return base64.b64encode(value).decode("ascii")


def _instant(value: Any) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _timestamp(value: Any) -> str:
    return _instant(value).isoformat(sep=" ", timespec="microseconds")


def _datetime(value: Any) -> str:
    return _instant(value).replace(tzinfo=None).isoformat(timespec="microseconds")


def _date(value: Any) -> str:
    day = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(day, datetime):
        return str(day.isoformat())
    if _instant(day).time() != time():
        raise ValueError("it has a time of day")
    return _instant(day).date().isoformat()


def _time(value: Any) -> str:
    moment = time.fromisoformat(value) if isinstance(value, str) else value
    return str(moment.isoformat(timespec="microseconds"))


def _interval(value: Any) -> str:
    """BigQuery's canonical form: years-months days hours:minutes:seconds."""
    if isinstance(value, str):
        return value
    whole, fraction = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
    sign = "-" if value < timedelta() else ""
    return f"0-0 0 {sign}{whole // 3600}:{whole // 60 % 60}:{whole % 60}.{fraction:06d}"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


_WRITERS: dict[str, typing.Callable[[Any], str]] = {
    "BOOL": _bool,
    "INT64": _int64,
    "FLOAT64": _float64,
    "NUMERIC": _numeric,
    "BIGNUMERIC": _numeric,
    "STRING": _string,
    "GEOGRAPHY": _string,
    "BYTES": _bytes,
    "TIMESTAMP": _timestamp,
    "DATETIME": _datetime,
    "DATE": _date,
    "TIME": _time,
    "INTERVAL": _interval,
    "JSON": _json,
}
