"""The outputs of a finished job, converted by the declared interface as a cluster would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from airside.model import AirsideError, ConversionError, OutputsAt, Phase, Resource
from airside.wire import storage
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.resource import CONVERSION_CODE, OUTPUTS_FILE, resolve

UNREADABLE = "OutputsUnreadable"
SMALL = 16 * 1024
"""Bytes of outputs that are checked so quickly that a thread would take longer."""
LARGEST_KEPT = 256 * 1024
"""Bytes of outputs up to which the store keeps them too; the file of larger ones gets an fsync of its own."""


class Settled(NamedTuple):
    """A terminal resource without its outputs, which are in `outputs.pb`.

    `unsafe` is what that file holds, if a power failure may undo it.
    """

    resource: Resource
    unsafe: bytes | None = None


def settle(resource: Resource, declared: Mapping[str, Any], output_prefix: str) -> Settled:
    """Check a terminal resource's outputs, and write them, each of its declared literal type. Blocks.

    Without outputs in the answer they are looked for under the output prefix, as Flyte's engines do. What is
    missing or does not fit makes the resource FAILED. `outputs.pb` lies under the output prefix afterwards.
    """
    if resource.phase.is_success and not declared:
        return Settled(replace(resource, outputs=None))  # the engines ignore what nobody declared
    if resource.phase.is_success and resource.outputs is None:
        resource = replace(resource, outputs=OutputsAt(output_prefix))
    try:
        settled = resolve(resource, declared, output_prefix)
        unsafe = _put_in_place(settled, declared, output_prefix) if settled.phase.is_success else None
        return Settled(replace(settled, outputs=None), unsafe)
    except ConversionError as exc:
        return Settled(replace(resource, phase=Phase.FAILED, outputs=None, code=CONVERSION_CODE, message=str(exc)))
    except AirsideError as exc:
        return Settled(_unreadable(resource, exc))


def packed(resource: Resource, declared: Mapping[str, Any]) -> bytes | None:
    """The outputs of a job that succeeded, ready to be kept: if they came with its answer, are small, and fit.

    Otherwise None, and `settle` finds out what is to be done.
    """
    outputs = resource.outputs
    if not resource.phase.is_success or not declared or not isinstance(outputs, LiteralValues):
        return None
    try:
        data, dropped = pack(outputs, declared, where="outputs")
    except (ConversionError, ValueError):
        return None
    return data if not dropped and len(data) <= SMALL else None


def keep(resource: Resource, data: bytes, output_prefix: str) -> Settled:
    """Write the `packed` outputs of a job. Blocks."""
    try:
        unsafe = _write(data, storage.join(output_prefix, OUTPUTS_FILE))
    except AirsideError as exc:
        return Settled(_unreadable(resource, exc))
    return Settled(replace(resource, outputs=None), unsafe)


def read_outputs(declared: Mapping[str, Any], output_prefix: str, kept: bytes | None = None) -> dict[str, Any]:
    """The outputs of a job that succeeded, as Python values: those that the store kept, else those in the file. Blocks.

    Raises `UsageError` if the file is gone.
    """
    if not declared:
        return {}
    data = storage.read(storage.join(output_prefix, OUTPUTS_FILE)) if kept is None else kept
    values = LiteralValues(data, declared, where="outputs", fetch=storage.fetch)
    return {name: values[name] for name in declared}


def _unreadable(resource: Resource, error: AirsideError) -> Resource:
    """The storage refuses, or does not answer; the job itself need not run again."""
    return replace(resource, phase=Phase.FAILED, outputs=None, code=UNREADABLE, message=str(error))


def _put_in_place(resource: Resource, declared: Mapping[str, Any], output_prefix: str) -> bytes | None:
    """Write the outputs, unless they are in their file already; what was written if it has no fsync."""
    file = storage.join(output_prefix, OUTPUTS_FILE)
    if resource.outputs is None:  # too large to travel in an answer, so they are in the file
        values = LiteralValues(storage.read(file), declared, where="outputs", fetch=storage.fetch)
        for name in declared:
            values[name]  # raises what is wrong with it
        return None
    assert not isinstance(resource.outputs, OutputsAt)  # noqa: S101 - `resolve` has read it
    return _write(pack(resource.outputs, declared, where="outputs").data, file)


def _write(data: bytes, file: str) -> bytes | None:
    if len(data) > LARGEST_KEPT or storage.is_remote(file):
        storage.write(file, data)
        return None
    storage.put(file, data)
    return data
