"""`anthropic-batch`: a task that is a message batch of Anthropic, and `AnthropicBatchTask` to write one.

The requests are a file of JSON lines or a list; the answers are written under the task's output prefix, if the task
declares a file for them. Both pass through in pieces, however large they are.

Anthropic offers neither an idempotency key nor a label for a batch, so a create that a crash interrupts cannot be found
again: within one process an attempt makes one batch, across a crash perhaps two.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

from airside.agents.api_accounts import Account, Accounts, Session, Vendor
from airside.agents.batch_files import Tally, spool
from airside.agents.transfers import Transfers
from airside.model import (
    AirsideError,
    Call,
    Fail,
    File,
    LogLink,
    NotFound,
    Phase,
    Resource,
    Task,
    TaskTemplate,
    UsageError,
)
from airside.sdk.agent import AsyncAgent
from airside.sdk.declare import missing_extra

if TYPE_CHECKING:
    import anthropic

log = logging.getLogger("airside.agents.anthropic_batch")

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

_COUNTS = ("succeeded", "errored", "canceled", "expired")
_OUTPUTS = ("result", "output_file", "total", *_COUNTS)
_REQUEST_SECONDS = 20.0
_TRANSFER_SECONDS = 900.0
_PAGE = 1000
_SEARCHED = 1000  # answers that are looked at for the first errors
_ERRORS_TOLD = 3


@dataclass(frozen=True, kw_only=True)
class AnthropicBatchTask(TaskTemplate):
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

    task_type: str = "anthropic-batch"
    inputs: Mapping[str, Any] = field(default_factory=lambda: {"requests": list[dict[str, Any]]})
    outputs: Mapping[str, Any] = field(default_factory=lambda: {"result": dict})
    config: Mapping[str, Any] = field(default_factory=dict)
    accept_partial: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.outputs if name not in _OUTPUTS]
        if unknown:
            raise UsageError(f"Task {self.name!r}: {_no_output(unknown[0])}")
        config: dict[str, Any] = {"config": dict(self.config)}
        if self.accept_partial:
            config["accept_partial"] = True
        object.__setattr__(self, "config", config)
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class Batch:
    """What finds a batch again. `outputs` are the names of the declared outputs, `prefix` is where files go."""

    id: str
    outputs: list[str] = field(default_factory=list)
    prefix: str = ""
    accept_partial: bool = False


class AnthropicBatchAgent(AsyncAgent[Batch]):
    """Sends requests as a batch, watches it, and fetches the answers."""

    name = "anthropic-batch"
    task_type = "anthropic-batch"
    requires = MappingProxyType({"anthropic": "anthropic"})
    poll_interval = 30.0
    call_timeout = _TRANSFER_SECONDS + 60  # the last poll may fetch 256 MB; an ordinary request takes 20 s at most
    create_timeout = _TRANSFER_SECONDS + 60

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where Anthropic is, and which files may be sent there.

        base_url: the address of the API. Default: https://api.anthropic.com
        allowed_hosts: hosts besides Anthropic's own that a connection's `base_url` may name.
        allowed_directories: folders of this machine from which requests may be read, and into which answers may be
            written. Default: none; object stores are always allowed.
        """

        base_url: str = ""
        allowed_hosts: tuple[str, ...] = ()
        allowed_directories: tuple[str, ...] = ()

    def open(self, options: Options) -> None:
        missing = missing_extra(self)
        if missing is not None:
            raise missing
        hosts = options.allowed_hosts
        self._accounts = Accounts(ANTHROPIC, base_url=options.base_url, allowed_hosts=hosts, make=_make_client)
        self._transfers = Transfers(options.allowed_directories)

    def close(self) -> None:
        self._accounts.close()

    def check_credentials(self) -> str:
        """Whose key there is for tasks that bring none."""
        return self._accounts.whose()

    def probe(self) -> str:
        """Ask for the models."""
        import anthropic

        with self._accounts.session(None).calls(anthropic.AnthropicError) as client:
            client.models.list(limit=1)
        return "Anthropic answers"

    def create(self, task: Task, call: Call) -> Batch:
        from anthropic.types.messages import MessageBatch

        job = _job(task, "")
        session = self._accounts.session(call.connection)
        with closing(self._requests(task)) as lines, tempfile.TemporaryFile() as body:
            size = _write_body(body, lines, _config_of(task))
            headers = {"Content-Type": "application/json", "Content-Length": str(size)}
            with _anthropic(session) as client:
                batch = client.post(
                    "/v1/messages/batches",
                    content=body,
                    cast_to=MessageBatch,
                    options={"headers": headers, "timeout": _TRANSFER_SECONDS},
                )
        return Batch(batch.id, job.outputs, job.prefix, job.accept_partial)

    def get(self, job: Batch, call: Call) -> Resource:
        session = self._accounts.session(call.connection)
        with _anthropic(session, polling=True) as client:
            told = client.messages.batches.retrieve(job.id)
        return self._resource(job, told, session)

    def get_many(self, jobs: Sequence[Batch], call: Call) -> Sequence[Resource | Exception]:
        """One list of the newest batches for all; each that is not in it is asked for."""
        session = self._accounts.session(call.connection)
        wanted = {job.id for job in jobs}
        with _anthropic(session, polling=True) as client:
            page = client.messages.batches.list(limit=_PAGE)
        seen = {batch.id: batch for batch in page.data if batch.id in wanted}
        return [self._one_of(job, seen.get(job.id), session, call) for job in jobs]

    def delete(self, job: Batch, call: Call) -> None:
        try:
            with _anthropic(self._accounts.session(call.connection)) as client:
                client.messages.batches.cancel(job.id)
        except Fail as exc:
            if exc.code == "ResourceNotFound":
                raise NotFound(exc.message) from None
            raise

    def links(self, job: Batch) -> Sequence[LogLink]:
        del job  # the console has one page for all
        page = "https://platform.claude.com/workspaces/default/batches"
        return [LogLink(page, "Anthropic batches")] if self._accounts.is_vendor else []

    def _requests(self, task: Task) -> IO[bytes]:
        given = task.inputs.get("input_file")
        if isinstance(given, File):
            return self._transfers.fetch(given.uri)
        requests = task.inputs.get("requests")
        if isinstance(requests, list) and requests:
            return spool(requests)
        raise Fail("An anthropic-batch task needs one of the inputs input_file and requests.")

    def _one_of(self, job: Batch, told: Any, session: Session, call: Call) -> Resource | Exception:
        try:
            return self.get(job, call) if told is None else self._resource(job, told, session)
        except AirsideError as exc:
            return exc

    def _resource(self, job: Batch, told: Any, session: Session) -> Resource:
        phase = STATES.get(told.processing_status)
        if phase is None:
            log.warning("Anthropic names the status %r of a batch, which is not known here", told.processing_status)
            phase = Phase.RUNNING
        counts = {name: getattr(told.request_counts, name) for name in _COUNTS}
        total = sum(counts.values()) + told.request_counts.processing
        info: dict[str, Any] = {"status": told.processing_status, "requests": {"total": total, **counts}}
        info["batch_id"] = told.id
        if not phase.is_terminal:
            return Resource(phase, message=f"{total} requests in the batch", info=info)
        message = f"{counts['succeeded']} of {total} requests succeeded"
        message += "".join(f", {count} {name}" for name, count in counts.items() if count and name != "succeeded")
        if counts["errored"]:
            info["errors"] = errors = self._first_errors(job, session)
            message = "; ".join((message, *errors))
        phase, code = _end(counts, accept_partial=job.accept_partial)
        if phase is Phase.SUCCEEDED:
            return Resource(phase, message=message, outputs=self._outputs(job, told, session, info), info=info)
        return Resource(phase, message=message, code=code, info=info)

    def _outputs(self, job: Batch, told: Any, session: Session, info: dict[str, Any]) -> dict[str, Any] | None:
        values: dict[str, Any] = {}
        for name in job.outputs:
            if name == "result":
                values[name] = told.to_dict(mode="json")
            elif name == "output_file":
                tally = Tally()
                with self._answers(job, session) as answers:
                    values[name] = self._transfers.keep(tally.lines(answers), job.prefix, "output_file.jsonl")
                info["usage"] = tally.usage()
            else:
                values[name] = info["requests"][name]
        return values or None

    def _first_errors(self, job: Batch, session: Session) -> list[str]:
        """The first errors among the first answers."""
        tally = Tally()
        try:
            with self._answers(job, session) as answers:
                for line in islice(answers, _SEARCHED):
                    tally.see(line)
                    if len(tally.errors) == _ERRORS_TOLD:
                        break
        except AirsideError:  # the batch is over all the same
            return []
        return tally.errors

    @contextmanager
    def _answers(self, job: Batch, session: Session) -> Iterator[Iterator[str]]:
        """The lines of the answers, as they come."""
        with _anthropic(session, polling=True) as client:
            answers = client.messages.batches.results(job.id, timeout=_TRANSFER_SECONDS)
            try:
                yield (one.to_json(indent=None) for one in answers)
            finally:
                answers.http_response.close()


def _make_client(account: Account) -> anthropic.Anthropic:
    """A client that never repeats a call by itself: whoever drives the agent does, and heeds Retry-After."""
    import anthropic

    try:
        return anthropic.Anthropic(
            api_key=account.api_key or None, base_url=account.base_url, max_retries=0, timeout=_REQUEST_SECONDS
        )
    except anthropic.AnthropicError as exc:
        raise Fail(f"Anthropic: {' '.join(str(exc).split())}", code="NoCredentials") from None


@contextmanager
def _anthropic(session: Session, *, polling: bool = False) -> Iterator[Any]:
    import anthropic

    with session.calls(anthropic.AnthropicError, polling=polling) as client:
        yield client


def _end(counts: Mapping[str, int], *, accept_partial: bool) -> tuple[Phase, str]:
    """Phase and error code of a batch that ended with these counts."""
    if counts["canceled"] and not (accept_partial and counts["succeeded"]):
        return Phase.ABORTED, "Canceled"
    if counts["expired"] and not (accept_partial and counts["succeeded"]):
        return Phase.FAILED, "Expired"
    if counts["errored"] and not counts["succeeded"]:
        return Phase.FAILED, "EveryRequestFailed"
    return Phase.SUCCEEDED, ""


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


def _config_of(task: Task) -> Mapping[str, Any]:
    config = task.config.get("config") or {}
    if not isinstance(config, Mapping):
        raise Fail("config must be an object: what every request has.")
    return config


def _job(task: Task, batch_id: str) -> Batch:
    outputs = list(task.interface.outputs)
    for name in outputs:
        if name not in _OUTPUTS:
            raise Fail(_no_output(name))
    prefix = task.output_prefix if "output_file" in outputs else ""
    return Batch(batch_id, outputs, prefix, accept_partial=bool(task.config.get("accept_partial")))


def _no_output(name: str) -> str:
    return f"An anthropic-batch task has no output {name!r} (it has {', '.join(_OUTPUTS)})."
