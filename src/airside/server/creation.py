"""Creating jobs: once an attempt, answered before the deadline, and nothing left behind that nobody knows of."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from airside.model import Call, ConversionError, Fail, Resource, Retry, Task, TaskType
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent
from airside.server.cancellation import Cancellation
from airside.server.earlier import EarlierAttempts
from airside.server.handle import Handle, HandleTooLarge, Kind, SigningKeys, seal
from airside.server.job import call_limit, with_sound_links
from airside.server.ledger import UNKNOWN_INPUTS, Entry, Ledger, Unanswered, Undone
from airside.server.order import Order, Request, call_of, fingerprint, patience
from airside.server.pending import connection_of, is_whole, pack_request, unpack_request
from airside.server.tolerance import FIRST_BACKOFF, asked_pause, backoff
from airside.server.uncertain import Uncertain
from airside.server.unexpected import explained
from airside.wire import limits
from airside.wire.status import sentence
from airside.wire.template import key_of

log = logging.getLogger("airside.server")

MAX_UNEXPECTED = 6
"""Tries of a create that fails in a way its agent does not explain ..."""
MISTAKES = (TypeError, AttributeError, NameError, AssertionError, NotImplementedError, ImportError, RecursionError)
"""... of which a mistake in its code, which no repetition mends, counts for two."""
LARGE = 256 * limits.KIB
"""Requests over this size, in bytes, that a pending handle carried are converted on a thread."""
HOLD_BACK = 60.0
"""Seconds, at most a quarter of `create_timeout`, for which a pending create is left to the process that began it."""

Read = Callable[[Order], Awaitable[Task]]
Write = Callable[[Resource, Handle], Awaitable[bytes]]
Promised = Callable[[bytes], Awaitable[None]]


class Creation:
    """Carries out creates.

    `read` makes the task of an order; `write` serialises a result for a handle; `promised` is told of each pending
    handle before it goes out.
    """

    def __init__(
        self,
        ledger: Ledger,
        cancellation: Cancellation,
        uncertain: Uncertain,
        earlier: EarlierAttempts,
        keys: SigningKeys,
        hooks: Hooks,
        *,
        read: Read,
        write: Write,
        promised: Promised,
    ) -> None:
        self.ledger = ledger
        self._cancellation = cancellation
        self._uncertain = uncertain
        self._earlier = earlier
        self._keys = keys
        self._hooks = hooks
        self._read = read
        self._write = write
        self._promised = promised
        self._unfaithful: set[Agent] = set()  # agents whose `find` does not give what their `create` had given

    async def create(
        self,
        agent: Agent,
        task_type: TaskType,
        request: Request,
        *,
        deadline: float | None,
        first_attempt: int,
        connection: str = "",
        is_large: bool = False,
    ) -> bytes:
        """The sealed handle of a job: the agent's, or a pending one if the agent is not done shortly before `deadline`.

        `first_attempt` is how the caller counts its attempts in the output prefix: from 0 in Flyte 1, from 1 in
        Flyte 2. Raises what the agent raised, and `TimeoutError` if it is not done in time and could not tell later
        whether the job was made; a job that comes later still is cancelled.
        """
        repeatable = bool(request.output_prefix)  # without one the key is random: nobody can ask for it again
        inputs = b""
        if repeatable:
            inputs = await asyncio.to_thread(fingerprint, request) if is_large else fingerprint(request)
        key = self.ledger.key_for(key_of(request), inputs)
        order = Order(request, task_type, key, agent, first_attempt, connection=connection, is_large=is_large)
        resumable = order.is_resumable
        entry = self.ledger.enter(order.key, inputs, partial(self._fulfil, order), repeatable=repeatable)
        try:
            answer = await self.ledger.answer(entry, patience(deadline), may_hurry=resumable)
        except Unanswered:
            if not resumable:
                raise
        else:
            if resumable:  # else another try may have left another job
                self._uncertain.settle(order.key)
            return answer
        entry.promised = True
        self._tell(What.PENDING, order)
        sealed = self._pending(order)
        await self._promised(sealed)
        return sealed

    # -- pending handles --------------------------------------------------------------------------------------------

    def resume(self, agent: Agent, handle: Handle, call: Call) -> Entry | None:
        """The create of a pending handle, taken up again if nobody here carries it out; None if it cannot be (yet).

        Another process may still carry it out, and may even have been told to stop: at first its job is only looked
        for.
        """
        entry = self.ledger.get(handle.key)
        if entry is not None and (entry.answer or entry.task is not None or entry.stopped):
            return entry
        now, limit = time.time(), agent.settings.create_timeout
        left, held_back = handle.created_at + limit - now, 0.0
        if entry is None:
            held_back = handle.created_at + min(HOLD_BACK, limit / 4) - now
        elif left <= 0:
            return entry
        if held_back > 0 and "find" not in agent.supports:
            return None
        order = self._order_of(agent, handle, call, only_finds=left <= 0 or held_back > 0)
        if order is None:
            return None
        inputs = fingerprint(order.request) if is_whole(handle.request) else UNKNOWN_INPUTS
        entry = self.ledger.enter(order.key, inputs, partial(self._fulfil, order))
        entry.until = time.monotonic() + (held_back if held_back > 0 else left if left > 0 else limit)
        entry.promised = True
        return entry

    async def stop(self, agent: Agent, handle: Handle, call: Call) -> bytes | None:
        """Stop the create of a pending handle. The job that it has made elsewhere, as far as that can be known.

        A create that is under way here cancels its job itself. Raises if the backend cannot be asked.
        """
        known = self.ledger.get(handle.key)
        entry = self.ledger.stop(handle.key)
        is_running, finds = entry.task is not None, "find" in agent.supports
        if agent.is_sync or (is_running and not finds):
            return None
        order = self._order_of(agent, handle, call, only_finds=False)
        is_late = time.time() - handle.created_at >= agent.settings.create_timeout
        if order is None or (is_late and not finds):
            reason = "its pending create was cancelled, but another process may have carried it out"
            self._uncertain.add(reason, call=call, agent=agent)
            return None
        task = await self._read(order)
        if finds:
            self._earlier.look_again(agent, task, lambda: entry.stopped and self.ledger.get(entry.key) is entry)
            entry.made = None if is_running else await self._find(agent, task, call)
        elif known is None or known.error:
            # The only way to learn of a job that an earlier create may have made.
            entry.error = "the backend could not be asked for it"
            async with asyncio.timeout(agent.settings.create_timeout + 1.0):
                entry.made = await agent.create(task, call)
            entry.error = ""
        return entry.made

    def _order_of(self, agent: Agent, handle: Handle, call: Call, *, only_finds: bool) -> Order | None:
        """The order of a pending handle; None if its request was too large to travel."""
        if not handle.request:
            return None
        packed = unpack_request(handle.request)
        if not packed.is_whole and "find" not in agent.supports:
            return None
        if not handle.connection:
            connection_of(packed.request, call.connection)
        only_finds = only_finds or not packed.is_whole
        first = packed.first_attempt
        return Order(
            packed.request,
            handle.task_type,
            handle.key,
            agent,
            first,
            only_finds=only_finds,
            connection=handle.connection,
            is_large=packed.request.ByteSize() > LARGE,
        )

    def _pending(self, order: Order) -> bytes:
        packed = pack_request(order.request, order.first_attempt)
        handle = replace(order.handle(), kind=Kind.PENDING, request=packed)
        try:
            return seal(handle, self._keys)
        except HandleTooLarge:
            return seal(replace(handle, request=b""), self._keys)

    # -- the create itself ------------------------------------------------------------------------------------------

    async def _fulfil(self, order: Order, entry: Entry) -> bytes:
        try:
            task = await self._read(order)
            call = call_of(task)
            if order.agent.is_sync:
                handle = order.handle()
                result = await self._write(await finished(order.agent, task, call), handle)
                return seal(replace(handle, kind=Kind.DONE, declared=b"", result=result), self._keys)
            meta = entry.made = await self._make(order, task, call, entry)
        except (Fail, ConversionError) as exc:
            said = explained(exc, key=order.key, code=code_of(exc))
            log.info("task cannot be created: %s", said, extra={"agent": order.agent.name, "key": order.key})
            failed = replace(order.handle(), kind=Kind.FAILED, code=code_of(exc), message=said)
            return seal(failed, self._keys)
        return self._hand_out(order, entry, order.handle(meta), call)

    async def _make(self, order: Order, task: Task, call: Call, entry: Entry) -> bytes:
        """The agent's metadata. A create that may be repeated safely is, with back-off, up to `create_timeout`."""
        tries = unexplained = 0
        entry.until = min(entry.until, time.monotonic() + order.agent.settings.create_timeout)
        while True:
            try:
                return await self._try(order, task, call, entry, tries)
            except (Fail, ConversionError, Undone):
                raise
            except Exception as exc:
                tries += 1
                entry.error = explained(exc, agent=order.agent.name, key=order.key, told=entry.error)
                left = entry.until - time.monotonic()
                # Short beside what is left, so that the last waits are not the longest.
                wait = max(min(backoff(tries, exc), left / 4), asked_pause(exc))
                if not isinstance(exc, TimeoutError | OSError | Retry):
                    unexplained += 2 if isinstance(exc, MISTAKES) else 1
                spent = left < FIRST_BACKOFF or wait > left or unexplained >= MAX_UNEXPECTED
                if not order.is_resumable or spent or not (entry.is_wanted or entry.stopped):
                    self._doubt_failed(order, call, entry, exc)
                    raise
                log.info("create failed, trying again in %.1f s: %s", wait, entry.error, extra={"key": order.key})
            await entry.sleep(wait)

    async def _try(self, order: Order, task: Task, call: Call, entry: Entry, tries: int) -> bytes:
        """Clear the way, look whether the job is there, else make it."""
        agent, finds = order.agent, "find" in order.agent.supports
        if not order.only_finds and entry.made is None and not entry.stopped:
            adopted = await self._earlier.adopt_or_cancel(order, task)
            if adopted is not None:
                return adopted
            if len(self._cancellation):
                # Of a create of this attempt that nobody wanted.
                await self._cancellation.settled(order.key, pending=False)
        if entry.made is None:
            found = await self._find(agent, task, call) if finds else None
            if found is not None:
                return found
            if order.only_finds and finds:
                raise Retry("no job shows yet")
            if entry.stopped and (finds or not tries):  # else only its repetition tells what a failed try has made
                if not finds:
                    reason = "its create was stopped before it was sent, but another process may have sent it"
                    self._uncertain.add(reason, call=call, agent=agent)
                raise Undone("The create was stopped before there was a job.")
            await self._uncertain.foretell(call=call, agent=agent)
            entry.made = await _begun(agent, task, call, entry)
        if finds and not agent.settings.create_is_idempotent:
            entry.made = await self._first_of(order, task, call, entry.made)
        return entry.made

    async def _first_of(self, order: Order, task: Task, call: Call, made: bytes) -> bytes:
        """The one job that every process finds: another process may have made one at the same time.

        Then ours, of which nobody else can know, is cancelled. Should that end the other one too, then it was the
        same job, which the agent's `find` calls by another name: it is made anew, and this agent is not trusted again.
        """
        agent = order.agent
        first = await self._find(agent, task, call)
        if first is None or first == made or agent in self._unfaithful:
            return made
        log.warning("another process made the job too; ours is cancelled", extra={"key": order.key})
        self._tell(What.UNDONE, order)
        await self._cancellation.begin(agent, made, call, is_new=True).confirmed()
        async with asyncio.timeout(call_limit(agent)):
            phase = (await agent.get(first, call)).phase
        if phase.is_success or not phase.is_terminal:
            return first
        log.error("find does not give back what create gave; a job was cancelled", extra={"agent": agent.name})
        self._unfaithful.add(agent)
        return await agent.create(task, call)

    async def _find(self, agent: Agent, task: Task, call: Call) -> bytes | None:
        async with asyncio.timeout(call_limit(agent)):
            return await agent.find(task, task.key, call)

    def _hand_out(self, order: Order, entry: Entry, handle: Handle, call: Call) -> bytes:
        """The sealed handle; a job that nobody can ever find, or that is not to be, is cancelled."""
        agent = order.agent
        try:
            sealed = seal(handle, self._keys)
        except HandleTooLarge as exc:
            self._cancellation.begin(agent, handle.meta, call, is_new=True)
            text = f"{exc}; the job was cancelled"
            return seal(replace(handle, kind=Kind.FAILED, meta=b"", code="HandleTooLarge", message=text), self._keys)
        if entry.stopped or not (entry.is_wanted or order.is_resumable):
            entry.undone = True
            self._tell(What.UNDONE, order)
            self._cancellation.begin(agent, handle.meta, call, is_new=True)
            raise Undone("The create was stopped, and its job was cancelled.")
        if not entry.is_wanted:
            # Another process may have handed it out: it is kept for a repeated create, and for the next attempt.
            self._uncertain.add("its caller had gone when it was made", call=call, agent=agent, meta=handle.meta)
        return sealed

    # -- shared -----------------------------------------------------------------------------------------------------

    def _doubt_failed(self, order: Order, call: Call, entry: Entry, error: Exception) -> None:
        """List a create that may have made a job all the same."""
        if not order.agent.is_sync:
            reason = f"its create failed: {sentence(error)}"
            self._uncertain.add(reason, call=call, agent=order.agent, meta=entry.made or b"")

    def _tell(self, what: What, order: Order) -> None:
        self._hooks.tell(Event(what=what, task_type=order.task_type.name, key=order.key))


async def _begun(agent: Agent, task: Task, call: Call, entry: Entry) -> bytes:
    """What the agent's `create` returns; `TimeoutError` if the ledger ended it, since its time was over."""
    try:
        return await agent.create(task, call)
    except asyncio.CancelledError as exc:
        running = asyncio.current_task()
        if not entry.overdue or running is None or running.uncancel() > 0:
            raise
        raise TimeoutError(f"{agent.name} did not come back within {agent.settings.create_timeout:g} s.") from exc


async def finished(agent: Agent, task: Task, call: Call) -> Resource:
    """What a sync agent's `do` returns, which must be terminal: the poller of Flyte 1 dies of anything else."""
    resource = await agent.do(task, call)
    if not isinstance(resource, Resource):
        raise TypeError(f"{agent.name}.do returned {type(resource).__name__}, not a Resource")
    if not resource.phase.is_terminal:
        text = f"{agent.name}.do returned the phase {resource.phase.name}, which is not terminal."
        raise Fail(text, code="AgentError")
    return with_sound_links(resource, agent, call.key)


def code_of(exc: Exception) -> str:
    """The code of a permanent failure."""
    return exc.code if isinstance(exc, Fail) else "InputConversionError"
