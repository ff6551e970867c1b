"""The statement that a task asks Snowflake for: where it runs, its text and its parameters."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from airside.agents.snowflake_sessions import Account
from airside.model import ConversionError, Directory, Fail, File, StructuredDataset, Task

_PLACE = ("account", "user", "database", "schema", "warehouse")
_KNOWN = (*_PLACE, "role", "batch", "connection_kwargs", "secrets", "configs")
_KWARGS = ("role", "host", "session_parameters")
_SECRET_KWARGS = ("password", "token", "private_key", "passcode")
_VALUES = re.compile(r"\bVALUES\s*(?=\()", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_TEMPLATED = re.compile(r"\{\{\s*\.?inputs\.(\w+)\s*\}\}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Statement:
    """What is sent. `parameters` is None if nothing in the text is to be filled in."""

    account: Account
    sql: str
    parameters: dict[str, Any] | None
    request_id: str
    tag: str


def to_statement(task: Task, defaults: Mapping[str, str]) -> Statement:
    """What a task asks for. Raises `Fail` or `ConversionError` for what Snowflake cannot be asked."""
    sql = task.sql.statement if task.sql is not None else ""
    if not sql.strip():
        raise Fail("A Snowflake task needs a query: the template's sql.")
    templated = _TEMPLATED.search(sql)
    if templated is not None:
        raise Fail(
            f"{templated[0]} is not filled in, since an input could be run as SQL: write %({templated[1]})s instead."
        )
    config = _config_of(task)
    values = {name: to_parameter(value, f"inputs.{name}") for name, value in task.inputs.items()}
    if config.get("batch") and values:
        sql, values = expand(sql, values)
    _check_placeholders(sql, values)
    return Statement(
        account=to_account(config, task, defaults),
        sql=sql,
        parameters=values or None,
        request_id=request_id(task.key),
        tag=_tag(task),
    )


def request_id(key: str) -> str:
    """The id of the request for an attempt: a version 4 UUID made of its key, as Snowflake wants one.

    >>> request_id("0a" * 16)
    '0a0a0a0a-0a0a-4a0a-8a0a-0a0a0a0a0a0a'
    """
    return str(uuid.UUID(key, version=4))


def to_account(config: Mapping[str, Any], task: Task, defaults: Mapping[str, str]) -> Account:
    """Where the statement runs: as the task says, else its connection, else the operator."""
    configs = task.connection.configs if task.connection is not None else {}
    more = config.get("connection_kwargs") or {}
    if not isinstance(more, Mapping):
        raise Fail("config.connection_kwargs must map names to values.")
    for name in more:
        if name in _SECRET_KWARGS:
            raise Fail(f"config.connection_kwargs.{name}: a task holds no secret; a connection does.")
        if name not in _KWARGS:
            raise Fail(f"config.connection_kwargs.{name}: may not be set by a task (may: {', '.join(_KWARGS)}).")
    found = {name: str(config.get(name) or configs.get(name) or defaults.get(name) or "") for name in (*_PLACE, "role")}
    for name in ("account", "user"):
        if not found[name]:
            raise Fail(f"config.{name}: name the {name} of Snowflake.")
    parameters = more.get("session_parameters") or {}
    if not isinstance(parameters, Mapping):
        raise Fail("config.connection_kwargs.session_parameters must map names to values.")
    return Account(
        **{**found, "role": str(more.get("role") or found["role"])},
        host=str(more.get("host") or ""),
        session_parameters={str(name): str(value) for name, value in parameters.items()},
    )


def to_parameter(value: Any, path: str) -> Any:
    """A value as Snowflake's connector binds it; what it has no form for becomes JSON, for PARSE_JSON."""
    match value:
        case enum.Enum():
            return value.value
        case File() | Directory() | StructuredDataset():
            return value.uri
        case None | bool() | int() | float() | str() | bytes() | datetime() | date() | time() | timedelta() | Decimal():
            return value
        case list() | tuple() if all(not isinstance(one, Mapping | list | tuple) for one in value):
            if not value:
                raise ConversionError(path, "an empty list has no form in SQL")
            return [to_parameter(one, f"{path}[{at}]") for at, one in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError) as exc:
        raise ConversionError(path, f"Snowflake has no parameter for a {type(value).__name__}") from exc


def expand(sql: str, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """One row of VALUES for each element of the inputs, which are lists of one length.

    >>> expand("INSERT INTO t VALUES (%(a)s, %(b)s)", {"a": [1, 2], "b": ["x", "y"]})[0]
    'INSERT INTO t VALUES (%(a_0)s, %(b_0)s), (%(a_1)s, %(b_1)s)'
    """
    found = [match.end() for match in _VALUES.finditer(sql)]
    if len(found) != 1:
        raise Fail(f"A batch needs one VALUES (...) in its query, which has {len(found)}.")
    lengths = {name: len(value) if isinstance(value, list) else -1 for name, value in values.items()}
    if len(set(lengths.values())) != 1 or -1 in lengths.values():
        raise Fail(f"The inputs of a batch must be lists of one length, and are {lengths}.")
    begin, end = found[0], _closing(sql, found[0])
    row, count = sql[begin:end], next(iter(lengths.values()))
    rows = [_PLACEHOLDER.sub(rf"%(\g<1>_{at})s", row) for at in range(count)]
    flat = {f"{name}_{at}": one for name, value in values.items() for at, one in enumerate(value)}
    return f"{sql[:begin]}{', '.join(rows)}{sql[end:]}", flat


def _closing(sql: str, begin: int) -> int:
    """The place behind the parenthesis that closes the one at `begin`."""
    depth, quote = 0, ""
    for place in range(begin, len(sql)):
        char = sql[place]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            depth += (char == "(") - (char == ")")
            if not depth:
                return place + 1
    raise Fail("The VALUES of a batch has no closing parenthesis.")


def _config_of(task: Task) -> Mapping[str, Any]:
    """The settings of a task: flytekit's plugin puts them into the template's `config`, all others into `custom`."""
    theirs = getattr(task.template, "config", None)
    merged = {**dict(theirs or {}), **task.config}
    for name in task.config:
        if name not in _KNOWN:
            raise Fail(f"config.{name}: a snowflake task knows no such key (known: {', '.join(_KNOWN)}).")
    return merged


def _check_placeholders(sql: str, values: Mapping[str, Any]) -> None:
    for name in _PLACEHOLDER.findall(sql):
        if name not in values:
            raise Fail(f"The query asks for %({name})s, and the task has no such input (inputs: {', '.join(values)}).")
    if values and re.search(r"%(?!\(\w+\)s)", sql.replace("%%", "")):
        raise Fail("A percent sign in a query with inputs is written %%.")


def _tag(task: Task) -> str:
    """What Snowflake's query history shows of the task: its QUERY_TAG."""
    run = task.execution
    told = {
        "airside_key": task.key,
        "project": run.project,
        "domain": run.domain,
        "execution": run.name,
        "node": run.node_id,
        "task": run.task_name,
        "attempt": run.attempt,
    }
    return json.dumps({name: value for name, value in told.items() if value != ""})[:2000]
