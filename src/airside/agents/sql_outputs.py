"""The outputs of a task that is a query, from the table and the rows of its result: for every agent of a database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from airside.agents.json_values import Kind, is_optional, to_json
from airside.model import ConversionError, StructuredDataset

_ROW_COUNTS = ("rows", "row_count", "num_rows")


def needs_rows(outputs: Mapping[str, Kind]) -> bool:
    """True if an output is made of the result's rows; a table needs none."""
    return any(_plain(kind) != "dataset" for kind in outputs.values())


def to_outputs(
    declared: Mapping[str, Kind], table: StructuredDataset | None, rows: Sequence[Mapping[str, Any]], total: int
) -> dict[str, Any]:
    """The outputs of a task: the table, the rows, their number, or a column's value of the only row.

    `rows` are the first of the `total` rows of the result. Raises `ConversionError` for an output that the result
    does not have.

    >>> to_outputs({"n": "int", "rows": "int"}, None, [{"n": 7}], 1)
    {'n': 7, 'rows': 1}
    """
    made: dict[str, Any] = {}
    for name, kind in declared.items():
        path, plain = f"outputs.{name}", _plain(kind)
        if plain == "dataset":
            if table is None:
                raise ConversionError(path, "the statement leaves no table; declare other outputs, or none")
            made[name] = table
        elif isinstance(plain, list) and plain[0] == "list" and not (rows and name in rows[0] and total == 1):
            made[name] = _all_rows(rows, total, plain[1], path)
        elif name in _ROW_COUNTS and plain == "int" and not (rows and name in rows[0]):
            made[name] = total
        else:
            made[name] = _cell(name, kind, rows, total, path)
    return made


def _plain(kind: Kind) -> Kind:
    return kind[1] if isinstance(kind, list) and is_optional(kind) else kind


def _all_rows(rows: Sequence[Mapping[str, Any]], total: int, kind: Kind, path: str) -> list[Any]:
    if total > len(rows):
        raise ConversionError(
            path,
            f"the result has {total} rows, over the {len(rows)} that may be outputs; "
            "declare a StructuredDataset, or let an operator raise max_rows",
        )
    if isinstance(kind, str) and kind != "any" and rows and len(rows[0]) == 1:  # a list of scalars: the only column
        return [to_value(next(iter(row.values())), kind) for row in rows]
    return [to_value(row, kind) for row in rows]


def _cell(name: str, kind: Kind, rows: Sequence[Mapping[str, Any]], total: int, path: str) -> Any:
    if not total and isinstance(kind, list) and is_optional(kind):
        return None
    if total != 1:
        raise ConversionError(path, f"the result has {total} rows, and a column's value needs exactly one")
    if name not in rows[0]:
        raise ConversionError(path, f"the result has no such column (columns: {', '.join(rows[0])})")
    return to_value(rows[0][name], kind)


def to_value(value: Any, kind: Kind) -> Any:
    """A value of the SDK as one that Flyte has a type for; what fits no type of Flyte becomes a text.

    >>> to_value(Decimal("1.50"), "float"), to_value(Decimal("1.50"), "any"), to_value(date(2024, 1, 2), "any")
    (1.5, '1.50', '2024-01-02')
    """
    kind = _plain(kind)
    match value:
        case None | str() | int() | float():
            return value
        case Decimal():
            return _number(value, kind)
        case date():
            return _moment(value, kind)
        case Mapping():
            inner = kind[1] if isinstance(kind, list) and kind[0] == "dict" else "any"
            fields = {str(name): to_value(one, inner) for name, one in value.items()}
            return json.dumps(fields) if kind == "str" else fields
        case list() | tuple():
            inner = kind[1] if isinstance(kind, list) and kind[0] == "list" else "any"
            return [to_value(one, inner) for one in value]
        case bytes():
            return value if kind == "bytes" else to_json(value)
        case timedelta() if kind == "duration":
            return value
    return value.isoformat() if isinstance(value, time) else str(value)


def _moment(value: date, kind: Kind) -> Any:
    if kind not in ("datetime", "date"):
        return value.isoformat()
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _number(value: Decimal, kind: Kind) -> Any:
    if kind == "float":
        return float(value)
    if kind == "int" and value == value.to_integral_value():
        return int(value)
    return str(value)
