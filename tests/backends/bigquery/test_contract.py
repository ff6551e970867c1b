"""The agent's requests and tables against Google's own description of the API, and against its SDK."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.cloud.bigquery import Client
from google.cloud.bigquery.job.base import _ERROR_REASON_TO_EXCEPTION
from google.cloud.bigquery.retry import _RETRYABLE_REASONS, job_retry_reasons

from airside.agents.bigquery import BigQueryAgent, BigQueryConfig, BigQueryTask, Query
from airside.agents.bigquery_answers import REASONS, STATES
from airside.model import Call, Interface, Phase, Task

Discovery = Mapping[str, Any]

SDKS_OWN = {("jobs.get", "projection"), ("jobs.cancel", "projection")}  # Google's service does not mind


@pytest.fixture(scope="session")
def discovery(environment: Callable[..., Path]) -> Discovery:
    """Google's discovery document of BigQuery's API, as its general client ships it."""
    folder = environment("google-api", "google-api-python-client==2.202.0")
    [file] = folder.glob("lib/*/site-packages/googleapiclient/discovery_cache/documents/bigquery.v2.json")
    document: Discovery = json.loads(file.read_text())
    return document


def test_the_table_of_states_is_complete(discovery: Discovery) -> None:
    states = discovery["resources"]["jobs"]["methods"]["list"]["parameters"]["stateFilter"]["enum"]
    assert {state.upper() for state in states} == set(STATES)


def test_the_table_of_reasons_has_all_that_the_sdk_knows() -> None:
    assert set(_ERROR_REASON_TO_EXCEPTION) <= set(REASONS)
    again = {reason for reason, meaning in REASONS.items() if meaning.phase is Phase.RETRYABLE_FAILED}
    assert set(_RETRYABLE_REASONS) | set(job_retry_reasons) <= again


def test_every_request_is_one_that_the_api_describes(
    discovery: Discovery, bigquery: Client, fault_proxy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = urllib.parse.urlsplit(bigquery._connection.API_BASE_URL).port
    proxy = fault_proxy(upstream, record=True)
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", proxy.url)
    everything(BigQueryAgent())
    recorded = proxy.recorded()
    problems = [problem for call in recorded for problem in judge(call, discovery)]
    assert not problems
    assert {name_of(call, discovery) for call in recorded} == {
        "jobs.insert",
        "jobs.get",
        "jobs.list",
        "jobs.cancel",
        "jobs.getQueryResults",
    }


def test_a_wrong_request_would_be_found(discovery: Discovery) -> None:
    body = {"configuration": {"query": {"qery": 1, "priority": 5, "maximumBytesBilled": "9"}, "labels": {"a": "b"}}}
    call = {"method": "POST", "target": "/bigquery/v2/projects/p/jobs?prety=1", "body": json.dumps(body)}
    assert judge(call, discovery) == [
        "jobs.insert: no parameter prety",
        "Job.configuration.query.qery: JobConfigurationQuery has no such field",
        "Job.configuration.query.priority: 5 is no string",
    ]


def everything(agent: BigQueryAgent) -> None:
    """Have the agent make every kind of request that it can make."""
    config = {
        "destinationTable": {"projectId": "flights", "datasetId": "trips", "tableId": "contract"},
        "writeDisposition": "WRITE_TRUNCATE",
    }
    values = {
        "i": 1, "f": 1.5, "s": "a", "b": True, "raw": b"x", "at": datetime.now(UTC), "list": [1, 2],
        "plane": {"tail": "D", "seats": [1]}, "price": "1.5", "day": "2024-01-02", "none": None,
    }  # fmt: skip
    task_config = BigQueryConfig(
        ProjectID="flights",
        Location="US",
        QueryJobConfig=config,
        ParameterTypes={"price": "NUMERIC", "day": "DATE"},
        DryRun=True,
    )
    template = BigQueryTask(name="all", query_template="SELECT @i AS n", task_config=task_config)
    agent.open(agent.Options(maximum_bytes_billed=10**9))
    tasks = [
        Task(
            type=template.type,
            key=f"{number:032x}",
            inputs=values,
            sql=template.sql,
            config=template.config,
            interface=Interface(outputs={"n": int}),
        )
        for number in range(0xC0, 0xC4)
    ]
    jobs = [agent.create(task) for task in tasks]
    agent.create(tasks[0])
    agent.find(tasks[1], tasks[1].key)
    for job in jobs:
        while not agent.get(job, Call()).phase.is_terminal:
            time.sleep(0.02)
    agent.get_many([*jobs, Query("gone", "flights", "US", created=jobs[0].created)], Call())
    agent.delete(jobs[0], Call())
    agent.close()


def method_of(call: Mapping[str, str], discovery: Discovery) -> tuple[str, Mapping[str, Any]]:
    """The API's method that a request calls."""
    path = urllib.parse.urlsplit(call["target"]).path.removeprefix(f"/{discovery['servicePath'].strip('/')}/")
    for resource, described in discovery["resources"].items():
        for name, method in described["methods"].items():
            pattern = re.sub(r"\{\+?\w+\}", "[^/]+", method.get("flatPath", method["path"]))
            if method["httpMethod"] == call["method"] and re.fullmatch(pattern, path):
                return f"{resource}.{name}", method
    raise AssertionError(f"the API has no method for {call['method']} {path}")


def name_of(call: Mapping[str, str], discovery: Discovery) -> str:
    return method_of(call, discovery)[0]


def judge(call: Mapping[str, str], discovery: Discovery) -> list[str]:
    """What is wrong with a request."""
    name, method = method_of(call, discovery)
    known = {**discovery["parameters"], **method.get("parameters", {})}
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(call["target"]).query)
    problems = [f"{name}: no parameter {one}" for one in query if one not in known and (name, one) not in SDKS_OWN]
    if "request" in method:
        schema = method["request"]["$ref"]
        problems += check(json.loads(call["body"] or "{}"), {"$ref": schema}, schema, discovery)
    return problems


def check(value: Any, schema: Mapping[str, Any], path: str, discovery: Discovery) -> list[str]:
    """Where a value departs from a schema of the discovery document."""
    name = schema.get("$ref", "")
    schema = discovery["schemas"][name] if name else schema
    if value is None:
        return []
    match schema["type"]:
        case "object":
            return check_object(value, schema, path, name, discovery)
        case "array":
            items = enumerate(value)
            return [one for at, item in items for one in check(item, schema["items"], f"{path}[{at}]", discovery)]
        case "any":
            return []
    kinds = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}
    if not isinstance(value, kinds[schema["type"]]) or (schema["type"] == "integer" and isinstance(value, bool)):
        return [f"{path}: {value!r} is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: {value!r} is none of {schema['enum']}"]
    return []


def check_object(value: Any, schema: Mapping[str, Any], path: str, name: str, discovery: Discovery) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no object"]
    problems = []
    for key, one in value.items():
        described = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
        if described is None:
            problems.append(f"{path}.{key}: {name} has no such field")
        else:
            problems += check(one, described, f"{path}.{key}", discovery)
    return problems
