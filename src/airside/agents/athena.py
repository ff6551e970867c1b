"""`athena`: a task that is a query of Amazon Athena, and `AthenaTask` to write one.

The task's key is the request's token, so Athena itself starts one query for an attempt, whatever dies in between. Tasks
of flytekit's Athena plugin, whose type is `presto`, run as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airside.agents import athena_answers as answers
from airside.agents.athena_statement import to_statement
from airside.agents.aws import AccountOptions, check_region, console
from airside.agents.aws_agent import AWSAgent, listed
from airside.agents.config_keys import check_keys, text_at
from airside.agents.json_values import kind_of
from airside.agents.sql_outputs import needs_rows, to_outputs
from airside.model import (
    Call,
    ConversionError,
    Fail,
    LogLink,
    NotFound,
    Phase,
    Resource,
    Sql,
    StructuredDataset,
    Task,
    TaskTemplate,
    UsageError,
)

_KEYS = ("statement", "schema", "routingGroup", "catalog", "region", "outputLocation", "reuseMinutes")
_BATCH = 50  # queries that Athena tells of in one call
_PAGE = 1000  # rows of one page of results
_WORKGROUPS_OWN = "workgroup"


@dataclass(frozen=True, kw_only=True)
class AthenaConfig:
    """Where a query runs.

    database, catalog: where its tables are. Without a catalog: `AwsDataCatalog`, that of Glue.
    workgroup: whose limits, settings and bill.
    region: such as "eu-west-1". Empty: the service's.
    output_location: where Athena writes the result, `s3://bucket/prefix/`, or "workgroup": where the workgroup says.
        Empty: where an operator says, else a folder of the task's own outputs in S3.
    reuse_minutes: take a result that is no older than so, if there is one, which costs nothing; 0: never.

    >>> AthenaConfig(database="flights").workgroup is None
    True
    """

    database: str | None = None
    workgroup: str | None = None
    catalog: str | None = None
    region: str = ""
    output_location: str = ""
    reuse_minutes: int = 0


@dataclass(frozen=True, kw_only=True)
class AthenaTask(TaskTemplate):
    """A task that runs a query. `{{ .inputs.name }}` in it stands for the input of that name, as a value of SQL.

    What an output gets depends on its type and name:

    - a `StructuredDataset` (`results`, with `output_schema_type`): the file in S3 that holds the result;
    - a list: the rows, as dictionaries, or the values of the only column;
    - `rows`, `row_count` or `num_rows`, an int: the number of rows;
    - the name of a column: that column's value, if the result has one row.

    >>> from airside import kwtypes
    >>> task = AthenaTask(
    ...     name="late", query_template="SELECT COUNT(*) AS n FROM trips WHERE delay > {{ .inputs.least }}",
    ...     inputs=kwtypes(least=int), outputs=kwtypes(n=int), task_config=AthenaConfig(database="flights"),
    ... )
    >>> task.config["schema"], list(task.outputs)
    ('flights', ['n'])
    """

    task_type: str = "athena"
    query_template: str = ""
    task_config: AthenaConfig | None = None
    output_schema_type: Any = None

    def __post_init__(self) -> None:
        if not self.query_template.strip():
            raise UsageError(f"Task {self.name!r} needs a query_template.")
        if self.output_schema_type is not None:
            object.__setattr__(self, "outputs", {**self.outputs, "results": self.output_schema_type})
        statement, place = self.query_template.strip(), self.task_config or AthenaConfig()
        object.__setattr__(self, "sql", Sql(statement, "ansi"))
        told = {
            "statement": statement,
            "schema": place.database,
            "routingGroup": place.workgroup,
            "catalog": place.catalog,
            "region": place.region,
            "outputLocation": place.output_location,
            "reuseMinutes": place.reuse_minutes,
        }
        object.__setattr__(self, "config", {**{name: one for name, one in told.items() if one}, **self.config})
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class Query:
    """What finds the query again, and what it is to give."""

    id: str
    region: str
    outputs: dict[str, Any] = field(default_factory=dict)


class AthenaAgent(AWSAgent[Query]):
    """Runs queries in Amazon Athena."""

    name = "athena"
    task_types = ("athena", "presto")
    service = "athena"
    poll_interval = 5.0
    call_timeout = 60.0  # rows of many queries may be fetched in one call
    least_time = 15.0  # for the rows of one query more
    create_is_idempotent = True  # a request of the same token is the same query

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options(AccountOptions):
        """For tasks that say less, and whose account is used.

        workgroup, catalog, database: for tasks that name none.
        output_location: where results are written, for tasks that name no place; "workgroup": where that says.
        max_rows: how many rows may be outputs by value.

        The rest, as for every agent of AWS: `region`, `profile`, `endpoint_url`, `allowed_hosts`.
        """

        workgroup: str = ""
        catalog: str = ""
        database: str = ""
        output_location: str = ""
        max_rows: int = 10_000

        def __post_init__(self) -> None:
            if self.max_rows < 1:
                raise ValueError("max_rows is a number from 1")
            place = self.output_location
            if place not in ("", _WORKGROUPS_OWN) and not place.startswith("s3://"):
                raise ValueError("output_location begins with s3://, or is workgroup")

    def open(self, options: Options) -> None:
        super().open(options)
        self._options = options

    def probe(self) -> str:
        """Ask Athena for a workgroup."""
        found = self._ask(Call(), "", lambda client: client.list_work_groups(MaxResults=1), creating=True)
        names = [one.get("Name") for one in found.get("WorkGroups") or ()]
        return f"Athena answers, and shows the workgroup {names[0]}" if names else "Athena answers"

    def create(self, task: Task) -> Query:
        region, request = check_region(text_at(task.config, "region")), self._request(task)

        def start(client: Any) -> tuple[str, str]:
            return client.start_query_execution(**request)["QueryExecutionId"], client.meta.region_name

        query_id, where = self._ask(task, region, start, creating=True)
        outputs = {name: kind_of(annotation) for name, annotation in task.interface.outputs.items()}
        return Query(query_id, where, outputs)

    def get_many(self, jobs: Sequence[Query], call: Call) -> Sequence[Resource | Exception]:
        """Fifty queries of a region in one call; what it does not tell of is asked for by itself."""
        places = [(job.region, job.id) for job in jobs]
        known = listed(places, lambda region, ids: self._list(ids, region, call), single=0, at_once=_BATCH)
        return [self._answer(job, known.get(place), call) for job, place in zip(jobs, places, strict=True)]

    def delete(self, job: Query, call: Call) -> None:
        self._ask(call, job.region, lambda client: client.stop_query_execution(QueryExecutionId=job.id))

    def links(self, job: Query) -> Sequence[LogLink]:
        uri = f"{console(job.region)}/athena/home?region={job.region}#/query-editor/history/{job.id}"
        return (LogLink(uri, "Athena Console"),)

    # -- what is made of an answer ----------------------------------------------------------------------------------

    def _answer(self, job: Query, told: Mapping[str, Any] | Exception | None, call: Call) -> Resource | Exception:
        is_late = call.remaining is not None and call.remaining < self.least_time
        if is_late and isinstance(told, Mapping) and needs_rows(job.outputs) and _succeeded(told):
            return Resource(Phase.RUNNING, message="over; its rows are fetched next", links=self.links(job))
        return super()._answer(job, told, call)

    def _judge(self, job: Query, query: Mapping[str, Any], call: Call) -> Resource:
        status = query["Status"]
        phase, links, info = answers.phase_of(status["State"]), self.links(job), answers.facts(query, job.region)
        if not phase.is_terminal:
            return Resource(phase, links=links, info=info)
        if not phase.is_success:
            reason = answers.reason_of(status)
            return Resource(reason.phase, message=reason.message, code=reason.code, links=links, info=info)
        try:
            outputs = self._outputs(job, query, call)
        except ConversionError as exc:
            return Resource(Phase.FAILED, message=str(exc), code="OutputConversionError", links=links, info=info)
        except NotFound as exc:
            return Resource(Phase.FAILED, message=exc.message, code="ResultGone", links=links, info=info)
        return Resource(phase, outputs=outputs, links=links, info=info)

    def _outputs(self, job: Query, query: Mapping[str, Any], call: Call) -> dict[str, Any]:
        if not job.outputs:
            return {}
        place = answers.location_of(query)
        rows, total = self._rows(job, query, call) if needs_rows(job.outputs) else ([], 0)
        result = StructuredDataset(place, format=answers.format_of(place)) if place else None
        return to_outputs(job.outputs, result, rows, total)

    def _rows(self, job: Query, query: Mapping[str, Any], call: Call) -> tuple[list[dict[str, Any]], int]:
        """The first rows of a result, and how many there are."""

        def fetch(client: Any) -> tuple[list[dict[str, Any]], int]:
            rows: list[dict[str, Any]] = []
            more: dict[str, Any] = {}
            while len(rows) <= self._options.max_rows:
                page = client.get_query_results(QueryExecutionId=job.id, MaxResults=_PAGE, **more)
                rows += answers.rows_of(page, has_header=not more and query.get("StatementType") == "DML")
                if not page.get("NextToken"):
                    changed = page.get("UpdateCount") or 0
                    return rows, len(rows) or changed
                more = {"NextToken": page["NextToken"]}
            numbers = client.get_query_runtime_statistics(QueryExecutionId=job.id)["QueryRuntimeStatistics"]
            total = int((numbers.get("Rows") or {}).get("OutputRows") or 0)
            return rows[: self._options.max_rows], max(total, len(rows))

        return self._ask(call, job.region, fetch)

    # -- asking Athena ----------------------------------------------------------------------------------------------

    def _describe(self, job: Query, call: Call) -> Mapping[str, Any]:
        found = self._ask(call, job.region, lambda client: client.get_query_execution(QueryExecutionId=job.id))
        query: Mapping[str, Any] = found["QueryExecution"]
        return query

    def _list(self, ids: Collection[str], region: str, call: Call) -> dict[str, Mapping[str, Any]]:
        asked = {"QueryExecutionIds": list(ids)}
        found = self._ask(call, region, lambda client: client.batch_get_query_execution(**asked))
        return {one["QueryExecutionId"]: one for one in found.get("QueryExecutions") or ()}

    @staticmethod
    def _is_missing(code: str, message: str, /) -> bool:
        told = message.lower()
        return code == "InvalidRequestException" and ("not found" in told or "could not find" in told)

    def _request(self, task: Task) -> dict[str, Any]:
        """What `start_query_execution` is asked; the same for every create of one attempt."""
        config, options = task.config, self._options
        check_keys(config, _KEYS, "athena")
        text = text_at(config, "statement") or (task.sql.statement if task.sql is not None else "")
        others = {"outputprefix": task.output_prefix, "perretryuniquekey": task.key}
        context = {
            "Database": text_at(config, "schema") or options.database,
            "Catalog": text_at(config, "catalog") or options.catalog,
        }
        request: dict[str, Any] = {
            "QueryString": to_statement(text, task.inputs, others),
            "ClientRequestToken": task.key,
            "QueryExecutionContext": {name: value for name, value in context.items() if value},
        }
        if group := text_at(config, "routingGroup") or options.workgroup:
            request["WorkGroup"] = group
        place = text_at(config, "outputLocation") or options.output_location or _beside(task.output_prefix)
        if place and place != _WORKGROUPS_OWN:
            request["ResultConfiguration"] = {"OutputLocation": f"{place.rstrip('/')}/"}
        if minutes := config.get("reuseMinutes"):
            if not isinstance(minutes, int | float) or isinstance(minutes, bool):
                raise Fail(f"config.reuseMinutes must be a number of minutes, not {minutes!r}.")
            reuse = {"Enabled": True, "MaxAgeInMinutes": int(minutes)}
            request["ResultReuseConfiguration"] = {"ResultReuseByAgeConfiguration": reuse}
        return request


def _succeeded(query: Mapping[str, Any]) -> bool:
    return answers.phase_of(query["Status"]["State"]).is_success


def _beside(output_prefix: str) -> str:
    """A folder of the task's own outputs."""
    return f"{output_prefix.rstrip('/')}/athena" if output_prefix.startswith("s3://") else ""
