"""Whether an agent is ready here: its library, its settings, its credentials and, if asked, its backend."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from airside.cli.registry import options_table
from airside.cli.settings import Settings
from airside.model import AirsideError
from airside.model.redaction import redact
from airside.sdk.declare import missing_extra
from airside.sdk.deferred import DeferredAgent
from airside.sdk.options import read_options
from airside.sdk.registry import Registration

_PATIENCE = 30.0  # seconds for one question


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What there is of an agent's needs. `credentials` and `endpoint` are empty if it has no such need, or none asked.

    `problem` is what is missing, in one sentence; empty if it is ready.
    """

    name: str
    extra: str
    credentials: str = ""
    endpoint: str = ""
    problem: str = ""

    @property
    def is_ready(self) -> bool:
        """True if nothing is missing."""
        return not self.problem


def is_built_in(entry: Registration) -> bool:
    """True for an agent that is part of Airside."""
    return isinstance(entry.agent, DeferredAgent) or type(entry.agent).__module__.startswith("airside.agents.")


def look(entries: Sequence[Registration], settings: Settings, *, probe: bool) -> list[Readiness]:
    """How ready these agents are; all are looked at side by side."""

    async def all_of_them() -> list[Readiness]:
        return await asyncio.gather(*(_look_at(entry, settings, probe=probe) for entry in entries))

    return asyncio.run(all_of_them())


async def _look_at(entry: Registration, settings: Settings, *, probe: bool) -> Readiness:
    agent: Any = entry.agent
    extra = ", ".join(dict.fromkeys((*getattr(agent, "requires", {}).values(), *getattr(agent, "extras", ()))))
    told = {"credentials": "", "endpoint": ""}
    missing = missing_extra(agent)
    if missing is not None:
        return Readiness(name=entry.name, extra=extra, problem=str(missing))
    step, is_open = "it cannot be opened", False
    try:
        options = read_options(getattr(agent, "Options", None), *options_table(settings, entry))
        await _ask(getattr(agent, "open", None), options)
        is_open = True
        step = "no credentials"
        told["credentials"] = await _ask(getattr(agent, "check_credentials", None))
        if probe:
            step = "its backend does not answer"
            told["endpoint"] = await _ask(getattr(agent, "probe", None))
    except Exception as exc:  # noqa: BLE001 - whatever an agent raises is what is missing
        return Readiness(name=entry.name, extra=extra, **told, problem=f"{step}: {_words(exc)}")
    finally:
        if is_open:
            with suppress(Exception):
                await _ask(getattr(agent, "close", None))
    return Readiness(name=entry.name, extra=extra, **told)


async def _ask(question: Callable[..., Any] | None, *arguments: Any) -> str:
    """The answer of an agent's method, `def` or `async def`; empty if there is no such method."""
    if question is None:
        return ""
    async with asyncio.timeout(_PATIENCE):
        answer = await _in_thread(question, *arguments)
        if inspect.isawaitable(answer):
            answer = await answer
    return redact(str(answer)) if answer is not None else ""


async def _in_thread(question: Callable[..., Any], *arguments: Any) -> Any:
    """What a call in a thread of its own returns. A pool would keep the command from ending while a call hangs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(answer: Any, error: Exception | None) -> None:
        if done.done():  # nobody waits any more
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(answer)

    def work() -> None:
        answer: Any = None
        error: Exception | None = None
        try:
            answer = question(*arguments)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is what is missing
            error = exc
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, answer, error)

    threading.Thread(target=work, daemon=True).start()
    return await done


def _words(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return f"no answer within {_PATIENCE:.0f} s"
    text = redact(" ".join(str(exc).split()))
    return text if isinstance(exc, AirsideError) and text else f"{type(exc).__name__}: {text}"
