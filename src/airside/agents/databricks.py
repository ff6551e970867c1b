"""`databricks`: a task that is a run of Databricks, and `DatabricksTask` to write one.

Notebooks, Python files, wheels, JARs, SQL and everything else that the Jobs API runs, on new and existing clusters and
on serverless compute. The key of the attempt is the run's idempotency token: however often a create is repeated, and
whatever dies on the way, Databricks makes one run.

Tasks of flytekit's `DatabricksV2` and of Flyte 2's `Databricks` run as they are.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from airside.agents.databricks_run import submission
from airside.agents.databricks_states import message_of, phase_of
from airside.agents.databricks_workspaces import Client, Named, Workspace, Workspaces, base_url, named_by
from airside.agents.faults import fault_of, faults
from airside.agents.json_values import from_json, kind_of
from airside.model import (
    AgentError,
    AirsideError,
    Call,
    ConversionError,
    Fail,
    LogLine,
    LogLink,
    NotFound,
    Phase,
    Resource,
    Retry,
    Task,
    TaskTemplate,
    UsageError,
)
from airside.sdk.agent import AsyncAgent
from airside.sdk.declare import missing_extra

_PAGE = 24  # runs that one runs/list tells: "less than 25"
_WORKSPACES_AT_ONCE = 8
_SOON = 1.0  # seconds
_MAX_TASK_PAGES = 10  # of a hundred tasks each
_FAILURES_TOLD = 3
_LAST_LINES = 20
_LONGEST_TRACE = 4000  # characters of a failing task's error trace
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class DatabricksTask(TaskTemplate):
    """A task that Databricks runs. The arguments are those of flytekit's `DatabricksV2`.

    databricks_conf: the job as the Jobs API takes it, either flat (one task beside its compute: `spark_python_task`
    and `new_cluster`) or with a list of `tasks`. `{{.inputs.NAME}}` stands for an input in any text of it; a text
    that is only that becomes the input's value.
    databricks_instance: the host of the workspace; empty: the service's default.
    databricks_token_secret: the name of a secret with a token; in Flyte 2's `Databricks` it is `databricks_token`.
    databricks_auth_type: `pat`, or `oauth_m2m`: then databricks_oauth_secret is the group of the secrets `client_id`
    and `client_secret`, and databricks_client_id, if given, the id. An operator allows secrets by their names.
    notebook_path, notebook_base_parameters: a notebook, and its parameters.
    spark_conf, hadoop_conf: settings of a new cluster that has none in `databricks_conf`.
    databricks_service_credential_provider: with which a function on serverless compute reaches its data.
    executor_path, applications_path, driver_pod, executor_pod, databricks_oidc_token_file and databricks_oidc_audience
    are taken so that a task of the plugin can be kept as it is; Databricks, or this agent, has no use for them.

    What a notebook hands to `dbutils.notebook.exit` is the task's one output; with several, it is JSON of an object
    with their names.

    >>> from airside import kwtypes
    >>> task = DatabricksTask(
    ...     name="count", databricks_instance="dbc-1.cloud.databricks.com", notebook_path="/Shared/count",
    ...     notebook_base_parameters={"table": "{{.inputs.table}}"}, databricks_conf={"existing_cluster_id": "0923-x"},
    ...     inputs=kwtypes(table=str), outputs=kwtypes(rows=int),
    ... )
    >>> task.config["databricksConf"]
    {'existing_cluster_id': '0923-x'}
    """

    task_type: str = "databricks"
    databricks_conf: Mapping[str, Any] = field(default_factory=dict)
    databricks_instance: str = ""
    notebook_path: str = ""
    notebook_base_parameters: Mapping[str, str] = field(default_factory=dict)
    spark_conf: Mapping[str, str] = field(default_factory=dict)
    hadoop_conf: Mapping[str, str] = field(default_factory=dict)
    executor_path: str = ""
    applications_path: str = ""
    driver_pod: Any = None
    executor_pod: Any = None
    databricks_service_credential_provider: str = ""
    databricks_token_secret: str = ""
    databricks_token: str = ""
    databricks_auth_type: str = ""
    databricks_client_id: str = ""
    databricks_oauth_secret: str = ""
    databricks_oidc_token_file: str = ""
    databricks_oidc_audience: str = ""

    def __post_init__(self) -> None:
        if not self.databricks_conf and not self.notebook_path:
            raise UsageError(f"Task {self.name!r} needs databricks_conf or a notebook_path.")
        if self.databricks_token and self.databricks_token_secret:
            raise UsageError(f"Task {self.name!r} has databricks_token and databricks_token_secret; keep one of them.")
        told = {
            "databricksConf": dict(self.databricks_conf),
            "databricksInstance": self.databricks_instance,
            "notebookPath": self.notebook_path,
            "notebookBaseParameters": dict(self.notebook_base_parameters),
            "sparkConf": dict(self.spark_conf),
            "databricksServiceCredentialProvider": self.databricks_service_credential_provider,
            "hadoopConf": dict(self.hadoop_conf),
            "executorPath": self.executor_path,
            "mainApplicationFile": self.applications_path,
            "databricksTokenSecret": self.databricks_token_secret,
            "databricksAuthType": self.databricks_auth_type,
            "databricksClientId": self.databricks_client_id,
            "databricksOauthSecret": self.databricks_oauth_secret,
            "databricksOidcTokenFile": self.databricks_oidc_token_file,
            "databricksOidcAudience": self.databricks_oidc_audience,
            "secrets": {"databricks_token": self.databricks_token} if self.databricks_token else {},
        }
        object.__setattr__(self, "config", {**self.config, **{key: value for key, value in told.items() if value}})
        super().__post_init__()


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
    task_type = "databricks"
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
        missing = missing_extra(self)
        if missing is not None:
            raise missing
        self._options = options
        self._runs = f"/api/{options.api_version}/jobs/runs"
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
        self._workspaces.client(host, None).ask("GET", f"{self._runs}/list", query={"limit": 1})
        return f"{host} answers"

    def create(self, task: Task, call: Call) -> Run:
        host = self._workspaces.host_of(task.config.get("databricksInstance"), call.connection)
        body = submission(task, credential_provider=self._options.service_credential_provider)
        named = named_by(task.config)
        client = self._workspaces.client(host, call.connection, named)
        told = client.ask("POST", f"{self._runs}/submit", body=body)
        if not isinstance(told.get("run_id"), int):
            raise Fail(f"{host} answered runs/submit without a run_id.", code="UnexpectedAnswer")
        has_notebook = any("notebook_task" in one for one in body["tasks"])
        outputs = {name: kind_of(one) for name, one in task.interface.outputs.items()} if has_notebook else {}
        page = self._page_of(client, told["run_id"])
        return Run(
            host,
            told["run_id"],
            page=page,
            secret=named.token,
            outputs=outputs,
            oauth=named.oauth,
            client_id=named.client_id,
        )

    def get(self, job: Run, call: Call) -> Resource:
        client = self._client(job, call)
        return self._resource(job, self._read(client, job.run_id), client)

    def get_many(self, jobs: Sequence[Run], call: Call) -> Sequence[Resource | Exception]:
        """One runs/list for the runs that are active; each of the others is asked for, once, since it is over."""
        groups: dict[tuple[str, Named], list[Run]] = {}
        for job in jobs:
            groups.setdefault((job.host, job.account), []).append(job)
        with ThreadPoolExecutor(
            min(len(groups), _WORKSPACES_AT_ONCE)
        ) as pool:  # one that hangs is not to hold up others
            told = pool.map(lambda group: self._get_group(group, call), groups.values())
            answers = dict(zip(groups, map(iter, told), strict=True))
        return [next(answers[job.host, job.account]) for job in jobs]

    def delete(self, job: Run, call: Call) -> None:
        client = self._client(job, call)
        try:
            client.ask("POST", f"{self._runs}/cancel", body={"run_id": job.run_id})
        except Fail as exc:
            if exc.code == "ResourceNotFound" or "does not exist" in exc.message:
                raise NotFound(exc.message) from None
            raise (fault_of(exc) if exc.code == "Forbidden" else exc) from None

    def links(self, job: Run) -> Sequence[LogLink]:
        return [LogLink(job.page, "Databricks run")] if job.page else []

    def logs(self, job: Run, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        """What the tasks of the run wrote, task by task; Databricks tells it when a task is over."""
        first_task, first_line = _place(after)
        client = self._client(job, call)
        left = limit
        for number, one in enumerate(self._tasks(client, self._read(client, job.run_id))):
            if number < first_task:
                continue
            if not phase_of(one)[0].is_terminal:
                return
            begin = first_line if number == first_task else 0
            lines = self._lines(client, one)[begin : begin + left]
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

    def _client(self, job: Run, call: Call) -> Client:
        with faults():
            return self._workspaces.client(job.host, call.connection, job.account)

    def _page_of(self, client: Client, run_id: int) -> str:
        """The run's page in Databricks, which only a second call tells; the first poll tells it again."""
        try:
            return str(self._read(client, run_id).get("run_page_url") or "")
        except AirsideError:
            return ""

    def _read(self, client: Client, run_id: int, **more: Any) -> dict[str, Any]:
        return client.ask("GET", f"{self._runs}/get", query={"run_id": run_id, **more}, polling=True)

    def _active(self, client: Client, wanted: set[int]) -> dict[int, Mapping[str, Any]]:
        """Those of the wanted runs that are active. Never more calls than asking for each would take."""
        found: dict[int, Mapping[str, Any]] = {}
        query: dict[str, Any] = {"active_only": True, "run_type": "SUBMIT_RUN", "limit": _PAGE}
        for _ in range(len(wanted) - 1):
            told = client.ask("GET", f"{self._runs}/list", query=query, polling=True)
            found |= {one["run_id"]: one for one in told.get("runs") or () if one.get("run_id") in wanted}
            if len(found) == len(wanted) or not told.get("next_page_token"):
                break
            query["page_token"] = told["next_page_token"]
        return found

    def _get_group(self, jobs: Sequence[Run], call: Call) -> Sequence[Resource | Exception]:
        """How the runs of one workspace are. Whatever goes wrong there is no matter of the runs of another one."""
        try:
            client = self._client(jobs[0], call)
            active = self._active(client, {job.run_id for job in jobs}) if len(jobs) > 1 else {}
        except AirsideError as exc:
            error = Retry(exc.message) if isinstance(exc, NotFound) else exc  # the workspace, not its runs
            return [error] * len(jobs)
        half = None if call.deadline is None or call.remaining is None else call.deadline - call.remaining / 2
        return [self._one_of(job, active.get(job.run_id), client, half) for job in jobs]

    def _one_of(
        self, job: Run, told: Mapping[str, Any] | None, client: Client, until: float | None
    ) -> Resource | Exception:
        try:
            if told is not None and not phase_of(told)[0].is_terminal:
                return self._resource(job, told, client)
            if until is not None and time.monotonic() > until:
                return Retry("There was no time left to ask about this run.", after=_SOON)
            return self._resource(job, self._read(client, job.run_id), client)
        except AirsideError as exc:
            return exc

    def _resource(self, job: Run, told: Mapping[str, Any], client: Client) -> Resource:
        phase, code = phase_of(told)
        page = told.get("run_page_url") or job.page
        links = [LogLink(page, "Databricks run")] if page else []
        message, info = message_of(told), _facts(told)
        if phase is Phase.SUCCEEDED and job.outputs:
            return self._notebook_result(job, told, client, Resource(phase, message=message, links=links, info=info))
        if phase.is_failure:
            message = "\n".join(filter(None, [message, *self._failures(client, told)]))
        return Resource(phase, message=message, code=code, links=links, info=info)

    def _notebook_result(self, job: Run, told: Mapping[str, Any], client: Client, resource: Resource) -> Resource:
        """The resource with what the run's last notebook handed to `dbutils.notebook.exit`, if it did."""
        for one in reversed(self._tasks(client, told)):
            if one.get("run_id") is None or "notebook_task" not in one or not phase_of(one)[0].is_success:
                continue
            exit_value = (self._output(client, one["run_id"]).get("notebook_output") or {}).get("result")
            if exit_value is None:
                continue
            try:
                outputs = _read_exit(str(exit_value), job.outputs)
            except ConversionError as exc:
                return Resource(
                    Phase.FAILED,
                    message=str(exc),
                    code="OutputConversionError",
                    links=resource.links,
                    info=resource.info,
                )
            return Resource(
                resource.phase, message=resource.message, outputs=outputs, links=resource.links, info=resource.info
            )
        return resource

    def _failures(self, client: Client, told: Mapping[str, Any]) -> list[str]:
        """What the tasks that failed say of it: the error, and its trace or the end of the log."""
        failed = [one for one in self._tasks(client, told) if phase_of(one)[0].is_failure and one.get("run_id")]
        said = []
        for one in failed[:_FAILURES_TOLD]:
            try:
                output = self._output(client, one["run_id"])
            except AirsideError:  # the run failed all the same
                output = {}
            trace = _COLOURS.sub("", output.get("error_trace") or "").strip()
            tail = "\n".join((output.get("logs") or "").splitlines()[-_LAST_LINES:])
            head = f"{one.get('task_key', 'task')}: {output.get('error') or message_of(one) or phase_of(one)[1]}"
            said.append("\n".join(filter(None, [head, (trace or tail)[-_LONGEST_TRACE:]])))
        return said

    def _tasks(self, client: Client, told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Every task of a run; Jobs API 2.2 tells a hundred at a time."""
        tasks = list(told.get("tasks") or ())
        for _ in range(_MAX_TASK_PAGES):
            if not told.get("next_page_token"):
                break
            told = self._read(client, told["run_id"], page_token=told["next_page_token"])
            tasks += told.get("tasks") or ()
        return tasks

    def _output(self, client: Client, run_id: int) -> dict[str, Any]:
        return client.ask("GET", f"{self._runs}/get-output", query={"run_id": run_id}, polling=True)

    def _lines(self, client: Client, one: Mapping[str, Any]) -> list[str]:
        if not one.get("run_id"):
            return []
        output = self._output(client, one["run_id"])
        parts = (output.get("logs"), output.get("error"), output.get("error_trace"))
        return [line for part in parts if part for line in _COLOURS.sub("", part).splitlines()]


def _facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """What people want to know of a run: its ids, how far it is, where its time went (in seconds)."""
    facts: dict[str, Any] = {
        key: told[key] for key in ("run_id", "job_id", "run_name", "creator_user_name") if told.get(key)
    }
    for key in ("queue_duration", "setup_duration", "execution_duration", "cleanup_duration", "run_duration"):
        if told.get(key):
            facts[key] = told[key] / 1000
    tasks = told.get("tasks") or ()
    if len(tasks) > 1:
        facts["tasks"] = len(tasks)
        facts["tasks_over"] = sum(phase_of(one)[0].is_terminal for one in tasks)
    clusters = {(one.get("cluster_instance") or {}).get("cluster_id") for one in (told, *tasks)} - {None}
    if clusters:
        facts["cluster_ids"] = sorted(clusters)
    return facts


def _read_exit(text: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs in a notebook's exit value."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, dict) and set(kinds) <= set(value):
        return {name: from_json(value[name], kind, f"outputs.{name}") for name, kind in kinds.items()}
    if len(kinds) > 1:
        raise ConversionError(
            f"outputs.{next(iter(kinds))}",
            f"the notebook exited with {text[:80]!r}, not with JSON of an object with {', '.join(kinds)}",
        )
    ((name, kind),) = kinds.items()
    return {name: text if kind == "str" else from_json(value, kind, f"outputs.{name}")}


def _place(after: str) -> tuple[int, int]:
    """Task and line of a cursor."""
    if not after:
        return 0, 0
    task, colon, line = after.partition(":")
    if not (colon and task.isdecimal() and line.isdecimal()):
        raise Fail(f"{after!r} is no place in this log; take the token of the page before.", code="BadToken")
    return int(task), int(line)
