"""`openai-batch`: a task that is a batch of OpenAI, and `OpenAIBatchTask` to write one.

The requests are a file that OpenAI has, a file of JSON lines that the agent uploads, or a list. Answers are written
under the task's output prefix, if the task declares files for them. Files pass through in pieces, however large.

Tasks of flytekit's `BatchEndpointTask` run as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, BinaryIO

from airside.agents.api_accounts import Accounts, Session
from airside.agents.batch_files import Tally, spool
from airside.agents.openai_account import OPENAI, make_client
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

log = logging.getLogger("airside.agents.openai_batch")

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
_COUNTS = ("total", "completed", "failed")
_FILES = {"output_file": "output_file_id", "error_file": "error_file_id"}
_KEY = "airside_key"
_PAGE = 100
_MAX_PAGES = 10
_TRANSFER_SECONDS = 900.0
_ERROR_LINES = 3


def _result() -> dict[str, Any]:
    return {"result": dict}


@dataclass(frozen=True, kw_only=True)
class OpenAIBatchTask(TaskTemplate):
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

    task_type: str = "openai-batch"
    inputs: Mapping[str, Any] = field(default_factory=lambda: {"input_file_id": str})
    outputs: Mapping[str, Any] = field(default_factory=_result)
    config: Mapping[str, Any] = field(default_factory=dict)
    openai_organization: str = ""
    accept_partial: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.outputs if name not in ("result", *_FILES, *_COUNTS)]
        if unknown:
            raise UsageError(f"Task {self.name!r}: {_no_output(unknown[0])}")
        config: dict[str, Any] = {"config": dict(self.config)}
        if self.openai_organization:
            config["openai_organization"] = self.openai_organization
        if self.accept_partial:
            config["accept_partial"] = True
        object.__setattr__(self, "config", config)
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class Batch:
    """What finds a batch again. `outputs` are the names of the declared outputs, `prefix` is where files go."""

    id: str
    organization: str = ""
    outputs: list[str] = field(default_factory=list)
    prefix: str = ""
    accept_partial: bool = False


class OpenAIBatchAgent(AsyncAgent[Batch]):
    """Uploads requests, starts a batch, watches it, and fetches the answers."""

    name = "openai-batch"
    task_type = "openai-batch"
    requires = MappingProxyType({"openai": "openai"})
    poll_interval = 30.0
    call_timeout = _TRANSFER_SECONDS + 60  # the last poll may fetch 200 MB; an ordinary request takes 20 s at most
    create_timeout = _TRANSFER_SECONDS + 60

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Where OpenAI is, and which files may be sent there.

        base_url: the address of the API. Default: https://api.openai.com/v1
        allowed_hosts: hosts besides OpenAI's own that a connection's `base_url` may name.
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
        self._accounts = Accounts(OPENAI, base_url=options.base_url, allowed_hosts=hosts, make=make_client)
        self._transfers = Transfers(options.allowed_directories)

    def close(self) -> None:
        self._accounts.close()

    def check_credentials(self) -> str:
        """Whose key there is for tasks that bring none."""
        return self._accounts.whose()

    def probe(self) -> str:
        """Ask for the models."""
        import openai

        with self._accounts.session(None).calls(openai.OpenAIError) as client:
            client.models.list()
        return "OpenAI answers"

    def create(self, task: Task, call: Call) -> Batch:
        config = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **_config_of(task)}
        config["metadata"] = {**(config.get("metadata") or {}), _KEY: task.key}
        _check_outputs(task.interface.outputs)
        session = self._accounts.session(call.connection, _organization_of(task))
        file_id = self._input_file(task, session)
        with _openai(session) as client:
            try:
                batch = client.batches.create(input_file_id=file_id, **config)
            except TypeError as exc:  # a key that the SDK does not know
                raise Fail(f"config: {exc}") from None
        return _job(task, batch.id)

    def find(self, task: Task, key: str, call: Call) -> Batch | None:
        """The batch that carries the key, among the thousand newest: a batch is over after a day."""
        with _openai(self._accounts.session(call.connection, _organization_of(task)), polling=True) as client:
            for page in _pages(client, _MAX_PAGES):
                for batch in page:
                    if (batch.metadata or {}).get(_KEY) == key:
                        return _job(task, batch.id)
        return None

    def get(self, job: Batch, call: Call) -> Resource:
        session = self._accounts.session(call.connection, job.organization)
        with _openai(session, polling=True) as client:
            told = client.batches.retrieve(job.id)
        return self._resource(job, told, session)

    def get_many(self, jobs: Sequence[Batch], call: Call) -> Sequence[Resource | Exception]:
        """A list of the newest batches for all; each that is not in it is asked for."""
        seen: dict[str, Any] = {}
        for organization in {job.organization for job in jobs}:
            wanted = {job.id for job in jobs if job.organization == organization}
            with _openai(self._accounts.session(call.connection, organization), polling=True) as client:
                for page in _pages(client, min(_MAX_PAGES, len(wanted) - 1)):
                    seen |= {batch.id: batch for batch in page if batch.id in wanted}
                    if wanted <= set(seen):
                        break
        return [self._one_of(job, seen.get(job.id), call) for job in jobs]

    def delete(self, job: Batch, call: Call) -> None:
        try:
            with _openai(self._accounts.session(call.connection, job.organization)) as client:
                client.batches.cancel(job.id)
        except Fail as exc:
            if exc.code == "ResourceNotFound":
                raise NotFound(exc.message) from None
            raise

    def links(self, job: Batch) -> Sequence[LogLink]:
        page = f"https://platform.openai.com/batches/{job.id}"
        return [LogLink(page, "OpenAI batch")] if self._accounts.is_vendor else []

    def _input_file(self, task: Task, session: Session) -> str:
        """The id of the file with the requests, which is uploaded if OpenAI does not have it."""
        import openai

        known = task.inputs.get("input_file_id")
        if isinstance(known, str) and known:
            return known
        with closing(self._requests(task)) as file, _openai(session) as client:
            name = f"airside-{task.key}.jsonl"
            uploaded = client.files.create(file=(name, file), purpose="batch", timeout=_TRANSFER_SECONDS)
        assert isinstance(uploaded, openai.types.FileObject)  # noqa: S101 - for the type checker
        return uploaded.id

    def _requests(self, task: Task) -> BinaryIO:
        given = task.inputs.get("input_file")
        if isinstance(given, File):
            return self._transfers.fetch(given.uri)
        requests = task.inputs.get("requests")
        if isinstance(requests, list) and requests:
            return spool(requests)
        raise Fail("An openai-batch task needs one of the inputs input_file_id, input_file and requests.")

    def _one_of(self, job: Batch, told: Any, call: Call) -> Resource | Exception:
        try:
            if told is None:
                return self.get(job, call)
            return self._resource(job, told, self._accounts.session(call.connection, job.organization))
        except AirsideError as exc:
            return exc

    def _resource(self, job: Batch, told: Any, session: Session) -> Resource:
        phase = STATES.get(told.status)
        if phase is None:
            log.warning("OpenAI names the state %r of a batch, which is not known here", told.status)
            phase = Phase.RUNNING
        counts = {name: getattr(told.request_counts, name, 0) or 0 for name in _COUNTS}
        info: dict[str, Any] = {"status": told.status, "requests": counts, "batch_id": told.id}
        info |= {key: value for key in _FILES.values() if (value := getattr(told, key))}
        if told.usage is not None:
            info["usage"] = {"input_tokens": told.usage.input_tokens, "output_tokens": told.usage.output_tokens}
        message = f"{counts['completed']} of {counts['total']} requests done"
        if counts["failed"]:
            message += f", {counts['failed']} failed"
        if not phase.is_terminal:
            return Resource(phase, message=message, info=info)
        if counts["failed"]:
            info["errors"] = errors = self._first_errors(told, session)
            message = "; ".join((message, *errors))
        if told.status == "expired" and job.accept_partial:
            phase = Phase.SUCCEEDED
        if phase is Phase.SUCCEEDED and counts["failed"] and not counts["completed"]:
            return Resource(Phase.FAILED, message=message, code="EveryRequestFailed", info=info)
        if phase is Phase.SUCCEEDED:
            outputs = self._outputs(job, told, session, info)
            return Resource(phase, message=message, outputs=outputs, info=info)
        return Resource(phase, message=_why(told) or message, code=_CODES[told.status], info=info)

    def _outputs(self, job: Batch, told: Any, session: Session, info: dict[str, Any]) -> dict[str, Any] | None:
        values: dict[str, Any] = {}
        for name in job.outputs:
            if name in _FILES:
                values[name] = self._keep(job.prefix, name, getattr(told, _FILES[name]), session, info)
            elif name in _COUNTS:
                values[name] = info["requests"][name]
            else:
                values[name] = told.to_dict(mode="json")
        return values or None

    def _keep(self, prefix: str, name: str, file_id: str | None, session: Session, info: dict[str, Any]) -> File:
        """A file of OpenAI's under the task's output prefix; an empty one if there are no such answers."""
        tally = Tally()
        if file_id is None:
            return self._transfers.keep((), prefix, f"{name}.jsonl")
        with (
            _openai(session, polling=True) as client,
            client.files.with_streaming_response.content(file_id, timeout=_TRANSFER_SECONDS) as answer,
        ):
            kept = self._transfers.keep(tally.lines(answer.iter_lines()), prefix, f"{name}.jsonl")
        if name == "output_file" and tally.usage():
            info.setdefault("usage", tally.usage())
        return kept

    def _first_errors(self, told: Any, session: Session) -> list[str]:
        """The first lines of the file with the errors."""
        if not told.error_file_id:
            return []
        tally = Tally()
        try:
            with (
                _openai(session, polling=True) as client,
                client.files.with_streaming_response.content(told.error_file_id) as answer,
            ):
                for line, _ in zip(answer.iter_lines(), range(_ERROR_LINES), strict=False):
                    tally.see(line)
        except AirsideError:  # the batch is over all the same
            return []
        return tally.errors


_CODES = {"failed": "InvalidBatch", "expired": "Expired", "cancelled": "Canceled"}


@contextmanager
def _openai(session: Session, *, polling: bool = False) -> Iterator[Any]:
    import openai

    with session.calls(openai.OpenAIError, polling=polling) as client:
        yield client


def _pages(client: Any, count: int) -> Iterator[Sequence[Any]]:
    """The newest batches, page by page."""
    after: dict[str, str] = {}
    for _ in range(count):
        page = client.batches.list(limit=_PAGE, **after)
        yield page.data
        if not page.data or not page.has_more:
            return
        after = {"after": page.data[-1].id}


def _config_of(task: Task) -> dict[str, Any]:
    config = task.config.get("config") or {}
    if not isinstance(config, Mapping):
        raise Fail("config must be an object: what batches.create takes.")
    return dict(config)


def _organization_of(task: Task) -> str:
    return str(task.config.get("openai_organization") or "")


def _job(task: Task, batch_id: str) -> Batch:
    outputs = list(task.interface.outputs)
    return Batch(
        batch_id,
        _organization_of(task),
        outputs,
        prefix=task.output_prefix if set(outputs) & set(_FILES) else "",
        accept_partial=bool(task.config.get("accept_partial")),
    )


def _check_outputs(names: Iterable[str]) -> None:
    for name in names:
        if name not in ("result", *_FILES, *_COUNTS):
            raise Fail(_no_output(name))


def _no_output(name: str) -> str:
    known = ", ".join(("result", *_FILES, *_COUNTS))
    return f"An openai-batch task has no output {name!r} (it has {known})."


def _why(told: Any) -> str:
    """What OpenAI says of a batch that failed as a whole."""
    data = (told.errors.data if told.errors is not None else None) or []
    words = [f"line {one.line}: {one.message}" if one.line else str(one.message or one.code) for one in data]
    if told.status == "expired":
        counts = told.request_counts
        words.insert(
            0, f"expired with {counts.completed if counts else 0} answers, in {told.output_file_id or 'no file'}"
        )
    return "; ".join(words[:_ERROR_LINES])
