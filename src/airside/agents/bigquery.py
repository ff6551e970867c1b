"""`bigquery_query_job_task`: a task that is a query of Google BigQuery, and `BigQueryTask` to write one.

The job's id is made from the task's key, so BigQuery itself refuses a second job for one attempt, whatever dies in
between. Tasks of flytekit's and Flyte 2's BigQuery plugins run as they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from airside.agents import bigquery_answers as answers
from airside.agents.bigquery_clients import Clients, account_of
from airside.agents.bigquery_request import Defaults, Request, to_request
from airside.agents.bigquery_task import TYPE, BigQueryConfig, BigQueryTask
from airside.agents.json_values import kind_of
from airside.agents.sql_outputs import needs_rows, to_outputs
from airside.model import (
    AgentError,
    Call,
    ConversionError,
    Fail,
    LogLink,
    NotFound,
    Phase,
    Resource,
    Retry,
    StructuredDataset,
    Task,
)
from airside.sdk.agent import AsyncAgent
from airside.sdk.secrets import secret

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

__all__ = ["BigQueryAgent", "BigQueryConfig", "BigQueryTask", "Query"]

T = TypeVar("T")

_SINGLE_GETS = 2  # jobs of one project up to which each is asked for by itself
_PAGE = 500  # jobs in one page of a list
_MOST_PAGES = 10
_SOON = 1.0  # seconds
_CLOCKS_DIFFER = timedelta(minutes=5)
_FOUND_WITHOUT_LOCATION = ("", "US", "EU")


@dataclass(frozen=True, slots=True)
class Query:
    """What finds the job again, and what it is to give."""

    job_id: str
    project: str
    location: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    created: int = 0  # milliseconds since 1970, by BigQuery's clock
    estimate: int | None = None  # bytes that a dry run said would be read


class BigQueryAgent(AsyncAgent[Query]):
    """Runs queries in Google BigQuery."""

    name = "bigquery"
    task_type = TYPE
    requires = MappingProxyType({"google.cloud.bigquery": "bigquery"})
    poll_interval = 5.0
    create_is_idempotent = True  # BigQuery refuses a second job of the same id

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Whose account is used, where, and how much a query may cost.

        project, location: for tasks that name none.
        credentials_secret: the `airside.secret` that holds a key file's JSON, `name` or `group/name`. Empty: Google's
            own chain (GOOGLE_APPLICATION_CREDENTIALS, gcloud, workload identity). A connection wins over both.
        endpoint: another address of the API, such as a private one.
        allowed_hosts: hosts, besides Google's, that a connection's key may name.
        maximum_bytes_billed: no query may be billed for more, whatever its task says; 0: no limit.
        dry_run: check every query before it is run, as a task's `DryRun` does for one.
        max_rows: how many rows may be outputs by value.
        """

        project: str = ""
        location: str = ""
        credentials_secret: str = ""
        endpoint: str = ""
        allowed_hosts: tuple[str, ...] = ()
        maximum_bytes_billed: int = 0
        dry_run: bool = False
        max_rows: int = 10_000

        def __post_init__(self) -> None:
            if self.maximum_bytes_billed < 0 or self.max_rows < 1:
                raise ValueError("maximum_bytes_billed is a number from 0, max_rows one from 1")

    def open(self, options: Options) -> None:
        self._options = options
        self._defaults = Defaults(
            project=options.project,
            location=options.location,
            maximum_bytes_billed=options.maximum_bytes_billed,
            dry_run=options.dry_run,
        )
        group, _, name = options.credentials_secret.rpartition("/")
        self._clients = Clients(
            endpoint=options.endpoint,
            allowed_hosts=options.allowed_hosts,
            read_secret=(lambda: secret(name, group or None)) if name else None,
        )

    def close(self) -> None:
        self._clients.close()

    def check_credentials(self) -> str:
        """Whose credentials there are for tasks that bring none."""
        return self._ask(Call(), account_of, creating=True)

    def probe(self) -> str:
        """Ask BigQuery for a project."""

        def look(client: Client) -> str:
            projects = list(client.list_projects(max_results=1, retry=None, timeout=self.call_timeout))
            return (
                f"BigQuery answers, and shows the project {projects[0].project_id}" if projects else "BigQuery answers"
            )

        return self._ask(Call(), look)

    def create(self, task: Task) -> Query:
        request, estimate = self._request_of(task), None
        if request.dry_run:
            dry = self._dry_run(task, request)
            estimate = answers.estimate_of(dry)
            request = replace(request, location=request.location or answers.location_of(dry))
        made = self._insert(task, request) or self._find(task, request)
        if made is None:
            raise Retry(f"BigQuery says that the job {request.job_id} is there already, but does not show it")
        return _to_query(made, task, estimate)

    def find(self, task: Task, key: str) -> Query | None:
        del key  # the request's id is made of it
        found = self._find(task, self._request_of(task))
        return None if found is None else _to_query(found, task, None)

    def get(self, job: Query, call: Call) -> Resource:
        return self._judge(job, self._fetch(call, job.job_id, job.project, job.location), call)

    def get_many(self, jobs: Sequence[Query], call: Call) -> Sequence[Resource | Exception]:
        """One list for many jobs of a project; what it does not show is asked for one by one."""
        told: dict[int, Resource | Exception] = {}
        half = None if call.deadline is None or call.remaining is None else call.deadline - call.remaining / 2
        for project in dict.fromkeys(job.project for job in jobs):
            mine = [(place, job) for place, job in enumerate(jobs) if job.project == project]
            try:
                listed = self._list(call, project, [job for _, job in mine])
            except AgentError as exc:  # it says nothing of the jobs, and least of all of those of another project
                told |= {place: Retry(exc.message, after=getattr(exc, "after", None)) for place, _ in mine}
                continue
            told |= {place: self._answer_for(job, listed.get(job.job_id), call, half) for place, job in mine}
        return [told[place] for place in range(len(jobs))]

    def delete(self, job: Query, call: Call) -> None:
        def cancel(client: Client) -> None:
            client.cancel_job(job.job_id, job.project, job.location or None, retry=None, timeout=self._patience(call))

        self._ask(call, cancel)

    def links(self, job: Query) -> Sequence[LogLink]:
        place = f"bq:{job.location}:{job.job_id}"
        uri = f"https://console.cloud.google.com/bigquery?project={job.project}&j={place}&page=queryresults"
        return (LogLink(uri, "BigQuery Console"),)

    def read_handle(self, data: bytes) -> Query | None:
        """A job that flytekit's or Flyte 2's own connector started."""
        try:
            told = json.loads(data)
            return Query(told["job_id"], told["project"], told.get("location") or "", {"results": "dataset"})
        except (ValueError, TypeError, KeyError):
            return None

    # -- what is made of an answer ----------------------------------------------------------------------------------

    def _judge(self, job: Query, found: Any, call: Call) -> Resource:
        answer = answers.read(found)
        status = answer.get("status") or {}
        phase, error = answers.phase_of(str(status.get("state") or "")), status.get("errorResult")
        links, info = self.links(job), answers.facts(answer, job.estimate)
        if not phase.is_terminal:
            stages = info.get("stages")
            return Resource(phase, message=f"{stages} stages are done" if stages else "", links=links, info=info)
        if error:
            reason = answers.reason_of(error)
            return Resource(reason.phase, message=answers.words_of(error), code=reason.code, links=links, info=info)
        try:
            outputs = self._outputs(job, found, answer, call)
        except ConversionError as exc:
            return Resource(Phase.FAILED, message=str(exc), code="OutputConversionError", links=links, info=info)
        except NotFound as exc:
            message = f"The result is gone ({exc.message}): BigQuery keeps what is in no table of yours for a day."
            return Resource(Phase.FAILED, message=message, code="ResultGone", links=links, info=info)
        return Resource(phase, message="; ".join(info.get("warnings", ())), outputs=outputs, links=links, info=info)

    def _answer_for(self, job: Query, found: Any, call: Call, until: float | None) -> Resource | Exception:
        try:
            if found is not None and (found.state != "DONE" or not job.outputs):
                return self._judge(job, found, call)
            if until is not None and time.monotonic() > until:
                return Retry("There was no time left to ask about this job.", after=_SOON)
            return self._judge(job, found, call) if found is not None else self.get(job, call)
        except Exception as exc:  # noqa: BLE001 - the other jobs are not to suffer from it
            return exc

    def _outputs(self, job: Query, found: Any, answer: Mapping[str, Any], call: Call) -> dict[str, Any]:
        if not job.outputs:
            return {}
        table = answers.table_of(answer)
        if table is None and (answer.get("statistics") or {}).get("numChildJobs"):
            table = self._table_of_script(job, call)
        rows, total = self._rows(found, call) if needs_rows(job.outputs) else ([], 0)
        result = None if table is None else StructuredDataset(answers.table_uri(table), format="bq")
        return to_outputs(job.outputs, result, rows, total)

    def _table_of_script(self, job: Query, call: Call) -> Mapping[str, Any] | None:
        """The table of the last statement that left one: each statement of a script is a job of its own."""

        def tables(client: Client) -> list[Mapping[str, Any] | None]:
            children = client.list_jobs(
                project=job.project, parent_job=job.job_id, retry=None, timeout=self._patience(call)
            )
            return [answers.table_of(answers.read(child)) for child in children]

        return next((table for table in self._ask(call, tables) if table is not None), None)  # the latest come first

    def _rows(self, found: Any, call: Call) -> tuple[list[dict[str, Any]], int]:
        def fetch(_client: Client) -> tuple[list[dict[str, Any]], int]:
            most, patience = self._options.max_rows, self._patience(call)
            page = found.result(max_results=most, retry=None, job_retry=None, timeout=patience)
            rows = [answers.row_of(row) for row in page]
            return rows, page.total_rows if page.total_rows is not None else len(rows)

        return self._ask(call, fetch)

    # -- asking BigQuery --------------------------------------------------------------------------------------------

    def _ask(self, call: Call | Task, question: Callable[[Client], T], *, creating: bool = False) -> T:
        """The answer to one question, or `Retry`, `Fail` or `NotFound`."""
        client = None
        try:
            client = self._clients.get(call.connection)
            return question(client)
        except Exception as exc:
            if client is not None and answers.is_refused(exc):
                self._clients.drop(client)
            raise answers.failure(exc, creating=creating) from exc

    def _patience(self, call: Call | Task) -> float:
        """Seconds to wait for one answer."""
        remaining = call.remaining if isinstance(call, Call) else None
        return self.call_timeout if remaining is None else max(1.0, min(remaining, self.call_timeout))

    def _request_of(self, task: Task) -> Request:
        request = to_request(task, self._defaults)
        if not request.project:
            own = self._ask(task, lambda client: str(client.project), creating=True)
            request = replace(request, project="" if own == "-" else own)
        if not request.project:
            raise Fail("config.ProjectID: name the project that the query is run in.")
        return request

    def _insert(self, task: Task, request: Request) -> Any:
        """The new job; None if there is one of this id already."""
        from google.api_core.exceptions import Conflict

        def insert(client: Client) -> Any:
            try:
                return self._send(client, request, request.configuration, job_id=request.job_id)
            except Conflict:
                return None

        return self._ask(task, insert, creating=True)

    def _dry_run(self, task: Task, request: Request) -> Mapping[str, Any]:
        """What BigQuery says of the query without running it. Raises `Fail` if it is wrong."""

        def check(client: Client) -> Mapping[str, Any]:
            return answers.read(self._send(client, request, {**request.configuration, "dryRun": True}))

        return self._ask(task, check, creating=True)

    def _send(
        self, client: Client, request: Request, configuration: Mapping[str, Any], job_id: str | None = None
    ) -> Any:
        from google.cloud.bigquery import QueryJobConfig

        return client.query(
            request.sql,
            QueryJobConfig.from_api_repr(dict(configuration)),
            job_id=job_id,
            project=request.project,
            location=request.location or None,
            retry=None,  # the service repeats a create, with what it learns from an error
            job_retry=None,
            timeout=self.call_timeout,
        )

    def _find(self, task: Task, request: Request) -> Any:
        """The job of this request, or None. If no location is named, a dry run tells it."""
        try:
            return self._fetch(task, request.job_id, request.project, request.location)
        except NotFound:
            if request.location:
                return None
        try:
            place = answers.location_of(self._dry_run(task, request))
            return (
                None if place in _FOUND_WITHOUT_LOCATION else self._fetch(task, request.job_id, request.project, place)
            )
        except Fail as exc:
            if exc.code == "Forbidden":  # it may have been allowed before
                raise Retry(exc.message) from exc
            return None  # a query that is refused has made no job
        except NotFound:
            return None

    def _fetch(self, call: Call | Task, job_id: str, project: str, location: str) -> Any:
        def fetch(client: Client) -> Any:
            return client.get_job(job_id, project, location or None, retry=None, timeout=self._patience(call))

        return self._ask(call, fetch)

    def _list(self, call: Call, project: str, jobs: Sequence[Query]) -> dict[str, Any]:
        """Those of the jobs that a few pages of a list show; none if they are few, or if listing is forbidden."""
        from google.api_core.exceptions import Forbidden

        jobs = [job for job in jobs if job.created]
        if len(jobs) <= _SINGLE_GETS:
            return {}
        wanted = {job.job_id for job in jobs}
        since = datetime.fromtimestamp(min(job.created for job in jobs) / 1000, UTC) - _CLOCKS_DIFFER

        def look(client: Client) -> dict[str, Any]:
            try:
                return pick(client)
            except Forbidden as exc:
                if not answers.is_denied(exc):
                    raise
                return {}

        def pick(client: Client) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for one in client.list_jobs(
                project=project,
                min_creation_time=since,
                page_size=_PAGE,
                max_results=_PAGE * min(_MOST_PAGES, len(jobs)),
                retry=None,
                timeout=self._patience(call),
            ):
                if one.job_id in wanted:
                    found[one.job_id] = one
                    if len(found) == len(wanted):
                        break
            return found

        return self._ask(call, look)


def _to_query(found: Any, task: Task, estimate: int | None) -> Query:
    answer = answers.read(found)
    reference = answer["jobReference"]
    return Query(
        job_id=reference["jobId"],
        project=reference["projectId"],
        location=reference.get("location") or "",
        outputs={name: kind_of(annotation) for name, annotation in task.interface.outputs.items()},
        created=answers.created_of(answer),
        estimate=estimate,
    )
