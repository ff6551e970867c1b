"""The declared outputs in the handle: small, without schemas, and left out when they are too many."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from airside import Resource
from airside.model import Phase
from airside.server.declared import MAX_PACKED, pack_declared, unpack_declared
from airside.testing import harness
from airside.testing.client import Wire
from airside.testing.scripted import ScriptedAgent
from airside.wire.literal_map import LiteralValues
from airside.wire.types import to_variable_map


@dataclass
class Row:
    price: float


def test_schemas_and_descriptions_stay_behind_but_types_do_not() -> None:
    variables = to_variable_map({"rows": list[Row | None], "n": int})
    for entry in variables.variables:
        entry.value.description = secrets.token_hex(20_000)
    variant = variables.variables[0].value.type.collection_type.union_type.variants[0]
    variant.metadata["schema"] = secrets.token_hex(20_000)
    packed = pack_declared(variables.SerializeToString())
    assert 0 < len(packed) < 500
    declared = unpack_declared(packed)
    assert declared is not None
    assert list(declared) == ["rows", "n"]
    kept = declared["rows"].collection_type.union_type.variants[0]
    assert list(kept.structure.dataclass_type) == ["price"]
    assert not kept.HasField("metadata")


async def test_too_many_outputs_for_the_handle_are_typed_by_value(wire: Wire) -> None:
    names = [f"o{secrets.token_hex(16)}" for _ in range(1200)]
    agent = ScriptedAgent(get=Resource(Phase.SUCCEEDED, outputs=dict.fromkeys(names, 3)))
    async with harness(agent, wire=wire) as h:
        few = await h.create(outputs=dict.fromkeys(names[:3], float))
        many = await h.create(outputs=dict.fromkeys(names, float))
        assert len(many.handle) < MAX_PACKED
        typed, by_value = (await h.finish(few)).outputs, (await h.finish(many)).outputs
    assert isinstance(typed, LiteralValues)
    assert [type(value) for value in typed.values()] == [float] * 3
    assert isinstance(by_value, LiteralValues)
    assert {one.scalar.primitive.WhichOneof("value") for one in by_value.literals.values()} == {"integer"}
    assert len(by_value) == len(names)
