"""Read the configuration of Flyte's engines as it is: which agent deployments there are, and what is sent where.

Every spelling that Flyte's own loader takes is taken: any letter case, maps or lists of one-entry maps, durations as
Go writes them. What is not understood is named in `warnings`; what would not work at all raises `UsageError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from airside.engine.lane import Limits, Rate
from airside.model import MissingExtra, UsageError

Kind = Literal["agent-service", "connector-service"]
_METHODS = frozenset(
    method.lower()
    for method in (
        *("CreateTask", "GetTask", "DeleteTask", "ExecuteTaskSync", "GetTaskLogs", "GetTaskMetrics"),
        *("ListAgents", "ListConnectors", "GetAgent", "GetConnector"),
    )
)
DEFAULT = "(default)"
"""The id of the default deployment."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin":{}}]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One agent service. `timeouts` are seconds by RPC name in lower case, and `default`; 0 means no limit."""

    id: str
    endpoint: str
    insecure: bool = False
    timeouts: Mapping[str, float] = field(default_factory=dict)
    service_config: str = ""
    project: str = ""
    domain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebApi:
    """How jobs are polled: the section `webApi`. Times are in seconds."""

    resync_interval: float = 30.0
    max_system_failures: int = 5
    limits: Limits = field(
        default_factory=lambda: Limits(workers=10, read=Rate(10.0, 100), write=Rate(10.0, 100), quota=1000)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One plugin section. `pins` maps task types to deployments, whatever these say that they serve.

    `apps` are deployments whose listings come before all else.
    """

    kind: Kind
    default: Deployment | None = None
    deployments: tuple[Deployment, ...] = ()
    apps: tuple[Deployment, ...] = ()
    pins: Mapping[str, Deployment] = field(default_factory=dict)
    supported: tuple[str, ...] = ()
    poll_interval: float = 10.0
    web_api: WebApi = field(default_factory=WebApi)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlyteConfig:
    """What the configuration says of agents. `plugins` maps task types, in lower case, to the plugins that run them."""

    sections: tuple[Section, ...]
    plugins: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load_config(path: str | Path) -> FlyteConfig:
    """Read a YAML file, or all those of a folder as one, as Flyte does. Raises `UsageError` that names file and key."""
    return read_config(load_document(path), str(path))


def load_document(path: str | Path) -> dict[str, Any]:
    """What is written in a YAML file, or in all those of a folder as one. Raises `UsageError` that names the file."""
    try:
        import yaml
    except ImportError as exc:
        raise MissingExtra("engine", "Reading Flyte's configuration") from exc
    merged: dict[str, Any] = {}
    for file in _files(Path(path)):
        try:
            found = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError(f"{file} cannot be read: {getattr(exc, 'strerror', '') or exc}.") from exc
        except yaml.YAMLError as exc:
            raise UsageError(f"{file} is no YAML: {' '.join(str(exc).split())}.") from exc
        if not isinstance(found, Mapping | None):
            raise UsageError(f"{file}: the document: expected a mapping, got {type(found).__name__}.")
        merged = _merged(merged, found or {})
    return merged


def _files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return (path,)
    files = sorted(one for one in path.iterdir() if one.suffix in (".yaml", ".yml"))
    if not files:
        raise UsageError(f"{path} has no file that ends in .yaml or .yml.")
    return files


def _merged(first: Mapping[Any, Any], second: Mapping[Any, Any]) -> dict[str, Any]:
    """Two documents as one; where both say something, the second holds. Capitals in keys do not matter."""
    spelled = {str(key).lower(): str(key) for key in first}
    made = {str(key): value for key, value in first.items()}
    for key, value in second.items():
        name = spelled.get(str(key).lower(), str(key))
        known = made.get(name)
        made[name] = _merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return made


def read_config(document: Any, where: str) -> FlyteConfig:
    """Read a parsed document; `where` is named in errors.

    >>> config = read_config({"plugins": {"agent-service": {"defaultAgent": {"endpoint": "localhost:8000"}}}}, "f.yaml")
    >>> config.sections[0].default.endpoint
    'localhost:8000'
    """
    reader = _Reader(where)
    root = reader.table(document, "")
    plugins = reader.table(root.get("plugins"), "plugins")
    kinds: tuple[Kind, ...] = ("connector-service", "agent-service")  # in the order in which Flyte asks them
    sections = tuple(reader.section(plugins[kind], kind) for kind in kinds if kind in plugins)
    if not sections:
        raise UsageError(f"{where} has neither plugins.agent-service nor plugins.connector-service: it routes nothing.")
    tasks = reader.table(reader.table(root.get("tasks"), "tasks").get("task-plugins"), "tasks.task-plugins")
    reader.unknown(tasks, ["enabled-plugins", "default-for-task-types"], "tasks.task-plugins")
    sections = reader.enabled(sections, tasks.get("enabled-plugins"))
    chosen = reader.pairs(tasks.get("default-for-task-types"), "tasks.task-plugins.default-for-task-types")
    return FlyteConfig(
        sections=sections,
        plugins={name.lower(): str(plugin) for name, plugin in chosen.items()},
        warnings=tuple(reader.warnings),
    )


def read_go_duration(value: Any) -> float:
    """Seconds of a duration as Go writes it; `ValueError` if it is none.

    >>> read_go_duration("1m30s"), read_go_duration("500ms"), read_go_duration(0)
    (90.0, 0.5, 0.0)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) * 1e-9  # a bare number is nanoseconds to Go
    text = str(value).strip()
    if text == "0":
        return 0.0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"expected a duration such as 10s or 1m30s, got {value!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class _Reader:
    """Reads one document; remembers what it did not understand."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.warnings: list[str] = []

    def enabled(self, sections: tuple[Section, ...], found: Any) -> tuple[Section, ...]:
        """The sections that `enabled-plugins` names, all if it names none."""
        path = "tasks.task-plugins.enabled-plugins"
        names = {str(name).lower() for name in self._list(found, path)}
        if not names:
            return sections
        for one in sections:
            if one.kind not in names:
                self._warn(f"plugins.{one.kind} is ignored, because {path} does not name it")
        left = tuple(one for one in sections if one.kind in names)
        if not left:
            raise self._wrong(path, f"must name {' or '.join(one.kind for one in sections)}, or nothing is routed")
        return left

    def section(self, found: Any, kind: Kind) -> Section:
        path = f"plugins.{kind}"
        noun = kind.removesuffix("-service")
        table = self.table(found, path)
        chosen, named_as, pinned_as = f"default{noun.title()}", f"{noun}s", f"{noun}ForTaskTypes"
        known = [chosen.lower(), named_as, pinned_as.lower(), "supportedtasktypes", "pollinterval", "webapi"]
        more = ["resourceconstraints", *(["connectorapps"] if noun == "connector" else [])]
        self.unknown(table, [*known, *more], path)
        if "resourceconstraints" in table:
            self._warn(f"{path}.resourceConstraints has no effect here; webApi.resourceQuotas has")
        first = 3.0 if noun == "agent" else 10.0
        default = self._deployment(
            DEFAULT, table.get(chosen.lower()), f"{path}.{chosen}", insecure=True, timeout=first, balanced=_ROUND_ROBIN
        )
        deployments = self._named(table.get(named_as), f"{path}.{named_as}")
        apps = self._named(table.get("connectorapps"), f"{path}.connectorApps") if noun == "connector" else {}
        return Section(
            kind=kind,
            default=default,
            deployments=tuple(deployments[name] for name in sorted(deployments)),
            apps=tuple(apps[name] for name in sorted(apps)),
            pins=self._pins(table.get(pinned_as.lower()), f"{path}.{pinned_as}", deployments),
            supported=tuple(map(str, self._list(table.get("supportedtasktypes"), f"{path}.supportedTaskTypes"))),
            poll_interval=self._pause(table.get("pollinterval"), f"{path}.pollInterval", 10.0),
            web_api=self._web_api(self.table(table.get("webapi"), f"{path}.webApi"), f"{path}.webApi"),
        )

    def table(self, found: Any, path: str) -> dict[str, Any]:
        """A mapping with its keys in lower case; nothing is an empty one."""
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            raise self._wrong(path, f"expected a mapping, got {type(found).__name__}")
        return {str(key).lower(): value for key, value in found.items()}

    def pairs(self, found: Any, path: str) -> dict[str, Any]:
        """A mapping, or a list of one-entry mappings, with its keys as they are written."""
        if found is None:
            return {}
        parts = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
        pairs: dict[str, Any] = {}
        for part in parts:
            if not isinstance(part, Mapping):
                raise self._wrong(path, f"expected a mapping or a list of mappings, got {part!r}")
            pairs |= {str(key): value for key, value in part.items()}
        return pairs

    def _deployment(
        self, name: str, found: Any, path: str, *, insecure: bool = False, timeout: float = 0.0, balanced: str = ""
    ) -> Deployment | None:
        table = self.table(found, path)
        known = ["endpoint", "insecure", "timeouts", "defaulttimeout", "defaultserviceconfig", "project", "domain"]
        self.unknown(table, known, path)
        endpoint = str(table.get("endpoint") or "")
        if not endpoint:
            if table and name != DEFAULT:
                self._warn(f"{path} has no endpoint, so it is ignored")
            return None
        timeouts = {
            method.lower(): self._duration(value, f"{path}.timeouts.{method}", 0.0)
            for method, value in self.pairs(table.get("timeouts"), f"{path}.timeouts").items()
        }
        for method in timeouts:
            if method not in _METHODS:
                self._warn(f"{path}.timeouts.{method} is no call of an agent service and is ignored")
        timeouts["default"] = self._duration(table.get("defaulttimeout"), f"{path}.defaultTimeout", timeout)
        return Deployment(
            id=name,
            endpoint=self._target(endpoint, path),
            insecure=self._flag(table.get("insecure", insecure), f"{path}.insecure"),
            timeouts=timeouts,
            service_config=self._service_config(
                table.get("defaultserviceconfig", balanced), f"{path}.defaultServiceConfig"
            ),
            project=str(table.get("project") or ""),
            domain=str(table.get("domain") or ""),
        )

    def _named(self, found: Any, path: str) -> dict[str, Deployment]:
        """Deployments by their ids, which are in lower case here."""
        named = {
            name.lower(): self._deployment(name, one, f"{path}.{name}") for name, one in self.pairs(found, path).items()
        }
        deployments = {name: one for name, one in named.items() if one is not None}
        for one in deployments.values():
            if one.project and not one.domain:
                self._warn(f"{path}.{one.id} has a project but no domain, so it never matches")
        return deployments

    def _service_config(self, found: Any, path: str) -> str:
        """gRPC's own JSON; a mapping is one, too."""
        if not found:
            return ""
        text = found if isinstance(found, str) else json.dumps(found)
        try:
            is_object = isinstance(json.loads(text), dict)
        except ValueError as exc:
            raise self._wrong(path, f"is no JSON: {exc}") from exc
        if not is_object:
            raise self._wrong(path, f"must be a JSON object, is {text}")
        return text

    def _pins(self, found: Any, path: str, deployments: Mapping[str, Deployment]) -> dict[str, Deployment]:
        pins: dict[str, Deployment] = {}
        for task_type, name in self.pairs(found, path).items():
            if str(name).lower() not in deployments:
                known = ", ".join(sorted(deployments)) or "none"
                raise self._wrong(f"{path}.{task_type}", f"there is no deployment {name!r} (there are: {known})")
            pins[task_type] = deployments[str(name).lower()]
        return pins

    def _web_api(self, table: Mapping[str, Any], path: str) -> WebApi:
        self.unknown(table, ["resourcequotas", "readratelimiter", "writeratelimiter", "caching", "resourcemeta"], path)
        caching = self.table(table.get("caching"), f"{path}.caching")
        self.unknown(caching, ["size", "resyncinterval", "workers", "maxsystemfailures"], f"{path}.caching")
        quotas = self.table(table.get("resourcequotas"), f"{path}.resourceQuotas")
        self.unknown(quotas, ["default"], f"{path}.resourceQuotas")
        self._number(caching.get("size"), f"{path}.caching.size", 500000, 10, 500000)
        resync = self._duration(caching.get("resyncinterval"), f"{path}.caching.resyncInterval", 30.0)
        if not 5.0 <= resync <= 3600.0:
            raise self._wrong(f"{path}.caching.resyncInterval", f"must be between 5s and 1h, is {resync:g} s")
        failures = self._number(caching.get("maxsystemfailures"), f"{path}.caching.maxSystemFailures", 5, 0, 10**9)
        return WebApi(
            resync_interval=resync,
            max_system_failures=failures,
            limits=Limits(
                workers=self._number(caching.get("workers"), f"{path}.caching.workers", 10, 1, 10000),
                read=self._rate(table.get("readratelimiter"), f"{path}.readRateLimiter"),
                write=self._rate(table.get("writeratelimiter"), f"{path}.writeRateLimiter"),
                quota=self._number(quotas.get("default"), f"{path}.resourceQuotas.default", 1000, 1, 10**9),
            ),
        )

    def _rate(self, found: Any, path: str) -> Rate:
        table = self.table(found, path)
        self.unknown(table, ["qps", "burst"], path)
        burst = self._number(table.get("burst"), f"{path}.burst", 100, 5, 10000)
        return Rate(float(self._number(table.get("qps"), f"{path}.qps", 10, 1, 100000)), burst)

    def _number(self, found: Any, path: str, default: int, least: int, most: int) -> int:
        if found is None:
            return default
        if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
            raise self._wrong(path, f"must be a whole number from {least} to {most}, is {found!r}")
        return found

    def _flag(self, found: Any, path: str) -> bool:
        if not isinstance(found, bool):
            raise self._wrong(path, f"must be true or false, is {found!r}")
        return found

    def _duration(self, found: Any, path: str, default: float) -> float:
        if found is None:
            return default
        try:
            return read_go_duration(found)
        except ValueError as exc:
            raise self._wrong(path, str(exc)) from exc

    def _pause(self, found: Any, path: str, default: float) -> float:
        seconds = self._duration(found, path, default)
        if seconds <= 0:
            raise self._wrong(path, "must be longer than 0")
        return seconds

    def _list(self, found: Any, path: str) -> Sequence[Any]:
        if found is None:
            return ()
        if not isinstance(found, list):
            raise self._wrong(path, f"expected a list, got {found!r}")
        return found

    def _target(self, endpoint: str, path: str) -> str:
        """Flyte 1's own scheme `k8s://service.namespace:port` is none that gRPC knows: the DNS name stands in."""
        if not endpoint.startswith("k8s://"):
            return endpoint
        host, _, port = endpoint.removeprefix("k8s://").rpartition(":")
        name = host if host.count(".") != 1 else f"{host}.svc.cluster.local"
        self._warn(f"{path}.endpoint: {endpoint} is reached as dns:///{name}:{port}, balanced by its Service")
        return f"dns:///{name}:{port}"

    def unknown(self, table: Mapping[str, Any], known: Sequence[str], path: str) -> None:
        """Warn of every key that is not known."""
        for key in table:
            if key not in known:
                self._warn(f"{path}.{key} is not known and is ignored")

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self._where}: {text}")

    def _wrong(self, path: str, problem: str) -> UsageError:
        return UsageError(f"{self._where}: {path or 'the document'}: {problem}.")
