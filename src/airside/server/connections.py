"""Named connections: the credentials of a backend account, given to the tasks of some projects and domains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from airside.model import Connection, TaskType, UsageError

log = logging.getLogger("airside.server")

ANY = "*"

ReadSecret = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedConnection:
    """One table `[connections.NAME]` of airside.toml.

    `secrets` maps what the agent calls a secret to the name under which this process finds it: `name` or
    `group/name`. `configs` are plain settings of the account.
    """

    task_types: tuple[str, ...]
    projects: tuple[str, ...] = (ANY,)
    domains: tuple[str, ...] = (ANY,)
    secrets: dict[str, str] = field(default_factory=dict)
    configs: dict[str, str] = field(default_factory=dict)


class Connections:
    """Picks the connection of a task. The most specific one wins: project and domain, project, domain, any.

    `read_secret(name)` gives a secret's value, and may block: it is asked by `load` and `look` only, which see to it
    that a rotated secret is picked up. Raises `UsageError` if two connections would fit the same task equally well.
    """

    def __init__(self, named: Mapping[str, NamedConnection], read_secret: ReadSecret) -> None:
        self._named = dict(named)
        self._read_secret = read_secret
        self._routes = _routes(self._named)
        self._loaded: dict[str, Connection] = {}
        self._complaints: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._named)

    def load(self) -> None:
        """Read every secret. Blocks. Raises `UsageError`, naming connection and secret, if one is missing."""
        for name, one in self._named.items():
            try:
                self._loaded[name] = self._read(name, one)
            except UsageError as exc:
                raise UsageError(f"connections.{name}: {exc}") from None

    def look(self) -> None:
        """Read every secret again. Blocks. What cannot be read keeps its last value, with one error in the log."""
        for name, one in self._named.items():
            try:
                self._loaded[name] = self._read(name, one)
            except UsageError as exc:
                if self._complaints.get(name) != str(exc):
                    log.error("connections.%s keeps its last secrets: %s", name, exc)
                self._complaints[name] = str(exc)
            else:
                self._complaints.pop(name, None)

    def name_for(self, task_type: TaskType, project: str, domain: str) -> str:
        """The name of the connection of a task, or empty."""
        for place in ((project, domain), (project, ANY), (ANY, domain), (ANY, ANY)):
            name = self._routes.get((task_type.name, *place))
            if name is not None:
                return name
        return ""

    def get(self, name: str) -> Connection | None:
        """The connection of this name with its secrets, or None if there is none (any more)."""
        return self._loaded.get(name)

    def _read(self, name: str, one: NamedConnection) -> Connection:
        secrets = {key: self._read_secret(source) for key, source in one.secrets.items()}
        known = self._loaded.get(name)
        if known is not None and known.secrets == secrets:
            return known
        return Connection(name, secrets, dict(one.configs))


def _routes(named: Mapping[str, NamedConnection]) -> dict[tuple[str, str, str], str]:
    routes: dict[tuple[str, str, str], str] = {}
    for name, one in named.items():
        for place in ((t, p, d) for t in one.task_types for p in one.projects for d in one.domains):
            other = routes.setdefault(place, name)
            if other != name:
                task_type, project, domain = place
                raise UsageError(
                    f"connections.{name} and connections.{other} both claim task type {task_type} "
                    f"of project {project}, domain {domain}; keep one."
                )
    return routes


NO_CONNECTIONS = Connections({}, lambda name: name)
