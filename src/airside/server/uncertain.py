"""Jobs that may be running although nobody needs them, listed by name: they are never deleted on a guess."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from airside.model import Call
from airside.model.redaction import redact
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent

log = logging.getLogger("airside.server")

CAPACITY = 10_000
"""Jobs listed at once; the ones listed first are forgotten first, but stay in the log."""
GATHER = 0.01
"""Seconds, at least, between two lines about jobs that are being made."""
_MAX_JOB = 512  # bytes of an agent's metadata that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """One job and why it is listed. `job` is the agent's metadata as text, empty if none is known."""

    key: str
    task_type: str
    agent: str
    reason: str
    output_prefix: str = ""
    job: str = ""
    since: str = ""


class Uncertain:
    """The list, by the key of the task attempt."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._doubts: OrderedDict[str, Doubt] = OrderedDict()
        self._metas: dict[str, bytes] = {}  # digests: metadata may be large
        self._foretold: list[tuple[str, str, asyncio.Future[None]]] = []
        self._foretold_at = float("-inf")

    def add(self, reason: str, *, call: Call, agent: Agent, meta: bytes = b"") -> None:
        """List the job that `call` is about; one that is listed already keeps its place and its first reason."""
        key = call.key or hashlib.sha256(meta).hexdigest()[:32]  # a foreign handle has no key
        if key in self._doubts:
            return
        task_type = str(call.task_type or next(iter(agent.task_types), ""))
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._doubts[key] = Doubt(
            key=key,
            task_type=task_type,
            agent=agent.name,
            reason=redact(reason),
            output_prefix=call.output_prefix,
            job=redact(meta[:_MAX_JOB].decode("utf-8", "replace")),
            since=since,
        )
        if meta:
            self._metas[key] = _digest(meta)
        if len(self._doubts) > CAPACITY:
            self.settle(next(iter(self._doubts)))
        extra = {"agent": agent.name, "key": key, "output_prefix": call.output_prefix}
        log.warning("a job may be running although nobody needs it: %s", reason, extra=extra)
        self._hooks.tell(Event(what=What.UNCERTAIN, task_type=task_type, key=key, message=reason))

    async def foretell(self, *, call: Call, agent: Agent) -> None:
        """Leave word of a job that is about to be made: if the process is killed now, nothing else will tell of it.

        Not needed of an agent whose repeated create makes no second job. A line costs more than all else that a create
        does here, so those that come quickly one after the other share one.
        """
        if agent.settings.create_is_idempotent:
            return
        loop = asyncio.get_running_loop()
        if not self._foretold:
            loop.call_at(max(loop.time(), self._foretold_at + GATHER), self._leave_word)
        told: asyncio.Future[None] = loop.create_future()
        self._foretold.append((agent.name, call.key, told))
        await told

    def _leave_word(self) -> None:
        foretold, self._foretold = self._foretold, []
        self._foretold_at = asyncio.get_running_loop().time()
        keys: dict[str, list[str]] = {}
        for agent, key, _ in foretold:
            keys.setdefault(agent, []).append(key)
        for agent, named in keys.items():
            text = "jobs are being made; if this process dies before it answers, they may be running"
            log.info(text, extra={"agent": agent, "keys": named})
        for _, _, told in foretold:
            if not told.done():
                told.set_result(None)

    def settle(self, key: str, meta: bytes | None = None) -> None:
        """Take a job off the list: it is known to be over, or somebody holds its handle.

        With `meta`, only if the list means that very job, and not one that a failed create of the same key has left.
        """
        if meta is None or self._metas.get(key) == _digest(meta):
            self._doubts.pop(key, None)
            self._metas.pop(key, None)

    def __len__(self) -> int:
        return len(self._doubts)

    def __contains__(self, key: object) -> bool:
        return key in self._doubts

    def to_json(self) -> bytes:
        """The list as JSON, the oldest first.

        >>> Uncertain(Hooks()).to_json()
        b'{"uncertain": []}'
        """
        return json.dumps({"uncertain": [asdict(doubt) for doubt in self._doubts.values()]}).encode()


def _digest(meta: bytes) -> bytes:
    return hashlib.sha256(meta).digest()
