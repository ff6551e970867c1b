"""The HTTP request that a webhook task asks for: its config checked, its inputs and credentials put in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from airside.agents.destinations import Destinations
from airside.agents.json_values import to_json
from airside.agents.placeholders import render, render_value, text_of
from airside.model import Fail, Task, UsageError
from airside.model.redaction import hide
from airside.sdk.hosts import Address, HostAllowList, address_of
from airside.sdk.secrets import secret

KEYS = ("url", "method", "headers", "params", "body", "json", "timeout", "expected", "retries", "backoff")
_FLYTEKIT_KEYS = ("data", "timeout_sec", "show_data", "show_url")
_CONNECTION_KEYS = ("secrets", "configs")  # Flyte 2 puts the connection into the same place
_OURS = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")
_TELLING = ("authorization", "proxy-authorization", "cookie", "x-api-key")
_METHOD = re.compile(r"[A-Z]{1,20}\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")
_FLYTEKIT_PLACEHOLDER = re.compile(r"(?<!\{)\{inputs\.([^{}\s]+)\}(?!\})")
_MOST_RETRIES = 100

Credentials = Mapping[str, HostAllowList]
_NOWHERE = HostAllowList(())


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request ready to be sent. `info` is what flytekit's tasks want to see again in their output."""

    method: str
    url: str
    host: str
    port: int
    headers: tuple[tuple[str, str], ...]
    content: bytes | None
    timeout: float
    expected: tuple[int, ...]
    retries: int
    backoff: float
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def netloc(self) -> str:
        """Host and port as a Host header tells them."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _port(self.url) else f"{name}:{self.port}"

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {self.host})"


def prepare(task: Task, credentials: Credentials, destinations: Destinations, agent: str = "webhook") -> HttpRequest:
    """The request of a task. Reads secrets and inputs, so it may block. Raises `Fail` for what is wrong."""
    config = _known(task.config)
    others = {"perretryuniquekey": task.key}
    method = str(config.get("method", "POST")).upper()
    if not _METHOD.match(method):
        raise Fail(f"config.method: {method!r} is no HTTP method.")
    named: list[str] = []
    url = _url(config, task, others, named)
    headers = _headers(config, task, others, named)
    address = _address(url)
    for name in named:
        _check_credential(name, credentials, destinations, address, agent)
    content, kind = _content(config, task, others, method)
    if kind and "content-type" not in {name.lower() for name, _ in headers}:
        headers.append(("Content-Type", kind))
    shown = {"input_data": to_json(render_value(config.get("data"), task.inputs, others)), "url": url}
    return HttpRequest(
        method=method,
        url=url,
        host=address.host,
        port=address.port,
        headers=tuple(headers),
        content=content,
        timeout=_number(config, "timeout", 30.0, least=0.001),
        expected=_expected(config),
        retries=int(_number(config, "retries", 0, most=_MOST_RETRIES)),
        backoff=_number(config, "backoff", 1.0),
        info={key: shown[key] for key, flag in (("input_data", "show_data"), ("url", "show_url")) if config.get(flag)},
    )


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in our own words: flytekit's keys and placeholders translated, unknown keys refused."""
    told = {key: value for key, value in config.items() if key not in _CONNECTION_KEYS}
    unknown = [key for key in told if key not in (*KEYS, *_FLYTEKIT_KEYS)]
    if unknown:
        raise Fail(f"config.{unknown[0]}: a webhook task knows no such key (known: {', '.join(KEYS)}).")
    if not any(key in told for key in _FLYTEKIT_KEYS):
        return told
    told = _translated(told)
    data = told.pop("data", None) or {}
    told.setdefault("timeout", told.pop("timeout_sec", 10))
    if str(told.get("method")).upper() == "GET":
        told["params"] = data
    else:
        told["json"] = data
    return {**told, "data": data}


def _translated(value: Any) -> Any:
    match value:
        case str():
            return _FLYTEKIT_PLACEHOLDER.sub(r"{{.inputs.\1}}", value)
        case list():
            return [_translated(one) for one in value]
        case dict():
            return {key: _translated(one) for key, one in value.items()}
    return value


def _url(config: Mapping[str, Any], task: Task, others: Mapping[str, str], named: list[str]) -> str:
    """The address, with the query parameters. An input is one part of it, unless it is all of it."""
    told = config.get("url")
    if isinstance(told, Mapping):
        url = _credential(told, "config.url", task, named)
    elif isinstance(told, str) and told:
        is_input = re.fullmatch(r"\s*\{\{[^{}]*\}\}\s*", told)
        quoted = render(told, task.inputs, others, lambda _, value: quote(text_of(value), safe=""))
        url = render(told, task.inputs, others).strip() if is_input else quoted
    else:
        raise Fail("config.url: a webhook task needs an address, `https://...`.")
    params = config.get("params") or {}
    if not isinstance(params, Mapping):
        raise Fail("config.params must map names to values.")
    if params:
        filled = render_value(dict(params), task.inputs, others)
        pairs = urlencode({name: _texts(value) for name, value in filled.items()}, doseq=True)
        address, _, fragment = url.partition("#")
        url = f"{address}{'&' if '?' in address else '?'}{pairs}" + (f"#{fragment}" if fragment else "")
    return url


def _texts(value: Any) -> str | list[str]:
    return [text_of(one) for one in value] if isinstance(value, list) else text_of(value)


def _address(url: str) -> Address:
    try:
        return address_of(url)
    except ValueError as exc:
        raise Fail(f"config.url: {exc}.") from None


def _port(url: str) -> int:
    return 443 if _is_encrypted(url) else 80


def _is_encrypted(url: str) -> bool:
    return url.lower().startswith("https:")


def _headers(
    config: Mapping[str, Any], task: Task, others: Mapping[str, str], named: list[str]
) -> list[tuple[str, str]]:
    told = config.get("headers") or {}
    if not isinstance(told, Mapping):
        raise Fail("config.headers must map names to texts.")
    headers = []
    for name, value in told.items():
        path = f"config.headers.{name}"
        if not _HEADER_NAME.match(name) or name.lower() in _OURS:
            raise Fail(f"{path}: not a header that a task may set.")
        if isinstance(value, Mapping):
            text = _credential(value, path, task, named)
        elif isinstance(value, str):
            text = render(value, task.inputs, others)
        else:
            raise Fail(f'{path}: a header is a text or {{"secret": NAME}}, not {value!r}.')
        if name.lower() in _TELLING:
            hide(text.rpartition(" ")[2], passing=True)
        if not HEADER_VALUE.match(text):
            raise Fail(f"{path}: the value has characters that a header cannot have.")
        headers.append((name, text))
    return headers


def _credential(told: Mapping[str, Any], path: str, task: Task, named: list[str]) -> str:
    """The value of a named secret: of the task's connection, else of this service. Its name is noted."""
    name, group, prefix = told.get("secret"), told.get("group"), told.get("prefix", "")
    unknown = [key for key in told if key not in ("secret", "group", "prefix")]
    if unknown or not isinstance(name, str) or not name or not isinstance(prefix, str):
        raise Fail(f'{path}: write {{"secret": NAME}}, with "group" and "prefix" if need be.')
    named.append(f"{group}/{name}" if group else name)
    if task.connection is not None and not group and name in task.connection.secrets:
        value = task.connection.secrets[name]
        hide(value, passing=True)
        return prefix + value
    try:
        return prefix + secret(name, group=group)
    except UsageError as exc:
        raise Fail(str(exc), code="SecretMissing") from exc


def _check_credential(name: str, credentials: Credentials, destinations: Destinations, to: Address, agent: str) -> None:
    """A secret goes only where the operator said that it may."""
    if not credentials.get(name, _NOWHERE).includes(to.host, to.port):
        raise Fail(
            f"The secret {name!r} may not be sent to {to.host}; an operator may allow it in the {agent} agent's "
            "`credentials`.",
            code="CredentialNotAllowed",
        )
    if not to.encrypted and not destinations.is_private_host(to.host, to.port):
        raise Fail(f"The secret {name!r} is not sent without encryption; use https.", code="CredentialNotAllowed")


def _content(config: Mapping[str, Any], task: Task, others: Mapping[str, str], method: str) -> tuple[bytes | None, str]:
    """The body and its type."""
    if config.get("json") is not None and config.get("body"):
        raise Fail("config: a request has `json` or `body`, not both.")
    if config.get("json") is not None:
        filled = to_json(render_value(config["json"], task.inputs, others))
        return json.dumps(filled, separators=(",", ":"), ensure_ascii=False).encode(), "application/json"
    body = config.get("body")
    if body is None or body == "":
        return (b"" if method in ("POST", "PUT", "PATCH") else None), ""
    if not isinstance(body, str):
        raise Fail("config.body must be a text; use `json` for other values.")
    return render(body, task.inputs, others).encode(), "text/plain; charset=utf-8"


def _expected(config: Mapping[str, Any]) -> tuple[int, ...]:
    told = config.get("expected") or []
    if not isinstance(told, list) or not all(
        isinstance(one, (int, float)) and 100 <= one <= 599 and one == int(one) for one in told
    ):
        raise Fail("config.expected must be a list of HTTP statuses.")
    return tuple(int(one) for one in told)


def _number(config: Mapping[str, Any], key: str, default: float, *, least: float = 0, most: float = 86400) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise Fail(f"config.{key} must be a number from {least:g} to {most:g}, not {value!r}.")
    return float(value)
