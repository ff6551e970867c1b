"""Task inputs and outputs as JSON, for processes that know nothing of protobuf.

A *kind* is the JSON shadow of a declared type ("file", ["list", "datetime"], ...): it is kept beside a job, so
that the job's answer can be read in another process.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import types
import typing
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from airside.model import ConversionError, Directory, File, StructuredDataset

Kind = str | list[Any]

OUTPUTS, ERROR = "outputs.json", "error.json"

_KINDS: dict[Any, str] = {
    int: "int",
    float: "float",
    str: "str",
    bool: "bool",
    bytes: "bytes",
    datetime: "datetime",
    date: "date",
    timedelta: "duration",
    File: "file",
    Directory: "directory",
    StructuredDataset: "dataset",
}
_PLACES: dict[str, type[File] | type[Directory] | type[StructuredDataset]] = {
    "file": File,
    "directory": Directory,
    "dataset": StructuredDataset,
}
_COLUMN_TYPES = {name: annotation for annotation, name in _KINDS.items()}


def kind_of(annotation: Any) -> Kind:
    """The kind of a declared type; "any" for what JSON can say by itself.

    >>> kind_of(list[File]), kind_of(int | None), kind_of(dict[str, object])
    (['list', 'file'], ['optional', 'int'], ['dict', 'any'])
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind_of(args[0])
    if origin in (list, dict):
        return [origin.__name__, kind_of(args[-1])]
    if origin in (typing.Union, types.UnionType):
        others = [arg for arg in args if arg is not type(None)]
        inner = kind_of(others[0]) if len(others) == 1 else "any"
        return ["optional", inner] if len(others) < len(args) else inner
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "str"
    return _KINDS.get(annotation, "any")


def to_json(value: Any) -> Any:
    """A task's value as JSON: files and tables by their uri, times in ISO 8601, durations in seconds, bytes in base64.

    >>> to_json({"at": datetime(2024, 1, 2), "took": timedelta(minutes=1), "trips": File("s3://b/trips.csv")})
    {'at': '2024-01-02T00:00:00', 'took': 60.0, 'trips': 's3://b/trips.csv'}
    """
    match value:
        case enum.Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case File() | Directory() | StructuredDataset():
            return value.uri
        case datetime() | date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case Mapping():
            return {str(key): to_json(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_json(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: to_json(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def from_json(value: Any, kind: Kind, path: str, folder: Path | None = None) -> Any:
    """The Python value that JSON stands for; a relative file name is one in `folder`.

    Raises `ConversionError` with the path. What has the wrong type but no special form is handed on as it is:
    the declared type is checked by whoever packs the outputs.

    >>> from_json("2024-01-02T00:00:00+00:00", "datetime", "outputs.at").year
    2024
    >>> from_json(["a.csv"], ["list", "file"], "outputs.all", Path("/data"))
    [File(uri='/data/a.csv', format='')]
    """
    if value is None:
        return None
    if isinstance(kind, list):
        return _items(value, kind, path, folder)
    if kind in _PLACES:
        return _place(value, kind, path, folder)
    try:
        match kind:
            case "datetime":
                return datetime.fromisoformat(value)
            case "date":
                return date.fromisoformat(value)
            case "duration":
                return timedelta(seconds=value)
            case "bytes":
                return base64.b64decode(value, validate=True)
    except (TypeError, ValueError) as exc:
        raise ConversionError(path, f"expected {_EXPECTED[kind]}, got {value!r}") from exc
    return value


_EXPECTED = {
    "datetime": "a time in ISO 8601",
    "date": "a date in ISO 8601",
    "duration": "a number of seconds",
    "bytes": "base64",
}


def from_file(file: Path, kind: Kind, path: str) -> Any:
    """The value of one output that a job left as a file: the file itself, or what is written in it."""
    if isinstance(kind, list) and is_optional(kind):
        return from_file(file, kind[1], path)
    if isinstance(kind, str) and kind in _PLACES:
        return _PLACES[kind](str(file))
    text = file.read_bytes()
    if kind == "bytes":
        return text
    words = text.decode("utf-8", errors="replace").strip()
    try:
        match kind:
            case "str":
                return words
            case "int":
                return int(words)
            case "float":
                return float(words)
            case "datetime" | "date":
                return from_json(words, kind, path)
        return from_json(json.loads(words), kind, path, file.parent)
    except ValueError as exc:
        raise ConversionError(path, f"the file {file.name} holds {words[:80]!r}, which is no {_words(kind)}") from exc


def local_path(uri: str) -> Path | None:
    """The path of a local file, given plainly or as file://; None for a place elsewhere.

    >>> local_path("file:///tmp/a%20b"), local_path("/tmp/a"), local_path("s3://bucket/a")
    (PosixPath('/tmp/a b'), PosixPath('/tmp/a'), None)
    """
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    return None if not uri or "://" in uri else Path(uri)


def is_optional(kind: Kind) -> bool:
    """True if the value may be left out."""
    return kind[0] == "optional"


def _items(value: Any, kind: list[Any], path: str, folder: Path | None) -> Any:
    outer, inner = kind
    if outer == "optional":
        return from_json(value, inner, path, folder)
    if outer == "list" and isinstance(value, list):
        return [from_json(one, inner, f"{path}[{index}]", folder) for index, one in enumerate(value)]
    if outer == "dict" and isinstance(value, dict):
        return {key: from_json(one, inner, f"{path}[{key!r}]", folder) for key, one in value.items()}
    raise ConversionError(path, f"expected a {outer}, got {value!r}")


def _place(value: Any, kind: str, path: str, folder: Path | None) -> File | Directory | StructuredDataset:
    """A file or table, told by its uri or by an object with `uri`, `format` and, for a table, `columns`."""
    told = {"uri": value} if isinstance(value, str) else value
    if not isinstance(told, dict) or not isinstance(told.get("uri"), str):
        raise ConversionError(path, f"expected the path or uri of a {kind}, got {value!r}")
    place = local_path(told["uri"])
    uri = str(folder / place) if folder is not None and place is not None else told["uri"]
    more: dict[str, Any] = {"format": told["format"]} if told.get("format") else {}
    if kind == "dataset" and told.get("columns"):
        more["columns"] = {name: _COLUMN_TYPES.get(column, str) for name, column in told["columns"].items()}
    return _PLACES[kind](uri, **more)


def _words(kind: Kind) -> str:
    return kind if isinstance(kind, str) else f"{kind[0]} in JSON"
