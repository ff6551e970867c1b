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
        unsafe = _write(settled, declared, output_prefix) if settled.phase.is_success else None
        return Settled(replace(settled, outputs=None), unsafe)
    except ConversionError as exc:
        return Settled(replace(resource, phase=Phase.FAILED, outputs=None, code=CONVERSION_CODE, message=str(exc)))
    except AirsideError as exc:  # a store that refuses or does not answer; the job itself need not run again
        return Settled(replace(resource, phase=Phase.FAILED, outputs=None, code=UNREADABLE, message=str(exc)))


def read_outputs(declared: Mapping[str, Any], output_prefix: str, kept: bytes | None = None) -> dict[str, Any]:
    """The outputs of a job that succeeded, as Python values: those that the store kept, else those in the file. Blocks.

    Raises `UsageError` if the file is gone.
    """
    if not declared:
        return {}
    data = storage.read(storage.join(output_prefix, OUTPUTS_FILE)) if kept is None else kept
    values = LiteralValues(data, declared, where="outputs", fetch=storage.read)
    return {name: values[name] for name in declared}


def _write(resource: Resource, declared: Mapping[str, Any], output_prefix: str) -> bytes | None:
    """Write the outputs, unless they are in their file already; what was written if it has no fsync."""
    file = storage.join(output_prefix, OUTPUTS_FILE)
    if resource.outputs is None:  # too large to travel in an answer, so they are in the file
        values = LiteralValues(storage.read(file), declared, where="outputs", fetch=storage.read)
        for name in declared:
            values[name]  # raises what is wrong with it
        return None
    assert not isinstance(resource.outputs, OutputsAt)  # noqa: S101 - `resolve` has read it
    data = pack(resource.outputs, declared, where="outputs").data
    unsafe = len(data) <= LARGEST_KEPT and not storage.is_remote(file)
    storage.write(file, data, durable=not unsafe)
    return data if unsafe else None
