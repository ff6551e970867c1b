"""Waiting for an HTTP endpoint to answer as it should."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airside.agents.destinations import Destinations
from airside.agents.http_answer import HttpAnswer, judge
from airside.agents.http_request import Credentials, HttpRequest, prepare
from airside.agents.http_sending import HttpSender
from airside.agents.placeholders import render, render_value
from airside.agents.sensor_job import MET, Look, Waiting, need
from airside.model import Call, Fail, Phase, Retry
from airside.model.redaction import redact

_REQUEST = ("url", "method", "headers", "params", "body", "json", "expected")


class HttpCondition:
    """An endpoint answers with an expected status, and with what the task waits for in it."""

    def __init__(
        self, destinations: Destinations, credentials: Credentials, max_response_bytes: int, patience: float
    ) -> None:
        self._destinations = destinations
        self._credentials = credentials
        self._sender = HttpSender(destinations, max_response_bytes)
        self._patience = patience

    def check(self, job: Waiting, call: Call) -> None:
        self._request(job, call)
        _path(job.config.get("json_path"))

    async def look(self, job: Waiting, call: Call) -> Look:
        """An endpoint that cannot be reached, or says something else, is one that does not answer yet."""
        request = await asyncio.to_thread(self._request, job, call)
        who = f"{request.method} {request.host}"
        await self._sender.get_ready()
        import httpx2

        try:
            async with asyncio.timeout(request.timeout):
                answer = await self._sender.send(request)
        except (TimeoutError, httpx2.TimeoutException):
            return Look(met=False, said=f"{who}: no answer within {request.timeout:g} s")
        except httpx2.RequestError as exc:
            return Look(met=False, said=f"{who}: {redact(' '.join(str(exc).split()) or type(exc).__name__)}")
        except Retry as exc:
            return Look(met=False, said=exc.message)
        except Fail as exc:
            if exc.code != "HostNotFound":  # a host may be yet to come
                raise
            return Look(met=False, said=exc.message)
        return await asyncio.to_thread(_judge, answer, request, job, who)

    def _request(self, job: Waiting, call: Call) -> HttpRequest:
        need("httpx2", "A sensor of HTTP endpoints")
        config = {key: job.config[key] for key in _REQUEST if key in job.config}
        asked = job.config.get("request_timeout", self._patience)
        config = {"method": "GET", **config, "timeout": min(asked, self._patience) if _is_number(asked) else asked}
        return prepare(replace(job.task(call), config=config), self._credentials, self._destinations, "sensor")


def _judge(answer: HttpAnswer, request: HttpRequest, job: Waiting, who: str) -> Look:
    status = judge(answer, request, {})
    if status.code == "ResponseTooLarge":
        raise Fail(f"{request.host} answered with more than the sensor agent's max_response_bytes.", code=status.code)
    if status.phase is not Phase.SUCCEEDED:
        return Look(met=False, said=status.message, after=answer.retry_after)
    missing = _missing(answer.text or "", job.config, job.values())
    if missing:
        return Look(met=False, said=f"{who} answered {answer.status}, but {missing}", after=answer.retry_after)
    told = judge(answer, request, {name: kind for name, kind in job.outputs.items() if name != MET})
    if told.phase is not Phase.SUCCEEDED:
        raise Fail(told.message, code=told.code)
    assert isinstance(told.outputs, Mapping)  # noqa: S101 - of a success
    return Look(met=True, said=f"{who} answered {answer.status}", outputs=told.outputs)


def _missing(text: str, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """What the answer lacks, in words; empty if it has everything."""
    contained = config.get("contains")
    if contained and render(str(contained), inputs) not in text:
        return "the text that is waited for is not in it"
    path = _path(config.get("json_path"))
    if path is None:
        return ""
    try:
        told = json.loads(text)
    except ValueError:
        return "not with JSON"
    found = path.findall(told) if isinstance(told, (dict, list)) else []
    where = config["json_path"]
    if "equals" in config:
        wanted = render_value(config["equals"], inputs)
        return "" if any(one == wanted for one in found) else f"{where} is not {json.dumps(wanted)} yet"
    is_there = any(one is not None and one is not False for one in found)
    return "" if is_there else f"there is nothing at {where} yet"


def _path(text: Any) -> Any:
    """A JSONPath, ready for use; None without one."""
    if not text:
        return None
    need("jsonpath", "A sensor with a json_path")
    import jsonpath

    if not isinstance(text, str) or not text.startswith("$"):
        raise Fail(f"config.json_path: {text!r} is not a JSONPath: it begins with $, as in $.state.")
    try:
        return jsonpath.compile(text)
    except jsonpath.JSONPathError as exc:
        raise Fail(f"config.json_path: {text!r} is not a JSONPath: {' '.join(str(exc).split())}.") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
