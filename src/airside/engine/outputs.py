"""The outputs of a finished job, converted by the declared interface as a cluster would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airside.model import AirsideError, ConversionError, OutputsAt, Phase, Resource
from airside.wire import storage
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.resource import CONVERSION_CODE, OUTPUTS_FILE, resolve

UNREADABLE = "OutputsUnreadable"


def settle(resource: Resource, declared: Mapping[str, Any], output_prefix: str) -> Resource:
    """A terminal resource whose outputs are Python values, each of its declared literal type. Blocks.

    Without outputs in the answer they are looked for under the output prefix, as Flyte's engines do. What is
    missing or does not fit makes the resource FAILED. `outputs.pb` lies under the output prefix afterwards.
    """
    if resource.phase.is_success and not declared:
        return replace(resource, outputs={})  # the engines ignore what nobody declared
    if resource.phase.is_success and resource.outputs is None:
        resource = replace(resource, outputs=OutputsAt(output_prefix))
    try:
        settled = resolve(resource, declared, output_prefix)
        return _with_values(settled, declared, output_prefix) if settled.phase.is_success else settled
    except ConversionError as exc:
        return replace(resource, phase=Phase.FAILED, outputs=None, code=CONVERSION_CODE, message=str(exc))
    except AirsideError as exc:  # a store that refuses or does not answer; the job itself need not run again
        return replace(resource, phase=Phase.FAILED, outputs=None, code=UNREADABLE, message=str(exc))


def read_outputs(declared: Mapping[str, Any], output_prefix: str) -> dict[str, Any]:
    """The outputs of a job that succeeded, as Python values. Blocks. Raises `UsageError` if the file is gone."""
    if not declared:
        return {}
    data = storage.read(storage.join(output_prefix, OUTPUTS_FILE))
    values = LiteralValues(data, declared, where="outputs", fetch=storage.read)
    return {name: values[name] for name in declared}


def _with_values(resource: Resource, declared: Mapping[str, Any], output_prefix: str) -> Resource:
    file = storage.join(output_prefix, OUTPUTS_FILE)
    if resource.outputs is None:  # too large to travel in an answer, so they are in the file
        data = storage.read(file)
    else:
        assert not isinstance(resource.outputs, OutputsAt)  # noqa: S101 - `resolve` has read it
        data = pack(resource.outputs, declared, where="outputs").data
        storage.write(file, data)
    values = LiteralValues(data, declared, where="outputs", fetch=storage.read)
    return replace(resource, outputs={name: values[name] for name in declared})
