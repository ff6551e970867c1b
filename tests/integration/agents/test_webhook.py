"""The webhook agent against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from airside import kwtypes
from airside.agents.webhook import WebhookAgent, WebhookTask
from airside.model import Connection, Fail, MissingExtra, Phase, UsageError
from airside.model.redaction import redact

Open = Callable[..., Awaitable[Any]]


class Handler(BaseHTTPRequestHandler):
    """`/echo` tells what it was asked; `/status/N` answers so; `/flaky/N` fails N times; others do what they say."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        del format, args

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        place, query = urlsplit(self.path).path, dict(parse_qsl(urlsplit(self.path).query))
        self.server.asked.append((place, time.monotonic()))
        told = {"method": self.command, "path": self.path, "query": query, "body": body, "headers": dict(self.headers)}
        match place.strip("/").split("/"):
            case ["status", status]:
                self.say(int(status), "no such\nticket" if status == "404" else "")
            case ["flaky", count] if len(self.server.asked) <= int(count):
                self.say(503, "busy", **query)
            case ["slow"]:
                self.server.released.wait(5)
                self.say(200, "late")
            case ["big"]:
                self.say(200, "x" * 50_000)
            case ["moved"]:
                self.say(302, "", Location="http://169.254.169.254/latest")
            case ["cut"]:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            case ["ticket"]:
                at = "2024-01-02T03:04:05+00:00"
                self.say(201, json.dumps({"id": 7, "at": at, "ratio": 0.5}), **{"Set-Cookie": "session=abc"})
            case _:
                self.say(200, json.dumps(told))

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = answer

    def say(self, status: int, text: str, **headers: str) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, float]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture
async def hook(open_agent: Open) -> Any:
    return await open_agent(WebhookAgent(), private_hosts=["127.0.0.1"], max_response_bytes=40_000)


async def run(hook: Any, task: WebhookTask, **inputs: Any) -> Any:
    return await hook.do(task.config, inputs=task.complete(inputs), outputs=task.outputs, key="k" * 32)


# -- requests and answers


async def test_a_request_is_sent_as_the_task_says(hook: Any, server: Server) -> None:
    task = WebhookTask(
        name="t",
        url=server.url + "/echo/{{.inputs.who}}",
        headers={"X-Run": "run-{{.inputs.n}}", "Idempotency-Key": "{{.perRetryUniqueKey}}"},
        params={"day": "{{.inputs.day}}", "tag": ["a", "b&c"]},
        json={"n": "{{.inputs.n}}", "text": "n is {{.inputs.n}}", "all": ["{{.inputs.names}}"]},
        inputs=kwtypes(who=str, n=int, day=datetime, names=list[str]),
        outputs=kwtypes(status=int, json=dict, headers=dict, method=str),
    )
    resource = await run(hook, task, who="a/../b?c", n=3, day=datetime(2024, 1, 2, tzinfo=UTC), names=["x"])
    assert resource.phase is Phase.SUCCEEDED, resource
    outputs = resource.outputs
    assert (outputs["status"], outputs["method"]) == (200, "POST")
    told = outputs["json"]
    assert told["path"] == "/echo/a%2F..%2Fb%3Fc?day=2024-01-02T00%3A00%3A00%2B00%3A00&tag=a&tag=b%26c"
    assert json.loads(told["body"]) == {"n": 3, "text": "n is 3", "all": [["x"]]}
    headers = told["headers"]
    assert headers["Host"] == f"127.0.0.1:{server.server_port}"
    assert (headers["X-Run"], headers["Idempotency-Key"]) == ("run-3", "k" * 32)
    assert headers["Content-Type"] == "application/json"


async def test_a_header_may_be_more_than_ascii(hook: Any, server: Server) -> None:
    headers = {"X-Tail": "{{.inputs.tail}}"}
    task = WebhookTask(name="t", url=server.url, headers=headers, inputs=kwtypes(tail=str), outputs=kwtypes(json=dict))
    resource = await run(hook, task, tail="caf\u00e9")
    assert resource.outputs["json"]["headers"]["X-Tail"] == "caf\u00e9"


async def test_the_whole_address_may_be_an_input(hook: Any, server: Server) -> None:
    task = WebhookTask(
        name="t", url="{{.inputs.url}}", method="GET", inputs=kwtypes(url=str), outputs=kwtypes(path=str)
    )
    assert (await run(hook, task, url=f"{server.url}/echo?a=1")).outputs == {"path": "/echo?a=1"}


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_success(hook: Any, server: Server, status: int) -> None:
    task = WebhookTask(name="t", url=f"{server.url}/status/{status}")
    assert (await run(hook, task)).outputs == {"status": status, "body": ""}


async def test_fields_of_the_answer_are_outputs(hook: Any, server: Server) -> None:
    declared = kwtypes(status=int, id=int, at=datetime, ratio=float, note=str | None, headers=dict)
    resource = await run(hook, WebhookTask(name="t", url=f"{server.url}/ticket", outputs=declared))
    headers = resource.outputs.pop("headers")
    at = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert resource.outputs == {"status": 201, "id": 7, "at": at, "ratio": 0.5, "note": None}
    assert headers["content-length"]
    assert "set-cookie" not in headers


@pytest.mark.parametrize(
    ("place", "more", "phase", "code", "message"),
    [
        ("/status/404", {}, Phase.FAILED, "Http404", "POST 127.0.0.1 answered 404 Not Found: no such ticket"),
        ("/status/400", {}, Phase.FAILED, "Http400", "answered 400 Bad Request"),
        ("/status/429", {}, Phase.RETRYABLE_FAILED, "Http429", "answered 429 Too Many Requests"),
        ("/status/503", {}, Phase.RETRYABLE_FAILED, "Http503", "answered 503 Service Unavailable"),
        ("/status/200", {"expected": [404]}, Phase.FAILED, "Http200", "answered 200 OK"),
        ("/moved", {}, Phase.FAILED, "Redirect", "to http://169.254.169.254/latest: redirects are not followed"),
        ("/big", {}, Phase.FAILED, "ResponseTooLarge", "max_response_bytes"),
        ("/slow", {"request_timeout": 0.2}, Phase.RETRYABLE_FAILED, "Timeout", "no answer within 0.2 s"),
        ("/cut", {}, Phase.RETRYABLE_FAILED, "NetworkError", "POST 127.0.0.1: "),
        ("/big", {"outputs": kwtypes(json=dict)}, Phase.FAILED, "ResponseTooLarge", ""),
        ("/status/200", {"outputs": kwtypes(json=dict)}, Phase.FAILED, "NotJson", "did not answer with JSON"),
        ("/ticket", {"outputs": kwtypes(name=str)}, Phase.FAILED, "OutputsNotFound", "'name' is neither status"),
        ("/ticket", {"outputs": kwtypes(id=datetime)}, Phase.FAILED, "OutputConversionError", "outputs.id: expected"),
    ],
)
async def test_failures_are_told_apart(
    hook: Any, server: Server, place: str, more: dict[str, Any], phase: Phase, code: str, message: str
) -> None:
    resource = await run(hook, WebhookTask(name="t", url=server.url + place, **more))
    assert (resource.phase, resource.code) == (phase, code), resource
    assert message in resource.message
    assert "\n" not in resource.message


async def test_an_unexpected_status_may_be_expected(hook: Any, server: Server) -> None:
    task = WebhookTask(name="t", url=f"{server.url}/status/404", expected=[404, 200], outputs=kwtypes(status=int))
    assert (await run(hook, task)).outputs == {"status": 404}


async def test_nobody_listening_may_be_tried_again(hook: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        resource = await run(hook, WebhookTask(name="t", url=f"http://127.0.0.1:{taken.getsockname()[1]}/"))
    assert (resource.phase, resource.code) == (Phase.RETRYABLE_FAILED, "NetworkError")


# -- retries


async def test_retries_as_told_with_growing_pauses(hook: Any, server: Server) -> None:
    task = WebhookTask(name="t", url=f"{server.url}/flaky/2", request_retries=3, backoff=0.05)
    assert (await run(hook, task)).outputs["status"] == 200
    first, second, third = (at for _, at in server.asked)
    assert second - first > 0.03
    assert third - second > 0.07


async def test_the_servers_own_pause_is_kept(hook: Any, server: Server) -> None:
    task = WebhookTask(name="t", url=f"{server.url}/flaky/1?Retry-After=1", request_retries=1, backoff=0.0)
    assert (await run(hook, task)).outputs["status"] == 200
    assert server.asked[1][1] - server.asked[0][1] >= 1.0


async def test_a_pause_that_is_too_long_ends_the_tries(hook: Any, server: Server) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1)).replace(" ", "%20").replace("+", "%2B")
    task = WebhookTask(name="t", url=f"{server.url}/flaky/9?Retry-After={later}", request_retries=5)
    resource = await run(hook, task)
    assert (resource.phase, len(server.asked)) == (Phase.RETRYABLE_FAILED, 1)


async def test_retries_come_to_an_end_and_a_permanent_failure_has_none(hook: Any, server: Server) -> None:
    task = WebhookTask(name="t", url=f"{server.url}/status/500", request_retries=2, backoff=0.001)
    assert (await run(hook, task)).code == "Http500"
    assert len(server.asked) == 3
    await run(hook, WebhookTask(name="t", url=f"{server.url}/status/404", request_retries=2, backoff=0.001))
    assert len(server.asked) == 4


# -- where requests may go


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[::127.0.0.1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fec0::1]",
        "[fd00::1]",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "192.0.0.8",
        "224.0.0.1",
    ],
)
async def test_no_request_goes_inside_unless_allowed(open_agent: Open, server: Server, host: str) -> None:
    hook = await open_agent(WebhookAgent())
    with pytest.raises(Fail, match="is not on the internet; an operator may allow it") as refused:
        await run(hook, WebhookTask(name="t", url=f"http://{host}:{server.server_port}/echo"))
    assert refused.value.code == "HostNotAllowed"
    assert server.asked == []


@pytest.mark.parametrize("allowed", ["127.0.0.0/8", "127.0.0.1", "localhost", "*"])
async def test_an_operator_may_allow_places_inside(open_agent: Open, server: Server, allowed: str) -> None:
    hook = await open_agent(WebhookAgent(), private_hosts=[allowed, "::1"])
    task = WebhookTask(
        name="t", url=f"http://localhost:{server.server_port}/echo", outputs=kwtypes(headers=dict, json=dict)
    )
    resource = await run(hook, task)
    assert resource.outputs["json"]["headers"]["Host"] == f"localhost:{server.server_port}"


async def test_an_operator_may_narrow_the_hosts(open_agent: Open) -> None:
    hook = await open_agent(WebhookAgent(), hosts=["*.example.org"])
    with pytest.raises(Fail, match=r"The host example\.com is not among the webhook agent's `hosts`"):
        await run(hook, WebhookTask(name="t", url="https://example.com/"))


async def test_a_name_server_cannot_change_its_mind(
    open_agent: Open, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the address that was checked, and a name with one bad address is refused."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in ("rebinding.test", "both.test"):
            return real(host, *args, **kwargs)
        asked.append(host)
        first = real("127.0.0.1", *args, **kwargs)
        return first if len(asked) == 1 else first + real("10.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    hook = await open_agent(WebhookAgent(), private_hosts=["127.0.0.1"])
    task = WebhookTask(name="t", url=f"http://rebinding.test:{server.server_port}/echo")
    assert (await run(hook, task)).phase is Phase.SUCCEEDED
    assert asked == ["rebinding.test"]
    with pytest.raises(Fail, match=r"The host both.test has the address 10\.0\.0\.1"):
        await run(hook, WebhookTask(name="t", url=f"http://both.test:{server.server_port}/echo"))
    assert len(server.asked) == 1


async def test_the_next_address_is_tried_if_one_does_not_answer(
    open_agent: Open, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "two.test":
            return real(host, *args, **kwargs)
        return real("127.0.0.2", *args, **kwargs) + real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    hook = await open_agent(WebhookAgent(), private_hosts=["two.test"])
    assert (
        await run(hook, WebhookTask(name="t", url=f"http://two.test:{server.server_port}/"))
    ).phase is Phase.SUCCEEDED


# -- credentials


@pytest.fixture
async def trusted(open_agent: Open, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("_FSEC_TICKETS", "s3cr3t-ticket-token")
    monkeypatch.setenv("_FSEC_OPS_PAGER", "s3cr3t-pager-token")
    credentials = {"tickets": ["127.0.0.1"], "ops/pager": ["*.example.org"]}
    return await open_agent(WebhookAgent(), private_hosts=["127.0.0.1"], credentials=credentials)


async def test_a_credential_is_sent_where_it_may_go_and_shown_nowhere(trusted: Any, server: Server) -> None:
    headers: dict[str, Any] = {"Authorization": {"secret": "tickets", "prefix": "Bearer "}}
    task = WebhookTask(name="t", url=f"{server.url}/echo", headers=headers, outputs=kwtypes(body=str, json=dict))
    resource = await run(trusted, task)
    assert resource.outputs["json"]["headers"]["Authorization"] == "Bearer ***"
    assert "s3cr3t" not in str(resource)
    assert "s3cr3t" not in str(task.config)


@pytest.mark.parametrize(
    ("url", "secret", "message"),
    [
        ("http://127.0.0.2/", {"secret": "tickets"}, "'tickets' may not be sent to 127.0.0.2"),
        ("http://127.0.0.1/", {"secret": "pager", "group": "ops"}, "'ops/pager' may not be sent to 127.0.0.1"),
        ("http://api.example.org/", {"secret": "pager", "group": "ops"}, "not sent without encryption"),
        ("https://127.0.0.1/", {"secret": "PATH"}, "Secret 'PATH' is missing"),
        ("https://127.0.0.1/", {"secret": "tickets", "to": "x"}, r"config.headers.X-Key: write \{\"secret\": NAME\}"),
    ],
)
async def test_a_credential_goes_nowhere_else(trusted: Any, url: str, secret: dict[str, str], message: str) -> None:
    with pytest.raises(Fail, match=message):
        await run(trusted, WebhookTask(name="t", url=url, headers={"X-Key": secret}))


async def test_no_credential_goes_anywhere_by_default(
    hook: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FSEC_TICKETS", "s3cr3t-ticket-token")
    with pytest.raises(Fail, match=r"may not be sent to 127\.0\.0\.1") as refused:
        await run(hook, WebhookTask(name="t", url=server.url, headers={"X-Key": {"secret": "tickets"}}))
    assert refused.value.code == "CredentialNotAllowed"
    assert server.asked == []


async def test_an_address_may_be_a_secret(trusted: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_TICKETS", f"{server.url}/status/404?token=s3cr3t")
    resource = await run(trusted, WebhookTask(name="t", url={"secret": "tickets"}))
    assert resource.code == "Http404"
    assert "s3cr3t" not in resource.message


async def test_the_secrets_of_a_connection_come_first(trusted: Any, server: Server) -> None:
    config = {"url": f"{server.url}/echo", "headers": {"X-Key": {"secret": "tickets"}}, "secrets": {"tickets": "name"}}
    connection = Connection(secrets={"tickets": "the-connections-own"})
    resource = await trusted.do(config, outputs=kwtypes(json=dict), connection=connection)
    assert resource.outputs["json"]["headers"]["X-Key"] == "***"
    assert redact("the-connections-own") == "***"


async def test_tls_is_checked_for_the_host_and_not_for_its_address(
    open_agent: Open, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -keyout key.pem -out cert.pem -subj /CN=localhost"
    alt = ["-addext", "subjectAltName=DNS:localhost"]
    await asyncio.to_thread(subprocess.run, [*command.split(), *alt], cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    distrustful = await open_agent(WebhookAgent(), private_hosts=["127.0.0.1", "::1"])
    url = f"https://localhost:{server.server_port}/echo"
    resource = await run(distrustful, WebhookTask(name="t", url=url))
    assert (resource.phase, resource.code) == (Phase.FAILED, "TlsError"), resource
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    trusting = await open_agent(WebhookAgent(), private_hosts=["127.0.0.1", "::1"])
    assert (await run(trusting, WebhookTask(name="t", url=url))).phase is Phase.SUCCEEDED
    by_address = await run(trusting, WebhookTask(name="t", url=url.replace("localhost", "127.0.0.1")))
    assert by_address.code == "TlsError"


# -- mistakes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config.url: a webhook task needs an address"),
        ({"url": "ftp://example.org/"}, "must begin with https:// or http://"),
        ({"url": "https://"}, "must begin with https:// or http://"),
        ({"url": "https://example.org:99999/"}, "not a valid address"),
        ({"url": "https://user:hunter2@example.org/"}, "no user and password in an address"),
        ({"url": "https://example.org\\@127.0.0.1/"}, "no spaces, backslashes"),
        ({"url": "https://{{.inputs.a}}/"}, "asks for the input 'a'"),
        ({"url": "https://example.org", "methd": "GET"}, "config.methd: a webhook task knows no such key"),
        ({"url": "https://example.org", "method": "G T"}, "'G T' is no HTTP method"),
        ({"url": "https://example.org", "headers": {"Host": "a"}}, "config.headers.Host: not a header that a task"),
        ({"url": "https://example.org", "headers": {"X": "a\nB: c"}}, "characters that a header cannot have"),
        ({"url": "https://example.org", "headers": {"X": 1}}, "config.headers.X: a header is a text"),
        ({"url": "https://example.org", "headers": ["X"]}, "config.headers must map names to texts"),
        ({"url": "https://example.org", "params": "a"}, "config.params must map names to values"),
        ({"url": "https://example.org", "json": 1, "body": "a"}, "`json` or `body`, not both"),
        ({"url": "https://example.org", "body": {}, "expected": [1]}, "config.body must be a text|config.expected"),
        ({"url": "https://example.org", "expected": [99]}, "config.expected must be a list of HTTP statuses"),
        ({"url": "https://example.org", "timeout": 0}, "config.timeout must be a number from 0.001"),
        ({"url": "https://example.org", "retries": 1000}, "config.retries must be a number from 0 to 100"),
    ],
)
async def test_a_wrong_config_fails_with_a_sentence(hook: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(Fail, match=message):
        await hook.do(config)


async def test_a_host_that_is_not_there(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(errors.pop(), "name server says no")

    errors = [socket.EAI_AGAIN, socket.EAI_NONAME]
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    task = WebhookTask(name="t", url="https://nowhere.example.org/")
    with pytest.raises(Fail, match=r"There is no host nowhere\.example\.org"):
        await run(hook, task)
    resource = await run(hook, task)
    assert (resource.phase, resource.code) == (Phase.RETRYABLE_FAILED, "NetworkError")


async def test_wrong_options_and_a_missing_library(open_agent: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"'10\.0\.0\.0/99' is neither a host, nor an address, nor a network"):
        await open_agent(WebhookAgent(), private_hosts=["10.0.0.0/99"])
    with pytest.raises(UsageError, match=r"agents\.webhook\.credentials\.a: expected a list, got 'b'"):
        await open_agent(WebhookAgent(), credentials={"a": "b"})
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtra, match=r"^The webhook agent needs .*: pip install 'airside\[webhook\]'$"):
        await open_agent(WebhookAgent())
    with pytest.raises(UsageError, match="Task 't' needs a url"):
        WebhookTask(name="t")


# -- flytekit's own tasks


async def test_tasks_of_flytekit_run_as_they_are(hook: Any, server: Server) -> None:
    config = {
        "url": server.url + "/items/{inputs.item_id}",
        "method": "GET",
        "headers": {"Content-Type": "application/json"},
        "data": {"q": "{inputs.s}"},
        "show_data": True,
        "show_url": True,
        "timeout_sec": 10,
    }
    resource = await hook.do(config, inputs={"s": "a b", "item_id": 10}, outputs={"info": dict})
    info = resource.outputs["info"]
    assert info["status_code"] == 200
    assert json.loads(info["response_data"])["path"] == "/items/10?q=a+b"
    assert (info["input_data"], info["url"]) == ({"q": "a b"}, f"{server.url}/items/10?q=a+b")
    posted = await hook.do(
        {**config, "method": "POST", "show_url": False}, inputs={"s": "x", "item_id": 1}, outputs={"info": dict}
    )
    assert json.loads(json.loads(posted.outputs["info"]["response_data"])["body"]) == {"q": "x"}
    assert "url" not in posted.outputs["info"]
