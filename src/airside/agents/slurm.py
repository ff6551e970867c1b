"""`slurm` and `slurm_fn`: tasks that are jobs of a Slurm cluster, over SSH or slurmrestd, and classes to write them.

Tasks of flytekit's `SlurmTask`, `SlurmShellTask` and `SlurmFunctionConfig` run as they are. A job is found again by its
comment, which holds the key of its attempt, so that one attempt makes one job.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from airside.agents.json_values import Kind, from_json
from airside.agents.slurm_commands import LARGEST_ANSWER, Commands
from airside.agents.slurm_logs import last_words, stream
from airside.agents.slurm_rest import Rest
from airside.agents.slurm_ssh import Login, SshPool
from airside.agents.slurm_states import Row, summarise
from airside.agents.slurm_submission import read_submission
from airside.agents.slurm_tasks import (
    OutputLocation,
    SlurmConfig,
    SlurmFunctionConfig,
    SlurmFunctionTask,
    SlurmScriptConfig,
    SlurmShellTask,
    SlurmTask,
)
from airside.model import (
    Call,
    Connection,
    ConversionError,
    Directory,
    Fail,
    File,
    LogLine,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Task,
    UsageError,
)
from airside.sdk.agent import AsyncAgent
from airside.sdk.declare import missing_extra
from airside.sdk.hosts import HostAllowList, normal
from airside.sdk.secrets import secret

_KEY_SECRET = "FLYTE_SLURM_PRIVATE_KEY"  # noqa: S105 - the name that flytekit's plugin gives it
_TOKEN_SECRET = "slurm_jwt"  # noqa: S105 - a name
_SSH_KEYS = ("host", "port", "username", "client_keys")
_REST_KEYS = ("url", "username")
_SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class _Place:
    """A cluster as one user."""

    host: str
    port: int
    username: str
    url: str
    client_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """What finds a job again, and what becomes of it: where its outputs are."""

    job_id: str
    key: str = ""
    host: str = ""
    port: int = 0
    username: str = ""
    url: str = ""
    client_keys: tuple[str, ...] = ()
    log: str = ""
    files: dict[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    outputs_at: str = ""
    has_outputs: bool = True

    @property
    def place(self) -> _Place:
        """What two jobs have in common that one command can ask for."""
        return _Place(self.host, self.port, self.username, self.url, self.client_keys)


class SlurmAgent(AsyncAgent[SlurmJob]):
    """Runs batch scripts and the commands of containers on Slurm clusters."""

    name = "slurm"
    task_types = ("slurm", "slurm_fn")
    poll_interval = 5.0
    requires = MappingProxyType({"asyncssh": "slurm", "httpx2": "slurm"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which clusters may be used, and as whom.

        allowed_hosts: login nodes and slurmrestd hosts that the service's credentials are sent to: `login.example.org`,
            `*.hpc.example.org`, `http://10.0.0.7:6820` for slurmrestd without encryption. Default: none.
        usernames: the users that tasks may name; empty: any that the key opens.
        host, port, username: the login node and the user of tasks that name none.
        client_keys: files with private keys; empty: the secret FLYTE_SLURM_PRIVATE_KEY, else ssh's own.
        known_hosts: the file of host keys; empty: `~/.ssh/known_hosts`.
        ssh_config_file: an OpenSSH client configuration, for aliases and proxies; empty: none.
        bin_dir: the folder of Slurm's programs on the login node, if it is not in PATH there.
        remote_dir: the agent's folder there; empty: `~/.local/state/airside/slurm`. It must be visible to the nodes if
            tasks have outputs.
        job_url: a link to a job, with `{job_id}` in it; empty: none.
        rest_url, rest_version: slurmrestd for tasks that name no login node, and the version of its interface. Its
            token is the secret `slurm_jwt`.
        command_timeout: seconds that one command on a login node may take.
        """

        allowed_hosts: tuple[str, ...] = ()
        usernames: tuple[str, ...] = ()
        host: str = ""
        port: int = 0
        username: str = ""
        client_keys: tuple[str, ...] = ()
        known_hosts: str = ""
        ssh_config_file: str = ""
        bin_dir: str = ""
        remote_dir: str = ""
        job_url: str = ""
        rest_url: str = ""
        rest_version: str = "v0.0.38"
        command_timeout: float = 25.0

        def __post_init__(self) -> None:
            if self.command_timeout <= 0:
                raise ValueError("command_timeout is a number of seconds above 0")
            if self.job_url and "{job_id}" not in self.job_url:
                raise ValueError("job_url must have {job_id} in it")

    def open(self, options: Options) -> None:
        if (missing := missing_extra(self)) is not None:
            raise missing
        self._options = options
        self._hosts = HostAllowList(options.allowed_hosts)
        self._pool = SshPool(options.known_hosts, options.ssh_config_file, timeout=options.command_timeout)
        import httpx2

        self._http = httpx2.AsyncClient(trust_env=False, timeout=options.command_timeout)

    async def close(self) -> None:
        await self._pool.close()
        await self._http.aclose()

    async def check_credentials(self) -> str:
        """Which credentials there are for tasks that bring none."""
        options = self._options
        if not self._hosts:
            raise UsageError("no host may be used: set allowed_hosts")
        if options.rest_url and not options.host:
            if not await _read_secret(_TOKEN_SECRET):
                raise UsageError(f"the secret {_TOKEN_SECRET} is missing")
            return f"the secret {_TOKEN_SECRET}"
        if options.client_keys:
            return ", ".join(options.client_keys)
        return f"the secret {_KEY_SECRET}" if await _read_secret(_KEY_SECRET) else "the keys of the service's own SSH"

    async def probe(self) -> str:
        """Ask the cluster of tasks that name none for no jobs."""
        options = self._options
        if not options.host and not options.rest_url:
            return "no cluster is set"
        place = _Place(options.host, options.port, options.username, "" if options.host else options.rest_url, ())
        await (await self._cluster(place, None)).find("probe")
        return f"Slurm answers at {options.host or options.rest_url}"

    async def create(self, task: Task) -> SlurmJob:
        submission = read_submission(task)
        job, cluster = await self._place(task)
        return replace(job, job_id=await cluster.submit(submission))

    async def find(self, task: Task, key: str) -> SlurmJob | None:
        job, cluster = await self._place(replace(task, key=key))
        job_id = await cluster.find(key)
        return None if job_id is None else replace(job, job_id=job_id)

    async def get(self, job: SlurmJob, call: Call) -> Resource:
        [resource] = await self.get_many([job], call)
        if isinstance(resource, Exception):
            raise resource
        return resource

    async def get_many(self, jobs: Sequence[SlurmJob], call: Call) -> Sequence[Resource | Exception]:
        """One `squeue` for all the jobs of a cluster, and one `sacct` for those that it has forgotten."""
        groups: dict[_Place, list[int]] = {}
        for index, job in enumerate(jobs):
            groups.setdefault(job.place, []).append(index)
        answers: dict[int, Resource | Exception] = {}
        for where, indices in groups.items():
            some = [jobs[index] for index in indices]
            try:
                told: Sequence[Resource | Exception] = await self._get_group(where, some, call)
            except Exception as exc:  # noqa: BLE001 - the jobs of another cluster are not to suffer from it
                told = [exc] * len(some)
            answers |= dict(zip(indices, told, strict=True))
        return [answers[index] for index in range(len(jobs))]

    async def delete(self, job: SlurmJob, call: Call) -> None:
        try:
            await (await self._cluster(job.place, call.connection)).cancel(job.job_id)
        except NotFound:
            return

    def links(self, job: SlurmJob) -> Sequence[LogLink]:
        url = self._options.job_url
        return (LogLink(url.replace("{job_id}", job.job_id), "Slurm job"),) if url and job.job_id else ()

    async def logs(self, job: SlurmJob, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        """What the job prints, as it comes; the tasks of an array one after the other."""
        cluster = await self._cluster(job.place, call.connection)
        if isinstance(cluster, Rest):
            raise Fail("slurmrestd gives no access to the files of a job; use SSH for its log.", code="NoLogs")
        async for line in stream(cluster, job.job_id, job.log, after=after, limit=limit):
            yield line

    # -- what is known of jobs --------------------------------------------------------------------------------------

    async def _get_group(self, where: _Place, jobs: Sequence[SlurmJob], call: Call) -> Sequence[Resource | Exception]:
        cluster = await self._cluster(where, call.connection)
        rows = await cluster.rows(sorted({job.job_id for job in jobs}))
        return [await self._resource(cluster, job, rows.get(job.job_id, [])) for job in jobs]

    async def _resource(self, cluster: Commands | Rest, job: SlurmJob, rows: Sequence[Row]) -> Resource | Exception:
        if not rows:
            return NotFound(f"Slurm does not know job {job.job_id}.")
        resource = replace(summarise(rows), links=self.links(job))
        if resource.phase is Phase.SUCCEEDED:
            return await _succeeded(cluster, job, resource)
        if resource.phase.is_failure and resource.phase is not Phase.ABORTED and isinstance(cluster, Commands):
            words = await last_words(cluster, job.job_id, job.log, [row.task for row in rows if row.phase.is_failure])
            message = f"{resource.message}: {words}" if words else resource.message
            document = OutputsAt(job.outputs_at) if job.outputs_at else None  # a function says in error.pb what it was
            return replace(resource, message=message, outputs=document)
        return resource

    # -- which cluster, as whom -------------------------------------------------------------------------------------

    async def _place(self, task: Task) -> tuple[SlurmJob, Commands | Rest]:
        """The job of a task without its id, and the cluster that it is for."""
        submission = read_submission(task)
        ssh = _table(task.config, "ssh_config", _SSH_KEYS)
        rest = _table(task.config, "rest_config", _REST_KEYS)
        given = task.connection.configs if task.connection is not None else {}
        options = self._options
        host = str(ssh.get("host") or given.get("host") or "")
        url = "" if host else str(rest.get("url") or given.get("rest_url") or "")
        if not host and not url:
            host, url = ("", options.rest_url) if options.rest_url and not options.host else (options.host, "")
        if not host and not url:
            raise Fail("A slurm task needs ssh_config.host or rest_config.url, since the service has no default.")
        named = str((ssh if host else rest).get("username") or given.get("username") or "")
        if named and options.usernames and named not in (*options.usernames, options.username):
            raise Fail(f"Tasks may not run as {named!r} (usernames: {', '.join(options.usernames)}).", code="Forbidden")
        folders = [name for name in submission.files if _bare(task.interface.outputs.get(name)) is Directory]
        job = SlurmJob(
            job_id="",
            key=task.key,
            host=host,
            port=_port(ssh.get("port") or options.port) if host else 0,
            username=named or options.username,
            url=url,
            client_keys=self._named_keys(ssh.get("client_keys")),
            log=submission.options.get("output") or "",
            files=dict(submission.files),
            folders=tuple(folders),
            values=dict(submission.values),
            outputs_at=task.output_prefix if task.type.name == "slurm_fn" else "",
            has_outputs=bool(task.interface.outputs),
        )
        return job, await self._cluster(job.place, task.connection)

    async def _cluster(self, place: _Place, connection: Connection | None) -> Commands | Rest:
        secrets = connection.secrets if connection is not None else {}
        if place.url:
            self._hosts.check(place.url)
            token = secrets.get("jwt") or await _read_secret(_TOKEN_SECRET)
            if not token:
                raise Fail(f"slurmrestd needs a token: set the secret {_TOKEN_SECRET}.", code="Forbidden")
            return Rest(self._http, place.url, self._options.rest_version, place.username, token)
        self._check_host(place)
        key = secrets.get("private_key") or secrets.get(_KEY_SECRET)
        files = place.client_keys or self._options.client_keys
        if not key and not files:
            key = await _read_secret(_KEY_SECRET)
        login = Login(place.host, place.port, place.username, (key,) if key else (), () if key else files)
        return Commands(self._pool, login, bin_dir=self._options.bin_dir, folder=self._options.remote_dir)

    def _check_host(self, place: _Place) -> None:
        try:
            host = normal(place.host)
        except ValueError as exc:
            raise Fail(f"ssh_config.host: {exc}.", code="HostNotAllowed") from None
        if not self._hosts.includes(host, place.port or _SSH_PORT):
            raise Fail(
                f"The service's key is not used for {place.host}: an operator may add it to `allowed_hosts` in the "
                "settings of the agent.",
                code="HostNotAllowed",
            )

    def _named_keys(self, told: Any) -> tuple[str, ...]:
        """The key files that a task names; only those that an operator lists are read."""
        names = (told,) if isinstance(told, str) and told else tuple(told or ())
        for name in names:
            if name not in self._options.client_keys:
                raise Fail(
                    f"ssh_config.client_keys: {name!r} is not a key that tasks may use; an operator may list it in "
                    "`client_keys` in the settings of the agent.",
                    code="Forbidden",
                )
        return names


async def _succeeded(cluster: Commands | Rest, job: SlurmJob, resource: Resource) -> Resource | Exception:
    """A job that ended well, with its outputs: files by their place, values as its script wrote them."""
    if not job.has_outputs:
        return replace(resource, outputs={})
    if job.outputs_at:
        return replace(resource, outputs=OutputsAt(job.outputs_at))
    outputs: dict[str, Any] = {
        name: (Directory if name in job.folders else File)(place) for name, place in job.files.items()
    }
    if job.values and isinstance(cluster, Commands):
        try:
            outputs |= _read_values(await cluster.outputs(job.key), job.values)
        except ConversionError as exc:
            return replace(resource, phase=Phase.FAILED, message=str(exc), code="OutputConversionError")
        except Fail as exc:
            return replace(resource, phase=Phase.FAILED, message=exc.message, code=exc.code)
    return replace(resource, outputs=outputs)


def _read_values(data: bytes | None, kinds: Mapping[str, Kind]) -> Mapping[str, Any]:
    names = ", ".join(kinds)
    if data is None:
        raise Fail(
            f"The job ended well but left no outputs: write {names} as a JSON object into "
            "$AIRSIDE_OUTPUT_DIR/outputs.json.",
            code="OutputsNotFound",
        )
    if len(data) > LARGEST_ANSWER:
        raise Fail("outputs.json is over 1 MiB; put large data into files and give their paths.", code="OutputTooLarge")
    try:
        told = json.loads(data)
    except ValueError as exc:
        raise ConversionError("outputs", f"outputs.json is not JSON: {exc}") from exc
    if not isinstance(told, dict):
        raise ConversionError("outputs", "outputs.json must be an object of values by name")
    return {name: from_json(one, kinds.get(name, "any"), f"outputs.{name}") for name, one in told.items()}


def _table(config: Mapping[str, Any], name: str, known: Sequence[str]) -> Mapping[str, Any]:
    table = config.get(name) or {}
    if not isinstance(table, Mapping):
        raise Fail(f"config.{name} must be an object.")
    for key in table:
        if key not in known:
            raise Fail(f"config.{name}.{key}: unknown key (known: {', '.join(known)}).")
    return table


def _port(told: Any) -> int:
    if isinstance(told, str) and told.isdigit():
        told = int(told)
    if not isinstance(told, int) or not 0 <= told < 65536:
        raise Fail("ssh_config.port must be the number of a port.")
    return told


def _bare(hint: Any) -> Any:
    return getattr(hint, "__origin__", hint)


async def _read_secret(name: str) -> str:
    try:
        return await asyncio.to_thread(secret, name)
    except UsageError:
        return ""


__all__ = (
    "OutputLocation",
    "SlurmAgent",
    "SlurmConfig",
    "SlurmFunctionConfig",
    "SlurmFunctionTask",
    "SlurmJob",
    "SlurmScriptConfig",
    "SlurmShellTask",
    "SlurmTask",
)
