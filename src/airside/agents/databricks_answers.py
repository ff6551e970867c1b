"""What Databricks says of a run, in Airside's words: its state, its outputs, its failures, its log."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airside.agents.databricks_runs import Runs
from airside.agents.databricks_states import message_of, phase_of
from airside.agents.json_values import from_json
from airside.model import AirsideError, ConversionError, LogLink, Phase, Resource

_FAILURES_TOLD = 3
_LAST_LINES = 20
_LONGEST_TRACE = 4000  # characters of a failing task's error trace
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_DURATIONS = ("queue_duration", "setup_duration", "execution_duration", "cleanup_duration", "run_duration")


def read(runs: Runs, told: Mapping[str, Any], *, page: str, outputs: Mapping[str, Any]) -> Resource:
    """What a run's answer means. `page` is its page if the answer tells none, `outputs` the kinds that are wanted."""
    phase, code = phase_of(told)
    page = told.get("run_page_url") or page
    links = [LogLink(page, "Databricks run")] if page else []
    resource = Resource(phase, message=message_of(told), code=code, links=links, info=_facts(told))
    if phase is Phase.SUCCEEDED and outputs:
        return _with_exit_value(resource, runs, told, outputs)
    if phase.is_failure:
        return replace(resource, message="\n".join(filter(None, [resource.message, *_failures(runs, told)])))
    return resource


def lines(runs: Runs, one: Mapping[str, Any]) -> list[str]:
    """What a task of a run wrote, and what went wrong in it."""
    if not one.get("run_id"):
        return []
    output = runs.output(one["run_id"])
    parts = (output.get("logs"), output.get("error"), output.get("error_trace"))
    return [line for part in parts if part for line in _COLOURS.sub("", part).splitlines()]


def _with_exit_value(resource: Resource, runs: Runs, told: Mapping[str, Any], outputs: Mapping[str, Any]) -> Resource:
    """The resource with what the run's last notebook handed to `dbutils.notebook.exit`, if it did."""
    for one in reversed(runs.tasks(told)):
        if one.get("run_id") is None or "notebook_task" not in one or not phase_of(one)[0].is_success:
            continue
        left = runs.output(one["run_id"]).get("notebook_output") or {}
        if left.get("result") is None:
            continue
        try:
            return replace(resource, outputs=_read_exit(left, outputs))
        except ConversionError as exc:
            return replace(resource, phase=Phase.FAILED, message=str(exc), code="OutputConversionError")
    return resource


def _read_exit(left: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs in a notebook's exit value."""
    text, first = str(left["result"]), f"outputs.{next(iter(kinds))}"
    if left.get("truncated"):
        raise ConversionError(
            first, "the notebook exited with more than Databricks keeps; write it to a table or a file"
        )
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, dict) and set(kinds) <= set(value):
        return {name: from_json(value[name], kind, f"outputs.{name}") for name, kind in kinds.items()}
    if len(kinds) > 1:
        names = ", ".join(kinds)
        raise ConversionError(first, f"the notebook exited with {text[:80]!r}, not with JSON of an object with {names}")
    ((name, kind),) = kinds.items()
    return {name: text if kind == "str" else from_json(value, kind, first)}


def _failures(runs: Runs, told: Mapping[str, Any]) -> list[str]:
    """What the tasks that failed say of it: the error, and its trace or the end of the log."""
    try:
        tasks = runs.tasks(told)
    except AirsideError:  # the run failed all the same
        tasks = list(told.get("tasks") or ())
    failed = [one for one in tasks if phase_of(one)[0].is_failure and one.get("run_id")]
    said = []
    for one in failed[:_FAILURES_TOLD]:
        try:
            output = runs.output(one["run_id"])
        except AirsideError:
            output = {}
        trace = _COLOURS.sub("", output.get("error_trace") or "").strip()
        tail = "\n".join((output.get("logs") or "").splitlines()[-_LAST_LINES:])
        head = f"{one.get('task_key', 'task')}: {output.get('error') or message_of(one) or phase_of(one)[1]}"
        said.append("\n".join(filter(None, [head, (trace or tail)[-_LONGEST_TRACE:]])))
    return said


def _facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """What people want to know of a run: its ids, how far it is, where its time went (in seconds)."""
    facts: dict[str, Any] = {
        key: told[key] for key in ("run_id", "job_id", "run_name", "creator_user_name") if told.get(key)
    }
    facts |= {key: told[key] / 1000 for key in _DURATIONS if told.get(key)}
    tasks = told.get("tasks") or ()
    if len(tasks) > 1:
        facts["tasks"] = len(tasks)
        facts["tasks_over"] = sum(phase_of(one)[0].is_terminal for one in tasks)
    clusters = {(one.get("cluster_instance") or {}).get("cluster_id") for one in (told, *tasks)} - {None}
    if clusters:
        facts["cluster_ids"] = sorted(clusters)
    return facts
