"""Runs one job and records how it went: `python -m airside.agents.supervisor FOLDER`.

A small program of its own, on the standard library alone and for Linux, that outlives the service which started it. The
folder holds `job.json` (`command`, `cwd`, `grace` in seconds); the supervisor writes

- `lock`: held (flock) for as long as it lives, with its process id inside;
- `started.json`: process id, start time and boot id of the job, durable before the job's first instruction;
- `log`: what the job prints, stdout and stderr in the order they came;
- `exit.json`: how the job ended, durable.

SIGTERM ends the job's process group: TERM, and KILL after the grace. The file `cancelled` says beforehand that
a job is not to be started, and afterwards why it ended. The job's environment is the supervisor's own, so that
no value of it is ever written to disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

JOB, STARTED, EXIT, CANCELLED, LOCK, LOG = "job.json", "started.json", "exit.json", "cancelled", "lock", "log"
_LOCK_TRIES = 20  # somebody who only asks whether the lock is held has it for microseconds
_RECORD_SIZE = 4096  # bytes; a record of an end has some hundred
_PR_SET_PDEATHSIG = 1
_AFTER_KILL = 5.0  # seconds; a process in the middle of a system call may take a while to die
_RESTORED = (signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)  # handled or ignored in Python, default in the job


def write_record(folder: Path, name: str, record: Any) -> None:
    """Write `record` as JSON to `folder/name`: whole or not at all, and still there after a power cut."""
    temporary = folder / f".{name}.{os.urandom(6).hex()}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / name)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reserve(folder: Path, name: str) -> Path:
    """Put disk space aside for the record `folder/name`: the job itself, or its log, may fill the disk meanwhile."""
    place = folder / f".{name}.reserved"
    with place.open("wb") as file:
        file.write(b" " * _RECORD_SIZE)
        file.flush()
        os.fsync(file.fileno())
    return place


def write_reserved(place: Path, folder: Path, name: str, record: Any) -> None:
    """Write `record` to `folder/name` into the space that was put aside: the blanks that are left are valid JSON."""
    data = json.dumps(record).encode()
    if len(data) > _RECORD_SIZE or not place.exists():
        return write_record(folder, name, record)
    with place.open("r+b") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    place.replace(folder / name)
    return None


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record `folder/name`, or None if it is not there."""
    try:
        record = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return record if isinstance(record, dict) else None


def boot_id() -> str:
    """What tells this boot of the machine from the others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_time(pid: int) -> str:
    """When the process started, in clock ticks since boot; empty if there is no such process.

    With the process id and the boot id it names one process for ever, whereas ids alone are reused.
    """
    fields = _stat(pid)
    return "" if fields is None or fields[0] in ("Z", "X") else fields[19]


def identity(pid: int) -> dict[str, Any]:
    """What names the process `pid` for ever."""
    return {"pid": pid, "start_time": start_time(pid), "boot_id": boot_id()}


def is_alive(process: dict[str, Any]) -> bool:
    """True if the process with this identity still runs."""
    started = process["start_time"]
    return bool(started) and process["boot_id"] == boot_id() and start_time(process["pid"]) == started


def members(*, group: int = -1, session: int = -1) -> list[int]:
    """The ids of the running processes of a process group, or of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields and fields[0] not in ("Z", "X") and (int(fields[2]) == group or int(fields[3]) == session):
            found.append(int(entry.name))
    return found


def main(folder: Path) -> int:
    """Take the job on, leave the caller, and see the job to its end."""
    signals = _listen()
    lock = _take_lock(folder / LOCK)
    if lock is None or os.fork() > 0:
        return 0
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    if (folder / STARTED).exists() or (folder / EXIT).exists():
        return 0
    if (folder / CANCELLED).exists():
        write_record(folder, EXIT, {"cancelled": True, "ended_at": time.time()})
        return 0
    reserved = reserve(folder, EXIT)
    write_reserved(reserved, folder, EXIT, _run(folder, read_record(folder, JOB) or {}, signals))
    return 0


def _run(folder: Path, job: dict[str, Any], signals: int) -> dict[str, Any]:
    """Run the job to its end and return the record of it."""
    kills_before = _kills_for_memory()
    pid, go, problems = _fork_job(folder, job)
    write_record(folder, STARTED, {**identity(pid), "started_at": time.time()})
    with contextlib.suppress(BrokenPipeError):  # somebody may have killed it already
        os.write(go, b"g")
    os.close(go)
    with os.fdopen(problems, encoding="utf-8", errors="replace") as pipe:
        problem = pipe.read()
    _watch(pid, job.get("grace", 10.0), signals)
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    cancelled = (folder / CANCELLED).exists()
    return {
        "code": code if code >= 0 else None,
        "signal": _signal_name(-code) if code < 0 else None,
        "problem": problem or None,
        "cancelled": cancelled,
        "out_of_memory": code == -signal.SIGKILL and not cancelled and _kills_for_memory() > kills_before,
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "max_rss_bytes": usage.ru_maxrss * 1024,
        "ended_at": time.time(),
    }


def _fork_job(folder: Path, job: dict[str, Any]) -> tuple[int, int, int]:
    """Fork the job, which waits: its process id, the pipe that lets it go, the pipe that says what went wrong."""
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    waits, go = os.pipe()
    problems, tells = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go)
            _become(job, log, waits, parent)
        except OSError as exc:
            os.write(tells, f"{exc.filename or job['command'][0]}: {exc.strerror}".encode())
        except BaseException as exc:  # noqa: BLE001 - a forked child must never run on in its parent's code
            os.write(tells, f"{type(exc).__name__}: {exc}".encode())
        os._exit(127)
    for descriptor in (log, waits, tells):
        os.close(descriptor)
    return pid, go, problems


def _become(job: dict[str, Any], log: int, waits: int, parent: int) -> NoReturn:
    """In the forked child: set the process up, wait for the record of it, and turn into the job."""
    signal.set_wakeup_fd(-1)
    for number in _RESTORED:
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    _die_with(parent)
    if os.read(waits, 1) != b"g":
        os._exit(127)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir(job["cwd"])
    command = job["command"]
    os.execvp(command[0], command)  # noqa: S606 - the job is what this program is for


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its supervisor dies: its end could be recorded by nobody."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)


def _watch(pid: int, grace: float, signals: int) -> None:
    """Wait for the job's end, or bring it about when asked; then end what it left behind in its group."""
    deadline: float | None = None
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if signal.SIGTERM in _next_signals(signals, left) and deadline is None:
            _signal_group(pid, signal.SIGTERM)
            deadline = time.monotonic() + grace
        elif deadline is not None and time.monotonic() >= deadline:
            _signal_group(pid, signal.SIGKILL)
            deadline += grace
    # The job is not reaped yet, so its group's number cannot name anybody else's processes.
    if deadline is None and members(group=pid):
        _signal_group(pid, signal.SIGTERM)
    deadline = deadline or time.monotonic() + grace
    while members(group=pid):
        if time.monotonic() >= deadline:
            _signal_group(pid, signal.SIGKILL)
        if time.monotonic() >= deadline + _AFTER_KILL:
            return
        time.sleep(0.02)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _listen() -> int:
    """Turn signals into bytes on a pipe; returns its reading end."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    os.set_blocking(reads, False)
    signal.set_wakeup_fd(writes)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reads


def _next_signals(signals: int, timeout: float | None) -> bytes:
    """The numbers of the signals that came, after at most `timeout` seconds."""
    ready, _, _ = select.select([signals], [], [], timeout)
    return os.read(signals, 64) if ready else b""


def _take_lock(path: Path) -> int | None:
    """The descriptor of the lock, held, or None if another supervisor has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return descriptor
    os.close(descriptor)
    return None


def _kills_for_memory() -> int:
    """How many processes the kernel has killed for want of memory since boot."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, group, session, ..."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
