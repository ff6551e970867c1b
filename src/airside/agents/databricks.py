"""`databricks`: a task that is a run of Databricks, and `DatabricksTask` to write one.

Notebooks, Python files, wheels, JARs, SQL and everything else that the Jobs API runs, on new and existing clusters and
on serverless compute. The key of the attempt is the run's idempotency token: however often a create is repeated, and
whatever dies on the way, Databricks makes one run.

Tasks of flytekit's `DatabricksV2` and of Flyte 2's `Databricks` run as they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from airside.agents import databricks_answers as answers
from airside.agents.databricks_run import submission
from airside.agents.databricks_runs import Runs
from airside.agents.databricks_states import phase_of
from airside.agents.databricks_task import TYPE, DatabricksTask
from airside.agents.databricks_workspaces import Named, Workspace, Workspaces, base_url, named_by
from airside.agents.faults import fault_of, faults
from airside.agents.json_values import kind_of
from airside.model import AgentError, Call, Connection, Fail, LogLine, LogLink, NotFound, Resource, Retry, Task
from airside.sdk.agent import AsyncAgent

__all__ = ["DatabricksAgent", "DatabricksTask", "Run"]

_WORKSPACES_AT_ONCE = 8
_SOON = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Run:
    """What finds a run again. `outputs` are the kinds of the outputs that a notebook will tell, by name."""

    host: str
    run_id: int
    page: str = ""
    secret: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    oauth: str = ""
    client_id: str = ""

    @property
    def account(self) -> Named:
        """The credentials that the task has named."""
        return Named(token=self.secret, oauth=self.oauth, client_id=self.client_id)


class DatabricksAgent(AsyncAgent[Run]):
    """Submits one-time runs, watches and cancels them."""

    name = "databricks"
    task_type = TYPE
    requires = MappingProxyType({"databricks.sdk": "databricks"})
    create_is_idempotent = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which workspaces are called, and with which credentials.

        host: the workspace of tasks that name none. Default: FLYTE_DATABRICKS_INSTANCE, or DATABRICKS_HOST.
        workspaces: the credentials of further workspaces by their host. Default: none.
        allowed_hosts: hosts that tasks may name besides Databricks' own domains, `host` and `workspaces`.
        token_secrets: secrets with a token that tasks may ask for by name (`databricks_token_secret`), and groups of
            secrets with a service principal's id and secret (`databricks_oauth_secret`). Default: none.
        api_version: of the Jobs API.
        service_credential_provider: the Databricks service credential with which Flyte's functions on serverless
            compute reach their data, if their task names none.
        """

        host: str = ""
        workspaces: dict[str, Workspace] = field(default_factory=dict)
        allowed_hosts: tuple[str, ...] = ()
        token_secrets: tuple[str, ...] = ()
        api_version: Literal["2.1", "2.2"] = "2.2"
        service_credential_provider: str = ""

    def open(self, options: Options) -> None:
        self._options = options
        self._workspaces = Workspaces(
            host=options.host,
            known=options.workspaces,
            allowed_hosts=options.allowed_hosts,
            token_secrets=options.token_secrets,
        )
        if self._workspaces.is_set_up:
            import databricks.sdk.core  # noqa: F401 - it takes seconds, which no create should have to wait for

    def check_credentials(self) -> str:
        """Whose credentials there are for the default workspace."""
        return self._workspaces.client(self._workspaces.host_of(None, None), None).identity

    def probe(self) -> str:
        """Ask the default workspace for its newest run."""
        host = self._workspaces.host_of(None, None)
        self._runs(host, None).newest()
        return f"{host} answers"

    def create(self, task: Task, call: Call) -> Run:
        host = self._workspaces.host_of(task.config.get("databricksInstance"), call.connection)
        body = submission(task, credential_provider=self._options.service_credential_provider)
        named = named_by(task.config)
        runs = self._runs(host, call.connection, named)
        run_id = runs.submit(body)
        has_notebook = any("notebook_task" in one for one in body["tasks"])
        return Run(
            host,
            run_id,
            page=runs.page_of(run_id),  # only a second call tells it; the first poll tells it again
            secret=named.token,
            outputs={name: kind_of(one) for name, one in task.interface.outputs.items()} if has_notebook else {},
            oauth=named.oauth,
            client_id=named.client_id,
        )

    def get(self, job: Run, call: Call) -> Resource:
        runs = self._runs_of(job, call)
        return _judge(job, runs.read(job.run_id), runs)

    def get_many(self, jobs: Sequence[Run], call: Call) -> Sequence[Resource | Exception]:
        """One runs/list for the runs that are active; each of the others is asked for, once, since it is over."""
        groups: dict[tuple[str, Named], list[Run]] = {}
        for job in jobs:
            groups.setdefault((job.host, job.account), []).append(job)
        # In threads: a workspace that hangs is not to hold up the others.
        with ThreadPoolExecutor(min(len(groups), _WORKSPACES_AT_ONCE)) as pool:
            told = pool.map(lambda group: self._get_group(group, call), groups.values())
            each = dict(zip(groups, map(iter, told), strict=True))
        return [next(each[job.host, job.account]) for job in jobs]

    def delete(self, job: Run, call: Call) -> None:
        self._runs_of(job, call).cancel(job.run_id)

    def links(self, job: Run) -> Sequence[LogLink]:
        return [LogLink(job.page, "Databricks run")] if job.page else []

    def logs(self, job: Run, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        """What the tasks of the run wrote, task by task; Databricks tells it when a task is over."""
        first_task, first_line = _place(after)
        runs = self._runs_of(job, call)
        left = limit
        for number, one in enumerate(runs.tasks(runs.read(job.run_id))):
            if number < first_task:
                continue
            if not phase_of(one)[0].is_terminal:
                return
            begin = first_line if number == first_task else 0
            lines = answers.lines(runs, one)[begin : begin + left]
            for line, text in enumerate(lines, begin + 1):
                yield LogLine(text, originator="user", cursor=f"{number}:{line}")
            left -= len(lines)
            if left <= 0:
                return

    def read_handle(self, data: bytes) -> Run | None:
        """A run that flytekit's or Flyte 2's own connector started."""
        try:
            told = json.loads(data)
            return Run(base_url(told["databricks_instance"]), int(told["run_id"]))
        except (ValueError, KeyError, TypeError, AgentError):
            return None

    def _runs(self, host: str, connection: Connection | None, named: Named = Named()) -> Runs:  # noqa: B008 - frozen
        return Runs(self._workspaces.client(host, connection, named), self._options.api_version)

    def _runs_of(self, job: Run, call: Call) -> Runs:
        with faults():
            return self._runs(job.host, call.connection, job.account)

    def _get_group(self, jobs: Sequence[Run], call: Call) -> Sequence[Resource | Exception]:
        """How the runs of one workspace are. Whatever goes wrong there is no matter of the runs of another one."""
        try:
            runs = self._runs_of(jobs[0], call)
            active = runs.active({job.run_id for job in jobs}) if len(jobs) > 1 else {}
        except Exception as exc:  # noqa: BLE001 - it is told of each run
            error = Retry(exc.message) if isinstance(exc, NotFound) else exc  # the workspace, not its runs
            return [error] * len(jobs)
        half = None if call.deadline is None or call.remaining is None else call.deadline - call.remaining / 2
        return [_answer_for(job, active.get(job.run_id), runs, half) for job in jobs]


def _answer_for(job: Run, told: Mapping[str, Any] | None, runs: Runs, until: float | None) -> Resource | Exception:
    try:
        if told is not None and not phase_of(told)[0].is_terminal:
            return _judge(job, told, runs)
        if until is not None and time.monotonic() > until:
            return Retry("There was no time left to ask about this run.", after=_SOON)
        return _judge(job, runs.read(job.run_id), runs)
    except Exception as exc:  # noqa: BLE001 - the other runs are not to suffer from it
        return fault_of(exc)


def _judge(job: Run, told: Mapping[str, Any], runs: Runs) -> Resource:
    return answers.read(runs, told, page=job.page, outputs=job.outputs)


def _place(after: str) -> tuple[int, int]:
    """Task and line of a cursor."""
    if not after:
        return 0, 0
    task, colon, line = after.partition(":")
    if not (colon and task.isdecimal() and line.isdecimal()):
        raise Fail(f"{after!r} is no place in this log; take the token of the page before.", code="BadToken")
    return int(task), int(line)
