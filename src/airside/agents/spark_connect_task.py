"""`SparkConnectTask`, to write a task for the spark_connect agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airside.model import Sql, TaskTemplate, UsageError

TYPE = "spark_connect"


@dataclass(frozen=True, kw_only=True)
class SparkConnectTask(TaskTemplate):
    """A task that has a Spark Connect server run a statement of SQL. `:name` in it stands for the input of that name.

    query_template: the statement, or a script of SQL (`BEGIN ... END`).
    server: `sc://spark.example.org:15002/;use_ssl=true`; empty: the service's. It never holds a token.
    spark_conf: Spark's properties for the session of this task.
    results: where Spark puts tables, a folder that it can write to: `s3a://flights/results`; empty: the service's. The
        table of a task is in a folder of its own below it.

    What an output gets depends on its type and name:

    - a `StructuredDataset`: the result, which Spark writes as Parquet files;
    - a list: the rows, as dictionaries, or the values of the only column;
    - `rows`, `row_count` or `num_rows`, an int: the number of rows;
    - the name of a column: that column's value, if the result has one row.

    >>> from airside import kwtypes
    >>> task = SparkConnectTask(
    ...     name="late", query_template="SELECT count(*) AS n FROM flights WHERE delay > :least",
    ...     inputs=kwtypes(least=int), outputs=kwtypes(n=int), spark_conf={"spark.sql.shuffle.partitions": "8"},
    ... )
    >>> task.sql.statement[:20], task.config
    ('SELECT count(*) AS n', {'spark_conf': {'spark.sql.shuffle.partitions': '8'}})
    """

    task_type: str = TYPE
    query_template: str = ""
    server: str = ""
    spark_conf: Mapping[str, str] = field(default_factory=dict)
    results: str = ""

    def __post_init__(self) -> None:
        if not self.query_template.strip():
            raise UsageError(f"Task {self.name!r} needs a query_template.")
        object.__setattr__(self, "sql", Sql(self.query_template.strip(), "other"))
        told: dict[str, Any] = {"server": self.server, "spark_conf": dict(self.spark_conf), "results": self.results}
        object.__setattr__(self, "config", {**self.config, **{name: one for name, one in told.items() if one}})
        super().__post_init__()


__all__ = ("SparkConnectTask",)
