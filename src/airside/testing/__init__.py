"""What authors test their agents with: a harness, a scripted agent, a backend that breaks, a model
of Flyte's engine, the conformance suite.

Names are resolved when they are first used, so that the pytest plugin beside them loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airside.testing.blocking import BlockingHarness, blocking_harness
    from airside.testing.client import RawClient, refused
    from airside.testing.conformance import Report, Result, Status, check_agent, check_endpoint
    from airside.testing.engine_model import EngineModel, Outcome, Timeouts
    from airside.testing.faulty import BackendRequest, FaultyBackend
    from airside.testing.loopback import Harness, Job, harness
    from airside.testing.scripted import Received, ScriptedAgent, hang

_WHERE = {
    **dict.fromkeys(("BlockingHarness", "blocking_harness"), "airside.testing.blocking"),
    **dict.fromkeys(("RawClient", "refused"), "airside.testing.client"),
    **dict.fromkeys(("Report", "Result", "Status", "check_agent", "check_endpoint"), "airside.testing.conformance"),
    **dict.fromkeys(("EngineModel", "Outcome", "Timeouts"), "airside.testing.engine_model"),
    **dict.fromkeys(("BackendRequest", "FaultyBackend"), "airside.testing.faulty"),
    **dict.fromkeys(("Harness", "Job", "harness"), "airside.testing.loopback"),
    **dict.fromkeys(("Received", "ScriptedAgent", "hang"), "airside.testing.scripted"),
}

__all__ = (
    "BackendRequest",
    "BlockingHarness",
    "EngineModel",
    "FaultyBackend",
    "Harness",
    "Job",
    "Outcome",
    "RawClient",
    "Received",
    "Report",
    "Result",
    "ScriptedAgent",
    "Status",
    "Timeouts",
    "blocking_harness",
    "check_agent",
    "check_endpoint",
    "hang",
    "harness",
    "refused",
)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'airside.testing' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
