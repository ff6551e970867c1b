"""`anthropic-batch`: a task that is a message batch of Anthropic, and `AnthropicBatchTask` to write one.

Anthropic offers neither an idempotency key nor a label for a batch, so a create whose answer is lost, by a crash or on
the way, cannot be found again: such an attempt may make a second batch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import IO, Any
from urllib.parse import quote

from airside.agents.api_accounts import Account, Vendor, http_library
from airside.agents.batches import (
    Batch,
    BatchAgent,
    BatchTask,
    Told,
    config_of,
    patience,
)
from airside.model import Fail, LogLink, Phase, Task

ANTHROPIC = Vendor(
    name="Anthropic",
    hosts=("api.anthropic.com",),
    base_url="https://api.anthropic.com",
    key_secret="FLYTE_ANTHROPIC_API_KEY",  # noqa: S106 - a name
    connection_keys=("anthropic_api_key", "api_key"),
)
STATES: Mapping[str, Phase] = {
    "in_progress": Phase.RUNNING,
    "canceling": Phase.RUNNING,
    "ended": Phase.SUCCEEDED,
}
"""Processing status → phase; the counts of an ended batch say more."""

_ENDS = ("succeeded", "errored", "canceled", "expired")
_BATCHES = "/v1/messages/batches"
_REQUEST_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class AnthropicBatchTask(BatchTask):
    """A batch of messages to a model of Anthropic.

    config: what every request has that does not say otherwise: `model`, `max_tokens`, `system` and so on.
    accept_partial: a batch that expires or is cancelled is a success with the answers that it has.

    Declare one of these inputs: `input_file` (File, JSON lines) or `requests` (list[dict]), each request with a
    `custom_id` and its `params`; and any of these outputs: `result` (dict, the batch), `output_file` (File, one answer
    or error a line), `total`, `succeeded`, `errored`, `canceled`, `expired` (int).

    >>> from airside import File, kwtypes
    >>> task = AnthropicBatchTask(
    ...     name="label", config={"model": "claude-sonnet-4-5", "max_tokens": 100},
    ...     inputs=kwtypes(input_file=File), outputs=kwtypes(output_file=File, errored=int),
    ... )
    >>> task.config["config"]["max_tokens"]
    100
    """

    known_outputs = ("result", "output_file", "total", *_ENDS)

    task_type: str = "anthropic-batch"
    inputs: Mapping[str, Any] = field(default_factory=lambda: {"requests": list[dict[str, Any]]})


class AnthropicBatchAgent(BatchAgent):
    """Sends requests as a batch, watches it, and fetches the answers."""

    name = "anthropic-batch"
    task_type = "anthropic-batch"
    requires = MappingProxyType({"anthropic": "anthropic"})

    vendor = ANTHROPIC
    states = STATES
    cursor = "after_id"
    inputs = ("input_file", "requests")
    counts = ("total", *_ENDS)
    files = ("output_file",)

    def make_client(self, account: Account) -> Any:
        """A client that never repeats a call by itself: whoever drives the agent does, and heeds Retry-After."""
        import anthropic

        return anthropic.Anthropic(
            api_key=account.api_key or None, base_url=account.base_url, max_retries=0, timeout=_REQUEST_SECONDS
        )

    def sdk_errors(self) -> tuple[type[Exception], ...]:
        import anthropic

        return anthropic.AnthropicError, http_library(anthropic).HTTPError

    def links(self, job: Batch) -> Sequence[LogLink]:
        del job  # the console has one page for all
        page = "https://platform.claude.com/workspaces/default/batches"
        return [LogLink(page, "Anthropic batches")] if self.accounts.is_vendor else []

    def begin(self, client: Any, task: Task) -> str:
        import anthropic

        with self.requests(task) as lines, tempfile.TemporaryFile() as body:
            size = _write_body(body, lines, config_of(task))
            headers = {"Content-Type": "application/json", "Content-Length": str(size)}
            options = {"headers": headers, "timeout": patience(anthropic)}
            return str(
                client.post(_BATCHES, content=body, cast_to=anthropic.types.messages.MessageBatch, options=options).id
            )

    def batches(self, client: Any) -> Any:
        return client.messages.batches

    def read(self, batch: Any) -> Told:
        ends = {name: getattr(batch.request_counts, name) for name in _ENDS}
        total = sum(ends.values()) + batch.request_counts.processing
        return Told(batch, batch.id, batch.processing_status, {"total": total, **ends})

    def answers(self, client: Any, told: Told, name: str) -> AbstractContextManager[Iterator[bytes]] | None:
        del name  # there is one file for all answers
        return _results(client, told.id)

    def progress(self, told: Told) -> str:
        counts = told.counts
        if told.status != "ended":
            return f"{counts['total']} requests in the batch"
        others = "".join(f", {counts[name]} {name}" for name in _ENDS[1:] if counts[name])
        return f"{counts['succeeded']} of {counts['total']} requests succeeded{others}"

    def has_errors(self, told: Told) -> str:
        return "output_file" if told.counts["errored"] else ""

    def end(self, told: Told, *, accept_partial: bool) -> tuple[Phase, str, str]:
        counts = told.counts
        is_enough = accept_partial and counts["succeeded"]
        if counts["canceled"] and not is_enough:
            return Phase.ABORTED, "Canceled", ""
        if counts["expired"] and not is_enough:
            return Phase.FAILED, "Expired", ""
        if counts["errored"] and not counts["succeeded"]:
            return Phase.FAILED, "EveryRequestFailed", ""
        return Phase.SUCCEEDED, "", ""


@contextmanager
def _results(client: Any, batch_id: str) -> Iterator[Iterator[bytes]]:
    """The answers, from the address that the key is for: `results_url` may name another host, as behind a gateway."""
    import anthropic

    answer = client.get(
        f"{_BATCHES}/{quote(batch_id, safe='')}/results",
        cast_to=http_library(anthropic).Response,
        options={"headers": {"Accept": "application/binary"}, "timeout": patience(anthropic)},
        stream=True,
        stream_cls=anthropic.Stream[Any],
    )
    try:
        yield answer.iter_bytes()
    finally:
        answer.close()


def _write_body(body: IO[bytes], lines: IO[bytes], config: Mapping[str, Any]) -> int:
    """The body of a create, from a file of requests; returns its size."""
    body.write(b'{"requests":[')
    separator = b""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
        except ValueError as exc:
            raise Fail(f"Line {number} of the requests is not JSON: {exc}.") from None
        if not isinstance(request, dict) or not isinstance(request.get("params"), dict):
            raise Fail(f"Line {number} of the requests must be an object with custom_id and params.")
        request["params"] = {**config, **request["params"]}
        body.write(separator + json.dumps(request, separators=(",", ":")).encode())
        separator = b","
    if not separator:
        raise Fail("The file of the requests is empty.")
    body.write(b"]}")
    size = body.tell()
    body.seek(0)
    return size
