"""What a Spark Connect server is asked for one task: the plan of its statement, with its inputs as typed parameters."""

from __future__ import annotations

import dataclasses
import enum
import re
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from airside.agents.placeholders import PLACEHOLDER, render
from airside.agents.spark_connect_session import protocol
from airside.model import ConversionError, Directory, Fail, File, StructuredDataset, Task

KEYS = ("server", "spark_conf", "results")
_CONNECTION_KEYS = ("secrets", "configs")  # Flyte 2 puts the connection into the same place
_COMMENT = re.compile(r"\s+|--[^\n]*(\n|\Z)|/\*.*?\*/", re.DOTALL)
_QUERY = re.compile(r"\(|(select|with|values|from|table)\b", re.IGNORECASE)
_SUCCESS = "_SUCCESS"


def session_id(key: str) -> str:
    """The id of the session of an attempt.

    >>> session_id("0a" * 16), operation_id("0a" * 16) != session_id("0a" * 16)
    ('0a0a0a0a-0a0a-4a0a-8a0a-0a0a0a0a0a0a', True)
    """
    return str(uuid.UUID(key, version=4))


def operation_id(key: str) -> str:
    """The id of the one operation of an attempt."""
    return str(uuid.uuid5(uuid.UUID(key), "operation"))


def config_of(task: Task) -> Mapping[str, Any]:
    """The settings of a task, checked."""
    config = {key: value for key, value in task.config.items() if key not in _CONNECTION_KEYS}
    for key, value in config.items():
        if key not in KEYS:
            raise Fail(f"config.{key}: a spark_connect task knows no such key (known: {', '.join(KEYS)}).")
        if key != "spark_conf" and not isinstance(value, str):
            raise Fail(f"config.{key} must be a text.")
    return config


def properties_of(task: Task) -> dict[str, str]:
    """What the session is to be set to. Reads inputs, so it may block."""
    told = config_of(task).get("spark_conf") or {}
    if not isinstance(told, Mapping):
        raise Fail("config.spark_conf must map names to texts.")
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in told.items()}
    return {name: render(text, task.inputs) for name, text in texts.items()}


def place_of(folder: str, task: Task) -> str:
    """The folder of a task's table. Reads inputs, so it may block.

    >>> from airside import TaskType
    >>> place_of("s3a://flights/{{.inputs.year}}/", Task(type=TaskType("x"), inputs={"year": 2013}, key="0a"))
    's3a://flights/2013/0a'
    """
    told = render(folder, task.inputs, {"outputprefix": task.output_prefix})
    return f"{told.rstrip('/')}/{task.key}"


def mark_of(place: str) -> str:
    """The file that is in a table's folder when it is complete."""
    return f"{place}/{_SUCCESS}"


def plan_of(task: Task, place: str, limit: int) -> Any:
    """The plan of a task: to write its result to a place, or to tell up to `limit` rows. Reads inputs: it may block."""
    text = task.sql.statement if task.sql is not None else ""
    bare = _bare(text)
    if not bare:
        raise Fail("A spark_connect task needs a statement: the template's sql.")
    templated = PLACEHOLDER.search(text)
    if templated is not None and templated[1].lower().startswith("inputs."):
        name = templated[1].partition(".")[2]
        raise Fail(f"{templated[0]} is not filled in, since an input could be run as SQL: write :{name} instead.")
    is_query = _QUERY.match(bare) is not None
    if place and not is_query:
        raise Fail("Only a query has a table: a task with a StructuredDataset needs a SELECT, WITH, VALUES or FROM.")
    proto = protocol()
    annotations = task.interface.inputs
    relation = proto.Relation(
        sql=proto.SQL(
            query=text,
            named_arguments={
                name: to_argument(value, annotations.get(name), f"inputs.{name}") for name, value in task.inputs.items()
            },
        )
    )
    if not place:
        return proto.Plan(root=limited(relation, limit) if is_query else relation)
    mode = proto.WriteOperation.SAVE_MODE_OVERWRITE  # what an attempt left that did not come to its end
    write = proto.WriteOperation(input=relation, source="parquet", path=place, mode=mode)
    return proto.Plan(command=proto.Command(write_operation=write))


def limited(relation: Any, limit: int) -> Any:
    """The first rows of a relation."""
    proto = protocol()
    return proto.Relation(limit=proto.Limit(input=relation, limit=limit))


def table_at(place: str) -> Any:
    """The table that was written to a place."""
    proto = protocol()
    return proto.Relation(read=proto.Read(data_source=proto.Read.DataSource(format="parquet", paths=[place])))


def count_of(relation: Any) -> Any:
    """The number of a relation's rows, as its only row."""
    proto = protocol()
    one = proto.Expression(literal=proto.Expression.Literal(long=1))
    return proto.Relation(
        aggregate=proto.Aggregate(
            input=relation,
            group_type=proto.Aggregate.GROUP_TYPE_GROUPBY,
            aggregate_expressions=[_call("count", one)],
        )
    )


def to_argument(value: Any, annotation: Any, path: str) -> Any:
    """A value as an expression of Spark: a literal, or one that makes an array, a map or a struct of literals.

    Raises `ConversionError` with the path of a value that Spark has no form for.
    """
    match value:
        case enum.Enum():
            return to_argument(value.value, None, path)
        case File() | Directory() | StructuredDataset():
            return _literal(string=value.uri)
        case list() | tuple():
            [inner] = typing.get_args(annotation)[:1] or [None]
            return _call("array", *(to_argument(one, inner, f"{path}[{at}]") for at, one in enumerate(value)))
        case Mapping():
            return _mapping(value, annotation, path)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return _mapping(fields, None, path)
    return _scalar(value, path)


def _mapping(value: Mapping[Any, Any], annotation: Any, path: str) -> Any:
    """A map if the interface says that its values are of one type, else a struct, whose fields may differ."""
    inner = typing.get_args(annotation)[1:]
    is_map = bool(inner) and inner[0] not in (Any, object)
    pieces: list[Any] = []
    for name, one in value.items():
        pieces += [_literal(string=str(name)), to_argument(one, inner[0] if is_map else None, f"{path}[{name!r}]")]
    if not pieces and not is_map:
        raise ConversionError(path, "an empty dictionary has no form in Spark's SQL")
    return _call("map" if is_map else "named_struct", *pieces)


def _scalar(value: Any, path: str) -> Any:
    if isinstance(value, Decimal):
        return _decimal(value, path)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConversionError(path, f"{value} has more than 64 bits")
    for kind, name, form in _LITERALS:
        if isinstance(value, kind):
            return _literal(**{name: form(value)})
    if value is None:
        return _literal(null=protocol().DataType(null=protocol().DataType.NULL()))
    raise ConversionError(path, f"Spark has no literal for a {type(value).__name__}")


def _microseconds(value: datetime) -> int:
    moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _same(value: Any) -> Any:
    return value


_LITERALS: Sequence[tuple[type, str, Callable[[Any], Any]]] = (
    (bool, "boolean", _same),  # before int, which it is too
    (int, "long", _same),
    (float, "double", _same),
    (str, "string", _same),
    (bytes, "binary", _same),
    (datetime, "timestamp", _microseconds),  # before date
    (date, "date", lambda day: (day - date(1970, 1, 1)).days),
    (timedelta, "day_time_interval", lambda span: span // timedelta(microseconds=1)),
    (time, "string", time.isoformat),
)


def _decimal(value: Decimal, path: str) -> Any:
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ConversionError(path, f"{value} is no finite number")
    scale = max(-exponent, 0)
    precision = max(len(digits) + max(exponent, 0), scale, 1)
    if precision > 38:
        raise ConversionError(path, f"{value} has more than 38 digits")
    return _literal(decimal=protocol().Expression.Literal.Decimal(value=f"{value:f}", precision=precision, scale=scale))


def _literal(**told: Any) -> Any:
    proto = protocol()
    return proto.Expression(literal=proto.Expression.Literal(**told))


def _call(function: str, *arguments: Any) -> Any:
    proto = protocol()
    told = proto.Expression.UnresolvedFunction(function_name=function, arguments=list(arguments))
    return proto.Expression(unresolved_function=told)


def _bare(text: str) -> str:
    """The statement without what stands before its first word."""
    at = 0
    while (match := _COMMENT.match(text, at)) is not None:
        at = match.end()
    return text[at:]
