"""Slurm by its own programs, run on a login node over SSH."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from airside.agents.slurm_errors import kind_of, refusal
from airside.agents.slurm_ssh import Answer, Login, SshPool
from airside.agents.slurm_states import Row, exit_of, is_id, seconds_of, state_of
from airside.agents.slurm_submission import MARK, Submission, sbatch_words
from airside.model import Fail, NotFound, Retry

LARGEST_ANSWER = 1024 * 1024  # bytes of a job's outputs.json

# A comment comes last: it may hold the character that parts the fields.
_SQUEUE = (
    "ArrayJobID:|,ArrayTaskID:|,State:|,Reason:|,exit_code:|,StartTime:|,EndTime:|,NodeList:|,NumCPUs:|,TimeUsed:|,"
    "Comment:|"
)
_SACCT = "JobID,State,Reason,ExitCode,Start,End,NodeList,AllocCPUS,ElapsedRaw,Comment"
_FOUND_BY = "ArrayJobID:|,Comment:|"
_REMEMBERED = "now-14days"  # how far back the accounting is searched for a comment
_LOCK_SECONDS = 60
_BUSY, _CANNOT_WRITE = 75, 73  # of sysexits.h
_KEPT_DAYS = 30  # the folders of jobs on the cluster
_MADE = "job.id"  # in the folder of a job; no script's name has a dot
_TAIL = 4096  # bytes
_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_SETTING = re.compile(r"(\w+)=(.*?)(?= \w[\w/:]*=|\Z)")
_PATTERN = re.compile(r"%(\d*)([%AajJNnux])")
_NO_INDEX = "4294967294"


@dataclass(frozen=True, slots=True)
class LogFile:
    """Where one job, or one task of an array, writes its output."""

    task: str
    path: str


class Commands:
    """One cluster as one user. `bin_dir` comes first in PATH; `folder` is the agent's own folder on the cluster."""

    def __init__(self, pool: SshPool, login: Login, *, bin_dir: str, folder: str) -> None:
        self._pool = pool
        self._login = login
        place = shlex.quote(folder) if folder else '"${XDG_STATE_HOME:-$HOME/.local/state}/airside/slurm"'
        path = f"PATH={shlex.quote(bin_dir)}:$PATH; export PATH\n" if bin_dir else ""
        self._begin = f"{path}place={place}\n"

    async def submit(self, submission: Submission) -> str:
        """The id of the job of this key. It is made unless it is there: one create at a time, under a lock.

        The lock is of the cluster, and a create that was cut off goes on under it, so the next one waits for its job.
        """
        answer = await self._run(_submit_script(submission))
        if answer.status == _BUSY:
            raise Retry(f"Another create of this task holds the lock on {self._login.host}.")
        if answer.status == _CANNOT_WRITE:
            raise Retry(f"{self._login.host}: the folder for jobs cannot be written: {answer.err.strip()[:300]}")
        found = re.search(r"^(\d+)(?:;\S*)?$", answer.out, re.MULTILINE)
        if answer.status or found is None:
            raise self._refused("The job was not accepted", answer)
        return found[1]

    async def find(self, key: str) -> str | None:
        """The first job with this key: by its comment in the queue, else as its folder or the accounting tells."""
        sacct = f"sacct -X -n -P -S {_REMEMBERED} -o JobID,Comment 2>/dev/null"
        answer = await self._run(f"{_lookup(key)}\n[ -n \"$found\" ] || {sacct} | grep -F '|{MARK}{key}'\n:")
        if answer.status:
            raise self._refused("The queue cannot be read", answer, user=False)
        ids = [int(number) for number in re.findall(r"^(\d+)", answer.out, re.MULTILINE)]
        return str(min(ids)) if ids else None

    async def rows(self, ids: Sequence[str]) -> Mapping[str, list[Row]]:
        """What is known of these jobs: from the queue, and from the accounting what the queue has forgotten."""
        listed = ",".join(_numbers(ids))
        answer = await self._run(f"squeue -h -t all -j {listed} -O {shlex.quote(_SQUEUE)}")
        if answer.status and kind_of(answer.err) != "not found":
            raise self._refused("The queue cannot be read", answer, user=False)
        queue = _grouped(_read_squeue(answer.out))
        asked = [one for one in ids if _is_to_be_completed(queue.get(one, []))]
        if not asked:
            return queue
        answer = await self._run(f"sacct -X -n -P -j {','.join(_numbers(asked))} -o {_SACCT}")
        if answer.status:
            missing = [one for one in asked if one not in queue]
            if missing:
                raise self._refused(f"Job {missing[0]} is not in the queue and sacct fails", answer, user=False)
            return queue
        for job_id, rows in _grouped(_read_sacct(answer.out)).items():
            queue[job_id] = _completed(queue.get(job_id, []), rows)
        return queue

    async def cancel(self, job_id: str) -> None:
        """Cancel a job, or all tasks of an array; one that is over is left as it is."""
        [number] = _numbers([job_id])
        answer = await self._run(f"scancel {number}")
        if answer.status and "already completing or completed" not in answer.err:
            raise self._refused(f"Job {number} cannot be cancelled", answer, user=False)

    async def log_files(self, job_id: str, configured: str) -> list[LogFile]:
        """Where the job writes, in the order of its tasks; `configured` is the pattern that the task gave."""
        [number] = _numbers([job_id])
        answer = await self._run(f"scontrol -o show job {number}")
        files = _read_scontrol(answer.out)
        if files:
            return files
        if answer.status and kind_of(answer.err) != "not found":
            raise self._refused("The job's log cannot be found", answer, user=False)
        answer = await self._run(f"sacct -X -n -P -j {number} -o JobID,JobIDRaw,User,NodeList,JobName,WorkDir")
        if answer.status or not answer.out.strip():
            raise NotFound(f"Slurm on {self._login.host} has forgotten job {number} and where it wrote.")
        files = [_from_accounting(line, configured) for line in answer.out.splitlines()]
        return [file for file in files if file.path.startswith("/")]

    async def read(self, path: str, offset: int, length: int) -> bytes:
        """A piece of a file on the cluster; nothing if there is no such file (yet)."""
        name = shlex.quote(path)
        script = f"[ -r {name} ] && tail -c +{offset + 1} -- {name} | head -c {length} | base64"
        return _decoded((await self._run(script)).out)

    async def tails(self, paths: Iterable[str]) -> list[bytes]:
        """The last bytes of each file."""
        lines = [f"tail -c {_TAIL} -- {shlex.quote(path)} 2>/dev/null | base64 | tr -d '\\n'; echo" for path in paths]
        answer = await self._run("\n".join(lines))
        return [_decoded(line) for line in answer.out.split("\n")[: len(lines)]]

    async def outputs(self, key: str) -> bytes | None:
        """The `outputs.json` that the script of this key wrote, or None."""
        name = f"{_folder(key)}/outputs.json"
        answer = await self._run(f"[ -f {name} ] || exit 3\nhead -c {LARGEST_ANSWER + 1} -- {name} | base64")
        if answer.status == 3:
            return None
        if answer.status or answer.err.strip():
            raise Retry(f"{self._login.host}: the job's outputs cannot be read: {answer.err.strip()[:300]}")
        return _decoded(answer.out)

    async def has_made(self, key: str, job_id: str) -> bool:
        """True if the folder of this key says that it was this job: not every accounting keeps comments."""
        if not _KEY.match(key):
            return False
        return (await self._run(f"cat {_folder(key)}/{_MADE} 2>/dev/null\n:")).out.strip() == job_id

    async def _run(self, script: str) -> Answer:
        # In braces: the shell runs nothing before it has read it all, so a script that was cut off does nothing.
        answer = await self._pool.run(self._login, f"{{\n{self._begin}{script}\n}}\n")
        if answer.status == 127 or "command not found" in answer.err or ": not found" in answer.err:
            raise Fail(
                f"{self._login.host} has no {_missing(answer.err)} in PATH; an operator may set bin_dir to the folder "
                "of Slurm's programs.",
                code="SlurmNotFound",
            )
        return answer

    def _refused(self, doing: str, answer: Answer, *, user: bool = True) -> Exception:
        return refusal(doing, answer.err or answer.out, user=user)


def _submit_script(submission: Submission) -> str:
    """Look for the key and submit, under a lock of the cluster."""
    key = shlex.quote(submission.key)
    lines = [
        "given=$(umask); umask 077",
        f'mkdir -p "$place/jobs" "$place/locks" || exit {_CANNOT_WRITE}',
        f'exec 9>"$place/locks/{submission.key[:2]}" || exit {_CANNOT_WRITE}',
        f"if command -v flock >/dev/null; then flock -w {_LOCK_SECONDS} 9 || exit {_BUSY}; fi",
        _lookup(submission.key),
        '[ -z "$found" ] || exit 0',
        f'find "$place/jobs" -mindepth 1 -maxdepth 1 -mtime +{_KEPT_DAYS} -exec rm -rf {{}} + 9>&-',
        f"job={_folder(submission.key)}",
        f'mkdir -p "$job" || exit {_CANNOT_WRITE}',
        'AIRSIDE_OUTPUT_DIR="$job"; export AIRSIDE_OUTPUT_DIR',
        f"AIRSIDE_KEY={key}; export AIRSIDE_KEY",
    ]
    for name, value in submission.env.items():
        if re.fullmatch(r"[A-Za-z_]\w*", name):
            lines.append(f"{name}={shlex.quote(value)}; export {name}")
    lines.append('umask "$given"')  # the job inherits it
    if submission.path:
        place = shlex.quote(submission.path)
    else:
        place = f'"$job"/{shlex.quote(submission.name)}'
        lines.append(f"printf %s {shlex.quote(submission.script)} > {place} || exit {_CANNOT_WRITE}")
    lines += [
        f"made=$(sbatch {shlex.join(sbatch_words(submission))} {place} {shlex.join(submission.args)} 9>&-) || exit",
        'printf "%s\\n" "$made"',
        f'printf "%s\\n" "$made" | sed -n "s/^\\([0-9][0-9]*\\)\\(;.*\\)*$/\\1/p" > "$job"/{_MADE}\n:',
    ]
    return "\n".join(lines)


def _folder(key: str) -> str:
    """The folder of a key's job on the cluster, in words of the shell."""
    if not _KEY.match(key):
        raise NotFound(f"{key!r} is no key of a job.")
    return f'"$place"/jobs/{key}'


def _lookup(key: str) -> str:
    """Print the job that this key's folder names, or those in the queue; `$found` keeps them.

    Ends the script if the queue cannot be read.
    """
    grep = f"grep -F {shlex.quote(f'|{MARK}{key}')}"
    return (
        f"queue=$(squeue -h -t all --me -O {shlex.quote(_FOUND_BY)}) || exit 1\n"
        f'found=$(printf "%s\\n" "$queue" | {grep})\n'
        f'[ -n "$found" ] || found=$(cat {_folder(key)}/{_MADE} 2>/dev/null)\n'
        '[ -z "$found" ] || printf "%s\\n" "$found" | cut -d "|" -f 1 | sort -n'
    )


def _is_to_be_completed(rows: Sequence[Row]) -> bool:
    """True if the accounting must tell more: nothing is known, or an array seems over but tasks may be forgotten."""
    return not rows or all(row.task and row.phase.is_terminal for row in rows)


def _completed(queue: Sequence[Row], accounting: Sequence[Row]) -> list[Row]:
    """The rows of a job from both. The accounting is late: it may not know yet that a job is the task of an array."""
    known = {row.task for row in queue}
    return [*queue, *(row for row in accounting if row.task not in known and (row.task or not queue))]


def _read_squeue(text: str) -> Iterable[Row]:
    for line in text.splitlines():
        parts = line.strip().removesuffix("|").split("|", 10)
        if len(parts) < 11:
            continue
        job_id, task, state, reason, code, start, end, nodes, cpus, used, comment = parts
        status, number = exit_of(code)
        index = "" if task in ("N/A", "") else task
        yield Row(
            job_id=job_id,
            task=index,
            state=state_of(state),
            reason=reason,
            status=status,
            signal=number,
            start=start,
            end=end,
            nodes=nodes,
            comment=comment,
            cpus=int(cpus) if cpus.isdigit() else 0,
            seconds=seconds_of(used),
        )


def _read_sacct(text: str) -> Iterable[Row]:
    for line in text.splitlines():
        parts = line.strip().split("|", 9)
        if len(parts) < 10 or "." in parts[0]:
            continue
        name, state, reason, code, start, end, nodes, cpus, used, comment = parts
        job_id, _, task = name.partition("_")
        status, number = exit_of(code)
        yield Row(
            job_id=job_id.partition("+")[0],
            task=task.strip("[]"),
            state=state_of(state),
            reason=reason,
            status=status,
            signal=number,
            start=start,
            end=end,
            nodes=nodes,
            comment=comment,
            cpus=int(cpus) if cpus.isdigit() else 0,
            seconds=int(used) if used.isdigit() else 0,
        )


def _grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.job_id, []).append(row)
    return groups


def _read_scontrol(text: str) -> list[LogFile]:
    files = []
    for line in text.splitlines():
        settings = {match[1]: match[2] for match in _SETTING.finditer(line)}
        task, path = settings.get("ArrayTaskId", ""), settings.get("StdOut", "")
        if path and _NO_INDEX not in path and (not task or task.isdigit()):
            files.append(LogFile(task, path))
    return sorted(files, key=lambda file: int(file.task or 0))


def _from_accounting(line: str, configured: str) -> LogFile:
    name, raw, user, nodes, job_name, folder = line.split("|", 5)
    base, _, task = name.partition("_")
    values = {
        "A": base,
        "a": task or _NO_INDEX,
        "j": raw,
        "J": raw,
        "N": nodes.partition(",")[0],
        "n": "0",
        "u": user,
        "x": job_name,
        "%": "%",
    }
    pattern = configured or ("slurm-%A_%a.out" if task else "slurm-%j.out")
    path = _PATTERN.sub(lambda match: values[match[2]].rjust(int(match[1] or 0), "0"), pattern)
    return LogFile(task, path if path.startswith("/") or not folder else f"{folder}/{path}")


def _numbers(ids: Sequence[str]) -> list[str]:
    """The ids, all of them numbers: handles come from outside."""
    for one in ids:
        if not is_id(one):
            raise NotFound(f"{one!r} is no id of a Slurm job.")
    return list(ids)


def _decoded(text: str) -> bytes:
    return base64.b64decode("".join(text.split()) or b"")


def _missing(words: str) -> str:
    found = re.search(r"(\w+): (?:command )?not found", words)
    return found[1] if found else "program of Slurm"
