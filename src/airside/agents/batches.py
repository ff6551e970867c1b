"""Batches of requests to a language model: what the agents of all vendors share, from the requests to the answers.

The requests are a file of JSON lines or a list. The answers are written under the task's output prefix, if the task
declares a file for them. Both pass through in pieces, however large they are.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, ClassVar

from airside.agents.api_accounts import Account, Accounts, Session, Vendor
from airside.agents.batch_files import Tally, lines_of, spool
from airside.agents.config_keys import check_keys
from airside.agents.transfers import Transfers
from airside.model import (
    AirsideError,
    Call,
    Fail,
    File,
    NotFound,
    Phase,
    Resource,
    Retry,
    Task,
    TaskTemplate,
    UsageError,
)
from airside.sdk.agent import AsyncAgent

log = logging.getLogger("airside.agents.batches")

TRANSFER_SECONDS = 900.0
"""One file on its way up or down."""
_CONNECT_SECONDS = 10.0
PAGE = 100
"""Batches in one page of a list."""
MAX_PAGES = 10
_SEARCHED = 1000  # answers that are looked at for the first errors
_RESULT = "result"


@dataclass(frozen=True, kw_only=True)
class BatchTask(TaskTemplate):
    """A task that is a batch. `known_outputs` are the names that its outputs may have."""

    known_outputs: ClassVar[tuple[str, ...]] = ()

    outputs: Mapping[str, Any] = field(default_factory=lambda: {_RESULT: dict})
    config: Mapping[str, Any] = field(default_factory=dict)
    accept_partial: bool = False

    def __post_init__(self) -> None:
        for name in self.outputs:
            if name not in self.known_outputs:
                raise UsageError(f"Task {self.name!r}: {_no_output(self.task_type, name, self.known_outputs)}")
        object.__setattr__(self, "config", self.settings())
        super().__post_init__()

    def settings(self) -> dict[str, Any]:
        """What the template says besides inputs and outputs."""
        partial = {"accept_partial": True} if self.accept_partial else {}
        return {"config": dict(self.config), **partial}


@dataclass(frozen=True, slots=True)
class Batch:
    """What finds a batch again. `outputs` are the names of the declared outputs, `prefix` is where files go."""

    id: str
    organization: str = ""
    outputs: list[str] = field(default_factory=list)
    prefix: str = ""
    accept_partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Where the service is, and which files may be sent there.

    base_url: another address of the API, such as a gateway's.
    allowed_hosts: hosts besides the vendor's own that a connection's `base_url` may name.
    allowed_directories: folders of this machine from which requests may be read, and into which answers may be
        written. Default: none in a service, all in a run of one's own; object stores are always allowed.
    """

    base_url: str = ""
    allowed_hosts: tuple[str, ...] = ()
    allowed_directories: tuple[str, ...] = field(default=(), metadata={"local": ("/",)})


@dataclass(frozen=True, slots=True)
class Told:
    """How a batch stands: the vendor's own object, its id and status, and its requests by how they stand."""

    batch: Any
    id: str
    status: str
    counts: Mapping[str, int]


class BatchAgent(AsyncAgent[Batch]):
    """Sends requests as a batch, watches it, and fetches the answers. Each vendor's agent says how."""

    poll_interval = 30.0
    call_timeout = TRANSFER_SECONDS + 60  # the last poll may fetch hundreds of MB; other requests take 20 s at most
    create_timeout = TRANSFER_SECONDS + 60
    Options = BatchOptions

    vendor: ClassVar[Vendor]
    states: ClassVar[Mapping[str, Phase]]
    cursor: ClassVar[str]
    """The argument of a list that says after which batch its page begins."""
    inputs: ClassVar[tuple[str, ...]]
    counts: ClassVar[tuple[str, ...]]
    files: ClassVar[tuple[str, ...]]
    keys: ClassVar[tuple[str, ...]] = ("config", "accept_partial")

    # -- what a vendor's agent says -----------------------------------------------------------------------------------

    @abstractmethod
    def make_client(self, account: Account) -> Any:
        """A client of the SDK."""

    @abstractmethod
    def sdk_errors(self) -> tuple[type[Exception], ...]:
        """What every error of the SDK, and of an answer that breaks off, is."""

    @abstractmethod
    def begin(self, client: Any, task: Task) -> str:
        """Start the batch; returns its id."""

    @abstractmethod
    def batches(self, client: Any) -> Any:
        """The part of the client that knows batches: `retrieve`, `list` and `cancel`."""

    @abstractmethod
    def read(self, batch: Any) -> Told:
        """How a batch stands, from the SDK's own object."""

    @abstractmethod
    def answers(self, client: Any, told: Told, name: str) -> AbstractContextManager[Iterator[bytes]] | None:
        """The file of answers that an output stands for, in pieces; None if the batch has none."""

    @abstractmethod
    def progress(self, told: Told) -> str:
        """How far the batch is, for people."""

    @abstractmethod
    def end(self, told: Told, *, accept_partial: bool) -> tuple[Phase, str, str]:
        """How a batch that is over has ended: phase, error code, and the reason if the vendor tells one."""

    def facts(self, told: Told) -> dict[str, Any]:
        """What else is known of a batch."""
        del told
        return {}

    def has_errors(self, told: Told) -> str:
        """The file in which the batch's errors are; empty if no request failed."""
        del told
        return ""

    # -- what all have in common --------------------------------------------------------------------------------------

    def open(self, options: BatchOptions) -> None:
        hosts = options.allowed_hosts
        self.accounts = Accounts(self.vendor, base_url=options.base_url, allowed_hosts=hosts, make=self.make_client)
        self._transfers = Transfers(options.allowed_directories)

    def close(self) -> None:
        self.accounts.close()

    def check_credentials(self) -> str:
        """Whose key there is for tasks that bring none."""
        return self.accounts.whose()

    def probe(self) -> str:
        """Ask for the models."""
        with self.asking(Call()) as client:
            client.models.list()
        return f"{self.vendor.name} answers"

    def create(self, task: Task, call: Call) -> Batch:
        check_keys(task.config, self.keys, self.name)
        job = self.job(task, "")
        for name in set(job.outputs) & set(self.files):
            self._transfers.check(job.prefix, f"{name}.jsonl")  # before anything is paid for
        with self.asking(call, job.organization) as client:
            return self.job(task, self.begin(client, task))

    def get(self, job: Batch, call: Call) -> Resource:
        with self.asking(call, job.organization, polling=True) as client:
            return self._resource(client, job, self._ask(client, job.id))

    def get_many(self, jobs: Sequence[Batch], call: Call) -> Sequence[Resource | Exception]:
        """A list of the newest batches for all; each that is not in it is asked for."""
        seen: dict[tuple[str, str], Told] = {}
        for organization in {job.organization for job in jobs}:
            wanted = {job.id for job in jobs if job.organization == organization}
            with self.asking(call, organization, polling=True) as client:
                for page in self.pages(client, min(MAX_PAGES, len(wanted) - 1)):
                    seen |= {(organization, one.id): one for one in page if one.id in wanted}
                    if all((organization, one) in seen for one in wanted):
                        break
        return [self._one_of(job, seen.get((job.organization, job.id)), call) for job in jobs]

    def delete(self, job: Batch, call: Call) -> None:
        try:
            with self.asking(call, job.organization) as client:
                self.batches(client).cancel(job.id)
        except Fail as exc:
            if exc.code == "ResourceNotFound":
                raise NotFound(exc.message) from None
            if not self._is_over(job, call):
                raise
        except Retry:
            if not self._is_over(job, call):
                raise

    @contextmanager
    def asking(self, call: Call, organization: str = "", *, polling: bool = False) -> Iterator[Any]:
        """The client for a call; its errors become `Retry`, `Fail` and `NotFound`, of which a poll raises no `Fail`.

        A batch that runs is not given up because its key is missing for a while.
        """
        session = self._session(call, organization, polling=polling)
        with session.calls(self.sdk_errors(), polling=polling) as client:
            yield client

    def pages(self, client: Any, count: int) -> Iterator[Sequence[Told]]:
        """The newest batches, page by page."""
        more: dict[str, str] = {}
        for _ in range(count):
            page = self.batches(client).list(limit=PAGE, **more)
            yield [self.read(one) for one in page.data]
            if not page.data or not page.has_more:
                return
            more = {self.cursor: page.data[-1].id}

    def job(self, task: Task, batch_id: str) -> Batch:
        """The metadata of a task's batch. Raises `Fail` for an output that there is not."""
        outputs, known = list(task.interface.outputs), (_RESULT, *self.files, *self.counts)
        for name in outputs:
            if name not in known:
                raise Fail(_no_output(self.name, name, known))
        return Batch(
            batch_id,
            str(task.config.get("openai_organization") or ""),
            outputs,
            prefix=task.output_prefix if set(outputs) & set(self.files) else "",
            accept_partial=bool(task.config.get("accept_partial")),
        )

    @contextmanager
    def requests(self, task: Task) -> Iterator[BinaryIO]:
        """The file with the requests of a task."""
        given, listed = task.inputs.get("input_file"), task.inputs.get("requests")
        if isinstance(given, File):
            file = self._transfers.fetch(given.uri)
        elif isinstance(listed, list) and listed:
            file = spool(listed)
        else:
            told = f"{', '.join(self.inputs[:-1])} and {self.inputs[-1]}"
            raise Fail(f"An {self.name} task needs one of the inputs {told}.")
        with closing(file):
            yield file

    def _session(self, call: Call, organization: str, *, polling: bool) -> Session:
        try:
            return self.accounts.session(call.connection, organization)
        except Fail as exc:
            raise (Retry(exc.message) if polling else exc) from None

    def _ask(self, client: Any, batch_id: str) -> Told:
        return self.read(self.batches(client).retrieve(batch_id))

    def _is_over(self, job: Batch, call: Call) -> bool:
        """True if the batch is known to be over: then there is nothing to cancel."""
        with suppress(AirsideError), self.asking(call, job.organization, polling=True) as client:
            return self._phase(self._ask(client, job.id)).is_terminal
        return False

    def _one_of(self, job: Batch, told: Told | None, call: Call) -> Resource | Exception:
        """One answer of many. Once files have taken a minute, the others' are fetched by the next call."""
        late = call.remaining is not None and call.remaining < TRANSFER_SECONDS
        try:
            with self.asking(call, job.organization, polling=True) as client:
                told = told or self._ask(client, job.id)
                if late and self._phase(told).is_terminal:
                    info = self._info(told)
                    return Resource(Phase.RUNNING, message="over; its answers are fetched next", info=info)
                return self._resource(client, job, told)
        except AirsideError as exc:
            return exc

    def _phase(self, told: Told) -> Phase:
        phase = self.states.get(told.status)
        if phase is None:
            log.warning("%s names the state %r of a batch, which is not known here", self.vendor.name, told.status)
        return Phase.RUNNING if phase is None else phase

    def _info(self, told: Told) -> dict[str, Any]:
        return {"status": told.status, "requests": dict(told.counts), "batch_id": told.id, **self.facts(told)}

    def _resource(self, client: Any, job: Batch, told: Told) -> Resource:
        phase, message, info = self._phase(told), self.progress(told), self._info(told)
        if not phase.is_terminal:
            return Resource(phase, message=message, info=info)
        if where := self.has_errors(told):
            info["errors"] = errors = self._first_errors(client, told, where)
            message = "; ".join((message, *errors))
        phase, code, reason = self.end(told, accept_partial=job.accept_partial)
        if phase is not Phase.SUCCEEDED:
            return Resource(phase, message=reason or message, code=code, info=info)
        return Resource(phase, message=message, outputs=self._outputs(client, job, told, info), info=info)

    def _outputs(self, client: Any, job: Batch, told: Told, info: dict[str, Any]) -> dict[str, Any] | None:
        values: dict[str, Any] = {}
        for name in job.outputs:
            if name in self.files:
                values[name] = self._keep(client, told, name, job.prefix, info)
            elif name == _RESULT:
                values[name] = told.batch.to_dict(mode="json")
            else:
                values[name] = told.counts[name]
        return values or None

    def _keep(self, client: Any, told: Told, name: str, prefix: str, info: dict[str, Any]) -> File:
        """A file of answers under the task's output prefix; an empty one if there are no such answers."""
        tally, file = Tally(), f"{name}.jsonl"
        answers = self.answers(client, told, name)
        if answers is None:
            return self._transfers.keep((), prefix, file)
        with answers as pieces:
            kept = self._transfers.keep(tally.lines(lines_of(_in_time(pieces))), prefix, file)
        if tally.usage():
            info.setdefault("usage", tally.usage())
        return kept

    def _first_errors(self, client: Any, told: Told, name: str) -> list[str]:
        tally = Tally()
        answers = self.answers(client, told, name)
        if answers is None:
            return []
        broken: tuple[type[Exception], ...] = (AirsideError, *self.sdk_errors())
        try:
            with answers as pieces:
                for line in islice(lines_of(_in_time(pieces)), _SEARCHED):
                    tally.see(line)
                    if tally.is_full:
                        break
        except broken:  # the batch is over all the same
            return []
        return tally.errors


def config_of(task: Task) -> dict[str, Any]:
    """The `config` in a task's template."""
    config = task.config.get("config") or {}
    if not isinstance(config, Mapping):
        raise Fail("config must be an object: what the requests or the batch are made with.")
    return dict(config)


def patience(sdk: Any) -> Any:
    """Time for a large file, but not for a service that is not there, as a module of an SDK takes it."""
    return sdk.Timeout(TRANSFER_SECONDS, connect=_CONNECT_SECONDS)


def _in_time(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a file. Raises `Retry` if it takes too long."""
    until = time.monotonic() + TRANSFER_SECONDS
    for piece in pieces:
        if time.monotonic() > until:
            raise Retry(f"The answers have not come within {TRANSFER_SECONDS:.0f} s.")
        yield piece


def _no_output(kind: str, name: str, known: Sequence[str]) -> str:
    return f"An {kind} task has no output {name!r} (it has {', '.join(known)})."
