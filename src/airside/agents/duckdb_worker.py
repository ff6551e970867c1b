"""Answers one SQL question: `python -m airside.agents.duckdb_worker REQUEST`, the process of a duckdb_query job.

It writes `outputs.json` into the job's output directory, or `error.json` if the SQL is to blame.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from airside.agents.json_values import ERROR, OUTPUTS, from_json, local_path, to_json
from airside.agents.landlock import write_only_below
from airside.agents.supervisor import write_record
from airside.model import ConversionError, Directory, Fail, File, StructuredDataset

_ROW_COUNT_NAMES = ("rows", "row_count", "num_rows")
_TABLES = ("dataset", "file")
_BATCH = 65536  # rows
_LONGEST_MESSAGE = 500  # characters; some of DuckDB's errors go on with a page of advice
# What makes sense in a query; the others are refused in plain words, ahead of DuckDB's locks.
_STATEMENTS = (
    *("SELECT", "CREATE", "INSERT", "UPDATE", "DELETE", "MERGE_INTO", "ALTER", "DROP", "EXPLAIN", "SET"),
    *("VARIABLE_SET", "TRANSACTION", "RELATION", "VACUUM", "MULTI"),
)
_CLOSED = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",
}


def main(file: Path) -> int:
    """Answer the question in `file`; returns the exit code."""
    request = json.loads(file.read_text(encoding="utf-8"))
    directory = Path(request["output_dir"])
    directory.mkdir(parents=True, exist_ok=True)
    try:
        outputs = answer(request)
    except (Fail, ConversionError, duckdb.Error, pa.ArrowException) as exc:
        problem = _explain(exc, request)
        print(problem["message"], flush=True)  # noqa: T201 - the job's log
        write_record(directory, ERROR, problem)
        return 1
    write_record(directory, OUTPUTS, outputs)
    return 0


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run the query and write its result; returns the outputs as JSON."""
    values = {name: _parameter(name, kind, value) for name, (kind, value) in request["values"].items()}
    with connect(request) as connection:
        relation = _ask(connection, request["query"], values)
        return _outputs(relation, request["outputs"], request["result"])


def connect(request: Mapping[str, Any]) -> Any:
    """A DuckDB in memory that sees the allowed directories and its own temporary one, and cannot be reopened."""
    limits = {name: str(value) for name, value in request["limits"].items() if value}
    connection = duckdb.connect(":memory:", config={**_CLOSED, **limits})
    # Links in the way to an allowed directory are the operator's; links inside it are resolved by DuckDB.
    allowed = [place for one in request["allowed"] for place in {one, str(Path(one).resolve())}]
    connection.execute("SET temp_directory = ?", [request["temporary"]])
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET allowed_directories = ?", [allowed])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _parameter(name: str, kind: Any, value: Any) -> Any:
    """An input as a parameter of the query: files and tables by their path."""
    made = from_json(value, kind, f"inputs.{name}")
    if isinstance(made, (File, Directory, StructuredDataset)):
        return str(local_path(made.uri) or made.uri)
    return made


def _ask(connection: Any, query: str, values: Mapping[str, Any]) -> Any:
    """Run every statement; the relation of the last one."""
    statements = connection.extract_statements(query)
    if not statements:
        raise Fail("The query is empty.", code="ParserException")
    for statement in statements:
        if statement.type.name not in _STATEMENTS:
            raise Fail(
                f"{statement.type.name.replace('_', ' ')} is not allowed here: a query reads files and answers with "
                "its last statement's rows, which the agent writes.",
                code="PermissionException",
            )
    *first, last = statements
    for statement in first:
        connection.execute(statement, _parameters(statement, values))
    relation = connection.sql(last.query, params=_parameters(last, values))
    if relation is None:
        raise Fail("The query's last statement answers with no rows; end with a SELECT.", code="NoResult")
    return relation


def _parameters(statement: Any, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The inputs that a statement names, under the names that it uses."""
    known = {name.lower(): value for name, value in values.items()}
    missing = sorted(name for name in statement.named_parameters if name.lower() not in known)
    if missing:
        raise Fail(
            f"The query asks for ${missing[0]}, which is no input (inputs: {', '.join(values) or 'none'}).",
            code="MissingParameter",
        )
    return {name: known[name.lower()] for name in statement.named_parameters} or None


def _outputs(relation: Any, wanted: Mapping[str, Any], place: str) -> dict[str, Any]:
    columns = list(relation.columns)
    plan = {name: _source(name, kind, columns) for name, kind in wanted.items()}
    batches = _Batches(relation)
    if "table" in plan.values():
        _write(batches, place)
    else:
        batches.drain()
    print(f"{batches.rows} rows", flush=True)  # noqa: T201 - the job's log
    told = {"uri": place, "format": "parquet", "columns": _column_kinds(batches.schema)}
    answers = {"table": lambda _: told, "count": lambda _: batches.rows, "column": batches.single}
    return {name: _fit(answers[source](name), wanted[name]) for name, source in plan.items()}


def _source(name: str, kind: Any, columns: Sequence[str]) -> str:
    """Where an output comes from: the whole table, the number of rows, or a column."""
    bare = kind[1] if kind[0] == "optional" else kind
    if bare in _TABLES:
        return "table"
    if name in columns:
        return "column"
    if bare == "int" and name in _ROW_COUNT_NAMES:
        return "count"
    raise Fail(
        f"Output {name!r} is no column of the result (columns: {', '.join(columns)}), no table and no row count "
        f"({', '.join(_ROW_COUNT_NAMES)}).",
        code="OutputsNotFound",
    )


class _Batches:
    """The rows of a result as Arrow batches, counted as they go by; the first row is remembered."""

    def __init__(self, relation: Any) -> None:
        self._columns = list(relation.columns)
        self._reader = relation.to_arrow_reader(_BATCH)
        self.schema = _without_huge_integers(self._reader.schema, relation.types)
        self.rows = 0
        self._first: Any = None

    def __iter__(self) -> Iterator[Any]:
        for batch in self._counted():
            yield batch.cast(self.schema)

    def drain(self) -> None:
        for _ in self._counted():
            pass

    def _counted(self) -> Iterator[Any]:
        for batch in self._reader:
            if batch.num_rows and not self.rows:
                self._first = batch.slice(0, 1)
            self.rows += batch.num_rows
            yield batch

    def single(self, name: str) -> Any:
        """The value of a column in the only row."""
        if self.rows != 1:
            raise Fail(f"Output {name!r} is one value, but the result has {self.rows} rows.", code="NotOneRow")
        try:
            return self._first.column(self._columns.index(name)).to_pylist()[0]
        except (OverflowError, ValueError) as exc:  # DuckDB has dates before the year 1, and after 9999
            raise Fail(
                f"Output {name!r} is a value that Python cannot hold: {exc}.", code="OutputConversionError"
            ) from exc


def _without_huge_integers(schema: Any, types: Sequence[Any]) -> Any:
    """sum() of integers is a HUGEINT, which reaches Arrow as a decimal: 64 bits hold it, or the cast says no."""
    for index, column in enumerate(types):
        if str(column) in ("HUGEINT", "UHUGEINT"):
            schema = schema.set(index, schema.field(index).with_type(pa.int64()))
    return schema


def _write(batches: _Batches, place: str) -> None:
    """Write the result as one Parquet file, on this machine or in a bucket."""
    filesystem, path = None, place
    if "://" in place:
        from pyarrow import fs

        filesystem, path = fs.FileSystem.from_uri(place)
    with pq.ParquetWriter(path, batches.schema, filesystem=filesystem) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _column_kinds(schema: Any) -> dict[str, str]:
    """The columns whose type has a name in Python; others are left out."""
    checks = (
        ("bool", pa.types.is_boolean),
        ("int", pa.types.is_integer),
        ("float", lambda of: pa.types.is_floating(of) or pa.types.is_decimal(of)),
        ("str", lambda of: pa.types.is_string(of) or pa.types.is_large_string(of)),
        ("datetime", pa.types.is_timestamp),
        ("date", pa.types.is_date),
        ("duration", pa.types.is_duration),
        ("bytes", pa.types.is_binary),
    )
    return {field.name: kind for field in schema for kind, fits in checks if fits(field.type)}


def _fit(value: Any, kind: Any) -> Any:
    """A value of the result as JSON of the declared kind."""
    bare = kind[1] if kind[0] == "optional" else kind
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() and bare != "float" else float(value)
        case pa.MonthDayNano():
            return timedelta(days=value.days + 30 * value.months, microseconds=value.nanoseconds / 1000).total_seconds()
        case datetime() if value.tzinfo is None:
            return value.replace(tzinfo=UTC).isoformat()
        case time():
            return value.isoformat()
        case list() if bare[0] == "dict":
            return {str(key): _fit(one, bare[1]) for key, one in value}
        case list():
            return [_fit(one, bare[1] if bare[0] == "list" else "any") for one in value]
        case dict() if bare not in _TABLES:
            return {key: _fit(one, bare[1] if bare[0] == "dict" else "any") for key, one in value.items()}
        case dict():
            return value if bare == "dataset" else value["uri"]
    return to_json(value)


def _explain(exc: Exception, request: Mapping[str, Any]) -> dict[str, Any]:
    """What went wrong, in DuckDB's words without the picture of the line, and what to do about it."""
    text = str(exc).partition("\nLINE ")[0].strip()
    message = " ".join(text.split())[:_LONGEST_MESSAGE]
    if "file system operations are disabled" in message:
        allowed = ", ".join(request["allowed"]) or "none"
        message += f"; SQL may read files below the agent's allowed_directories ({allowed})."
    return {"message": message, "code": getattr(exc, "code", "") or type(exc).__name__, "retryable": False}


def _keep_to_own_directories(file: Path) -> None:
    """Have the kernel see to it that SQL writes nothing: DuckDB opens allowed directories for writing as well."""
    result = json.loads(file.read_text(encoding="utf-8"))["result"]
    places = [file.parent, Path(os.devnull), *([] if "://" in result else [Path(result).parent])]
    if not write_only_below(places):
        print("This kernel has no Landlock: SQL may write into the allowed directories.", flush=True)  # noqa: T201


if __name__ == "__main__":
    _keep_to_own_directories(Path(sys.argv[1]))
    sys.exit(main(Path(sys.argv[1])))
