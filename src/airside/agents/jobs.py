"""Jobs that run as processes on this machine: one folder each, a supervisor each, found again after a restart."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from airside.agents import supervisor
from airside.model import Fail, NotFound, Retry, UsageError

KEY_VARIABLE = "AIRSIDE_KEY"
PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")
_ID = re.compile(r"[0-9a-f]{32}\Z")
_LAUNCH_SECONDS = 30.0  # from the folder's first record to the supervisor's lock; above that it never came up
_CLEAN_EVERY = 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Job:
    """What finds a job again: the name of its folder."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to run: the command, where, with which environment.

    `output_dir` is made if it is not there; `files` are JSON files for the job's folder, by name; `notes` are
    kept with the job for its agent.
    """

    command: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    output_dir: Path
    files: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a job stands. `record` is the supervisor's record of the end, or of the start while it runs."""

    stage: Literal["starting", "running", "orphaned", "ended", "cancelled", "lost"]
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


class Jobs:
    """The jobs of one agent on this machine, in folders under `directory`.

    `grace` is the number of seconds between TERM and KILL; finished jobs are removed `retention` seconds after
    their end. Every method may block for a moment: call them from a thread.
    """

    def __init__(self, directory: Path, *, grace: float, retention: float) -> None:
        self._directory = directory
        self._grace = grace
        self._retention = retention
        self._cleaned = 0.0

    def open(self) -> None:
        """Make the directory, for this user alone, and remove what is old."""
        if not Path("/proc/self/stat").exists():
            raise UsageError("Local jobs need Linux: without /proc a process cannot be told from its successor.")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise UsageError(f"The state directory {self._directory} cannot be made ({exc.strerror}).") from exc
        if self._directory.stat().st_uid != os.getuid():
            raise UsageError(f"The state directory {self._directory} belongs to another user; set state_dir.")
        self.clean()

    def place(self, key: str) -> tuple[Job, Path]:
        """The job of this key and where its folder is or will be. Without a key the job is a new one."""
        job = Job(_folder_name(key))
        return job, self._directory / job.id

    def find(self, key: str) -> Job | None:
        """The job that an earlier create of this key made, or None."""
        job = Job(_folder_name(key))
        return job if key and (self._directory / job.id / supervisor.JOB).exists() else None

    def start(self, job: Job, launch: Launch) -> None:
        """Start the job, unless it was started or cancelled before. Whoever comes first makes the folder."""
        folder = self.folder(job)
        with _writing(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        try:
            launch.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise Fail(f"The output directory {launch.output_dir} cannot be made: {exc.strerror}.") from exc
        if not (folder / supervisor.JOB).exists():
            with _writing(folder):
                self._describe(folder, launch)
        if not _was_started(folder):
            with _writing(folder):
                _start_supervisor(folder, {**launch.env, KEY_VARIABLE: job.id})
        if time.time() - self._cleaned > _CLEAN_EVERY:
            self.clean()

    def _describe(self, folder: Path, launch: Launch) -> None:
        for name, content in launch.files.items():
            supervisor.write_record(folder, name, content)
        record = {"command": list(launch.command), "cwd": launch.cwd, "grace": self._grace}
        supervisor.write_record(folder, supervisor.JOB, {**record, "notes": dict(launch.notes)})

    def report(self, job: Job) -> Report:
        """How the job stands; `NotFound` if there is no such job here."""
        folder = self.folder(job)
        entry = supervisor.read_record(folder, supervisor.JOB)
        if entry is None:
            raise NotFound(
                f"Job {job.id} is not on this machine, or was removed {self._retention:.0f} s after its end."
            )
        stage, record = _stage(folder)
        if stage == "lost":
            _end_strays(job, record)
        return Report(stage=stage, record=record, notes=entry.get("notes", {}))

    def cancel(self, job: Job) -> None:
        """Have the job's process group ended; nothing if it is over or unknown."""
        folder = self.folder(job)
        if not (folder / supervisor.JOB).exists() or (folder / supervisor.EXIT).exists():
            return
        (folder / supervisor.CANCELLED).touch()
        pid = _supervisor_of(folder)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            return
        started = supervisor.read_record(folder, supervisor.STARTED)
        if started is not None:
            _end_strays(job, started)

    def folder(self, job: Job) -> Path:
        """The job's folder. A name that no job can have is `NotFound`: handles come from outside."""
        if not _ID.match(job.id):
            raise NotFound(f"{job.id!r} is not the name of a job.")
        return self._directory / job.id

    def is_over(self, job: Job) -> bool:
        """True once nothing more can come from the job."""
        return _stage(self.folder(job))[0] in ("ended", "cancelled", "lost")

    def clean(self) -> None:
        """Remove the folders of jobs that ended longer than the retention ago."""
        self._cleaned = time.time()
        for folder in self._directory.iterdir():
            with contextlib.suppress(OSError):
                if _ID.match(folder.name) and self._is_old(folder):
                    shutil.rmtree(folder)

    def _is_old(self, folder: Path) -> bool:
        newest = max(entry.stat().st_mtime for entry in (folder, *folder.iterdir()))
        return time.time() - newest > self._retention and not _lock_is_held(folder)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A disk that is full, or read-only now, may be neither later: `Retry` says so."""
    try:
        yield
    except OSError as exc:
        raise Retry(f"The job's folder {folder} cannot be written: {exc.strerror}.") from exc


def default_state_dir(name: str) -> Path:
    """Where the jobs of the agent `name` are kept: `$XDG_STATE_HOME/airside/jobs/NAME`."""
    home = os.environ.get("XDG_STATE_HOME") or _home_state()
    return Path(home) / "airside" / "jobs" / name


def passed_environment(names: Sequence[str] = ()) -> dict[str, str]:
    """The variables of this process that a job may see: the basic ones, the locale, and those in `names`."""
    allowed = {*PASSED_ON, *names}
    return {name: value for name, value in os.environ.items() if name in allowed or name.startswith("LC_")}


def _home_state() -> Path:
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError:  # no home directory, as in many containers
        return Path(tempfile.gettempdir()) / f"airside-{os.getuid()}"


def _folder_name(key: str) -> str:
    if not key:
        return uuid.uuid4().hex
    return key if _ID.match(key) else hashlib.sha256(key.encode()).hexdigest()[:32]


def _was_started(folder: Path) -> bool:
    names = (supervisor.STARTED, supervisor.EXIT, supervisor.CANCELLED)
    return any((folder / name).exists() for name in names) or _lock_is_held(folder)


def _start_supervisor(folder: Path, env: Mapping[str, str]) -> None:
    """Start a supervisor that belongs to nobody: in its own session, adopted by init.

    It is run from its file, without site packages and environment, so that nothing but the standard library
    can decide how it works.
    """
    command = [sys.executable, "-I", "-S", supervisor.__file__, str(folder)]
    with (folder / "supervisor.log").open("ab") as errors:
        done = subprocess.run(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            check=False,
        )
    if done.returncode != 0:
        problem = (folder / "supervisor.log").read_text(encoding="utf-8", errors="replace").strip()
        raise RuntimeError(f"The supervisor of job {folder.name} did not start: {problem.rpartition(chr(10))[2]}")


def _stage(folder: Path) -> tuple[Literal["starting", "running", "orphaned", "ended", "cancelled", "lost"], Any]:
    ended = supervisor.read_record(folder, supervisor.EXIT)
    held = ended is None and _lock_is_held(folder)
    started = supervisor.read_record(folder, supervisor.STARTED)
    if ended is None and not held:
        ended = supervisor.read_record(folder, supervisor.EXIT)  # it may have ended between the two looks
    if ended is not None:
        return ("cancelled" if ended.get("cancelled") else "ended"), ended
    if held:
        return ("running", started) if started else ("starting", {})
    if started is not None:
        if supervisor.is_alive(started):
            return "orphaned", started
        return ("cancelled" if (folder / supervisor.CANCELLED).exists() else "lost"), started
    if (folder / supervisor.CANCELLED).exists():
        return "cancelled", {}
    with contextlib.suppress(FileNotFoundError):
        if time.time() - (folder / supervisor.JOB).stat().st_mtime < _LAUNCH_SECONDS:
            return "starting", {}
    return "lost", {}


def _lock_is_held(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / supervisor.LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _supervisor_of(folder: Path) -> int:
    """The process id of the live supervisor; 0 without one, or if it has not got as far as looking for orders."""
    if not _lock_is_held(folder):
        return 0
    text = (folder / supervisor.LOCK).read_text(encoding="ascii")
    return int(text) if text else 0


def _end_strays(job: Job, started: Mapping[str, Any]) -> None:
    """Kill what is left of a job whose supervisor is gone, so that no next attempt runs beside it.

    A process counts as the job's if it is in its session, on this boot, and carries its key.
    """
    if not started or started["boot_id"] != supervisor.boot_id():
        return
    mark = f"{KEY_VARIABLE}={job.id}".encode()
    for pid in supervisor.members(session=started["pid"]):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
