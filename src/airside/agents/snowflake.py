"""`snowflake`: a task that is a query of Snowflake, and `SnowflakeTask` to write one.

A query is sent asynchronously, under a request id and with a tag that are made from the task's key. Tasks of flytekit's
and Flyte 2's Snowflake plugins run as they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from airside.agents import snowflake_answers as answers
from airside.agents.json_values import kind_of
from airside.agents.snowflake_sessions import Account, Place, Sessions, credentials
from airside.agents.snowflake_statement import Statement, to_statement
from airside.agents.sql_outputs import needs_rows, to_outputs
from airside.model import (
    Call,
    ConversionError,
    Fail,
    LogLink,
    NotFound,
    Phase,
    Resource,
    Retry,
    Sql,
    StructuredDataset,
    Task,
    TaskTemplate,
    UsageError,
)
from airside.sdk.agent import AsyncAgent

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

T = TypeVar("T")

log = logging.getLogger("airside.agents.snowflake")

_HISTORY = """\
SELECT query_id FROM TABLE(INFORMATION_SCHEMA.QUERY_HISTORY_BY_USER(RESULT_LIMIT => 10000))
WHERE query_tag = %s ORDER BY start_time, query_id LIMIT 1"""


@dataclass(frozen=True, kw_only=True)
class SnowflakeConfig:
    """Where a query runs, and as whom.

    account: the account's identifier, `myorg-account123`.
    user: who logs in; the service has the credentials.
    connection_kwargs: `role`, `session_parameters`, or a `host` that an operator allows.

    >>> SnowflakeConfig(user="ETL", account="org-a", database="DB", schema="PUBLIC", warehouse="WH").warehouse
    'WH'
    """

    user: str
    account: str
    database: str
    schema: str
    warehouse: str
    connection_kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class SnowflakeTask(TaskTemplate):
    """A task that runs one statement. `%(name)s` in it stands for the input of that name.

    What an output gets depends on its type and name:

    - a `StructuredDataset` (`results`, with `output_schema_type`): the address of the query's result;
    - a list: the rows, as dictionaries, or the values of the only column;
    - `rows`, `row_count` or `num_rows`, an int: the number of rows;
    - the name of a column, in lower case: that column's value, if the result has one row.

    `batch`: the inputs are lists, and each of their elements becomes one row of the query's VALUES.

    >>> from airside import kwtypes
    >>> place = SnowflakeConfig(user="ETL", account="org-a", database="DB", schema="PUBLIC", warehouse="WH")
    >>> task = SnowflakeTask(
    ...     name="late", query_template="SELECT COUNT(*) AS n FROM flights WHERE delay > %(least)s",
    ...     inputs=kwtypes(least=int), outputs=kwtypes(n=int), task_config=place,
    ... )
    >>> task.config["account"], list(task.outputs)
    ('org-a', ['n'])
    """

    task_type: str = "snowflake"
    query_template: str = ""
    task_config: SnowflakeConfig | None = None
    output_schema_type: Any = None
    batch: bool = False

    def __post_init__(self) -> None:
        if not self.query_template.strip():
            raise UsageError(f"Task {self.name!r} needs a query_template.")
        if self.task_config is None:
            raise UsageError(f"Task {self.name!r} needs task_config=SnowflakeConfig(...).")
        if self.output_schema_type is not None:
            object.__setattr__(self, "outputs", {**self.outputs, "results": self.output_schema_type})
        object.__setattr__(self, "sql", Sql(self.query_template.strip(), "ansi"))
        told = {**asdict(self.task_config), "batch": self.batch}
        object.__setattr__(self, "config", {**{name: one for name, one in told.items() if one}, **self.config})
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class Query:
    """What finds the query again, and what it is to give."""

    query_id: str
    account: Account
    outputs: dict[str, Any] = field(default_factory=dict)


class SnowflakeAgent(AsyncAgent[Query]):
    """Runs queries in Snowflake."""

    name = "snowflake"
    task_type = "snowflake"
    requires = MappingProxyType({"snowflake.connector": "snowflake"})
    poll_interval = 5.0
    call_timeout = 60.0  # a login and a question, which the connector itself repeats

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """For tasks that say less, and where sessions are made.

        account, user, database, schema, warehouse, role: for tasks that name none.
        accounts: the accounts that tasks may name. Empty: all.
        host, port, protocol: another address of Snowflake, such as a private link.
        allowed_hosts: hosts, besides Snowflake's, that a task may name.
        max_rows: how many rows may be outputs by value.
        """

        account: str = ""
        user: str = ""
        database: str = ""
        schema: str = ""
        warehouse: str = ""
        role: str = ""
        accounts: tuple[str, ...] = ()
        host: str = ""
        port: int = 443
        protocol: str = "https"
        allowed_hosts: tuple[str, ...] = ()
        max_rows: int = 10_000

        def __post_init__(self) -> None:
            if self.max_rows < 1 or self.protocol not in ("https", "http"):
                raise ValueError("max_rows is a number from 1, protocol is https or http")

    def open(self, options: Options) -> None:
        self._options = options
        names = ("account", "user", "database", "schema", "warehouse", "role")
        self._defaults: dict[str, Any] = {name: getattr(options, name) for name in names}
        self._sessions = Sessions(
            Place(
                host=options.host,
                port=options.port,
                protocol=options.protocol,
                accounts=options.accounts,
                allowed_hosts=options.allowed_hosts,
            )
        )

    def close(self) -> None:
        self._sessions.close()

    def check_credentials(self) -> str:
        """Which of this process's own credentials would be used."""
        return f"the secret {next(iter(credentials(None)))}"

    def probe(self) -> str:
        """Log in, if the settings name an account and a user."""
        account = Account(**self._defaults)
        if not account.account or not account.user:
            raise UsageError("set account and user in [agents.snowflake] to have Snowflake asked")
        return self._ask(account, Call(), lambda session: f"logged in to {session.account}", creating=True)

    def create(self, task: Task) -> Query:
        statement = to_statement(task, self._defaults)

        def submit(session: SnowflakeConnection) -> str:
            with session.cursor() as cursor:
                parameters = {"requestId": statement.request_id, "QUERY_TAG": statement.tag}
                cursor.execute_async(statement.sql, statement.parameters, _statement_params=parameters)
                return str(cursor.sfqid)

        return _query(self._ask(statement.account, task, submit, creating=True), statement, task)

    def find(self, task: Task, key: str) -> Query | None:
        """The query with the tag of this attempt, in the history of its user.

        A request id holds within one session only: in that of another process it is a new query.
        """
        del key  # it is in the tag
        statement = to_statement(task, self._defaults)
        if not statement.account.database:
            return None  # the history is asked for in a database

        def look(session: SnowflakeConnection) -> str:
            with session.cursor() as cursor:
                row = cursor.execute(_HISTORY, (statement.tag,)).fetchone()
                return str(row[0]) if isinstance(row, tuple) else ""

        try:
            query_id = self._ask(statement.account, task, look, creating=True)
        except Fail as exc:
            if type(exc.__cause__).__name__ != "ProgrammingError":
                raise
            log.warning("the history of queries cannot be read, so a query may be made twice: %s", exc.message)
            return None
        return _query(query_id, statement, task) if query_id else None

    def get(self, job: Query, call: Call) -> Resource:
        status, error = self._ask(job.account, call, lambda session: _status(session, job.query_id))
        if status == "NO_DATA":  # not there yet, or never: the service waits for it for a while
            raise NotFound(f"Snowflake does not know the query {job.query_id}")
        state, links = answers.state_of(status), self.links(job)
        info = answers.facts(job.query_id, job.account.warehouse, None)
        if error is not None:
            reason = answers.reason_of(answers.errno_of(error))
            phase = state.phase if state.phase is Phase.RETRYABLE_FAILED else reason.phase
            phase = state.phase if status == "ABORTED" else phase
            code = "Cancelled" if phase is Phase.ABORTED else reason.code
            return Resource(phase, message=answers.words_of(error), code=code, links=links, info=info)
        if not state.phase.is_success:
            code = "Cancelled" if state.phase is Phase.ABORTED else "QueryFailed" if state.phase.is_failure else ""
            return Resource(state.phase, message=state.message, code=code, links=links, info=info)
        try:
            outputs, total = self._outputs(job, call)
        except ConversionError as exc:
            return Resource(Phase.FAILED, message=str(exc), code="OutputConversionError", links=links, info=info)
        info = answers.facts(job.query_id, job.account.warehouse, total)
        return Resource(Phase.SUCCEEDED, outputs=outputs, links=links, info=info)

    def delete(self, job: Query, call: Call) -> None:
        def cancel(session: SnowflakeConnection) -> None:
            with session.cursor() as cursor:
                cursor.execute("SELECT SYSTEM$CANCEL_QUERY(%s)", (job.query_id,))

        self._ask(job.account, call, cancel)

    def links(self, job: Query) -> Sequence[LogLink]:
        place = job.account.account.replace("-", "/", 1)
        uri = f"https://app.snowflake.com/{place}/#/compute/history/queries/{job.query_id}/detail"
        return (LogLink(uri, "Snowflake Query Details"),)

    def read_handle(self, data: bytes) -> Query | None:
        """A query that flytekit's or Flyte 2's own connector started."""
        try:
            told = json.loads(data)
            names = ("account", "user", "database", "schema", "warehouse")
            known: dict[str, Any] = {name: str(told.get(name) or "") for name in names}
            account = Account(**known)
            return Query(told["query_id"], account, {"results": "dataset"} if told.get("has_output") else {})
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def _outputs(self, job: Query, call: Call) -> tuple[dict[str, Any], int | None]:
        if not job.outputs:
            return {}, None
        one = job.account
        uri = f"snowflake://{one.user}:{one.account}/{one.warehouse}/{one.database}/{one.schema}/{job.query_id}"
        rows, total = self._rows(job, call) if needs_rows(job.outputs) else ([], None)
        return to_outputs(job.outputs, StructuredDataset(uri, format="snowflake"), rows, total or 0), total

    def _rows(self, job: Query, call: Call) -> tuple[list[dict[str, Any]], int]:
        def fetch(session: SnowflakeConnection) -> tuple[list[dict[str, Any]], int]:
            with session.cursor() as cursor:
                cursor.get_results_from_sfqid(job.query_id)
                page = cursor.fetchmany(self._options.max_rows)
                names = [column.name for column in cursor.description]
                rows = [dict(zip(map(_plain_name, names), row, strict=True)) for row in page]
                return rows, cursor.rowcount if cursor.rowcount is not None else len(rows)

        return self._ask(job.account, call, fetch)

    def _ask(
        self,
        account: Account,
        call: Call | Task,
        question: Callable[[SnowflakeConnection], T],
        *,
        creating: bool = False,
    ) -> T:
        """The answer to one question, or `Retry`, `Fail` or `NotFound`."""
        session = None
        try:
            session = self._sessions.get(account, call.connection)
            return question(session)
        except Exception as exc:
            if session is not None and (answers.is_refused(exc) or session.is_closed()):
                self._sessions.drop(session)
            raise answers.failure(exc, creating=creating) from exc


def _query(query_id: str, statement: Statement, task: Task) -> Query:
    outputs = {name: kind_of(annotation) for name, annotation in task.interface.outputs.items()}
    return Query(query_id=query_id, account=statement.account, outputs=outputs)


def _status(session: SnowflakeConnection, query_id: str) -> tuple[str, Exception | None]:
    """A query's status by name, and the error that ended it, if one did."""
    from snowflake.connector.errors import Error

    try:
        status = session.get_query_status(query_id)
    except KeyError as exc:  # one that the connector does not know
        return str(exc.args[0]), None
    except TypeError as exc:
        raise answers.Unclear("Snowflake did not say how the query stands") from exc
    if session.is_closed():  # the connector takes that for the end of the query
        raise Retry("the session has ended")
    if not session.is_an_error(status) or status.name == "ABORTING":
        return status.name, None
    try:
        session.get_query_status_throw_if_error(query_id)
    except Error as exc:
        if answers.errno_of(exc) <= 0 and status.name == "FAILED_WITH_ERROR":  # so it tells an answer without a query
            raise answers.Unclear("Snowflake did not say how the query stands") from exc
        return status.name, exc
    except (TypeError, ValueError):  # the connector reads the error's number, and there is none
        return status.name, None
    return status.name, None


def _plain_name(column: str) -> str:
    """A column's name as people write it: Snowflake puts what is not quoted into capitals.

    >>> _plain_name("N"), _plain_name("Tail Number")
    ('n', 'Tail Number')
    """
    return column.lower() if column.isupper() else column
