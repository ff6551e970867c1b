"""Slurm by slurmrestd, with a JSON web token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airside.agents.slurm_errors import kind_of, one_line, refusal
from airside.agents.slurm_states import PHASES, Row, exit_of, is_id, state_of
from airside.agents.slurm_submission import Submission, is_of
from airside.model import Fail, NotFound, Retry
from airside.model.redaction import redact

if TYPE_CHECKING:
    import httpx2

_ONE_BY_ONE = 3  # up to so many jobs are asked for by their ids, more by a list of all jobs
_AS_LIST = (0, 0, 39)  # from this version on the environment is a list of NAME=value
_MEGABYTES = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


def _minutes(text: str) -> int:
    """Slurm's ways to write a time, as minutes: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.

    >>> _minutes("90"), _minutes("1:30:00"), _minutes("2-12"), _minutes("0:30")
    (90, 90, 3600, 1)
    """
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, minutes, seconds = 0, *[*parts, 0][:2]
    return (int(days or 0) * 24 + hours) * 60 + minutes + (seconds > 0)


def _megabytes(text: str) -> int:
    """
    >>> _megabytes("2G"), _megabytes("512")
    (2048, 512)
    """
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    if found is None:
        raise ValueError(text)
    return max(1, int(int(found[1]) * _MEGABYTES[found[2]]))


_FIELDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "account": ("account", str),
    "array": ("array", str),
    "begin": ("begin_time", int),
    "chdir": ("current_working_directory", str),
    "constraint": ("constraints", str),
    "cpus-per-task": ("cpus_per_task", int),
    "dependency": ("dependency", str),
    "error": ("standard_error", str),
    "gpus": ("gpus", str),
    "gres": ("gres", str),
    "input": ("standard_input", str),
    "job-name": ("name", str),
    "licenses": ("licenses", str),
    "mem": ("memory_per_node", _megabytes),
    "mem-per-cpu": ("memory_per_cpu", _megabytes),
    "nice": ("nice", str),
    "nodelist": ("required_nodes", str),
    "ntasks": ("tasks", int),
    "ntasks-per-node": ("tasks_per_node", int),
    "output": ("standard_output", str),
    "partition": ("partition", str),
    "priority": ("priority", str),
    "qos": ("qos", str),
    "reservation": ("reservation", str),
    "time": ("time_limit", _minutes),
}


class Rest:
    """One cluster as one user, over HTTP. `token` is read for each call, so that it may be renewed."""

    def __init__(self, client: httpx2.AsyncClient, url: str, version: str, username: str, token: str) -> None:
        self._client = client
        self._slurm = f"{url.rstrip('/')}/slurm/{version}"
        self._accounting = f"{url.rstrip('/')}/slurmdb/{version}"
        self._headers = {"X-SLURM-USER-TOKEN": token, "X-SLURM-USER-NAME": username}
        self._numbers = tuple(int(part) for part in re.findall(r"\d+", version))

    async def submit(self, submission: Submission) -> str:
        """The id of the job of this key: the one that is there, else a new one."""
        known = await self.find(submission.key)
        if known is not None:
            return known
        answer = await self._ask("POST", f"{self._slurm}/job/submit", self._body(submission))
        _raise_for("The job was not accepted", answer, user=True)
        job_id = answer.get("job_id")
        if not isinstance(job_id, int) or not job_id:
            raise Retry("slurmrestd accepted the job but did not tell its id.")
        return str(job_id)

    async def find(self, key: str) -> str | None:
        """The first job with this key that slurmctld still knows."""
        jobs = await self._jobs()
        ids = [int(row_id(job)) for job in jobs if is_of(key, str(job.get("comment") or ""))]
        return str(min(ids)) if ids else None

    async def rows(self, ids: Sequence[str]) -> Mapping[str, list[Row]]:
        """What is known of these jobs: from slurmctld, and from the accounting what it has forgotten."""
        wanted, found = set(_checked(ids)), dict[str, list[Row]]()
        if len(wanted) > _ONE_BY_ONE:
            jobs = await self._jobs()
        else:
            jobs = [job for one in sorted(wanted) for job in await self._job(one)]
        for job in jobs:
            if row_id(job) in wanted:
                found.setdefault(row_id(job), []).append(_row(job))
        for one in sorted(wanted - found.keys()):
            rows = await self._remembered(one)
            if rows:
                found[one] = rows
        return found

    async def cancel(self, job_id: str) -> None:
        """Cancel a job, or all tasks of an array; one that is over is left as it is."""
        [number] = _checked([job_id])
        answer = await self._ask("DELETE", f"{self._slurm}/job/{number}")
        if "already completing or completed" not in json.dumps(answer):
            _raise_for(f"Job {number} cannot be cancelled", answer)

    async def _jobs(self) -> Sequence[Mapping[str, Any]]:
        answer = await self._ask("GET", f"{self._slurm}/jobs")
        _raise_for("The queue cannot be read", answer)
        return _listed(answer)

    async def _job(self, number: str) -> Sequence[Mapping[str, Any]]:
        answer = await self._ask("GET", f"{self._slurm}/job/{number}")
        if kind_of(_words(answer)) == "not found":
            return ()
        _raise_for(f"Job {number} cannot be read", answer)
        return _listed(answer)

    async def _remembered(self, number: str) -> list[Row]:
        answer = await self._ask("GET", f"{self._accounting}/job/{number}")
        if kind_of(_words(answer)) == "not found":
            return []
        _raise_for(f"Job {number} is not in the queue and the accounting fails", answer)
        return [_accounted(job, number) for job in _listed(answer)]

    async def _ask(self, method: str, url: str, body: Any = None) -> Mapping[str, Any]:
        import httpx2

        try:
            response = await self._client.request(method, url, headers=self._headers, json=body)
        except httpx2.HTTPError as exc:
            words = redact(" ".join(str(exc).split()) or type(exc).__name__)
            raise Retry(f"slurmrestd cannot be reached: {words}.") from exc
        if response.status_code in (401, 403):
            raise Fail(f"slurmrestd refuses the token: {response.text[:200].strip()}.", code="Forbidden")
        try:
            answer = response.json()
        except ValueError:
            text = one_line(response.text, 200)
            if response.status_code == 404:  # of a path: a job that is not there is told in JSON
                raise Fail(
                    f"slurmrestd has no {response.url.path}: an operator may set rest_version to one that it speaks "
                    f"({text}).",
                    code="InvalidRequest",
                ) from None
            raise Retry(f"slurmrestd answered {response.status_code} without JSON: {text}") from None
        if not isinstance(answer, Mapping):
            raise Retry(f"slurmrestd answered {response.status_code} with something else than an object.")
        if response.status_code >= 400 and not _words(answer):  # a proxy before it, say: nothing is said of jobs
            raise Retry(f"slurmrestd answered {response.status_code}: {one_line(response.text, 200)}")
        return answer

    def _body(self, submission: Submission) -> Mapping[str, Any]:
        if submission.path:
            raise Fail("slurmrestd runs no script by its path on the cluster; put the script into the task.")
        if submission.args:
            raise Fail("slurmrestd gives a script no arguments; put them into the script.")
        if submission.files or submission.values:
            raise Fail("Over slurmrestd a task has no outputs: nothing can be read from the cluster.")
        job: dict[str, Any] = {"name": submission.name, "current_working_directory": "/tmp"}  # noqa: S108 - of the node
        for name, value in submission.options.items():
            if name in ("comment", "export"):
                continue
            if name not in _FIELDS:
                known = ", ".join(_FIELDS)
                raise Fail(f"config.sbatch_config.{name}: over slurmrestd there is no such option (there is: {known}).")
            field, convert = _FIELDS[name]
            try:
                job[field] = convert(value or "")
            except ValueError:
                raise Fail(f"config.sbatch_config.{name}: {value!r} cannot be read.") from None
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "AIRSIDE_KEY": submission.key, **submission.env}
        as_list = self._numbers >= _AS_LIST
        job["environment"] = [f"{name}={value}" for name, value in env.items()] if as_list else env
        job["comment"] = submission.comment
        return {"job": job, "script": submission.script}


def row_id(job: Mapping[str, Any]) -> str:
    """The id by which a job is known to the agent: its array's, if it is a task of one."""
    return str(_number(job.get("array_job_id")) or _number(job.get("job_id")) or 0)


def _row(job: Mapping[str, Any]) -> Row:
    is_task = bool(_number(job.get("array_job_id")))
    waiting = str(job.get("array_task_string") or "")
    status, number = _exit(job.get("exit_code"))
    return Row(
        job_id=row_id(job),
        task=(waiting or str(_number(job.get("array_task_id")) or 0)) if is_task else "",
        state=_state(job.get("job_state")),
        reason=str(job.get("state_reason") or ""),
        status=status,
        signal=number,
        start=_instant(job.get("start_time")),
        end=_instant(job.get("end_time")),
        nodes=str(job.get("nodes") or ""),
        comment=str(job.get("comment") or ""),
        cpus=_number(job.get("cpus")) or 0,
        seconds=_seconds(job),
    )


def _accounted(job: Mapping[str, Any], number: str) -> Row:
    array, state, time = job.get("array") or {}, job.get("state") or {}, job.get("time") or {}
    task, comment = _number(array.get("task_id")), job.get("comment") or ""
    allocated = (job.get("tres") or {}).get("allocated") or ()
    status, signal = _exit(job.get("exit_code"))
    return Row(
        job_id=number,
        task=str(task or 0) if _number(array.get("job_id")) else "",
        state=_state(state.get("current")),
        reason=str(state.get("reason") or ""),
        status=status,
        signal=signal,
        start=_instant(time.get("start")),
        end=_instant(time.get("end")),
        nodes=str(job.get("nodes") or ""),
        comment=str(comment.get("job") or "") if isinstance(comment, Mapping) else str(comment),
        cpus=next((_number(one.get("count")) or 0 for one in allocated if one.get("type") == "cpu"), 0),
        seconds=_number(time.get("elapsed")) or 0,
    )


def _seconds(job: Mapping[str, Any]) -> int:
    """How long a job has run that is over; the end that is told before is the one that is planned."""
    phase = PHASES.get(_state(job.get("job_state")))
    start, end = _number(job.get("start_time")), _number(job.get("end_time"))
    return max(0, end - start) if start and end and phase is not None and phase.is_terminal else 0


def _number(value: Any) -> int | None:
    """A number, also as newer versions write one: `{"set": true, "number": 7}`."""
    if isinstance(value, Mapping):
        value = value.get("number") if value.get("set", True) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _state(value: Any) -> str:
    """A state; newer versions list it with its flags."""
    return state_of(str(value[0] if isinstance(value, list) and value else value or ""))


def _exit(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        signal = value.get("signal") or {}
        killed = _number(signal.get("id", signal.get("signal_id"))) if isinstance(signal, Mapping) else None
        return _number(value.get("return_code")) or 0, killed or 0
    return exit_of(str(value or 0))


def _instant(value: Any) -> str:
    seconds = _number(value)
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else ""


def _listed(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    jobs = answer.get("jobs")
    if not isinstance(jobs, list):
        raise Retry("slurmrestd answered without a list of jobs.")
    return [job for job in jobs if isinstance(job, Mapping)]


def _words(answer: Mapping[str, Any]) -> str:
    """What went wrong, as slurmrestd lists it; empty if nothing did."""
    told = []
    for error in answer.get("errors") or ():
        if isinstance(error, Mapping):
            told += [str(error[name]) for name in ("description", "error") if error.get(name)]
    return "\n".join(told)


def _raise_for(doing: str, answer: Mapping[str, Any], *, user: bool = False) -> None:
    words = _words(answer)
    if words:
        raise refusal(doing, words, user=user)


def _checked(ids: Sequence[str]) -> Sequence[str]:
    for one in ids:
        if not is_id(one):
            raise NotFound(f"{one!r} is no id of a Slurm job.")
    return ids
