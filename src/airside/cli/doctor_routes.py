"""What `airside doctor` looks at elsewhere: the services, and where a Flyte engine's configuration sends task types."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any

from airside.cli.doctor_config import deadline, look_at_text
from airside.cli.durations import write_duration
from airside.cli.endpoint import Access
from airside.cli.finding import Findings
from airside.engine.endpoint import Tls
from airside.engine.flyteconfig import Deployment, FlyteConfig, Section, load_document, read_config
from airside.engine.probe import Answer, probe
from airside.engine.routes import UNHEARD, Listing, NoRoute, Route, deployments_of, find_route, key_of
from airside.model import TaskType
from airside.sdk.discovery import explain

Level = tuple[str, str]
"""A project and a domain, which may be empty."""
_FLYTE = {"v1": "Flyte 1", "v2": "Flyte 2"}
_START = "Start the service, or correct the address; names of a cluster are known inside it only."
_HINTS = {
    "it does not speak TLS": "Say `insecure: true` there: a named service inherits nothing.",
    "Socket closed": "Say `insecure: false` there if the service speaks TLS.",
    "its certificate cannot be verified": "Add its authority to the engine's image; here SSL_CERT_FILE names the file.",
    "wants a token": "Serve without `token_file` to Flyte's engines, which send no token.",
}


async def look_at_endpoint(endpoint: str, access: Access, findings: Findings) -> None:
    """Look at one service."""
    try:
        answer = await probe(endpoint, **access)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is what was found
        text = explain(exc)
        way_in = "Say how to get in with --tls, --tls-ca and --token-file, or without them."
        do = way_in if any(mark in text for mark in _HINTS) else _START
        findings.problem(endpoint, text, do)
        return
    _tell(endpoint, "", answer, findings)
    types = ", ".join(f"{name}{' (sync)' if is_sync else ''}" for name, is_sync in answer.types.items())
    if types:
        findings.ok(endpoint, f"task types: {types}")
    else:
        findings.problem(endpoint, "it lists no task type", "Install agents there, or see why they are not served.")


async def look_at_config(path: str, findings: Findings) -> None:
    """Look at the configuration in a file, at every service in it, and at every task type that it names or finds."""
    document = findings.attempt("config", "Correct the file.", lambda: load_document(path))
    if document is None:
        return
    look_at_text(document, findings)
    config = findings.attempt("config", "Correct the file.", lambda: read_config(document, path))
    if config is None:
        return
    for warning in config.warnings:
        do = "Correct its spelling, or take it out." if warning.endswith("is ignored") else ""
        findings.warning("config", warning, do)
    every = deployments_of(config)
    answers = await asyncio.gather(*(_ask(one) for _, _, one in every), return_exceptions=True)
    heard = dict[str, Answer]()
    for (key, section, deployment), answer in zip(every, answers, strict=True):
        if isinstance(answer, BaseException):
            text = explain(answer)
            do = next((hint for mark, hint in _HINTS.items() if mark in text), _START)
            findings.problem(key, text if deployment.endpoint in text else f"{deployment.endpoint}: {text}", do)
        else:
            heard[key] = answer
            _tell(key, f"{deployment.endpoint}, {'plaintext' if deployment.insecure else 'TLS'}: ", answer, findings)
            _look_at_family(key, section, answer, findings)
            _look_at_versions(key, answer, findings)
            _look_at_deadline(key, section, deployment, answer, document, findings)
    _look_at_claims(config, heard, findings)
    _look_at_routes(config, heard, findings)


async def _ask(deployment: Deployment) -> Answer:
    tls = None if deployment.insecure else Tls()
    return await probe(deployment.endpoint, tls=tls, service_config=deployment.service_config)


def _tell(what: str, where: str, answer: Answer, findings: Findings) -> None:
    spoken = " and ".join(_FLYTE[one] for one in answer.families)
    took = write_duration(answer.seconds)
    health = answer.health or "no health service"
    text = f"{where}{health}, speaks {spoken}, lists {len(answer.types)} task types in {took}"
    if answer.health == "SERVING":
        findings.ok(what, text)
    elif answer.health:
        findings.problem(what, text, "Wait until it has started, or see in its log why it stops.")
    else:
        findings.warning(what, text, "Kubernetes' gRPC probes would fail: use another kind.")


def _look_at_family(key: str, section: Section, answer: Answer, findings: Findings) -> None:
    if section.kind == "agent-service" and "v1" not in answer.families:
        findings.problem(key, "agent-service calls as Flyte 1 does, which it does not speak", "Use connector-service.")
    elif section.kind == "connector-service" and len(answer.families) < len(_FLYTE):
        other = next(name for one, name in _FLYTE.items() if one not in answer.families)
        findings.warning(key, f"it does not speak {other}", f"It cannot be called by an engine of {other}.")


def _look_at_versions(key: str, answer: Answer, findings: Findings) -> None:
    versions = Counter(one.name for one in answer.types)
    if several := [name for name, number in versions.items() if number > 1]:
        text = f"lists more than one version of {', '.join(several)}: Flyte 1 routes only the last that is listed"
        findings.warning(key, text, "Give each version a service, or a task type, of its own.")


def _look_at_deadline(
    key: str, section: Section, deployment: Deployment, answer: Answer, document: Mapping[str, Any], findings: Findings
) -> None:
    seconds = deadline(document, section.kind, deployment, "list")
    if 0 < seconds < 2 * answer.seconds:
        findings.problem(
            key,
            f"listing took {write_duration(answer.seconds)}, and its deadline is {write_duration(seconds)}",
            "Raise it: whenever it is missed, the service's task types lose their route.",
        )


def _look_at_claims(config: FlyteConfig, heard: Mapping[str, Answer], findings: Findings) -> None:
    """Task types that two services of one section list, for the same project and domain."""
    supported = [set(section.supported) for section in config.sections]
    for name in sorted(set.intersection(*supported)) if len(supported) > 1 else ():
        text = "under supportedTaskTypes of both plugins: FlytePropeller ends at its start"
        findings.problem(f"task type {name}", text, "Leave it in one of the two.")
    for section in config.sections:
        pinned = {name.lower(): one for name, one in section.pins.items()}
        claims = dict[TaskType, list[tuple[str, Deployment]]]()
        for key, owner, one in deployments_of(config):
            for task_type in heard[key].types if owner is section and key in heard else ():
                claims.setdefault(task_type, []).append((key, one))
        shared = dict[tuple[tuple[str, bool], ...], list[str]]()
        for task_type, owners in claims.items():
            pin = pinned.get(task_type.name.lower())
            for level in dict.fromkeys(_level(one) for _, one in owners):
                here = [(key, one) for key, one in owners if _level(one) == level and one not in section.apps]
                settled = pin is not None and _level(pin) == level
                if len({one.endpoint for _, one in here}) > 1 and not settled:
                    keys = tuple((key, one is not section.default) for key, one in here)
                    shared.setdefault(keys, []).append(str(task_type))
        for keys, names in shared.items():
            what = f"{_plural('task type', names)} {', '.join(sorted(names))}"
            where = " and ".join(key for key, _ in keys)
            pin_it = f"Name the one that is meant in {section.kind.removesuffix('-service')}ForTaskTypes."
            if sum(is_named for _, is_named in keys) > 1:
                findings.problem(what, f"listed by {where}: Flyte takes now the one, now the other", pin_it)
            else:
                findings.warning(what, f"listed by {where}: the named service wins over the default", pin_it)


def _look_at_routes(config: FlyteConfig, heard: Mapping[str, Answer], findings: Findings) -> None:
    listings = {
        key: Listing(family=answer.families[0] if answer.families else UNHEARD, types=answer.types)
        for key, answer in heard.items()
    }
    routes = list[tuple[str, str]]()
    found_only = list[str]()
    levels = dict.fromkeys((("", ""), *(_level(one) for _, _, one in deployments_of(config))))
    written = _written(config)
    for task_type in _types(config, heard):
        nowhere: NoRoute | None = None
        is_routed = False
        for level in levels:
            try:
                route = find_route(config, listings, task_type, *level)
            except NoRoute as exc:
                nowhere = exc
                continue
            if level != ("", "") and _level(route.deployment) != level:
                continue  # told already
            is_routed = True
            place = f" for {'/'.join(filter(None, level))}" if any(level) else ""
            if _is_served(route, task_type, heard, findings):
                routes.append((f"{key_of(route)} ({route.why}){place}", str(task_type)))
            if route.why == "discovery" and task_type.name.lower() not in written:
                found_only.append(str(task_type))
        if nowhere is not None and not is_routed:
            _tell_no_route(config, task_type, nowhere, findings)
    for where, names in groupby(sorted(routes), key=lambda one: one[0]):
        findings.ok(f"to {where}", ", ".join(name for _, name in names))
    if found_only:
        findings.warning(
            f"{_plural('task type', found_only)} {', '.join(dict.fromkeys(found_only))}",
            "known from listings only: Flyte 2 runs them as pods, and Flyte 1 loses them whenever a listing fails",
            "Write those that are used into supportedTaskTypes.",
        )


def _is_served(route: Route, task_type: TaskType, heard: Mapping[str, Answer], findings: Findings) -> bool:
    """False, and a problem, if the service that a route leads to does not list the task type."""
    key = key_of(route)
    if key not in heard or task_type in heard[key].types:
        return True
    others = [other for other, answer in heard.items() if task_type in answer.types]
    do = f"Route it to {others[0]}, which lists it." if others else "Serve its agent there, or take out its route."
    listed = ", ".join(sorted(map(str, heard[key].types))) or "none"
    findings.problem(
        f"task type {task_type}", f"goes to {key} ({route.why}), which does not list it (it lists: {listed})", do
    )
    return False


def _tell_no_route(config: FlyteConfig, task_type: TaskType, exc: NoRoute, findings: Findings) -> None:
    what, plugin = f"task type {task_type}", exc.plugin.lower()
    if not plugin:
        findings.problem(what, "no agent lists it, and there is no default", "Serve its agent, or take out its route.")
    elif plugin in ("agent-service", "connector-service"):
        there = " and ".join(section.kind for section in config.sections)
        findings.problem(
            what, f"goes to {exc.plugin}, of which nothing is told or enabled here", f"Route it to {there}."
        )
    else:
        findings.ok(what, f"goes to the plugin {exc.plugin}, which is none for agents")


def _types(config: FlyteConfig, heard: Mapping[str, Answer]) -> list[TaskType]:
    """Every task type that is routed or listed, as it is spelled where capitals are kept."""
    listed = {task_type for answer in heard.values() for task_type in answer.types}
    spelled = {name.lower(): name for section in config.sections for name in (*section.pins, *section.supported)}
    names = {one.name.lower() for one in listed}
    return sorted({*listed, *(TaskType(spelled.get(name, name)) for name in _written(config) - names)})


def _written(config: FlyteConfig) -> set[str]:
    """The task types that the configuration sends to agents by name, and those of Flyte's plugins that take some."""
    names = {name.lower() for section in config.sections for name in (*section.pins, *section.supported)}
    return names | {name for name, plugin in config.plugins.items() if name != plugin.lower() or name in names}


def _plural(noun: str, names: Collection[str]) -> str:
    return noun if len(set(names)) == 1 else f"{noun}s"


def _level(deployment: Deployment) -> Level:
    return deployment.project, deployment.domain
