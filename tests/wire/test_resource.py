"""Resources to bytes that both families read, and back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin import agent_pb2
from flyteidl.core import execution_pb2 as execution_v1_pb2
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2, types_pb2
from hypothesis import given
from hypothesis import strategies as st

from airside import LogLink, OutputsAt, Phase, Resource, Retry, UsageError
from airside.model.redaction import hide
from airside.wire import limits, storage
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.resource import OutputsTooLarge, needs_io, read_resource, resolve, write_resource
from airside.wire.types import to_literal_type

INT = {"o0": to_literal_type(int)}
FLOAT = {"o0": to_literal_type(float)}
STATES = {
    Phase.QUEUED: agent_pb2.PENDING,
    Phase.WAITING_FOR_RESOURCES: agent_pb2.PENDING,
    Phase.INITIALIZING: agent_pb2.PENDING,
    Phase.RUNNING: agent_pb2.RUNNING,
    Phase.SUCCEEDED: agent_pb2.SUCCEEDED,
    Phase.FAILED: agent_pb2.PERMANENT_FAILURE,
    Phase.RETRYABLE_FAILED: agent_pb2.RETRYABLE_FAILURE,
}


def v1(resource: Resource, declared: Any = None, **kwargs: Any) -> agent_pb2.Resource:
    return agent_pb2.Resource.FromString(write_resource(resource, declared, **kwargs))


def v2(resource: Resource, declared: Any = None, **kwargs: Any) -> connector_pb2.Resource:
    return connector_pb2.Resource.FromString(write_resource(resource, declared, **kwargs))


@pytest.mark.parametrize("phase", list(STATES))
def test_every_phase_leaves_under_its_number_and_state(phase: Phase) -> None:
    """S22, and an engine of 2023 that knows `state` only."""
    assert v1(Resource(phase)).phase == phase.value == v2(Resource(phase)).phase
    assert v1(Resource(phase)).state == STATES[phase]


def test_no_phase_is_refused() -> None:
    """S23."""
    with pytest.raises(ValueError, match=r"^The agent returned a resource without a phase\.$"):
        write_resource(Resource(Phase.UNDEFINED), None)


def test_an_agents_aborted_goes_out_as_failed_with_its_message() -> None:
    message = v1(Resource(Phase.ABORTED, message="stopped by an operator"))
    assert (message.phase, message.state) == (Phase.FAILED, agent_pb2.PERMANENT_FAILURE)
    assert (message.message, message.agent_error.code) == ("stopped by an operator", "Aborted")
    assert v1(Resource(Phase.ABORTED), deleted=True).phase == Phase.ABORTED


@pytest.mark.parametrize(
    ("resource", "code", "kind"),
    [
        (Resource(Phase.FAILED, code="TableNotFound"), "TableNotFound", agent_pb2.AgentError.NON_RECOVERABLE),
        (Resource(Phase.FAILED), "UserError", agent_pb2.AgentError.NON_RECOVERABLE),
        (Resource(Phase.RETRYABLE_FAILED), "Retryable", agent_pb2.AgentError.RECOVERABLE),
    ],
)
def test_a_failure_carries_agent_error(resource: Resource, code: str, kind: int) -> None:
    """S28."""
    error = v1(resource).agent_error
    assert (error.code, error.kind, error.origin) == (code, kind, execution_v1_pb2.ExecutionError.USER)
    assert not v1(Resource(Phase.RUNNING, code="x")).HasField("agent_error")


def test_outputs_are_typed_by_what_is_declared() -> None:
    """S24."""
    literal = v1(Resource(Phase.SUCCEEDED, outputs={"o0": 3}), INT).outputs.literals["o0"]
    assert literal.scalar.primitive.WhichOneof("value") == "integer"
    assert literal.scalar.primitive.integer == 3
    widened = v2(Resource(Phase.SUCCEEDED, outputs={"o0": 3}), FLOAT).outputs.literals[0]
    assert widened.value.scalar.primitive.float_value == 3.0
    assert v1(Resource(Phase.SUCCEEDED, outputs={"o0": 3})).outputs.literals["o0"].scalar.primitive.integer == 3


def test_no_outputs_and_empty_outputs_differ() -> None:
    """S25."""
    for message in (v1(Resource(Phase.SUCCEEDED)), v2(Resource(Phase.SUCCEEDED))):
        assert not message.HasField("outputs")
    for message in (v1(Resource(Phase.SUCCEEDED, outputs={})), v2(Resource(Phase.SUCCEEDED, outputs={}))):
        assert message.HasField("outputs")
        assert len(message.outputs.literals) == 0


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(-(2**63), 2**63 - 1) | st.text("xé", max_size=200)))
def test_outputs_come_back(outputs: dict[str, Any]) -> None:
    data = write_resource(Resource(Phase.SUCCEEDED, outputs=outputs), None)
    assert dict(read_resource(data, None).outputs) == outputs  # type: ignore[arg-type]  # there are some


def test_literals_pass_through_byte_for_byte() -> None:
    data = pack({"b": 1, "a": [1, 2]}).data
    written = write_resource(Resource(Phase.SUCCEEDED, outputs=LiteralValues(data)), None)
    assert data in written


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ({"o0": "three"}, "outputs.o0: expected int, got 'three'"),
        ({}, "outputs.o0: missing"),
        ([3], "outputs: expected values by name, got list"),
    ],
)
def test_outputs_that_do_not_fit_fail_the_job(outputs: Any, problem: str) -> None:
    resource = Resource(Phase.SUCCEEDED, message="3 rows", outputs=outputs, links=(LogLink("http://l"),))
    message = v1(resource, INT, job="1a2b3c4d5e6f")
    assert (message.phase, message.agent_error.code) == (Phase.FAILED, "OutputConversionError")
    assert message.message == (
        f"The outputs of job 1a2b3c4d5e6f do not fit the task's interface: {problem}; the job's message: 3 rows "
        "(OutputConversionError, id 1a2b3c4d)"
    )
    assert message.log_links[0].uri == "http://l"
    assert not message.HasField("outputs")


def test_undeclared_outputs_are_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        message = v1(Resource(Phase.SUCCEEDED, outputs={"o0": 3, "extra": 4}), INT)
    assert list(message.outputs.literals) == ["o0"]
    assert "extra" in caplog.text


def test_outputs_of_a_job_that_is_not_done_stay_here() -> None:
    """A running job may well have outputs that do not fit yet."""
    for phase in (Phase.RUNNING, Phase.FAILED):
        message = v1(Resource(phase, outputs={"o0": "partial"}), INT)
        assert message.phase == phase
        assert not message.HasField("outputs")


def test_links_and_info() -> None:
    """S26."""
    resource = Resource(
        Phase.RUNNING, links=[LogLink("http://l/1", "Console")], info={"a": 1, "p": Path("/x"), "nan": float("nan")}
    )
    message = v1(resource)
    link = message.log_links[0]
    assert (link.uri, link.name, link.ShowWhilePending) == ("http://l/1", "Console", True)
    assert message.custom_info["a"] == 1
    assert dict(message.custom_info) == {"a": 1, "p": "/x"}
    again = read_resource(write_resource(resource, None), None)
    assert again.links == (LogLink("http://l/1", "Console"),)
    assert again.info == {"a": 1, "p": "/x"}
    assert read_resource(write_resource(Resource(Phase.RUNNING), None), None).info is None


def test_everything_that_leaves_is_bounded() -> None:
    """S27."""
    resource = Resource(
        Phase.FAILED,
        message="Traceback\n" + "é" * 1_000_000 + "\nValueError: no such table",
        links=[LogLink("http://l/" + "x" * 10_000, "n" * 10_000)] * 1000,
        info={"big": ["x" * 1000] * 1000},
        code="C" * 10_000,
    )
    message = v1(resource)
    assert message.message.startswith("Traceback\n")
    assert message.message.endswith("\nValueError: no such table")
    assert limits.MARK in message.message
    assert len(message.message.encode()) <= limits.MESSAGE
    assert len(message.log_links) == limits.LINKS_COUNT
    assert len(message.agent_error.code) <= limits.CODE
    assert message.custom_info.ByteSize() < limits.INFO
    assert message.custom_info["left_out"].startswith("info of ")


def test_text_that_utf8_cannot_carry_is_replaced() -> None:
    assert v1(Resource(Phase.RUNNING, message="a\ud800b")).message == "a?b"


@pytest.mark.parametrize(("message", "text"), [(ValueError("no such table"), "no such table"), (None, "")])
def test_a_message_that_is_no_text(message: Any, text: str) -> None:
    assert v1(Resource(Phase.FAILED, message=message)).message == text


def test_secrets_are_hidden() -> None:
    hide("res0urce-secret")
    resource = Resource(
        Phase.FAILED,
        message="with res0urce-secret",
        links=[LogLink("http://l?token=res0urce-secret")],
        info={"a": {"b": ["res0urce-secret"]}},
    )
    assert b"res0urce-secret" not in write_resource(resource, None)


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        (agent_pb2.PENDING, Phase.INITIALIZING),
        (agent_pb2.RUNNING, Phase.RUNNING),
        (agent_pb2.SUCCEEDED, Phase.SUCCEEDED),
        (agent_pb2.PERMANENT_FAILURE, Phase.FAILED),
        (agent_pb2.RETRYABLE_FAILURE, Phase.RETRYABLE_FAILED),
        (99, Phase.RETRYABLE_FAILED),
    ],
)
def test_an_old_agents_state_gives_the_phase(state: int, phase: Phase) -> None:
    """E19, E20."""
    assert read_resource(agent_pb2.Resource(state=state), None).phase is phase  # type: ignore[arg-type]


def test_a_phase_beats_a_state() -> None:
    message = agent_pb2.Resource(state=agent_pb2.RUNNING, phase=Phase.SUCCEEDED.value)  # type: ignore[arg-type]
    assert read_resource(message, None).phase is Phase.SUCCEEDED


def test_phases_that_mean_nothing() -> None:
    """E21."""
    with pytest.raises(
        Retry, match=r"^The agent service answered with phase 99, which is no phase that Flyte knows\.$"
    ):
        read_resource(agent_pb2.Resource(phase=99), None)  # type: ignore[arg-type]
    with pytest.raises(Retry, match="phase 0"):
        read_resource(connector_pb2.Resource(), None, family="v2")


def test_a_failure_is_read_with_its_code() -> None:
    """E37."""
    resource = read_resource(write_resource(Resource(Phase.FAILED, message="m", code="TableNotFound"), None), None)
    assert (resource.phase, resource.message, resource.code) == (Phase.FAILED, "m", "TableNotFound")


def test_outputs_too_large_for_an_answer_go_to_the_prefix(tmp_path: Path) -> None:
    resource = Resource(Phase.SUCCEEDED, outputs={"o0": "x" * (4 * limits.MIB)})
    declared = {"o0": to_literal_type(str)}
    with pytest.raises(OutputsTooLarge):
        write_resource(resource, declared)
    settled = resolve(resource, declared, str(tmp_path))
    assert settled.outputs is None
    assert not v1(settled, declared).HasField("outputs")
    assert LiteralValues((tmp_path / "outputs.pb").read_bytes())["o0"] == "x" * (4 * limits.MIB)


def test_outputs_up_to_the_limit_stay_in_the_answer(tmp_path: Path) -> None:
    resource = Resource(Phase.SUCCEEDED, outputs={"o0": "x" * (limits.OUTPUTS - 64)})
    assert len(write_resource(resource, None)) < 4 * limits.MIB
    settled = resolve(resource, None, str(tmp_path))
    assert not needs_io(settled)
    assert not list(tmp_path.iterdir())


def test_large_outputs_without_a_prefix_fail_the_job() -> None:
    resource = Resource(Phase.SUCCEEDED, outputs=LiteralValues(pack({"o0": "x" * (4 * limits.MIB)}).data))
    assert needs_io(resource)
    failed = resolve(resource, None, "")
    assert (failed.phase, failed.code) == (Phase.FAILED, "OutputsTooLarge")
    assert failed.message.startswith("The outputs are 4.0 MiB, above 3.5 MiB, and the caller gave no output prefix")


def test_outputs_are_read_from_a_file(tmp_path: Path) -> None:
    storage.write(str(tmp_path / "outputs.pb"), pack({"o0": 3}).data)
    resource = Resource(Phase.SUCCEEDED, outputs=OutputsAt(str(tmp_path)))
    assert needs_io(resource)
    settled = resolve(resource, INT, "/elsewhere")
    assert not needs_io(settled)
    assert v1(settled, INT).outputs.literals["o0"].scalar.primitive.integer == 3


def test_a_running_jobs_file_is_not_read() -> None:
    assert not needs_io(Resource(Phase.RUNNING, outputs=OutputsAt("/none")))
    assert resolve(Resource(Phase.RUNNING, outputs=OutputsAt("/none")), INT, "").outputs is None


@pytest.mark.parametrize(
    ("content", "declared", "problem"),
    [
        (b"\xff\xff", INT, "outputs: not a literal map"),
        (pack({"o1": 3}).data, INT, "outputs.o0: missing"),
    ],
)
def test_a_file_that_does_not_fit_fails_the_job(
    tmp_path: Path, content: bytes, declared: dict[str, types_pb2.LiteralType], problem: str
) -> None:
    storage.write(str(tmp_path / "outputs.pb"), content)
    failed = resolve(Resource(Phase.SUCCEEDED, outputs=OutputsAt(str(tmp_path))), declared, "", job="j")
    assert (failed.phase, failed.code) == (Phase.FAILED, "OutputConversionError")
    assert problem in failed.message


def test_a_large_file_in_place_is_left_to_the_engine_and_moved_otherwise(tmp_path: Path) -> None:
    data = pack({"o0": "x" * (4 * limits.MIB)}).data
    storage.write(str(tmp_path / "job" / "outputs.pb"), data)
    resource = Resource(Phase.SUCCEEDED, outputs=OutputsAt(f"{tmp_path}/job/"))
    assert resolve(resource, None, f"{tmp_path}/job").outputs is None
    assert resolve(resource, None, f"{tmp_path}/prefix").outputs is None
    assert (tmp_path / "prefix" / "outputs.pb").read_bytes() == data


def test_a_file_that_is_too_large_to_read(tmp_path: Path) -> None:
    path = tmp_path / "outputs.pb"
    with path.open("wb") as file:
        file.truncate(limits.FILE + 1)
    resource = Resource(Phase.SUCCEEDED, outputs=OutputsAt(str(tmp_path)))
    assert resolve(resource, None, str(tmp_path)).outputs is None
    failed = resolve(resource, None, "/elsewhere")
    assert (failed.phase, failed.code) == (Phase.FAILED, "OutputsTooLarge")
    assert "too large to be read: 16.0 MiB" in failed.message


def test_a_job_without_its_file() -> None:
    resource = Resource(Phase.SUCCEEDED, outputs=OutputsAt("/nowhere/0"))
    lost = resolve(resource, INT, "")
    assert (lost.phase, lost.code, lost.outputs) == (Phase.RETRYABLE_FAILED, "OutputsNotFound", None)
    assert lost.message == "The job succeeded but wrote no /nowhere/0/outputs.pb."
    nothing_declared = resolve(resource, {}, "")
    assert (nothing_declared.phase, nothing_declared.outputs) == (Phase.SUCCEEDED, {})


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.RETRYABLE_FAILED, Phase.SUCCEEDED])
@pytest.mark.parametrize("recoverable", [True, False])
def test_the_error_file_tells_how_a_job_failed(tmp_path: Path, phase: Phase, recoverable: bool) -> None:
    kind = execution_pb2.ContainerError.RECOVERABLE if recoverable else execution_pb2.ContainerError.NON_RECOVERABLE
    error = execution_pb2.ContainerError(code="USER:ValueError", message="no such table", kind=kind)
    storage.write(str(tmp_path / "error.pb"), execution_pb2.ErrorDocument(error=error).SerializeToString())
    failed = resolve(Resource(phase, outputs=OutputsAt(str(tmp_path))), INT, "")
    assert failed.phase is (Phase.RETRYABLE_FAILED if recoverable else Phase.FAILED)
    assert failed.code == "USER:ValueError"
    assert failed.message.splitlines()[0] == "no such table"
    assert failed.outputs is None


def test_a_failed_job_without_a_readable_error_file_stays_as_told(tmp_path: Path) -> None:
    resource = Resource(Phase.FAILED, message="exit code 1", code="NonZeroExit", outputs=OutputsAt(str(tmp_path)))
    told = Resource(Phase.FAILED, message="exit code 1", code="NonZeroExit")
    assert resolve(resource, INT, "") == told
    (tmp_path / "error.pb").write_bytes(b"\xff\xff")
    assert resolve(resource, INT, "") == told


def test_a_store_that_cannot_be_read_is_not_the_jobs_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be read: Not a directory"):
        resolve(Resource(Phase.SUCCEEDED, outputs=OutputsAt(f"{tmp_path}/file/0")), INT, "")
