"""What a run decides after each answer, row by row."""

from __future__ import annotations

from itertools import pairwise

import pytest

from airside import ConversionError, Fail, MissingExtra, NotFound, Phase, Resource, Retry
from airside.engine.attempt import Ask, End, Watch, answered, backoff, faulted, goes_on, pause, refused
from airside.sdk.agent import AgentSettings

SETTINGS = AgentSettings(poll_interval=1.0, fault_tolerance=100.0)
RUNNING = Resource(Phase.RUNNING)


def test_polls_are_quick_at_first_and_then_as_the_agent_wants() -> None:
    pauses = [pause(n, RUNNING, SETTINGS) for n in range(1, 12)]
    assert pauses[0] == 0.05
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert pauses[-1] == 1.0
    assert sum(pauses[:3]) < 0.3
    assert pause(10**6, RUNNING, SETTINGS) == 1.0


def test_the_agent_may_say_when_to_ask_again() -> None:
    assert pause(1, Resource(Phase.RUNNING, poll_after=30), SETTINGS) == 30
    assert pause(1, Resource(Phase.RUNNING, poll_after=0), SETTINGS) == 0.05


def test_phases_do_not_go_backwards() -> None:
    watch, _ = answered(Watch(0.0), RUNNING, SETTINGS)
    watch, step = answered(watch, Resource(Phase.QUEUED, message="again?"), SETTINGS)
    assert (watch.resource.phase, watch.resource.message) == (Phase.RUNNING, "again?")
    assert isinstance(step, Ask)


@pytest.mark.parametrize("phase", [p for p in Phase if p.is_terminal and p is not Phase.ABORTED])
def test_a_terminal_phase_ends_the_attempt(phase: Phase) -> None:
    assert answered(Watch(0.0), Resource(phase, message="x"), SETTINGS)[1] == End(Resource(phase, message="x"))


def test_an_abort_that_nobody_here_asked_for_is_a_failure_with_its_message() -> None:
    _, step = answered(Watch(0.0), Resource(Phase.ABORTED, message="killed by root"), SETTINGS)
    assert isinstance(step, End)
    assert (step.resource.phase, step.resource.message) == (Phase.FAILED, "killed by root")


def test_faults_are_waited_out_with_longer_and_longer_pauses() -> None:
    watch, now, pauses = Watch(0.0), 0.0, []
    while now < SETTINGS.fault_tolerance:
        watch, step = faulted(watch, OSError("no route"), now, SETTINGS)
        assert isinstance(step, Ask)
        assert step.note == "OSError: no route"
        pauses.append(step.after)
        now += step.after
    assert pauses[:3] == [0.1, 0.2, 0.4]
    _, end = faulted(watch, OSError("no route"), now, SETTINGS)
    assert isinstance(end, End)
    assert end.resource.phase is Phase.RETRYABLE_FAILED
    assert end.job_may_live


def test_one_good_answer_forgives_the_faults() -> None:
    watch, _ = faulted(Watch(0.0), OSError(), 0.0, SETTINGS)
    watch, _ = answered(watch, RUNNING, SETTINGS)
    _, step = faulted(watch, OSError(), 1000.0, SETTINGS)
    assert isinstance(step, Ask)


def test_the_backend_says_when_to_try_again() -> None:
    assert faulted(Watch(0.0), Retry("busy", after=7), 0.0, SETTINGS)[1] == Ask(7, "busy")
    assert backoff(50) == 60.0


def test_fail_from_get_ends_the_attempt_but_the_job_may_live() -> None:
    _, step = faulted(Watch(0.0), Fail("bad", code="Bad"), 0.0, SETTINGS)
    assert step == End(Resource(Phase.FAILED, message="bad", code="Bad"), job_may_live=True)


@pytest.mark.parametrize(
    ("since", "asks", "lost"),
    [
        (0.0, [61.0, 90.0, 122.0], True),
        (0.0, [61.0, 122.0], False),  # two misses are not enough
        (0.0, [61.0, 62.0, 63.0], False),  # nor three within seconds
        (0.0, [0.1, 30.0, 59.0], False),  # never in a job's first minute
        (0.0, [0.0, 1.0, 60.0], True),
    ],
)
def test_a_job_is_lost_only_after_three_misses_over_a_minute(since: float, asks: list[float], lost: bool) -> None:
    watch, step = Watch(since), None
    for now in asks:
        watch, step = faulted(watch, NotFound("no such job"), now, SETTINGS)
    assert isinstance(step, End) is lost


def test_a_fault_between_misses_starts_the_count_again() -> None:
    watch = Watch(0.0)
    for now, error in ((100.0, NotFound()), (130.0, NotFound()), (140.0, OSError()), (161.0, NotFound())):
        watch, step = faulted(watch, error, now, SETTINGS)
    assert isinstance(step, Ask)


@pytest.mark.parametrize(
    ("error", "phase", "code"),
    [
        (Fail("x", code="TableNotFound"), Phase.FAILED, "TableNotFound"),
        (ConversionError("inputs.x", "expected int"), Phase.FAILED, "InputConversionError"),
        (MissingExtra("duckdb", "It"), Phase.FAILED, "UsageError"),
        (Retry("x"), Phase.RETRYABLE_FAILED, "Retryable"),
        (TimeoutError(), Phase.RETRYABLE_FAILED, "Timeout"),
        (ValueError("x"), Phase.RETRYABLE_FAILED, "UnexpectedError"),
    ],
)
def test_how_a_create_that_raised_ends_the_attempt(error: Exception, phase: Phase, code: str) -> None:
    resource = refused(error)
    assert (resource.phase, resource.code) == (phase, code)
    assert resource.message


def test_only_a_retryable_failure_is_tried_again_and_only_so_often() -> None:
    retryable = Resource(Phase.RETRYABLE_FAILED)
    assert goes_on(End(retryable), 0, 1)
    assert not goes_on(End(retryable), 1, 1)
    assert not goes_on(End(retryable, job_may_live=True), 0, 1)
    assert not goes_on(End(Resource(Phase.FAILED)), 0, 1)
    assert not goes_on(End(Resource(Phase.SUCCEEDED)), 0, 1)
