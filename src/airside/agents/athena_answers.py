"""What Athena says of a query, in Airside's words: its states, its errors, its rows."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from airside.agents.aws import words
from airside.model import Phase

log = logging.getLogger("airside.agents.athena")

STATES: Mapping[str, Phase] = {
    "QUEUED": Phase.QUEUED,
    "RUNNING": Phase.RUNNING,
    "SUCCEEDED": Phase.SUCCEEDED,
    "FAILED": Phase.FAILED,  # or RETRYABLE_FAILED: `AthenaError` says
    "CANCELLED": Phase.ABORTED,
}
_SYSTEM, _USER = 1, 2  # of AthenaError.ErrorCategory; 3 is "other"
_PREFIX = re.compile(r"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+):")


class Reason(NamedTuple):
    """Why a query ended without success."""

    phase: Phase
    code: str
    message: str


def phase_of(state: str) -> Phase:
    """The phase of a state; one that is not known yet is RUNNING, with a warning in the log.

    >>> phase_of("QUEUED").name, phase_of("PAUSED").name
    ('QUEUED', 'RUNNING')
    """
    known = STATES.get(state)
    if known is None:
        log.warning("Athena names a query's state %r, which is not known here; the query is taken to run", state)
        return Phase.RUNNING
    return known


def reason_of(status: Mapping[str, Any]) -> Reason:
    """Why a query has failed or was cancelled.

    >>> reason_of({"State": "FAILED", "StateChangeReason": "TABLE_NOT_FOUND: Table 'a.b' does not exist"}).code
    'TableNotFound'
    >>> reason_of({"State": "FAILED", "AthenaError": {"ErrorCategory": 1, "Retryable": True}}).phase.name
    'RETRYABLE_FAILED'
    """
    error = status.get("AthenaError") or {}
    message = words(str(status.get("StateChangeReason") or error.get("ErrorMessage") or "Athena tells no reason"))
    if status.get("State") == "CANCELLED":
        return Reason(Phase.ABORTED, "Cancelled", message)
    category = error.get("ErrorCategory")
    again = bool(error.get("Retryable")) or category == _SYSTEM
    prefix = _PREFIX.match(message)
    named = "".join(part.capitalize() for part in prefix[1].split("_")) if prefix else ""
    code = named or {_SYSTEM: "SystemError", _USER: "InvalidQuery"}.get(category or 0, "QueryFailed")
    return Reason(Phase.RETRYABLE_FAILED if again else Phase.FAILED, code, message)


def location_of(query: Mapping[str, Any]) -> str:
    """Where the result lies in S3; empty if Athena keeps it itself."""
    return str((query.get("ResultConfiguration") or {}).get("OutputLocation") or "")


def format_of(location: str) -> str:
    """The format of a result, by its file: Athena writes CSV for queries and text for statements about tables.

    >>> format_of("s3://bucket/results/0a.csv"), format_of("s3://bucket/results/0a")
    ('csv', '')
    """
    name = location.rpartition("/")[2]
    return name.rpartition(".")[2] if "." in name else ""


def facts(query: Mapping[str, Any], region: str) -> dict[str, Any]:
    """What a query has cost and how it ran, for `info`."""
    numbers = query.get("Statistics") or {}
    reuse = numbers.get("ResultReuseInformation") or {}
    engine = query.get("EngineVersion") or {}
    told = {
        "query_execution_id": query.get("QueryExecutionId"),
        "region": region,
        "workgroup": query.get("WorkGroup"),
        "statement_type": query.get("StatementType"),
        "bytes_scanned": numbers.get("DataScannedInBytes"),
        "engine_ms": numbers.get("EngineExecutionTimeInMillis"),
        "queue_ms": numbers.get("QueryQueueTimeInMillis"),
        "total_ms": numbers.get("TotalExecutionTimeInMillis"),
        "dpu_count": numbers.get("DpuCount"),
        "result_reused": reuse.get("ReusedPreviousResult"),
        "data_manifest": numbers.get("DataManifestLocation"),
        "engine": engine.get("EffectiveEngineVersion"),
        "result": location_of(query),
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def rows_of(page: Mapping[str, Any], *, has_header: bool) -> list[dict[str, Any]]:
    """The rows of one page of results, as Python values. The first page of a query begins with the columns' names."""
    results = page["ResultSet"]
    columns = [(str(one["Name"]), str(one["Type"]).lower()) for one in results["ResultSetMetadata"]["ColumnInfo"]]
    rows = results.get("Rows") or []
    names = [name for name, _ in columns]
    if has_header and rows and [cell.get("VarCharValue") for cell in rows[0].get("Data") or ()] == names:
        rows = rows[1:]
    return [_row(one.get("Data") or (), columns) for one in rows]


def _row(cells: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    values = [cell.get("VarCharValue") for cell in cells]
    values += [None] * (len(columns) - len(values))  # a row about a table may be shorter
    return {
        name: None if value is None else value_of(value, kind)
        for (name, kind), value in zip(columns, values, strict=False)
    }


def value_of(text: str, kind: str) -> Any:
    """A cell's text as a value of its column's type; what does not fit stays a text.

    >>> value_of("7", "bigint"), value_of("1.50", "decimal"), value_of("61 62", "varbinary")
    (7, Decimal('1.50'), b'ab')
    """
    try:
        return _READERS[kind](text) if kind in _READERS else text
    except (ValueError, InvalidOperation):
        return text


def _zoned(text: str) -> datetime | str:
    """A time with its zone at the end; only UTC's can be told without a table of zones."""
    moment, _, zone = text.rpartition(" ")
    return datetime.fromisoformat(moment).replace(tzinfo=UTC) if zone in ("UTC", "Z") else text


_READERS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("tinyint", "smallint", "int", "integer", "bigint"), int),
    **dict.fromkeys(("float", "real", "double"), float),
    **dict.fromkeys(("json", "array", "map", "row", "struct"), json.loads),
    "decimal": Decimal,
    "boolean": lambda text: text.lower() == "true",
    "varbinary": bytes.fromhex,
    "date": date.fromisoformat,
    "timestamp": lambda text: datetime.fromisoformat(text).replace(tzinfo=UTC),
    "timestamp with time zone": _zoned,
}
