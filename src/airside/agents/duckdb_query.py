"""`duckdb_query`: a task that is a SQL question over Parquet and CSV files, and `DuckDBQuery` to write one.

The query runs in a process of its own, so it survives a restart of the service and can be cancelled. The SQL
reads files in the allowed directories and nothing else: no other file, no network, no extension. It writes no
file (kernels before Linux 5.13 cannot see to that: there it may write into the allowed directories); the agent
writes the result, under the task's output prefix. If that is a bucket, `env_allow` must name the variables with
the credentials for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from airside.agents.jobs import Job, Launch, passed_environment
from airside.agents.json_values import kind_of, to_json
from airside.agents.supervised import JobOptions, SupervisedAgent, output_directory, output_notes
from airside.model import Fail, Sql, StructuredDataset, Task, TaskTemplate, UsageError

REQUEST = "request.json"
_CONFIG_KEYS = ("query", "secrets", "configs")


def _table_and_count() -> dict[str, Any]:
    return {"results": StructuredDataset, "rows": int}


@dataclass(frozen=True, kw_only=True)
class DuckDBQuery(TaskTemplate):
    """A task that asks DuckDB a question. `$name` in the SQL stands for the input of that name.

    Give the files by their path, in the SQL or in an input: `FROM read_parquet($trips)`. Several statements may
    prepare the last one, whose result counts. What an output gets depends on its type and name:

    - `StructuredDataset` or `File`: the result, as a Parquet file;
    - the name of a column: that column's value, if the result has one row;
    - `rows`, `row_count` or `num_rows`, an int: the number of rows.

    >>> from airside import kwtypes
    >>> task = DuckDBQuery(
    ...     name="late", query="SELECT count(*) AS n FROM read_csv($path) WHERE delay > $least",
    ...     inputs=kwtypes(path=str, least=int), outputs=kwtypes(n=int),
    ... )
    >>> task.sql.statement[:20], list(DuckDBQuery(name="all", query="FROM 'a.csv'").outputs)
    ('SELECT count(*) AS n', ['results', 'rows'])
    """

    task_type: str = "duckdb_query"
    query: str = ""
    outputs: Mapping[str, Any] = field(default_factory=_table_and_count)

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise UsageError(f"Task {self.name!r} needs a query.")
        object.__setattr__(self, "sql", Sql(self.query, "other"))
        super().__post_init__()


class DuckDBAgent(SupervisedAgent):
    """Runs SQL in a DuckDB that sees the allowed directories only."""

    name = "duckdb_query"
    task_type = "duckdb_query"
    requires = MappingProxyType({"duckdb": "duckdb", "pyarrow": "duckdb"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options(JobOptions):
        """What a query may read and use; for the rest see `JobOptions`.

        allowed_directories: directories whose files the SQL may read, with everything below them. Empty: none.
        memory_limit: what one query may use ("4GB"); empty: 80 % of the machine's. More goes to disk.
        disk_limit: what one query may put on disk beside that ("10GB"); empty: 90 % of what is free.
        threads: processor cores for one query; 0: all.
        """

        allowed_directories: tuple[str, ...] = ()
        memory_limit: str = ""
        disk_limit: str = ""
        threads: int = 0

        def __post_init__(self) -> None:
            JobOptions.__post_init__(self)
            if self.threads < 0:
                raise ValueError("threads is a number from 0")

    def open(self, options: Options) -> None:
        self._options = options
        self.open_jobs(options)

    def create(self, task: Task) -> Job:
        job, folder = self.jobs.place(task.key)
        directory, result = folder / "outputs", output_directory(task, folder)
        request = {
            "query": _query_of(task),
            "values": {name: [kind_of(type(value)), to_json(value)] for name, value in task.inputs.items()},
            "outputs": {name: kind_of(annotation) for name, annotation in task.interface.outputs.items()},
            "result": _result_place(task.output_prefix, result),
            "output_dir": str(directory),
            "allowed": [str(Path(one).expanduser().absolute()) for one in self._options.allowed_directories],
            "temporary": str(folder / "tmp"),
            "limits": {
                "memory_limit": self._options.memory_limit,
                "max_temp_directory_size": self._options.disk_limit,
                "threads": self._options.threads,
            },
        }
        launch = Launch(
            command=[sys.executable, "-P", "-m", "airside.agents.duckdb_worker", str(folder / REQUEST)],
            cwd=str(Path.cwd()),
            env={**passed_environment(("PYTHONPATH", *self._options.env_allow)), "PYTHONSAFEPATH": "1"},
            output_dir=result,
            files={REQUEST: request},
            notes=output_notes(task, directory),
        )
        self.jobs.start(job, launch)
        return job


def _query_of(task: Task) -> str:
    unknown = [key for key in task.config if key not in _CONFIG_KEYS]
    if unknown:
        raise Fail(f"config.{unknown[0]}: a duckdb_query task knows no such key (known: query).")
    query = task.sql.statement if task.sql is not None else task.config.get("query")
    if not isinstance(query, str) or not query.strip():
        raise Fail("A duckdb_query task needs a query: the template's sql, or config.query.")
    return query


def _result_place(prefix: str, directory: Path) -> str:
    """Where the result goes: under the output prefix, also if that is a bucket."""
    if "://" in prefix and not prefix.startswith("file://"):
        return f"{prefix.rstrip('/')}/results.parquet"
    return os.fspath(directory / "results.parquet")
