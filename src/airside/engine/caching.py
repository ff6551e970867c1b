"""When two runs have the same outputs: what Flyte's data catalogue compares, as one key."""

from __future__ import annotations

import hashlib
from typing import Any

from flyteidl2.core.literals_pb2 import Literal, LiteralMap
from flyteidl2.core.tasks_pb2 import TaskTemplate as TaskMessage

from airside.model import UsageError


def cache_key(template: bytes, inputs: bytes) -> str:
    """64 hex digits for what a serialised task makes of its inputs; empty if it is not to be cached.

    It covers the task's project, domain and name, its cache version, the types of its inputs and outputs, and the
    inputs. A literal with a hash of its own stands for that hash. Raises `UsageError` for a task without a
    cache version.
    """
    message = TaskMessage.FromString(template)
    metadata = message.metadata
    if not metadata.discoverable:
        return ""
    if not metadata.discovery_version:
        raise UsageError(f"Task {message.id.name!r} has cache=True; give it a cache_version, too.")
    digest = hashlib.sha256()
    for part in (message.id.project, message.id.domain, message.id.name, metadata.discovery_version):
        _add(digest, part.encode())
    for variables in (message.interface.inputs.variables, message.interface.outputs.variables):
        for entry in sorted(variables, key=lambda one: one.key):
            _add(digest, entry.key.encode())
            _add(digest, entry.value.type.SerializeToString(deterministic=True))
        _add(digest, b"")
    ignored = set(metadata.cache_ignore_input_vars)
    literals = LiteralMap.FromString(inputs).literals
    for name in sorted(literals):
        if name not in ignored:
            _add(digest, name.encode())
            _add(digest, _identity(literals[name]).SerializeToString(deterministic=True))
    return digest.hexdigest()


def _add(digest: Any, part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "big") + part)


def _identity(literal: Any) -> Any:
    """What of a literal counts: its hash if its author gave it one, at any depth."""
    if literal.hash:
        return Literal(hash=literal.hash)
    kind = literal.WhichOneof("value")
    if kind == "collection":
        made = Literal()
        made.collection.literals.extend(_identity(one) for one in literal.collection.literals)
        return made
    if kind == "map":
        made = Literal()
        for name, one in literal.map.literals.items():
            made.map.literals[name].CopyFrom(_identity(one))
        return made
    return literal
