"""Which Slurm clusters may be used, as whom, and the ways to them: login nodes and slurmrestd."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airside.agents.slurm_commands import Commands
from airside.agents.slurm_rest import Rest
from airside.agents.slurm_ssh import Login, SshPool
from airside.model import Connection, Fail, Task, UsageError
from airside.sdk.hosts import HostAllowList, normal
from airside.sdk.secrets import secret

_KEY_SECRET = "FLYTE_SLURM_PRIVATE_KEY"  # noqa: S105 - the name that flytekit's plugin gives it
_TOKEN_SECRET = "slurm_jwt"  # noqa: S105 - a name
_SSH_KEYS = ("host", "port", "username", "client_keys")
_REST_KEYS = ("url", "username")
_SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster as one user."""

    host: str
    port: int
    username: str
    url: str
    client_keys: tuple[str, ...]


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


class Clusters:
    """The ways to clusters, with the connections that are kept. `Fail` for a place that may not be used."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._hosts = HostAllowList(options.allowed_hosts)
        self._pool = SshPool(options.known_hosts, options.ssh_config_file, timeout=options.command_timeout)
        self._http: Any = None
        if options.allowed_hosts:  # else no task can be sent anywhere, and nothing is loaded for it
            import asyncssh  # noqa: F401 - here, on a thread: it takes a while
            import httpx2

            self._http = httpx2.AsyncClient(trust_env=False, timeout=options.command_timeout)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()
        if self._http is not None:
            await self._http.aclose()

    async def credentials(self) -> str:
        """Which credentials there are for tasks that bring none, in words."""
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

    def default(self) -> Place | None:
        """The cluster of tasks that name none."""
        options = self._options
        if not options.host and not options.rest_url:
            return None
        return Place(options.host, options.port, options.username, "" if options.host else options.rest_url, ())

    def place_of(self, task: Task) -> Place:
        """Where a task is to run, and as whom."""
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
        keys = ssh.get("client_keys") or ()
        return Place(
            host=host,
            port=_port(ssh.get("port") or options.port) if host else 0,
            username=named or options.username,
            url=url,
            client_keys=(keys,) if isinstance(keys, str) else tuple(keys),
        )

    async def open(self, place: Place, connection: Connection | None) -> Commands | Rest:
        """The way to a cluster, with the credentials of the connection if it brings some."""
        secrets = connection.secrets if connection is not None else {}
        self._check_user(place.username)
        if place.url:
            self._hosts.check(place.url)
            token = secrets.get("jwt") or await _read_secret(_TOKEN_SECRET)
            if not token:
                raise Fail(f"slurmrestd needs a token: set the secret {_TOKEN_SECRET}.", code="Forbidden")
            return Rest(self._http, place.url, self._options.rest_version, place.username, token)
        self._check_host(place)
        self._check_keys(place.client_keys)
        key = secrets.get("private_key") or secrets.get(_KEY_SECRET)
        files = place.client_keys or self._options.client_keys
        if not key and not files:
            key = await _read_secret(_KEY_SECRET)
        login = Login(place.host, place.port, place.username, (key,) if key else (), () if key else files)
        return Commands(self._pool, login, bin_dir=self._options.bin_dir, folder=self._options.remote_dir)

    def _check_host(self, place: Place) -> None:
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

    def _check_user(self, name: str) -> None:
        allowed = self._options.usernames
        if name and allowed and name not in (*allowed, self._options.username):
            raise Fail(f"Tasks may not run as {name!r} (usernames: {', '.join(allowed)}).", code="Forbidden")

    def _check_keys(self, names: Sequence[str]) -> None:
        """Only key files that an operator lists are read, whatever a task or a handle names."""
        for name in names:
            if name not in self._options.client_keys:
                raise Fail(
                    f"ssh_config.client_keys: {name!r} is not a key that tasks may use; an operator may list it in "
                    "`client_keys` in the settings of the agent.",
                    code="Forbidden",
                )


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


async def _read_secret(name: str) -> str:
    try:
        return await asyncio.to_thread(secret, name)
    except UsageError:
        return ""
