"""The output of Slurm jobs, read in pieces from the cluster."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

from airside.agents.slurm_commands import Commands, LogFile
from airside.agents.slurm_states import Row
from airside.model import AirsideError, Fail, LogLine

_ONE_LOOK = 256 * 1024  # bytes
_LONGEST_LINE = 64 * 1024  # bytes; a longer one is given in pieces
_LONGEST_MESSAGE = 500  # characters of a job's last words
_FOLLOW_EVERY = 1.0  # seconds
_TOLD = 3  # tasks of an array whose last words are looked for
_TOKEN = re.compile(r"(\d*):(\d+)\Z")


async def stream(cluster: Commands, job_id: str, configured: str, *, after: str, limit: int) -> AsyncIterator[LogLine]:
    """The lines that a job prints, until it ends. `after` is TASK:BYTES, where the page before ended."""
    found = _TOKEN.match(after or ":0")
    if found is None:
        raise Fail(f"{after!r} is no place in this log; take the token of the page before.", code="BadToken")
    log, task, offset, given = _Log(cluster, job_id, configured), found[1], int(found[2]), 0
    while given < limit:
        over = await log.is_over(task)
        file = await log.file(task)
        data = b"" if file is None else await cluster.read(file.path, offset, _ONE_LOOK)
        at_end = over and len(data) < _ONE_LOOK
        task = task if file is None else file.task
        pieces = _pieces(data, at_end=at_end)
        for piece in pieces[: limit - given]:
            offset, given = offset + len(piece), given + 1
            text = piece.rstrip(b"\r\n").decode("utf-8", errors="replace")
            yield LogLine(f"[{task}] {text}" if task else text, originator="user", cursor=f"{task}:{offset}")
        if at_end:
            following = log.after(task)
            if following is None:
                return
            task, offset = following, 0
        elif not pieces:
            await asyncio.sleep(_FOLLOW_EVERY)


class _Log:
    """Where the output of a job is, and which of its tasks are over: asked for no more often than it may change."""

    def __init__(self, cluster: Commands, job_id: str, configured: str) -> None:
        self._cluster = cluster
        self._job_id = job_id
        self._configured = configured
        self._files: list[LogFile] = []
        self._rows: list[Row] = []

    async def is_over(self, task: str) -> bool:
        """True once nothing more can come from this task, or from the job."""
        if not self._is_over(task):
            self._rows = (await self._cluster.rows([self._job_id])).get(self._job_id, [])
            self._files = []  # more tasks may have begun
        return self._is_over(task)

    async def file(self, task: str) -> LogFile | None:
        """The file of a task, or the first one; None if there is none yet."""
        if not self._files:
            self._files = await self._cluster.log_files(self._job_id, self._configured)
        return next((file for file in self._files if not task or file.task == task), None)

    def after(self, task: str) -> str | None:
        """The next task of an array that has a log, or None."""
        tasks = [int(file.task) for file in self._files if file.task]
        following = [one for one in sorted(tasks) if task and one > int(task)]
        return str(following[0]) if following else None

    def _is_over(self, task: str) -> bool:
        of_task = [row for row in self._rows if row.task == task] if task else []
        return bool(self._rows) and all(row.phase.is_terminal for row in of_task or self._rows)


async def last_words(cluster: Commands, job_id: str, configured: str, tasks: Sequence[str]) -> str:
    """The last line that says something, of a job or of the first tasks that failed. Empty if it cannot be had."""
    try:
        files = await cluster.log_files(job_id, configured)
        chosen = [file for file in files if file.task in tasks[:_TOLD]] or files[:1]
        tails = await cluster.tails(file.path for file in chosen)
    except AirsideError:
        return ""
    told = []
    for file, tail in zip(chosen, tails, strict=True):
        lines = tail.decode("utf-8", errors="replace").splitlines()
        words = next((line.strip()[:_LONGEST_MESSAGE] for line in reversed(lines) if line.strip()), "")
        if words:
            told.append(f"[{file.task}] {words}" if file.task else words)
    return "; ".join(told)


def _pieces(data: bytes, *, at_end: bool) -> list[bytes]:
    """Whole lines with their ends; the rest too if nothing more comes or it is too long to wait for."""
    pieces = []
    for line in data.splitlines(keepends=True):
        pieces += [line[start : start + _LONGEST_LINE] for start in range(0, len(line), _LONGEST_LINE)]
    is_whole = not pieces or pieces[-1].endswith(b"\n") or len(pieces[-1]) == _LONGEST_LINE
    return pieces if is_whole or at_end else pieces[:-1]
