"""`openai-batch`: a task that is a batch of OpenAI, and `OpenAIBatchTask` to write one.

The requests are a file that OpenAI has, a file of JSON lines that the agent uploads, or a list.

Tasks of flytekit's `BatchEndpointTask` run as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from airside.agents.api_accounts import Account, http_library
from airside.agents.batches import (
    MAX_PAGES,
    Batch,
    BatchAgent,
    BatchTask,
    Told,
    config_of,
    patience,
)
from airside.agents.openai_account import OPENAI, make_client
from airside.model import Call, Fail, LogLink, Phase, Task

STATES: Mapping[str, Phase] = {
    "validating": Phase.INITIALIZING,
    "in_progress": Phase.RUNNING,
    "finalizing": Phase.RUNNING,
    "cancelling": Phase.RUNNING,
    "completed": Phase.SUCCEEDED,
    "failed": Phase.FAILED,
    "expired": Phase.FAILED,
    "cancelled": Phase.ABORTED,
}
_CODES = {"failed": "InvalidBatch", "expired": "Expired", "cancelled": "Canceled"}
_COUNTS = ("total", "completed", "failed")
_FILES = {"output_file": "output_file_id", "error_file": "error_file_id"}
_KEY = "airside_key"
_ERRORS_TOLD = 3


@dataclass(frozen=True, kw_only=True)
class OpenAIBatchTask(BatchTask):
    """A batch of requests to OpenAI. The arguments are those of flytekit's `BatchEndpointTask`.

    config: `endpoint` (default `/v1/chat/completions`), `completion_window` (`24h`), `metadata` and what else
    `batches.create` takes.
    openai_organization: the organization that is billed.
    accept_partial: a batch that expires is a success with the answers that it has.

    Declare one of these inputs: `input_file_id` (str), `input_file` (File, JSON lines), `requests` (list[dict]); and
    any of these outputs: `result` (dict, the batch), `output_file` and `error_file` (File), `total`, `completed`,
    `failed` (int).

    >>> from airside import File, kwtypes
    >>> task = OpenAIBatchTask(
    ...     name="label", config={"endpoint": "/v1/responses"},
    ...     inputs=kwtypes(input_file=File), outputs=kwtypes(output_file=File, failed=int),
    ... )
    >>> task.config
    {'config': {'endpoint': '/v1/responses'}}
    """

    known_outputs = ("result", *_FILES, *_COUNTS)

    task_type: str = "openai-batch"
    inputs: Mapping[str, Any] = field(default_factory=lambda: {"input_file_id": str})
    openai_organization: str = ""

    def settings(self) -> dict[str, Any]:
        organization = {"openai_organization": self.openai_organization} if self.openai_organization else {}
        return {**super().settings(), **organization}


class OpenAIBatchAgent(BatchAgent):
    """Uploads requests, starts a batch, watches it, and fetches the answers."""

    name = "openai-batch"
    task_type = "openai-batch"
    requires = MappingProxyType({"openai": "openai"})

    vendor = OPENAI
    states = STATES
    cursor = "after"
    inputs = ("input_file_id", "input_file", "requests")
    counts = _COUNTS
    files = tuple(_FILES)
    keys = (*BatchAgent.keys, "openai_organization")

    def make_client(self, account: Account) -> Any:
        return make_client(account)

    def sdk_errors(self) -> tuple[type[Exception], ...]:
        import openai

        return openai.OpenAIError, http_library(openai).HTTPError

    def find(self, task: Task, key: str, call: Call) -> Batch | None:
        """The batch that carries the key, among the thousand newest: a batch is over after a day."""
        job = self.job(task, "")
        with self.asking(call, job.organization, polling=True) as client:
            for page in self.pages(client, MAX_PAGES):
                for told in page:
                    if (told.batch.metadata or {}).get(_KEY) == key:
                        return self.job(task, told.id)
        return None

    def links(self, job: Batch) -> Sequence[LogLink]:
        page = f"https://platform.openai.com/batches/{job.id}"
        return [LogLink(page, "OpenAI batch")] if self.accounts.is_vendor else []

    def begin(self, client: Any, task: Task) -> str:
        config = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **config_of(task)}
        metadata = config.get("metadata") or {}
        if not isinstance(metadata, Mapping):
            raise Fail("config.metadata must be an object of texts.")
        config["metadata"] = {**metadata, _KEY: task.key}
        try:
            return str(client.batches.create(input_file_id=self._input_file(client, task), **config).id)
        except TypeError as exc:  # a key that the SDK does not know
            raise Fail(f"config: {exc}") from None

    def batches(self, client: Any) -> Any:
        return client.batches

    def read(self, batch: Any) -> Told:
        counts = {name: getattr(batch.request_counts, name, 0) or 0 for name in _COUNTS}
        return Told(batch, batch.id, batch.status, counts)

    def answers(self, client: Any, told: Told, name: str) -> AbstractContextManager[Iterator[bytes]] | None:
        file_id = getattr(told.batch, _FILES[name])
        return _content(client, file_id) if file_id else None

    def progress(self, told: Told) -> str:
        failed = f", {told.counts['failed']} failed" if told.counts["failed"] else ""
        return f"{told.counts['completed']} of {told.counts['total']} requests done{failed}"

    def has_errors(self, told: Told) -> str:
        return "error_file" if told.counts["failed"] else ""

    def end(self, told: Told, *, accept_partial: bool) -> tuple[Phase, str, str]:
        if told.status == "expired" and accept_partial and told.counts["completed"]:
            return Phase.SUCCEEDED, "", ""
        phase = STATES[told.status]
        if phase is Phase.SUCCEEDED and told.counts["failed"] and not told.counts["completed"]:
            return Phase.FAILED, "EveryRequestFailed", ""
        return phase, _CODES.get(told.status, ""), _why(told)

    def facts(self, told: Told) -> dict[str, Any]:
        batch = told.batch
        known: dict[str, Any] = {key: value for key in _FILES.values() if (value := getattr(batch, key))}
        if batch.usage is not None:
            known["usage"] = {"input_tokens": batch.usage.input_tokens, "output_tokens": batch.usage.output_tokens}
        return known

    def _input_file(self, client: Any, task: Task) -> str:
        """The id of the file with the requests, which is uploaded if OpenAI does not have it."""
        known = task.inputs.get("input_file_id")
        if isinstance(known, str) and known:
            return known
        import openai

        with self.requests(task) as file:
            upload = (f"airside-{task.key}.jsonl", file)
            return str(client.files.create(file=upload, purpose="batch", timeout=patience(openai)).id)


@contextmanager
def _content(client: Any, file_id: str) -> Iterator[Iterator[bytes]]:
    import openai

    with client.files.with_streaming_response.content(file_id, timeout=patience(openai)) as answer:
        yield answer.iter_bytes()


def _why(told: Told) -> str:
    """What OpenAI says of a batch that failed as a whole."""
    batch = told.batch
    data = (batch.errors.data if batch.errors is not None else None) or []
    words = [f"line {one.line}: {one.message}" if one.line else str(one.message or one.code) for one in data]
    if told.status == "expired":
        file = batch.output_file_id or "no file"
        words.insert(0, f"expired with {told.counts['completed']} answers, in {file}")
    return "; ".join(words[:_ERRORS_TOLD])
