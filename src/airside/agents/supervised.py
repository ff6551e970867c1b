"""What the agents share whose jobs are supervised processes on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airside.agents import supervisor
from airside.agents.jobs import Job, Jobs, Report, default_state_dir
from airside.agents.json_values import ERROR, OUTPUTS, from_file, from_json, is_optional, kind_of, local_path
from airside.model import ConversionError, Fail, LogLine, LogLink, OutputsAt, Phase, Resource, Task
from airside.sdk.agent import AsyncAgent

_LONGEST_LINE = 65536  # bytes of a log line; a longer one is given in pieces
_ONE_LOOK = 4 * _LONGEST_LINE  # bytes of a log read at a time
_LONGEST_MESSAGE = 500  # characters of a job's last words
_FOLLOW_EVERY = 0.2  # seconds
_LARGEST_ANSWER = 3 * 1024 * 1024  # bytes of outputs.json


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Where jobs are kept and how they are ended.

    state_dir: the directory of the jobs' folders; empty: `$XDG_STATE_HOME/airside/jobs/NAME`.
    retention: seconds for which a finished job's folder, with its log, is kept.
    grace: seconds between TERM and KILL when a job is cancelled.
    env_allow: names of variables of the service's environment that jobs may see, besides PATH, HOME, LANG,
        LC_*, TZ and TMPDIR.
    """

    state_dir: str = ""
    retention: float = 7 * 86400.0
    grace: float = 10.0
    env_allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.retention < 0 or self.grace < 0:
            raise ValueError("retention and grace are numbers of seconds from 0")


class SupervisedAgent(AsyncAgent[Job]):
    """An agent whose jobs are processes on this machine, each under a supervisor that outlives the service.

    A subclass writes `create`; watching, cancelling, finding again, logs and outputs are here.
    """

    poll_interval = 1.0
    max_age = 0.2
    create_is_idempotent = True
    host_access = True
    jobs: Jobs

    def open_jobs(self, options: JobOptions) -> None:
        """Make the state directory ready."""
        directory = Path(options.state_dir).expanduser() if options.state_dir else default_state_dir(self.name)
        self.jobs = Jobs(directory.absolute(), grace=options.grace, retention=options.retention)
        self.jobs.open()

    def get(self, job: Job) -> Resource:
        """Where the process stands."""
        report = self.jobs.report(job)
        links = self.links(job)
        record = report.record
        match report.stage:
            case "starting":
                return Resource(Phase.QUEUED, message="starting", links=links)
            case "running":
                return Resource(Phase.RUNNING, message=f"process {record['pid']}", links=links)
            case "orphaned":
                message = f"process {record['pid']} runs, but its supervisor was killed: its end will not be known"
                return Resource(Phase.RUNNING, message=message, links=links)
            case "cancelled":
                return Resource(Phase.ABORTED, message="cancelled", links=links, info=_usage(record))
            case "lost":
                message = "the job's supervisor was killed or the machine restarted; how the job ended is not known"
                return Resource(Phase.RETRYABLE_FAILED, message=message, code="JobLost", links=links)
        return _ended(report, self.jobs.folder(job) / supervisor.LOG, links)

    def delete(self, job: Job) -> None:
        """Have the process group ended: TERM, then KILL after the grace."""
        self.jobs.cancel(job)

    def find(self, task: Task, key: str) -> Job | None:
        """The job that an earlier create of this key made."""
        del task
        return self.jobs.find(key)

    def links(self, job: Job) -> Sequence[LogLink]:
        """The log as a file of this machine."""
        return (LogLink((self.jobs.folder(job) / supervisor.LOG).as_uri(), "Log"),)

    async def logs(self, job: Job, *, after: str, limit: int) -> AsyncIterator[LogLine]:
        """What the process printed, from the byte `after` on; follows it until it ends."""
        if after and not (after.isascii() and after.isdigit()):
            raise Fail(f"{after!r} is no place in this log; take the token of the page before.", code="BadToken")
        offset, given = int(after or 0), 0
        while given < limit:
            over = await asyncio.to_thread(self.jobs.is_over, job)
            lines = await asyncio.to_thread(_read_log, self.jobs.folder(job) / supervisor.LOG, offset, over)
            for line in lines[: limit - given]:
                yield line
                offset, given = int(line.cursor), given + 1
            if over and not lines:
                return
            if not lines:
                await asyncio.sleep(_FOLLOW_EVERY)


def output_directory(task: Task, folder: Path) -> Path:
    """The directory where a job puts its outputs.

    It is the task's output prefix if that is a place on this machine, else a directory in the job's folder.
    """
    return (local_path(task.output_prefix) or folder / "outputs").absolute()


def output_notes(task: Task, directory: Path) -> dict[str, Any]:
    """What `outputs_of` must know when the job is done."""
    declared = {name: kind_of(annotation) for name, annotation in task.interface.outputs.items()}
    return {"outputs": declared, "output_dir": str(directory), "output_prefix": task.output_prefix}


def outputs_of(notes: Mapping[str, Any]) -> Mapping[str, Any] | OutputsAt:
    """The outputs that a job left: `outputs.json`, else `outputs.pb`, else one file for each output.

    A job that was told to write elsewhere (a bucket) is believed to have done so. Raises `ConversionError` for
    a value that cannot be read, `Fail` for outputs that are missing.
    """
    declared, directory = notes["outputs"], Path(notes["output_dir"])
    if not declared:
        return {}
    told = directory / OUTPUTS
    if told.exists():
        values = {**_left_out(declared), **_read_answer(told)}
        kinds = {name: declared.get(name, "any") for name in values}
        return {name: from_json(one, kinds[name], f"outputs.{name}", directory) for name, one in values.items()}
    if (directory / "outputs.pb").exists():
        return OutputsAt(str(directory))
    files = {name: directory / name for name in declared if (directory / name).exists()}
    if not files and notes["output_prefix"] and local_path(notes["output_prefix"]) is None:
        return OutputsAt(notes["output_prefix"])
    missing = [name for name in declared if name not in files and not is_optional(declared[name])]
    if missing:
        raise Fail(
            f"The process ended well but left no output {missing[0]!r}: write {OUTPUTS} (an object of values by name), "
            f"outputs.pb, or a file named {missing[0]}, into the directory AIRSIDE_OUTPUT_DIR.",
            code="OutputsNotFound",
        )
    written = {name: from_file(file, declared[name], f"outputs.{name}") for name, file in files.items()}
    return {**_left_out(declared), **written}


def _ended(report: Report, log: Path, links: Sequence[LogLink]) -> Resource:
    record, info = report.record, _usage(report.record)
    if record.get("problem"):
        return Resource(Phase.FAILED, message=f"cannot start {record['problem']}", code="CannotStart", links=links)
    if record["code"] != 0:
        return _failed(report, log, links)
    try:
        outputs = outputs_of(report.notes)
    except ConversionError as exc:
        return Resource(Phase.FAILED, message=str(exc), code="OutputConversionError", links=links, info=info)
    except Fail as exc:
        return Resource(Phase.FAILED, message=exc.message, code=exc.code, links=links, info=info)
    return Resource(Phase.SUCCEEDED, outputs=outputs, links=links, info=info)


def _failed(report: Report, log: Path, links: Sequence[LogLink]) -> Resource:
    """A job's failure in its own words (`error.json`, `error.pb`), else by exit status and last line of the log."""
    record, info = report.record, _usage(report.record)
    directory = Path(report.notes["output_dir"])
    told = _read_error(directory / ERROR)
    if told:
        phase = Phase.RETRYABLE_FAILED if told.get("retryable") is True else Phase.FAILED
        message, code = str(told.get("message", ""))[:4000], str(told.get("code") or "ProcessFailed")[:100]
        return Resource(phase, message=message or _manner(record), code=code, links=links, info=info)
    document = OutputsAt(str(directory)) if (directory / "error.pb").exists() else None
    code = "OutOfMemory" if record.get("out_of_memory") else "ProcessFailed"
    words = _last_words(log)
    message = f"{_manner(record)}: {words}" if words else _manner(record)
    return Resource(Phase.RETRYABLE_FAILED, message=message, code=code, outputs=document, links=links, info=info)


def _manner(record: Mapping[str, Any]) -> str:
    """How a process ended, in words."""
    if record.get("out_of_memory"):
        return "killed by SIGKILL, probably for want of memory (the kernel was killing processes for it at the time)"
    if record["signal"]:
        return f"killed by {record['signal']}"
    code = record["code"]
    with_signal = _SHELL_SIGNALS.get(code, "")
    return (
        f"exited with {code} (a process that it ran was killed by {with_signal})"
        if with_signal
        else f"exited with {code}"
    )


_SHELL_SIGNALS = {128 + number: number.name for number in signal.Signals if number in range(1, 32)}


def _usage(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if "max_rss_bytes" not in record:
        return None
    return {name: record[name] for name in ("cpu_seconds", "max_rss_bytes")}


def _left_out(declared: Mapping[str, Any]) -> dict[str, Any]:
    """None for every output that need not be there."""
    return dict.fromkeys(name for name, kind in declared.items() if is_optional(kind))


def _read_answer(file: Path) -> Mapping[str, Any]:
    if file.stat().st_size > _LARGEST_ANSWER:
        raise Fail(f"{OUTPUTS} is over 3 MiB; put large data into files and give their paths.", code="OutputTooLarge")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ConversionError("outputs", f"{OUTPUTS} is not JSON: {exc}") from exc
    if not isinstance(values, dict):
        raise ConversionError("outputs", f"{OUTPUTS} must be an object of values by name")
    return values


def _read_error(file: Path) -> Mapping[str, Any]:
    try:
        with file.open("rb") as stream:
            told = json.loads(stream.read(65536))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _last_words(log: Path) -> str:
    """The last line of the log that says something."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4 * _LONGEST_MESSAGE))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip()[:_LONGEST_MESSAGE] for line in reversed(lines) if line.strip()), "")


def _read_log(log: Path, offset: int, over: bool) -> list[LogLine]:
    """The whole lines from `offset` on, as many as one look gives; the last one may be unfinished if it is `over`."""
    try:
        with log.open("rb") as file:
            file.seek(offset)
            data = file.read(_ONE_LOOK)
    except FileNotFoundError:
        return []
    at_end = over and len(data) < _ONE_LOOK
    lines = []
    for piece in _pieces(data, at_end):
        offset += len(piece)
        text = piece.rstrip(b"\r\n").decode("utf-8", errors="replace")
        lines.append(LogLine(text, originator="user", cursor=str(offset)))
    return lines


def _pieces(data: bytes, at_end: bool) -> Iterator[bytes]:
    """Lines with their ends; a line over 64 KiB in pieces that tear no character."""
    start = 0
    while start < len(data):
        stop = data.find(b"\n", start, start + _LONGEST_LINE) + 1
        if not stop and len(data) - start <= _LONGEST_LINE and not at_end:
            return
        if not stop:
            stop = min(start + _LONGEST_LINE, len(data))
            while stop < len(data) and data[stop] & 0xC0 == 0x80 and stop > start + _LONGEST_LINE - 4:
                stop -= 1
        yield data[start:stop]
        start = stop
