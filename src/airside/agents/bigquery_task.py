"""`BigQueryTask`, to write a task for the BigQuery agent, with the names and arguments of flytekit's plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from airside.agents.bigquery_parameters import parse_type
from airside.model import Sql, TaskTemplate, UsageError

TYPE = "bigquery_query_job_task"


@dataclass(frozen=True, kw_only=True)
class BigQueryConfig:
    """Where a query runs, and how.

    ProjectID: the project that the job belongs to and that pays.
    Location: where its tables lie: "US", "EU", "europe-west1". Empty: BigQuery finds out, at the price of a call.
    QueryJobConfig: a `google.cloud.bigquery.QueryJobConfig`, or the `query` part of a job's configuration as the
        REST API has it: `{"destinationTable": {...}, "maximumBytesBilled": "1000000"}`.
    ParameterTypes: BigQuery's types of inputs that Flyte has none for: `{"day": "DATE", "prices": "ARRAY<NUMERIC>"}`.
    DryRun: have BigQuery check the query, and tell what it would read, before it is run.

    >>> BigQueryConfig(ProjectID="flights").Location
    ''
    """

    ProjectID: str
    Location: str | None = ""
    QueryJobConfig: Any = None
    ParameterTypes: Mapping[str, str] = field(default_factory=dict)
    DryRun: bool = False


@dataclass(frozen=True, kw_only=True)
class BigQueryTask(TaskTemplate):
    """A task that runs a query. `@name` in it stands for the input of that name, which is sent as a parameter.

    What an output gets depends on its type and name:

    - a `StructuredDataset` (`results`, with `output_structured_dataset_type`): the table that holds the result;
    - a list: the rows, as dictionaries, or the values of the only column;
    - `rows`, `row_count` or `num_rows`, an int: the number of rows;
    - the name of a column: that column's value, if the result has one row.

    >>> from airside import kwtypes
    >>> task = BigQueryTask(
    ...     name="late", query_template="SELECT COUNT(*) AS n FROM flights.all WHERE delay > @least",
    ...     inputs=kwtypes(least=int), outputs=kwtypes(n=int), task_config=BigQueryConfig(ProjectID="flights"),
    ... )
    >>> task.config["ProjectID"], list(task.outputs)
    ('flights', ['n'])
    """

    task_type: str = TYPE
    query_template: str = ""
    task_config: BigQueryConfig | None = None
    output_structured_dataset_type: Any = None

    def __post_init__(self) -> None:
        if not self.query_template.strip():
            raise UsageError(f"Task {self.name!r} needs a query_template.")
        if self.task_config is None:
            raise UsageError(f"Task {self.name!r} needs task_config=BigQueryConfig(ProjectID=...).")
        if self.output_structured_dataset_type is not None:
            object.__setattr__(self, "outputs", {**self.outputs, "results": self.output_structured_dataset_type})
        object.__setattr__(self, "sql", Sql(self.query_template.strip(), "ansi"))
        days = {name: "DATE" for name, annotation in self.inputs.items() if annotation is date}
        object.__setattr__(self, "config", {**_to_config(self.task_config, days), **self.config})
        super().__post_init__()


def _to_config(config: BigQueryConfig, types: Mapping[str, str]) -> dict[str, Any]:
    """The template's `custom`, in the form that flytekit's plugin gives it."""
    for name, text in config.ParameterTypes.items():
        try:
            parse_type(text)
        except ValueError as exc:
            raise UsageError(f"ParameterTypes[{name!r}]: {exc}.") from None
    given = config.QueryJobConfig
    whole = given.to_api_repr() if hasattr(given, "to_api_repr") else {"query": dict(given or {})}
    told = {
        "ProjectID": config.ProjectID,
        "Location": config.Location,
        "Labels": whole.get("labels"),
        "JobTimeoutMs": whole.get("jobTimeoutMs"),
        "ParameterTypes": {**types, **config.ParameterTypes},
        "DryRun": config.DryRun,
    }
    return {**whole["query"], **{name: value for name, value in told.items() if value}}
