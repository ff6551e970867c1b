"""Waiting for a file, on this machine or in an object store, and for a point in time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from airside.agents.placeholders import render
from airside.agents.sensor_job import Look, Waiting, no_outputs, place_outputs
from airside.agents.transfers import Transfers
from airside.model import Call, Fail
from airside.sdk.lane import Lane


class FileCondition:
    """A file, a folder, an object, or a prefix with objects is there."""

    def __init__(self, allowed_directories: Sequence[str], patience: float) -> None:
        self._transfers = Transfers(allowed_directories)
        self._lane = Lane("sensor-files")
        self._patience = patience

    def check(self, job: Waiting, call: Call) -> None:
        del call
        place_outputs(job, self._path(job))

    async def look(self, job: Waiting, call: Call) -> Look:
        del call
        path = self._path(job)
        if await self._lane.run(lambda: self._transfers.exists(path), timeout=self._patience):
            return Look(met=True, said=f"{path} is there", outputs=place_outputs(job, path))
        return Look(met=False, said=f"{path} is not there yet")

    def close(self) -> None:
        self._lane.close()

    def _path(self, job: Waiting) -> str:
        path = job.config.get("path")
        if not isinstance(path, str) or not path.strip():
            raise Fail("config.path: a file sensor needs a place, such as s3://bucket/file.")
        return render(path, job.values()).strip()


class TimeCondition:
    """A point in time has come. `config.at` is in seconds since 1970."""

    def check(self, job: Waiting, call: Call) -> None:
        del call
        no_outputs(job)

    async def look(self, job: Waiting, call: Call) -> Look:
        del call
        left = float(job.config["at"]) - time.time()
        if left <= 0:
            return Look(met=True)
        return Look(met=False, said=f"it is not {iso(job.config['at'])} yet", after=left)


def moment(config: dict[str, object], waiting: Waiting, now: float) -> float:
    """The time that a task waits for, in seconds since 1970."""
    after = config.get("after")
    if after is not None:
        if isinstance(after, bool) or not isinstance(after, (int, float)) or not 0 <= after < float("inf"):
            raise Fail(f"config.after is a number of seconds, not {after!r}.")
        return now + after
    text = render(str(config.get("at") or ""), waiting.values()).strip()
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Fail(
            f"config.at: {text!r} is not a time in ISO 8601, such as 2026-01-02T06:00:00+01:00.", code="NoSuchTime"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def iso(at: float) -> str:
    """A time for people to read.

    >>> iso(1767330000.0)
    '2026-01-02 05:00:00 UTC'
    """
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
