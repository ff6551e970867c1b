"""Where a Databricks run stands: the states, results and reasons of the Jobs API, and what they mean here.

The tables are complete as of the SDK that the tests install; one of them fails when the SDK knows more. A state that is
in no table is taken for a running one, so that a task outlives a release of Databricks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from airside.model import Phase

log = logging.getLogger("airside.agents.databricks")

ACTIVE: Mapping[str, Phase] = {
    "QUEUED": Phase.QUEUED,
    "BLOCKED": Phase.QUEUED,
    "WAITING": Phase.QUEUED,
    "PENDING": Phase.INITIALIZING,
    "RUNNING": Phase.RUNNING,
    "WAITING_FOR_RETRY": Phase.RUNNING,
    "TERMINATING": Phase.RUNNING,
}
"""The life-cycle states of a run that is not over."""

OVER = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
"""The life-cycle states of a run that is over."""

RESULTS: Mapping[str, tuple[Phase, str]] = {
    "SUCCESS": (Phase.SUCCEEDED, ""),
    "SUCCESS_WITH_FAILURES": (Phase.SUCCEEDED, ""),
    "FAILED": (Phase.FAILED, "RunFailed"),
    "TIMEDOUT": (Phase.RETRYABLE_FAILED, "Timeout"),
    "CANCELED": (Phase.ABORTED, "Canceled"),
    "UPSTREAM_CANCELED": (Phase.ABORTED, "Canceled"),
    "UPSTREAM_FAILED": (Phase.FAILED, "RunFailed"),
    "EXCLUDED": (Phase.FAILED, "RunSkipped"),
    "DISABLED": (Phase.FAILED, "RunSkipped"),
    "MAXIMUM_CONCURRENT_RUNS_REACHED": (Phase.RETRYABLE_FAILED, "QuotaExceeded"),
}
"""Result state → phase and error code."""

REASONS: Mapping[str, tuple[Phase, str]] = {
    "SUCCESS": (Phase.SUCCEEDED, ""),
    "SUCCESS_WITH_FAILURES": (Phase.SUCCEEDED, ""),
    "USER_CANCELED": (Phase.ABORTED, "Canceled"),
    "CANCELED": (Phase.ABORTED, "Canceled"),
    # the task's own doing: the same again would fail again
    "RUN_EXECUTION_ERROR": (Phase.FAILED, "RunFailed"),
    "INVALID_CLUSTER_REQUEST": (Phase.FAILED, "InvalidCluster"),
    "INVALID_RUN_CONFIGURATION": (Phase.FAILED, "InvalidRun"),
    "LIBRARY_INSTALLATION_ERROR": (Phase.FAILED, "LibraryNotInstalled"),
    "FEATURE_DISABLED": (Phase.FAILED, "FeatureDisabled"),
    "UNAUTHORIZED_ERROR": (Phase.FAILED, "Forbidden"),
    "RESOURCE_NOT_FOUND": (Phase.FAILED, "ResourceNotFound"),
    "DISABLED": (Phase.FAILED, "RunSkipped"),
    "SKIPPED": (Phase.FAILED, "RunSkipped"),
    "BUDGET_POLICY_LIMIT_EXCEEDED": (Phase.FAILED, "QuotaExceeded"),
    # limits that pass
    "WORKSPACE_RUN_LIMIT_EXCEEDED": (Phase.RETRYABLE_FAILED, "QuotaExceeded"),
    "CLUSTER_REQUEST_LIMIT_EXCEEDED": (Phase.RETRYABLE_FAILED, "QuotaExceeded"),
    "MAX_CONCURRENT_RUNS_EXCEEDED": (Phase.RETRYABLE_FAILED, "QuotaExceeded"),
    "MAX_JOB_QUEUE_SIZE_EXCEEDED": (Phase.RETRYABLE_FAILED, "QuotaExceeded"),
    "MAX_SPARK_CONTEXTS_EXCEEDED": (Phase.RETRYABLE_FAILED, "QuotaExceeded"),
    # the platform's doing
    "INTERNAL_ERROR": (Phase.RETRYABLE_FAILED, "SystemError"),
    "CLOUD_FAILURE": (Phase.RETRYABLE_FAILED, "SystemError"),
    "CLUSTER_ERROR": (Phase.RETRYABLE_FAILED, "ClusterError"),
    "DRIVER_ERROR": (Phase.RETRYABLE_FAILED, "ClusterError"),
    "CLUSTER_TERMINATED_BY_USER": (Phase.RETRYABLE_FAILED, "ClusterError"),
    "REPOSITORY_CHECKOUT_FAILED": (Phase.RETRYABLE_FAILED, "RepositoryCheckoutFailed"),
    "STORAGE_ACCESS_ERROR": (Phase.RETRYABLE_FAILED, "StorageAccessError"),
    "BREAKING_CHANGE": (Phase.RETRYABLE_FAILED, "SystemError"),
}
"""Termination code → phase and error code."""

BLAME: Mapping[str, tuple[Phase, str]] = {
    "SUCCESS": (Phase.SUCCEEDED, ""),
    "CLIENT_ERROR": (Phase.FAILED, "RunFailed"),
    "INTERNAL_ERROR": (Phase.RETRYABLE_FAILED, "SystemError"),
    "CLOUD_FAILURE": (Phase.RETRYABLE_FAILED, "SystemError"),
}
"""Termination type → phase and error code, for a termination code that is not known yet."""


def phase_of(run: Mapping[str, Any]) -> tuple[Phase, str]:
    """The phase and, for a run without success, the error code of a run or one task of it, as the Jobs API tells it.

    >>> phase_of({"state": {"life_cycle_state": "TERMINATED", "result_state": "TIMEDOUT"}})
    (<Phase.RETRYABLE_FAILED: 8>, 'Timeout')
    >>> phase_of({"status": {"state": "TERMINATED", "termination_details": {"code": "CLOUD_FAILURE"}}})[1]
    'SystemError'
    """
    state, status = run.get("state") or {}, run.get("status") or {}
    stage = state.get("life_cycle_state") or status.get("state") or ""
    if stage in ACTIVE:
        return ACTIVE[stage], ""
    if stage not in OVER:
        log.warning("Databricks names the state %r of a run, which is not known here; taken for a running one", stage)
        return Phase.RUNNING, ""
    details = status.get("termination_details") or {}
    told = _told(state.get("result_state") or "", details)
    if told is not None:
        return told
    if stage == "SKIPPED":
        return Phase.FAILED, "RunSkipped"
    if stage == "TERMINATED":
        log.warning("Databricks ended a run with the result %r, which is not known here", state.get("result_state"))
    return Phase.RETRYABLE_FAILED, "SystemError"


def _told(result: str, details: Mapping[str, Any]) -> tuple[Phase, str] | None:
    """What the result and the reason say together: the reason is finer, the result is what counts."""
    reason = REASONS.get(details.get("code") or "") or BLAME.get(details.get("type") or "")
    known = RESULTS.get(result)
    if known is None or (result == "FAILED" and reason is not None and not reason[0].is_success):
        return reason
    return known


def message_of(run: Mapping[str, Any]) -> str:
    """What Databricks says of a run, in one line.

    >>> message_of({"state": {"life_cycle_state": "QUEUED", "queue_reason": "limit of active runs"}})
    'limit of active runs'
    """
    state, status = run.get("state") or {}, run.get("status") or {}
    for text in (
        (status.get("termination_details") or {}).get("message"),
        state.get("state_message"),
        (status.get("queue_details") or {}).get("message"),
        state.get("queue_reason"),
    ):
        if text:
            return " ".join(str(text).split())
    return ""
