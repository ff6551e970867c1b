"""Waiting for a query to have rows: in DuckDB here, in any database of SQLAlchemy elsewhere.

The SQL comes from whoever may run tasks. Nothing that it does is committed, PostgreSQL is told that the transaction
only reads, and DuckDB runs a SELECT only, which sees the files of the allowed directories and nothing else. For other
databases the account's own rights are the fence.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airside.agents.json_values import local_path
from airside.agents.sensor_job import MET, Look, Waiting, need
from airside.agents.sql_outputs import to_outputs
from airside.model import Call, ConversionError, Directory, Fail, File, Retry, StructuredDataset, UsageError
from airside.model.redaction import hide, redact
from airside.sdk.hosts import HostAllowList, normal
from airside.sdk.lane import Lane
from airside.sdk.secrets import secret

_POOLS = 32  # databases with open connections
_LONGEST_MESSAGE = 500  # characters
_PASSING = ("08", "28", "40", "53", "55", "57")  # classes of SQLSTATE: the server, the account, a lock, a timeout
_NO_RIGHT = "42501"  # SQLSTATE of a right that the account does not have, or not now
_CLOSED: dict[str, Any] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",
    "memory_limit": "1GB",
    "threads": "1",
}

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database that tasks may ask.

    url: as SQLAlchemy writes it, `postgresql+psycopg://etl@db.example.org/flights`; `duckdb://` for files in the
        agent's `allowed_directories`, `duckdb:///PATH` for a database file.
    password: the name of the secret (`name` or `group/name`) with the password.
    """

    url: str
    password: str = ""


class SqlCondition:
    """A query has rows."""

    def __init__(
        self,
        databases: Mapping[str, Database],
        allowed_hosts: Sequence[str],
        allowed_directories: Sequence[str],
        *,
        max_rows: int,
        patience: float,
    ) -> None:
        self._databases = databases
        self._hosts = HostAllowList(allowed_hosts)
        self._allowed = [str(Path(one).expanduser().resolve()) for one in allowed_directories]
        self._max_rows = max_rows
        self._patience = patience
        self._lane = Lane("sensor-sql")
        self._pools = _Pools()

    def check(self, job: Waiting, call: Call) -> None:
        query = job.config.get("query")
        if not isinstance(query, str) or not query.strip():
            raise Fail("config.query: a SQL sensor needs a query.")
        database = self._database(job, call)
        if database.is_duckdb:
            need("duckdb", "A sensor that asks DuckDB", "duckdb")
        else:
            need("sqlalchemy", "A sensor that asks a database")
            self._pools.get(database, call, self._check_host)

    async def look(self, job: Waiting, call: Call) -> Look:
        rows: Rows = await self._lane.run(lambda: self._ask(job, call), timeout=self._patience + 2)
        if not rows:
            return Look(met=False, said="the query has no rows yet")
        wanted = {name: kind for name, kind in job.outputs.items() if name != MET}
        try:
            outputs = to_outputs(wanted, None, rows[: self._max_rows], len(rows))
        except ConversionError as exc:
            raise Fail(str(exc), code="OutputConversionError") from exc
        return Look(met=True, said="the query has rows", outputs=outputs)

    def close(self) -> None:
        self._lane.close()
        self._pools.close()

    def _ask(self, job: Waiting, call: Call) -> Rows:
        """The first rows: one more than may be outputs."""
        database, query = self._database(job, call), job.config["query"]
        values = {name: _parameter(value) for name, value in job.values().items()}
        if database.is_duckdb:
            return self._ask_duckdb(database.url, query, values)
        return self._ask_server(database, call, query, values)

    def _database(self, job: Waiting, call: Call) -> _Chosen:
        name = job.config.get("database")
        if name:
            if name not in self._databases:
                known = ", ".join(self._databases) or "none"
                raise Fail(
                    f"There is no database {name!r} (known: {known}); an operator may add it to the sensor agent's "
                    "`databases`.",
                    code="NoSuchDatabase",
                )
            return _Chosen(self._databases[name].url, self._databases[name].password)
        url = call.connection.configs.get("url", "") if call.connection else ""
        if not url:
            raise Fail("config.database: name a database, or a connection with a `url`.", code="NoSuchDatabase")
        return _Chosen(url, of_connection=True)

    # -- DuckDB -----------------------------------------------------------------------------------------------------

    def _ask_duckdb(self, url: str, query: str, values: Mapping[str, Any]) -> Rows:
        import duckdb

        file = url.removeprefix("duckdb://").removeprefix("/")
        try:
            connection = duckdb.connect(file or ":memory:", read_only=bool(file), config=_CLOSED)
        except duckdb.IOException as exc:  # not there yet, or written by another process now
            raise Retry(_sentence(exc)) from exc
        end = threading.Timer(self._patience, connection.interrupt)
        try:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET allowed_directories = ?", [self._allowed])
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            end.start()
            statements = connection.extract_statements(query)
            if len(statements) != 1 or statements[0].type.name != "SELECT":
                raise Fail("config.query: a SQL sensor asks one SELECT.", code="InvalidQuery")
            names = statements[0].named_parameters
            cursor = connection.execute(statements[0], _named(names, values) or None)
            columns = [column[0] for column in cursor.description]
            return [dict(zip(columns, row, strict=True)) for row in cursor.fetchmany(self._max_rows + 1)]
        except duckdb.InterruptException as exc:
            raise Retry(f"DuckDB did not answer within {self._patience:g} s.") from exc
        except duckdb.Error as exc:
            if "No files found" in str(exc):
                return []
            if isinstance(exc, duckdb.IOException):
                raise Retry(_sentence(exc)) from exc
            raise Fail(_sentence(exc), code="InvalidQuery") from exc
        finally:
            end.cancel()
            connection.close()

    # -- SQLAlchemy -------------------------------------------------------------------------------------------------

    def _ask_server(self, database: _Chosen, call: Call, query: str, values: Mapping[str, Any]) -> Rows:
        import sqlalchemy
        from sqlalchemy import exc as errors

        engine = self._pools.get(database, call, self._check_host)
        text = sqlalchemy.text(query)
        names = list(text.compile().params)
        options: dict[str, Any] = {"stream_results": True, "max_row_buffer": 100}
        if engine.dialect.name == "postgresql":
            options["postgresql_readonly"] = True
        try:
            with engine.connect().execution_options(**options) as connection:
                if engine.dialect.name == "postgresql":
                    limit = f"SET LOCAL statement_timeout = {int(self._patience * 1000)}"
                    connection.exec_driver_sql(limit, execution_options={"stream_results": False})
                result = connection.execute(text, _named(names, values))
                if not result.returns_rows:
                    raise Fail("config.query: a SQL sensor asks one SELECT.", code="InvalidQuery")
                return [dict(row) for row in result.mappings().fetchmany(self._max_rows + 1)]
        except errors.SQLAlchemyError as exc:
            cause = exc.orig if isinstance(exc, errors.DBAPIError) else exc
            passing = isinstance(exc, (errors.OperationalError, errors.InterfaceError, errors.TimeoutError))
            state = _sqlstate(cause)
            if passing or state[:2] in _PASSING or state == _NO_RIGHT:
                raise Retry(_sentence(cause)) from exc
            raise Fail(_sentence(cause), code="InvalidQuery") from exc

    def _check_host(self, host: str, port: int) -> None:
        try:
            allowed = self._hosts.includes(normal(host), port)
        except ValueError:
            allowed = False
        if not allowed:
            raise Fail(
                f"The sensor agent asks no database at {host or 'a path'} for a connection; an operator "
                "may add the host to its `allowed_hosts`.",
                code="HostNotAllowed",
            )


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The database of a task. One of the caller's connection may be at allowed hosts only."""

    url: str
    password: str = ""
    of_connection: bool = False

    @property
    def is_duckdb(self) -> bool:
        """True for files of this machine, which a caller's connection cannot name."""
        return self.url.startswith("duckdb:") and not self.of_connection


class _Pools:
    """Open connections, a few for each database and account."""

    def __init__(self) -> None:
        self._engines: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, database: _Chosen, call: Call, check_host: Callable[[str, int], None]) -> Any:
        """The pool of a database. Raises `Fail` for a url that is none, or a host that is not allowed."""
        from sqlalchemy import engine as sa

        try:
            url = sa.make_url(database.url)
        except Exception as exc:
            raise Fail("The url of the database is none that SQLAlchemy knows.", code="NoSuchDatabase") from exc
        password = _password(database, call)
        if database.of_connection:
            if url.query:  # drivers read hosts and files from there
                raise Fail("The url of a connection may have no parameters.", code="HostNotAllowed")
            check_host(url.host or "", url.port or 0)
        if password:
            url = url.set(password=password)
        key = url.render_as_string(hide_password=False)
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:
                engine = self._engines[key] = _engine(url)
            self._engines.move_to_end(key)
            old = self._engines.popitem(last=False)[1] if len(self._engines) > _POOLS else None
        if old is not None:
            old.dispose()
        return engine

    def close(self) -> None:
        while self._engines:
            self._engines.popitem()[1].dispose()


def _engine(url: Any) -> Any:
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(url, pool_size=4, max_overflow=12, pool_pre_ping=True, pool_recycle=300)
    except sqlalchemy.exc.ArgumentError as exc:
        raise Fail(_sentence(exc), code="NoSuchDatabase") from exc
    except ImportError as exc:
        raise Fail(f"The driver of {url.drivername} is not installed: {exc}.", code="MissingExtra") from exc
    if engine.dialect.name == "sqlite":
        sqlalchemy.event.listen(engine, "connect", _fence_sqlite)
    return engine


def _fence_sqlite(connection: Any, _record: Any) -> None:
    """Keep SQL from other files, and from writing."""
    import sqlite3

    def allow(action: int, *_: Any) -> int:
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK

    connection.execute("PRAGMA query_only = ON")
    connection.set_authorizer(allow)


def _password(database: _Chosen, call: Call) -> str:
    if database.of_connection and call.connection is not None:
        value = call.connection.secrets.get("password", "")
        hide(value, passing=True)
        return value
    if not database.password:
        return ""
    group, slash, name = database.password.rpartition("/")
    try:
        return secret(name, group if slash else None)
    except UsageError as exc:
        raise Fail(str(exc), code="NoCredentials") from exc


def _parameter(value: Any) -> Any:
    """An input as a parameter: files and tables by their path."""
    if isinstance(value, (File, Directory, StructuredDataset)):
        return str(local_path(value.uri) or value.uri)
    return value


def _named(names: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    known = {name.lower(): value for name, value in values.items()}
    for name in names:
        if name.lower() not in known:
            raise Fail(
                f"The query asks for {name}, which is no input (inputs: {', '.join(values) or 'none'}).",
                code="MissingParameter",
            )
    return {name: known[name.lower()] for name in names}


def _sqlstate(exc: object) -> str:
    return str(getattr(exc, "sqlstate", None) or getattr(exc, "pgcode", None) or "")


def _sentence(exc: object) -> str:
    text = str(exc).partition("\nLINE ")[0].partition("\n[SQL:")[0]
    return redact(" ".join(text.split()))[:_LONGEST_MESSAGE]
