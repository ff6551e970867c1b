"""The job that a task asks BigQuery for: its id, its place and its configuration, as the REST API takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airside.agents.bigquery_parameters import Type, parse_type, to_parameters
from airside.model import Fail, Task

_OURS = ("ProjectID", "Location", "Domain", "Labels", "JobTimeoutMs", "ParameterTypes", "DryRun", "secrets", "configs")
_TEMPLATED = re.compile(r"\{\{\s*\.?inputs\.(\w+)\s*\}\}", re.IGNORECASE)
_NOT_IN_LABELS = re.compile(r"[^a-z0-9_-]")
_LONGEST_LABEL = 63
_MOST_LABELS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What an operator sets for tasks that say nothing, and the limit that no task may exceed (0: none)."""

    project: str = ""
    location: str = ""
    maximum_bytes_billed: int = 0
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One job to insert. `project` empty: that of the credentials."""

    job_id: str
    project: str
    location: str
    sql: str
    configuration: dict[str, Any]
    dry_run: bool


def to_request(task: Task, defaults: Defaults) -> Request:
    """What a task asks for. Raises `Fail` or `ConversionError` for what BigQuery cannot be asked."""
    config = task.config
    configs = task.connection.configs if task.connection is not None else {}
    query: dict[str, Any] = {name: config[name] for name in config if name not in _OURS}
    query["useLegacySql"] = query.get("useLegacySql", False)
    parameters = _parameters(task, query.pop("queryParameters", None) or [])
    if parameters:
        query["queryParameters"] = parameters
    limit = _limit(query.pop("maximumBytesBilled", None), defaults.maximum_bytes_billed)
    if limit:
        query["maximumBytesBilled"] = str(limit)
    configuration: dict[str, Any] = {"query": query, "labels": to_labels(task)}
    if config.get("JobTimeoutMs"):
        configuration["jobTimeoutMs"] = str(config["JobTimeoutMs"])
    return Request(
        job_id=f"airside_{task.key}",
        project=_text(config, "ProjectID") or configs.get("project", "") or defaults.project,
        location=_text(config, "Location") or configs.get("location", "") or defaults.location,
        sql=_statement(task),
        configuration=configuration,
        dry_run=defaults.dry_run or bool(config.get("DryRun")),
    )


def to_labels(task: Task) -> dict[str, str]:
    """The labels of a job: those of its task, and which run of which task it is.

    >>> from airside import Execution, TaskType
    >>> run = Execution(project="flights", task_name="Late Ones")
    >>> to_labels(Task(type=TaskType("q"), key="0a", execution=run))
    {'flyte-project': 'flights', 'flyte-task': 'late-ones', 'flyte-attempt': '0', 'airside-key': '0a'}
    """
    given = task.config.get("Labels") or {}
    if not isinstance(given, Mapping):
        raise Fail("config.Labels must map names to texts.")
    run = task.execution
    ours = {
        "flyte-project": run.project,
        "flyte-domain": run.domain,
        "flyte-execution": run.name,
        "flyte-node": run.node_id,
        "flyte-task": run.task_name,
        "flyte-attempt": str(run.attempt),
        "airside-key": task.key,
    }
    labels = {name: _label(value) for name, value in ours.items() if value}
    room = _MOST_LABELS - len(labels)
    return {**{str(name): str(value) for name, value in list(given.items())[:room]}, **labels}


def _label(text: str) -> str:
    return _NOT_IN_LABELS.sub("-", text.lower())[:_LONGEST_LABEL]


def _statement(task: Task) -> str:
    statement = task.sql.statement if task.sql is not None else ""
    if not statement.strip():
        raise Fail("A BigQuery task needs a query: the template's sql.")
    templated = _TEMPLATED.search(statement)
    if templated is not None:
        raise Fail(
            f"{templated[0]} is not filled in, since an input could then be run as SQL: write @{templated[1]} instead."
        )
    return statement


def _parameters(task: Task, given: Any) -> list[dict[str, Any]]:
    """The inputs, and what the configuration has besides; a parameter there also tells the type of its input."""
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise Fail("config.queryParameters must be a list of parameters as BigQuery's API has them.")
    if not task.inputs:
        return [dict(one) for one in given]
    if not all(one.get("name") for one in given):
        raise Fail("config.queryParameters has parameters without a name, which do not go together with inputs.")
    declared: dict[str, Type] = {one["name"]: one["parameterType"] for one in given if one.get("parameterType")}
    declared |= _declared(task.config.get("ParameterTypes") or {})
    others = [dict(one) for one in given if one["name"] not in task.inputs]
    return [*to_parameters(task.inputs, task.interface.inputs, declared), *others]


def _declared(types: Any) -> dict[str, Type]:
    if not isinstance(types, Mapping):
        raise Fail("config.ParameterTypes must map names of inputs to types of BigQuery.")
    try:
        return {name: parse_type(str(text)) for name, text in types.items()}
    except ValueError as exc:
        raise Fail(f"config.ParameterTypes: {exc}.") from exc


def _limit(asked: Any, allowed: int) -> int:
    try:
        wanted = int(asked or 0)
    except (TypeError, ValueError):
        raise Fail(f"config.maximumBytesBilled must be a number of bytes, not {asked!r}.") from None
    return min(wanted, allowed) if wanted and allowed else wanted or allowed


def _text(config: Mapping[str, Any], name: str) -> str:
    value = config.get(name) or ""
    if not isinstance(value, str):
        raise Fail(f"config.{name} must be a text, not {value!r}.")
    return value.strip()
