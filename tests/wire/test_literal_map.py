"""Inputs and outputs by name: lazy reading, strict packing, bytes that pass untouched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from flyteidl.core import literals_pb2 as flyte_1
from flyteidl2.connector import connector_pb2
from flyteidl2.core import literals_pb2, types_pb2
from flyteidl2.task import common_pb2

from airside import ConversionError
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.literals import to_literal
from airside.wire.types import to_literal_type


def declare(**annotations: Any) -> dict[str, types_pb2.LiteralType]:
    return {name: to_literal_type(annotation) for name, annotation in annotations.items()}


def entries(*named: tuple[str, Any]) -> common_pb2.Inputs:
    inputs = common_pb2.Inputs()
    for name, value in named:
        inputs.literals.add(name=name).value.CopyFrom(to_literal(value))
    return inputs


def offloaded(uri: str) -> literals_pb2.Literal:
    return literals_pb2.Literal(offloaded_metadata=literals_pb2.LiteralOffloadedMetadata(uri=uri))


class TestReading:
    def test_bytes_and_messages_of_both_generations_read_alike(self) -> None:
        data = pack({"a": 1, "b": "x"}).data
        create = connector_pb2.CreateTaskRequest(inputs=common_pb2.Inputs.FromString(data))
        sources: list[Any] = [
            data,
            literals_pb2.LiteralMap.FromString(data),
            common_pb2.Inputs.FromString(data),
            common_pb2.Outputs.FromString(data),
            flyte_1.LiteralMap.FromString(data),
            create.inputs,
        ]
        for source in sources:
            values = LiteralValues(source)
            assert values == {"a": 1, "b": "x"}
            assert len(values) == 2
            assert values.to_bytes() == data
            assert "a" in values
            assert "c" not in values
            assert values.get("c", 7) == 7
            with pytest.raises(KeyError):
                values["c"]
            assert dict(values) == {"a": 1, "b": "x"}

    def test_declared_names_are_read_as_their_types_and_others_by_value(self) -> None:
        values = LiteralValues(entries(("f", 1), ("u", 1)), declare(f=float))
        assert repr(dict(values)) == "{'f': 1.0, 'u': 1}"

    def test_names_come_in_declared_order(self) -> None:
        inputs = entries(("d", 1), ("c", 1), ("b", 1), ("a", 1))
        assert list(LiteralValues(inputs)) == ["d", "c", "b", "a"]
        assert list(LiteralValues(inputs, declare(b=int, missing=int, c=int))) == ["b", "c", "d", "a"]

    def test_of_a_repeated_name_the_last_entry_counts(self) -> None:
        inputs = entries(("x", 1), ("y", 5), ("x", 2))
        for source in (inputs, inputs.SerializeToString()):
            values = LiteralValues(source)
            assert (values["x"], len(values), sorted(values)) == (2, 2, ["x", "y"])

    def test_nothing_is_converted_before_it_is_asked_for_and_then_once(self) -> None:
        values = LiteralValues(entries(("bad", "abc"), ("good", [1])), declare(bad=int, good=list[int]))
        assert values["good"] is values["good"]
        assert list(values) == ["bad", "good"]
        for _ in range(2):
            with pytest.raises(ConversionError, match=r"^inputs\.bad: expected int, got 'abc'$"):
                values["bad"]

    def test_bytes_are_kept_as_they_came(self) -> None:
        inputs = entries(("z", 1), ("a", 2), ("z", 3))
        inputs.context.add(key="k", value="v")
        data = inputs.SerializeToString() + b"\xfa\x3f\x01x"  # and a field that nobody knows
        values = LiteralValues(data)
        assert dict(values) == {"z": 3, "a": 2}
        assert values.to_bytes() is data
        assert pack(values).data is data

    def test_bytes_that_are_no_literal_map(self) -> None:
        for data in (b"\xff", b"\x0a\x05a", b"\x0a\x03\x0a\x01\xff"):
            with pytest.raises(ConversionError, match=r"^outputs: not a literal map$"):
                LiteralValues(data, where="outputs")

    def test_empty(self) -> None:
        for source in (b"", common_pb2.Inputs(), literals_pb2.LiteralMap()):
            values = LiteralValues(source)
            assert (dict(values), values.to_bytes(), values.has_offloaded) == ({}, b"", False)

    def test_the_repr_converts_and_shows_no_value(self) -> None:
        values = LiteralValues(entries(("password", "abc")), declare(password=int))
        assert repr(values) == "<inputs: password>"

    def test_reading_a_name_that_is_not_there_adds_nothing(self) -> None:
        message = literals_pb2.LiteralMap.FromString(pack({"a": 1}).data)
        values = LiteralValues(message)
        assert values.get("b") is None
        assert list(message.literals) == ["a"]


class TestOffloaded:
    def inputs(self) -> common_pb2.Inputs:
        inputs = entries(("plain", 1), ("table", {"k": 1}))
        inputs.literals.add(name="top").value.CopyFrom(offloaded("s3://b/top"))
        nested = inputs.literals.add(name="nested").value
        nested.collection.literals.add().scalar.union.value.CopyFrom(offloaded("s3://b/item"))
        nested.collection.literals.add().map.literals["k"].CopyFrom(offloaded("s3://b/item"))
        return inputs

    def store(self, fetched: Counter[str]) -> Any:
        files = {
            "s3://b/top": literals_pb2.Literal(
                collection=literals_pb2.LiteralCollection(literals=[to_literal(1), offloaded("s3://b/item")])
            ),
            "s3://b/item": to_literal(2),
        }

        def fetch(uri: str) -> bytes:
            fetched[uri] += 1
            return files[uri].SerializeToString()

        return fetch

    def test_is_fetched_at_first_access_and_each_file_once(self) -> None:
        fetched: Counter[str] = Counter()
        values = LiteralValues(self.inputs(), declare(top=list[float]), fetch=self.store(fetched))
        assert values["plain"] == 1
        assert values.has_offloaded
        assert not fetched
        assert values["nested"] == [2, {"k": 2}]
        assert fetched == {"s3://b/item": 1}
        assert repr(values["top"]) == "[1.0, 2.0]"
        assert fetched == {"s3://b/item": 1, "s3://b/top": 1}
        assert not values.has_offloaded

    def test_prefetch_leaves_nothing_to_fetch(self) -> None:
        fetched: Counter[str] = Counter()
        values = LiteralValues(self.inputs(), fetch=self.store(fetched))
        before = values.to_bytes()
        values.prefetch()
        assert fetched == {"s3://b/item": 1, "s3://b/top": 1}
        assert not values.has_offloaded
        assert (values["top"], values["nested"]) == ([1, 2], [2, {"k": 2}])
        assert fetched == {"s3://b/item": 1, "s3://b/top": 1}
        assert values.to_bytes() == before

    def test_plain_inputs_have_none(self) -> None:
        values = LiteralValues(entries(("a", 1), ("b", [1, {"c": None}]), ("d", None)))
        assert not values.has_offloaded
        values.prefetch()

    def test_without_fetch_and_with_a_broken_file(self) -> None:
        for fetch, problem in ((None, "cannot be fetched here"), (lambda uri: b"\xff", "does not hold a literal")):
            values = LiteralValues(self.inputs(), fetch=fetch)
            for read in (lambda values=values: values["top"], values.prefetch):
                with pytest.raises(
                    ConversionError, match=rf"^inputs\.(top|nested).*: offloaded to 's3://b/.*{problem}$"
                ):
                    read()

    def test_what_fetch_raises_passes_through(self) -> None:
        def fetch(uri: str) -> bytes:
            raise PermissionError(uri)

        values = LiteralValues(self.inputs(), fetch=fetch)
        for read in (lambda: values["top"], values.prefetch):
            with pytest.raises(PermissionError):
                read()

    def test_files_that_name_themselves(self) -> None:
        inputs = common_pb2.Inputs()
        inputs.literals.add(name="x").value.CopyFrom(offloaded("u"))
        itself = literals_pb2.Literal()
        itself.collection.literals.extend([offloaded("u")] * 20)
        values = LiteralValues(inputs, fetch=lambda uri: itself.SerializeToString())
        for read in (lambda: values["x"], values.prefetch):
            with pytest.raises(ConversionError, match="nested deeper than 2"):
                read()


class TestPacking:
    def test_typed_as_declared(self) -> None:
        packed = pack({"a": 1, "b": None, "extra": object()}, declare(a=float, b=int | None))
        assert packed.dropped == ("extra",)
        assert repr(dict(LiteralValues(packed.data))) in ("{'a': 1.0, 'b': None}", "{'b': None, 'a': 1.0}")

    def test_missing_and_ill_typed(self) -> None:
        declared = declare(a=int, b=list[dict[str, int]])
        for values, problem in (
            ({}, "outputs.a: missing"),
            ({"a": 1}, "outputs.b: missing"),
            ({"a": "abc", "b": []}, "outputs.a: expected int, got 'abc'"),
            ({"a": 1, "b": [{}, {"k": "abc"}]}, "outputs.b[1].k: expected int, got 'abc'"),
        ):
            with pytest.raises(ConversionError) as caught:
                pack(values, declared)
            assert str(caught.value) == problem
        with pytest.raises(ConversionError, match=r"^inputs\['not a name'\]: missing$"):
            pack({}, declare(**{"not a name": int}), where="inputs")

    def test_without_declared_types(self) -> None:
        packed = pack({"o0": 3, "o1": None, "o2": {"a": [1, "b"]}, "o3": [1, "b"]})
        assert packed.dropped == ()
        assert dict(LiteralValues(packed.data)) == {"o0": 3, "o1": None, "o2": {"a": [1, "b"]}, "o3": [1, "b"]}

    def test_nothing_declared_and_nothing_given(self) -> None:
        assert pack({"a": 1}, {}) == (b"", ("a",))
        assert pack({}) == (b"", ())
        assert pack({}, {}) == (b"", ())

    def test_the_order_of_values_and_maps_does_not_change_the_bytes(self) -> None:
        names = [f"n{index}" for index in range(40)]
        values = {name: dict.fromkeys(names, 1) for name in names}
        backwards = {name: dict.fromkeys(names[::-1], 1) for name in names[::-1]}
        declared = declare(**dict.fromkeys(names, dict[str, int]))
        assert pack(values, declared).data == pack(backwards, declared).data

    def test_names_must_be_text(self) -> None:
        for name in ("\ud800", 5):
            with pytest.raises(ConversionError, match="a name must be valid text") as caught:
                pack({name: 1})  # type: ignore[dict-item]  # the mistake
            assert str(caught.value).encode()


class TestPassingThrough:
    """Outputs that are literals already, such as inputs handed on or an agent's own protobuf."""

    def test_untyped_literals_pass_as_they_are(self) -> None:
        data = pack({"a": {"deep": [1, 2]}, "b": "x"}).data
        assert pack(LiteralValues(data), declare(a=dict, b=str)) == (data, ())
        assert pack(LiteralValues(data, declare(a=dict)), None) == (data, ())

    def test_undeclared_ones_are_dropped_and_missing_ones_told(self) -> None:
        values = LiteralValues(pack({"a": 1, "b": 2}).data)
        packed = pack(values, declare(a=int))
        assert packed == (pack({"a": 1}).data, ("b",))
        with pytest.raises(ConversionError, match=r"^outputs\.c: missing$"):
            pack(values, declare(a=int, c=int))

    def test_ones_read_as_another_type_are_converted(self) -> None:
        values = LiteralValues(pack({"same": 1, "wider": 1}).data, declare(same=int, wider=int))
        packed = pack(values, declare(same=int, wider=float))
        assert repr(LiteralValues(packed.data)["wider"]) == "1.0"
        packed = pack(LiteralValues(values.to_bytes(), declare(same=int)), declare(wider=float))
        assert repr(LiteralValues(packed.data)["wider"]) == "1.0"
        with pytest.raises(ConversionError, match=r"^outputs\.same: expected str, got 1$"):
            pack(values, declare(same=str))

    def test_an_offloaded_literal_passes_unfetched(self) -> None:
        inputs = common_pb2.Inputs()
        inputs.literals.add(name="x").value.CopyFrom(offloaded("u"))
        values = LiteralValues(inputs, declare(x=int))
        assert pack(values, declare(x=int)).data == inputs.SerializeToString()
