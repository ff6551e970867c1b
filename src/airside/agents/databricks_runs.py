"""The runs of one Databricks workspace, as its Jobs API tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airside.agents.databricks_workspaces import Client
from airside.agents.faults import fault_of
from airside.model import AirsideError, Fail, NotFound, Retry

_PAGE = 24  # runs that one runs/list tells: "less than 25"
_MAX_TASK_PAGES = 10  # of a hundred tasks each


class Runs:
    """What can be asked of a workspace about its runs. `version` is that of the Jobs API: 2.1 or 2.2."""

    def __init__(self, client: Client, version: str) -> None:
        self._client = client
        self._path = f"/api/{version}/jobs/runs"

    def submit(self, body: Mapping[str, Any]) -> int:
        """Start a run, or find the one that was started with the same token. Returns its id."""
        told = self._client.ask("POST", f"{self._path}/submit", body=body)
        run_id = told.get("run_id")
        if not isinstance(run_id, int):
            raise Fail(f"{self._client.host} answered runs/submit without a run_id.", code="UnexpectedAnswer")
        return run_id

    def read(self, run_id: int, **more: Any) -> dict[str, Any]:
        """What is known of a run."""
        return self._get("get", run_id=run_id, **more)

    def page_of(self, run_id: int) -> str:
        """The run's page in Databricks, empty if it cannot be had now."""
        try:
            return str(self.read(run_id).get("run_page_url") or "")
        except AirsideError:
            return ""

    def newest(self) -> None:
        """Ask for the newest run, to see whether the workspace answers."""
        self._client.ask("GET", f"{self._path}/list", query={"limit": 1})

    def active(self, wanted: set[int]) -> dict[int, Mapping[str, Any]]:
        """Those of the wanted runs that are active. Never more calls than asking for each would take."""
        found: dict[int, Mapping[str, Any]] = {}
        query: dict[str, Any] = {"active_only": True, "run_type": "SUBMIT_RUN", "limit": _PAGE}
        for _ in range(len(wanted) - 1):
            told = self._get("list", **query)
            found |= {one["run_id"]: one for one in told.get("runs") or () if one.get("run_id") in wanted}
            if len(found) == len(wanted) or not told.get("next_page_token"):
                break
            query["page_token"] = told["next_page_token"]
        return found

    def tasks(self, told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Every task of a run; Jobs API 2.2 tells a hundred at a time."""
        tasks = list(told.get("tasks") or ())
        for _ in range(_MAX_TASK_PAGES):
            if not told.get("next_page_token"):
                break
            told = self.read(told["run_id"], page_token=told["next_page_token"])
            tasks += told.get("tasks") or ()
        return tasks

    def output(self, run_id: int) -> dict[str, Any]:
        """What one task has left: log, error, a notebook's exit value. That it is not there says nothing of the run."""
        try:
            return self._get("get-output", run_id=run_id)
        except NotFound as exc:
            raise Retry(exc.message) from None

    def cancel(self, run_id: int) -> None:
        """Have the run cancelled. A refusal may pass; `NotFound` if there is no such run."""
        try:
            self._client.ask("POST", f"{self._path}/cancel", body={"run_id": run_id})
        except Fail as exc:
            if exc.code == "ResourceNotFound" or "does not exist" in exc.message:
                raise NotFound(exc.message) from None
            raise fault_of(exc) from None

    def _get(self, what: str, **query: Any) -> dict[str, Any]:
        return self._client.ask("GET", f"{self._path}/{what}", query=query, polling=True)
