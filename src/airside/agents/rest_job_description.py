"""A REST job service in a file: what to ask it, and where its answers say what. Checked when it is read."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from airside.agents.placeholders import PLACEHOLDER
from airside.model import MissingExtra, Phase, UsageError
from airside.sdk.hosts import address_of
from airside.sdk.options import read_options

ENDINGS = (".toml", ".yaml", ".yml")

PhaseName = Literal[
    "QUEUED",
    "WAITING_FOR_RESOURCES",
    "INITIALIZING",
    "RUNNING",
    "SUCCEEDED",
    "FAILED",
    "RETRYABLE_FAILED",
    "ABORTED",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """How the service knows the caller: a header with a secret in it.

    secret: the name of the secret, `name` or `group/name`; a connection's secret of that name comes first.
    user: with it, the secret is the password of HTTP's basic authentication.
    """

    secret: str
    header: str = "Authorization"
    prefix: str = "Bearer "
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. Placeholders may stand in `path`, `query`, `headers`, `json` and `body`."""

    path: str
    method: str = "GET"
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    json: Any = None
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Request):
    """The request that starts a job.

    id: a JSONPath into the answer (`$.id`), or a text with placeholders if the caller names its jobs (`job-{{.key}}`).
    idempotent: the service makes one job for one `{{.key}}`, however often it is asked.
    exists: the statuses that say that it has this job already.
    """

    method: str = "POST"
    id: str
    idempotent: bool = False
    exists: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Get(Request):
    """The request that asks for a job. `state`, `message`, `link` and `outputs` are JSONPaths into the answer."""

    state: str
    states: dict[str, PhaseName]
    message: str = ""
    link: str = ""
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Many(Request):
    """The request that asks for many jobs.

    `{{.ids}}` is their ids with commas; `jobs` is a JSONPath to each of them, `id` one from there to its id.
    """

    jobs: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Find(Request):
    """The request that looks a job up by `{{.key}}`; `id` is a JSONPath that finds nothing if there is none."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Request):
    """A request for the outputs of a job that has succeeded, where `get` does not tell them."""

    outputs: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Request):
    """The request that cancels a job."""

    method: str = "DELETE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A service: where it is, and its requests.

    task_type: the task type that it serves. name: of the agent; default: the task type.
    link: the address of a job's page for people, with placeholders.
    error: a JSONPath to the words of an answer that is an error.
    timeout, poll_interval: seconds for one request, and between two polls.
    probe: a request that costs nothing and shows that the service is there and knows the caller.
    """

    base_url: str
    create: Create
    get: Get
    delete: Delete
    task_type: str = "rest_job"
    name: str = ""
    auth: Auth | None = None
    many: Many | None = None
    find: Find | None = None
    result: Result | None = None
    logs: Request | None = None
    probe: Request | None = None
    link: str = ""
    error: str = ""
    timeout: float = 20.0
    poll_interval: float = 10.0
    max_response_bytes: int = 4 * 1024 * 1024


_ALWAYS = ("key", "outputprefix")
_BEFORE = (*_ALWAYS, "inputs", "config")
_FILLED = ("path", "query", "headers", "json", "body")
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "create": _BEFORE,
    "find": _BEFORE,
    "get": ("id",),
    "result": ("id",),
    "delete": ("id",),
    "logs": ("id",),
    "many": ("ids",),
    "probe": (),
    "link": (*_ALWAYS, "id"),
}
_PATHS = ("state", "message", "link", "jobs", "id", "error")


def read_description(path: Path) -> Description:
    """The description in a TOML or YAML file. Raises `UsageError`, which names the file and the key."""
    table = _read(path)
    try:
        described: Description = read_options(Description, table, "?")
        _check(described)
    except UsageError as exc:
        raise UsageError(f"{path}: {str(exc).removeprefix('?.').removeprefix('?: ')}") from None
    return described


def compiled(described: Description) -> Mapping[str, Any]:
    """Every JSONPath of a description, by its text. Raises `UsageError` for one that is none."""
    import jsonpath

    found: dict[str, Any] = {}
    for where, text in _json_paths(described):
        if not is_path(text):
            raise UsageError(f"{where}: {text!r} is not a JSONPath: it begins with $, as in $.{text}")
        try:
            found[text] = jsonpath.compile(text)
        except jsonpath.JSONPathError as exc:
            raise UsageError(f"{where}: {text!r} is not a JSONPath: {' '.join(str(exc).split())}") from None
    return found


def is_path(text: str) -> bool:
    """True for a JSONPath, false for a text."""
    return text.startswith("$")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}.") from None
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise UsageError(f"{path} is not TOML: {exc}.") from None
    try:
        import yaml
    except ImportError:
        raise MissingExtra("rest_job", f"Reading {path}") from None
    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise UsageError(f"{path} is not YAML: {' '.join(str(exc).split())}.") from None
    if not isinstance(table, dict):
        raise UsageError(f"{path} must be a table of keys.")
    named: dict[str, Any] = _with_text_keys(table)
    return named


def _with_text_keys(value: Any) -> Any:
    """YAML reads some states as numbers or true; their texts are meant."""
    match value:
        case dict():
            return {_as_text(key): _with_text_keys(one) for key, one in value.items()}
        case list():
            return [_with_text_keys(one) for one in value]
    return value


def _as_text(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _check(described: Description) -> None:
    for problem in (*_problems(described), *_request_problems(described), *_placeholder_problems(described)):
        raise UsageError(problem)
    compiled(described)


def _problems(described: Description) -> Iterator[str]:
    """What is wrong with the description as a whole."""
    create, find = described.create, described.find
    try:
        address_of(described.base_url)
    except ValueError as exc:
        yield f"base_url: {exc}"
    phases = {Phase[name] for name in described.get.states.values()}
    if Phase.SUCCEEDED not in phases:
        yield 'get.states: no state means "SUCCEEDED"'
    if not any(phase.is_failure for phase in phases):
        yield 'get.states: no state means "FAILED", "RETRYABLE_FAILED" or "ABORTED"'
    for name in ("timeout", "poll_interval", "max_response_bytes"):
        if not getattr(described, name) > 0:
            yield f"{name}: must be above 0"
    if create.idempotent and not _mentions_key(create):
        yield "create.idempotent: nothing in the request names {{.key}}, so the service cannot tell"
    if find is not None and not _mentions_key(find):
        yield "find: nothing in the request names {{.key}}"
    if create.exists and is_path(create.id):
        yield "create.exists: needs an id that the caller chooses, such as 'job-{{.key}}'"


def _request_problems(described: Description) -> Iterator[str]:
    for where, request in _requests(described):
        if not request.path.startswith("/"):
            yield f"{where}.path: must begin with /"
        if request.json is not None and request.body:
            yield f"{where}: a request has json or body, not both"


def _requests(described: Description) -> Iterator[tuple[str, Request]]:
    for entry in dataclasses.fields(described):
        value = getattr(described, entry.name)
        if isinstance(value, Request):
            yield entry.name, value


def _json_paths(described: Description) -> Iterator[tuple[str, str]]:
    """Every JSONPath with the key that it stands at; an id and a link may be texts instead."""
    for where, request in _requests(described):
        for name in _PATHS:
            text = getattr(request, name, "")
            if text and (is_path(text) or not (where == "create" and name == "id")):
                yield f"{where}.{name}", text
        for name, text in getattr(request, "outputs", {}).items():
            yield f"{where}.outputs.{name}", text
    if described.error:
        yield "error", described.error


def _placeholder_problems(described: Description) -> Iterator[str]:
    texts = [("link", described.link)] if described.link else []
    if not is_path(described.create.id):
        texts.append(("create.id", described.create.id))
    for where, request in _requests(described):
        texts += [(f"{where}.{name}", text) for name in _FILLED for text in _texts(getattr(request, name))]
    for where, text in texts:
        known = _KNOWN[where.partition(".")[0]]
        for placeholder in PLACEHOLDER.finditer(text):
            scope, dot, _ = placeholder[1].lower().partition(".")
            if scope not in known or (scope in ("inputs", "config")) != bool(dot):
                told = ", ".join(f"{{{{.{one}}}}}" for one in known) or "none"
                yield f"{where}: {placeholder[0]} is not known there (known: {told})"


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for one in value.values():
                yield from _texts(one)
        case list():
            for one in value:
                yield from _texts(one)


def _mentions_key(request: Request) -> bool:
    texts = [text for name in (*_FILLED, "id") for text in _texts(getattr(request, name, ""))]
    return any(match[1].lower() == "key" for text in texts for match in PLACEHOLDER.finditer(text))


assert set(typing.get_args(PhaseName)) <= {phase.name for phase in Phase}  # noqa: S101 - one vocabulary
