"""What Flyte's own loader makes of a configuration: it drops some spellings without a word.

The loader puts the keys of mappings into lower case and looks names up as its source writes them. Items of lists keep
their case. Airside's engine takes every spelling, so this is told of, and nothing else looks at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airside.cli.durations import write_duration
from airside.cli.finding import Findings
from airside.engine.endpoint import is_local
from airside.engine.flyteconfig import DEFAULT, Deployment, read_go_duration

SHORT = 1.0
"""Seconds. Of a deadline below this a person should know what it does."""
_KINDS = ("agent-service", "connector-service")
_LISTING = {"agent-service": "ListAgents", "connector-service": "ListConnectors"}
_CALLS = ("CreateTask", "GetTask", "DeleteTask")


@dataclass(frozen=True, slots=True)
class _Written:
    """One deployment, as it is written: its place, and its table with keys in lower case."""

    kind: str
    id: str
    path: str
    table: Mapping[str, Any]

    @property
    def drops_timeouts(self) -> bool:
        """True if its timeouts are a mapping, which Flyte lower-cases."""
        return isinstance(self.table.get("timeouts"), Mapping) and bool(self.table["timeouts"])

    def timeouts(self) -> dict[str, float]:
        """Seconds by RPC, as Flyte finds them."""
        found = {} if self.drops_timeouts else {str(key): value for key, value, _ in _pairs(self.table.get("timeouts"))}
        return {key: _seconds(value) for key, value in found.items()}

    def default(self) -> float:
        """Seconds for all other calls; 0 is no deadline."""
        usual = {"agent-service": 3.0, "connector-service": 10.0}[self.kind] if self.id == DEFAULT else 0.0
        value = self.table.get("defaulttimeout")
        return usual if value is None else _seconds(value)


def look_at_text(document: Mapping[str, Any], findings: Findings) -> None:
    """Look at everything that Flyte would ignore, or refuse, in a parsed configuration."""
    for kind, section in _sections(document):
        types = section.get("supportedtasktypes")
        if "supportedtasktypes" in section and not types:
            findings.problem(
                f"plugins.{kind}.supportedTaskTypes", "is empty: Flyte's engine does not start", "Write the types down."
            )
        _look_at_pins(kind, section, findings)
    for one in _deployments(document):
        _look_at_timeouts(one, findings)
        if one.id != DEFAULT and not one.table.get("defaultserviceconfig") and not is_local(str(one.table["endpoint"])):
            findings.warning(
                one.path,
                "without defaultServiceConfig, which a named service does not inherit, one replica gets every call",
                """Add `defaultServiceConfig: '{"loadBalancingConfig": [{"round_robin":{}}]}'`.""",
            )


def deadline(document: Mapping[str, Any], kind: str, deployment: Deployment, verb: str) -> float:
    """Seconds that Flyte gives a call to a deployment; 0 is no deadline. `verb` is the RPC, or `list`."""
    for one in _deployments(document):
        if one.kind == kind and one.id.lower() == deployment.id.lower():
            return one.timeouts().get(_LISTING[kind] if verb == "list" else verb, one.default())
    return 0.0


def _look_at_timeouts(one: _Written, findings: Findings) -> None:
    path, rest = f"{one.path}.timeouts", one.default()
    instead = f"defaultTimeout, {write_duration(rest)}, holds" if rest else "no deadline holds"
    if one.drops_timeouts:
        findings.problem(
            path,
            f"a mapping, whose keys Flyte puts into lower case and then does not find: {instead} for every call",
            "Write a list of one-entry mappings, as in `timeouts: [{GetTask: 5s}]`.",
        )
    right = (*_CALLS, "ExecuteTaskSync", _LISTING[one.kind])
    known = {name.lower(): name for name in right} | {name.lower(): _LISTING[one.kind] for name in _LISTING.values()}
    for name in one.timeouts():
        if name not in right and name.lower() in known:
            findings.problem(f"{path}.{name}", f"Flyte does not look it up: {instead}", f"Write {known[name.lower()]}.")
    seconds = {name: one.timeouts().get(name, rest) for name in (*_CALLS, _LISTING[one.kind])}
    if unbound := [name for name, value in seconds.items() if not value]:
        findings.warning(one.path, f"{', '.join(unbound)} have no deadline there", "Set defaultTimeout, such as 10s.")
    if short := [f"{name} {write_duration(value)}" for name, value in seconds.items() if 0 < value < SHORT]:
        findings.warning(
            one.path,
            f"short deadlines: {', '.join(short)}; a create that misses its own costs the task a retry, and a listing "
            "that does takes the service's types off the routes",
            "Give them seconds.",
        )


def _look_at_pins(kind: str, section: Mapping[str, Any], findings: Findings) -> None:
    noun = kind.removesuffix("-service")
    ids = {str(key) if in_list else str(key).lower() for key, _, in_list in _pairs(section.get(f"{noun}s"))}
    for task_type, name, in_list in _pairs(section.get(f"{noun}fortasktypes")):
        path = f"plugins.{kind}.{noun}ForTaskTypes.{task_type}"
        if str(name) not in ids and str(name).lower() in {one.lower() for one in ids}:
            findings.problem(
                path, f"Flyte puts the id {name} into lower case and does not find it", f"Write {str(name).lower()}."
            )
        if not in_list and str(task_type) != str(task_type).lower():
            findings.problem(path, "Flyte puts the task type into lower case", "Write a list of one-entry mappings.")


def _sections(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    plugins = _lowered(_lowered(document).get("plugins"))
    for kind in _KINDS:
        if kind in plugins:
            yield kind, _lowered(plugins[kind])


def _deployments(document: Mapping[str, Any]) -> Iterator[_Written]:
    """Every deployment that has an endpoint."""
    for kind, section in _sections(document):
        noun = kind.removesuffix("-service")
        tables = [(DEFAULT, f"default{noun.title()}", section.get(f"default{noun}"))]
        for place in (f"{noun}s", "connectorApps"):
            tables += [(str(key), f"{place}.{key}", value) for key, value, _ in _pairs(section.get(place.lower()))]
        for name, path, value in tables:
            table = _lowered(value)
            if table.get("endpoint"):
                yield _Written(kind, name, f"plugins.{kind}.{path}", table)


def _pairs(found: Any) -> Iterator[tuple[Any, Any, bool]]:
    """The entries of a mapping, or of a list of them, and whether it is a list."""
    for part in found if isinstance(found, list) else [found]:
        if isinstance(part, Mapping):
            yield from ((key, value, isinstance(found, list)) for key, value in part.items())


def _lowered(found: Any) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in found.items()} if isinstance(found, Mapping) else {}


def _seconds(value: Any) -> float:
    try:
        return read_go_duration(value)
    except ValueError:  # told of when the configuration is read
        return 0.0
