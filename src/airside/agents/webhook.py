"""`webhook`: a task that is one HTTP request, and `WebhookTask` to write one.

Every 2xx is success. A request goes to hosts on the internet only, unless an operator allows others; redirects
are not followed. Credentials are named in the task and read by the service, and each goes to the hosts that the
operator wrote beside its name, to no others.

Tasks of flytekit's `WebhookTask` run as they are (`data`, `timeout_sec`, `show_data`, `show_url`, `{inputs.x}`,
the output `info`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airside.agents.destinations import Destinations
from airside.agents.http_answer import judge
from airside.agents.http_request import HttpRequest, prepare
from airside.agents.http_sending import HttpSender
from airside.agents.json_values import kind_of
from airside.model import Phase, Resource, Retry, Task, TaskTemplate, UsageError
from airside.model.redaction import redact
from airside.sdk.agent import SyncAgent
from airside.sdk.hosts import HostAllowList

if TYPE_CHECKING:
    import httpx2

_LONGEST_DELAY = 300.0  # seconds between two tries, also if the server asks for more


@dataclass(frozen=True, kw_only=True)
class WebhookTask(TaskTemplate):
    """A task that sends one HTTP request.

    url: where to, `https://...`, or `{"secret": NAME}` if the address itself is a secret.
    headers: by name; a value is a text or `{"secret": NAME, "group": GROUP, "prefix": "Bearer "}`.
    params, json, body: query parameters, a JSON body, or a text body.
    expected: the statuses that are success; empty: every 2xx.
    request_timeout: seconds for one request. request_retries: further requests after a status 408, 425, 429 or
    5xx or a network error; backoff: seconds before the first of them, doubled each time, unless the answer's
    Retry-After says more.

    `{{.inputs.NAME}}` stands for an input in any text; a text in `json` that is only that becomes the input's
    value. `{{.perRetryUniqueKey}}` names this attempt, for a header `Idempotency-Key`.

    An output gets, by its name: `status`, `body` (text), `json`, `headers`, or a field of the JSON answer.

    >>> from airside import kwtypes
    >>> task = WebhookTask(
    ...     name="open_ticket", url="https://tickets.example.org/api", json={"title": "{{.inputs.title}}"},
    ...     headers={"Authorization": {"secret": "tickets", "prefix": "Bearer "}},
    ...     inputs=kwtypes(title=str), outputs=kwtypes(status=int, id=int),
    ... )
    >>> task.config["json"]
    {'title': '{{.inputs.title}}'}
    """

    task_type: str = "webhook"
    url: str | Mapping[str, str] = ""
    method: str = "POST"
    headers: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    body: str = ""
    expected: Sequence[int] = ()
    request_timeout: float = 30.0
    request_retries: int = 0
    backoff: float = 1.0
    outputs: Mapping[str, Any] = field(default_factory=lambda: {"status": int, "body": str})

    def __post_init__(self) -> None:
        if not self.url:
            raise UsageError(f"Task {self.name!r} needs a url.")
        told = {
            "url": self.url,
            "method": self.method,
            "headers": dict(self.headers),
            "params": dict(self.params),
            "body": self.body,
            "expected": list(self.expected),
            "retries": self.request_retries,
        }
        config: dict[str, Any] = {key: value for key, value in told.items() if value}
        config |= {"timeout": self.request_timeout, "backoff": self.backoff}
        if self.json is not None:
            config["json"] = self.json
        object.__setattr__(self, "config", {**self.config, **config})
        super().__post_init__()


class WebhookAgent(SyncAgent):
    """Sends the request of a task and answers with the response."""

    name = "webhook"
    task_type = "webhook"
    create_timeout = 900.0
    requires = MappingProxyType({"httpx2": "webhook"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where requests may go.

        hosts: the hosts that may be called: `api.example.org`, `*.example.org`, `api.example.org:8443`. Default: all.
        private_hosts: hosts, addresses and networks (`10.1.0.0/16`) that may be called although they are not on
            the internet. Default: none, which also keeps tasks from the cloud's metadata service.
        credentials: the secrets that tasks may use, each with the hosts that it may be sent to; a secret of a
            group is written `group/name`. Default: none. They go over https, or to a private host.
        max_response_bytes: the largest answer that is taken.
        """

        hosts: tuple[str, ...] = ("*",)
        private_hosts: tuple[str, ...] = ()
        credentials: dict[str, tuple[str, ...]] = field(default_factory=dict)
        max_response_bytes: int = 1024 * 1024

    async def open(self, options: Options) -> None:
        self._destinations = Destinations(options.hosts, options.private_hosts)
        self._credentials = {name: HostAllowList(hosts) for name, hosts in options.credentials.items()}
        self._sender = HttpSender(self._destinations, options.max_response_bytes)

    async def do(self, task: Task) -> Resource:
        clock = asyncio.get_running_loop().time
        until = clock() + 0.9 * self.create_timeout
        request = await asyncio.to_thread(prepare, task, self._credentials, self._destinations)
        await self._sender.get_ready()
        for attempt in range(request.retries + 1):
            resource, asked = await self._try(request, task)
            delay = max(asked, request.backoff * 2**attempt * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            no_time = delay > _LONGEST_DELAY or clock() + delay > until
            if not resource.phase.is_retryable or attempt == request.retries or no_time:
                break
            await asyncio.sleep(delay)
        return resource

    async def _try(self, request: HttpRequest, task: Task) -> tuple[Resource, float]:
        """One try: what came of it, and for how many seconds the server asks to be left alone."""
        import httpx2

        who = f"{request.method} {request.host}"
        try:
            async with asyncio.timeout(request.timeout):
                answer = await self._sender.send(request)
        except (TimeoutError, httpx2.TimeoutException):
            message = f"{who}: no answer within {request.timeout:g} s"
            return Resource(Phase.RETRYABLE_FAILED, message=message, code="Timeout"), 0.0
        except Retry as exc:
            return Resource(Phase.RETRYABLE_FAILED, message=exc.message, code="NetworkError"), 0.0
        except httpx2.RequestError as exc:
            return _broken(who, exc), 0.0
        declared = {name: kind_of(annotation) for name, annotation in task.interface.outputs.items()}
        return judge(answer, request, declared), answer.retry_after or 0.0


def _broken(who: str, exc: httpx2.RequestError) -> Resource:
    """A request that the network did not carry through."""
    words = redact(" ".join(str(exc).split()) or type(exc).__name__)
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return Resource(Phase.FAILED, message=f"{who}: the server's certificate is not good: {words}", code="TlsError")
    return Resource(Phase.RETRYABLE_FAILED, message=f"{who}: {words}", code="NetworkError")
