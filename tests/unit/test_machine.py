"""Every row of the engine's table, and what no path through it may do."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airside import LogLink, Phase, Resource
from airside.engine.ending import Step
from airside.engine.job import (
    Abort,
    Action,
    Answered,
    Created,
    Deleted,
    DeleteFailed,
    Due,
    Faulted,
    Held,
    Job,
    Observation,
    Refused,
    Resumed,
    Rules,
    Stage,
    Trouble,
    Verdict,
)
from airside.engine.machine import TABLE, step
from airside.engine.pause import backoff, poll_pause

NOW = 1000.0
QUICK = Rules(poll_interval=10.0, fault_tolerance=100.0, unfetched_tolerance=0.0, cancel_patience=30.0)
LINK = LogLink("https://example.org/1", "console")
RUNNING = Resource(Phase.RUNNING, message="3 of 7", links=(LINK,))
LOST = Resource(Phase.RETRYABLE_FAILED, message="node lost", code="NodeLost")
FAILED = Resource(Phase.FAILED, message="no such table", code="TableNotFound")


def waiting(**more: Any) -> Job:
    return Job(**{"id": "r1", "queued_at": NOW, "due": NOW, "rules": QUICK, **more})


def creating(**more: Any) -> Job:
    return waiting(stage=Stage.CREATING, due=inf, **more)


def watching(**more: Any) -> Job:
    known = {"meta": b"job-1", "created_at": NOW, "phase": Phase.RUNNING, "fetched": True, **more}
    return waiting(stage=Stage.WATCHING, **known)


def cancelling(verdict: Verdict | None = None, **more: Any) -> Job:
    reason = verdict or Verdict(phase=Phase.ABORTED, message="Cancelled.")
    return replace(watching(**more), stage=Stage.CANCELLING, verdict=reason)


def confirming(verdict: Verdict | None = None, **more: Any) -> Job:
    return replace(cancelling(verdict, **more), stage=Stage.CONFIRMING, cancelled_at=more.get("cancelled_at", NOW))


TIMED_OUT = Verdict(phase=Phase.RETRYABLE_FAILED, code="TimeoutExpired", message="too long")
DEAD = Verdict(phase=Phase.RETRYABLE_FAILED, code="NodeLost", message="node lost", dead=True)


# (what it shows, job, observation, expected fields of the job, expected actions)
ROWS: list[tuple[str, Job, Observation, dict[str, Any], tuple[Action, ...]]] = [
    # WAITING
    ("an attempt begins", waiting(), Due(), {"stage": Stage.CREATING, "due": inf}, (Action.CREATE,)),
    (
        "a run that waited too long ends without a create",
        waiting(queued_at=NOW - 61, active_timeout=60.0),
        Due(),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "code": "TimeoutExpired"},
        (),
    ),
    (
        "a quota holds it back and it says so",
        waiting(),
        Held("8 of 8 jobs", after=2.0),
        {"stage": Stage.WAITING, "phase": Phase.WAITING_FOR_RESOURCES, "message": "8 of 8 jobs", "due": NOW + 2},
        (),
    ),
    (
        "a quota does not hold it past its deadline",
        waiting(active_timeout=1.0),
        Held("full", after=5.0),
        {"due": NOW + 1},
        (),
    ),
    (
        "what is held for too long ends",
        waiting(queued_at=NOW - 9, active_timeout=1.0),
        Held("full"),
        {"stage": Stage.OVER, "code": "TimeoutExpired"},
        (),
    ),
    ("abort before create: no delete (E27)", waiting(), Abort(), {"stage": Stage.OVER, "phase": Phase.ABORTED}, ()),
    (
        "abort between attempts",
        waiting(attempt=1),
        Abort(),
        {"stage": Stage.OVER, "message": "Cancelled between two attempts."},
        (),
    ),
    (
        "no route, or a task that cannot be made: no create (E05, E13)",
        waiting(),
        Refused(0, FAILED),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "code": "TableNotFound"},
        (),
    ),
    ("a restart changes nothing that waits", waiting(due=NOW + 5), Resumed(), {"due": NOW + 5}, ()),
    # CREATING
    (
        "created: polled at once (E17)",
        creating(),
        Created(0, b"job-1", (LINK,)),
        {"stage": Stage.WATCHING, "meta": b"job-1", "due": NOW, "created_at": NOW, "links": (LINK,)},
        (),
    ),
    (
        "created after an abort: cancelled (E27)",
        creating(abort=True),
        Created(0, b"job-1"),
        {"stage": Stage.CANCELLING, "due": NOW},
        (),
    ),
    (
        "create refused, attempts left: the next one (E14)",
        creating(retries=2),
        Refused(0, LOST),
        {"stage": Stage.WAITING, "attempt": 1, "phase": Phase.QUEUED, "due": NOW + 0.1},
        (),
    ),
    ("it waits as asked", creating(retries=2), Refused(0, LOST, after=7.0), {"due": NOW + 7}, ()),
    (
        "create refused, none left (E14, E26)",
        creating(),
        Refused(0, LOST),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "code": "RetriesExhausted|NodeLost", "job_may_live": False},
        (),
    ),
    ("create refused for good", creating(retries=2), Refused(0, FAILED), {"stage": Stage.OVER, "attempt": 0}, ()),
    (
        "a create that may have made a job is not retried",
        creating(retries=2),
        Refused(0, LOST, may_live=True),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "job_may_live": True},
        (),
    ),
    (
        "create refused after an abort",
        creating(abort=True, retries=2),
        Refused(0, LOST),
        {"stage": Stage.OVER, "phase": Phase.ABORTED},
        (),
    ),
    (
        "a sync agent's result (E35)",
        creating(),
        Answered(0, Resource(Phase.SUCCEEDED)),
        {"stage": Stage.OVER, "phase": Phase.SUCCEEDED},
        (),
    ),
    (
        "a sync agent's failure has nothing to delete",
        creating(retries=1),
        Answered(0, LOST),
        {"stage": Stage.WAITING, "attempt": 1},
        (),
    ),
    (
        "a sync agent that answers RUNNING (E36)",
        creating(retries=1),
        Answered(0, RUNNING),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "code": "AgentError"},
        (),
    ),
    ("abort while creating", creating(), Abort(), {"stage": Stage.CREATING, "abort": True}, (Action.INTERRUPT,)),
    ("abort twice (E27)", creating(abort=True), Abort(), {"stage": Stage.CREATING, "abort": True}, ()),
    (
        "the answer to a create was lost: asked again, the same attempt (E15)",
        creating(),
        Resumed(),
        {"stage": Stage.CREATING, "attempt": 0, "due": inf},
        (Action.RECREATE,),
    ),
    (
        "it is not asked again if that could make a second job",
        creating(retries=1, rules=replace(QUICK, repeats_create=False)),
        Resumed(),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "code": "CreateUnknown", "job_may_live": True},
        (),
    ),
    (
        "a create that cannot be repeated now is repeated later, and burns no attempt",
        creating(retries=1),
        Faulted(0, "busy"),
        {"stage": Stage.CREATING, "attempt": 0, "due": NOW + 0.1},
        (),
    ),
    ("later has come", replace(creating(faults=1), due=NOW), Due(), {"due": inf}, (Action.RECREATE,)),
    (
        "a create that can never be repeated: the job may live",
        creating(retries=1, faults=8, faulty_since=NOW - 100),
        Faulted(0, "busy"),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "code": "AgentUnreachable", "job_may_live": True},
        (),
    ),
    # WATCHING
    ("a poll", watching(), Due(), {"stage": Stage.WATCHING, "due": inf}, (Action.GET,)),
    (
        "the attempt took too long: cancelled (E28)",
        watching(created_at=NOW - 60, timeout=60.0),
        Due(),
        {"stage": Stage.CANCELLING, "due": NOW},
        (),
    ),
    (
        "the run took too long: cancelled (E28)",
        watching(queued_at=NOW - 120, active_timeout=120.0, retries=5),
        Due(),
        {"stage": Stage.CANCELLING},
        (),
    ),
    (
        "an answer: links that come late are published (E34)",
        watching(faults=3, misses=1, trouble="busy"),
        Answered(0, RUNNING),
        {"phase": Phase.RUNNING, "links": (LINK,), "due": NOW + 10, "faults": 0, "misses": 0, "trouble": ""},
        (),
    ),
    (
        "as often as the agent says",
        watching(),
        Answered(0, replace(RUNNING, poll_after=3.0)),
        {"due": NOW + 3},
        (),
    ),
    ("not past the deadline", watching(timeout=4.0), Answered(0, RUNNING), {"due": NOW + 4}, ()),
    (
        "phases do not go backwards",
        watching(),
        Answered(0, Resource(Phase.QUEUED, message="again?")),
        {"phase": Phase.RUNNING, "message": "again?"},
        (),
    ),
    (
        "links are not lost",
        watching(links=(LINK,)),
        Answered(0, Resource(Phase.RUNNING)),
        {"links": (LINK,)},
        (),
    ),
    *(
        (
            f"{phase.name} is told (E18)",
            watching(phase=Phase.QUEUED),
            Answered(0, Resource(phase, message="m")),
            {"stage": Stage.WATCHING, "phase": phase, "message": "m"},
            (),
        )
        for phase in (Phase.QUEUED, Phase.WAITING_FOR_RESOURCES, Phase.INITIALIZING, Phase.RUNNING)
    ),
    (
        "success (E18)",
        watching(),
        Answered(0, Resource(Phase.SUCCEEDED)),
        {"stage": Stage.OVER, "phase": Phase.SUCCEEDED, "code": "", "finished_at": NOW, "due": inf},
        (),
    ),
    (
        "FAILED is final, without a delete (E26)",
        watching(retries=3),
        Answered(0, FAILED),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "code": "TableNotFound", "message": "no such table"},
        (),
    ),
    (
        "ABORTED of its own accord is a failure (E18)",
        watching(retries=3),
        Answered(0, Resource(Phase.ABORTED)),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "code": "Aborted"},
        (),
    ),
    (
        "a failure that asks for a delete gets one",
        watching(rules=replace(QUICK, delete_finished=True)),
        Answered(0, FAILED),
        {"stage": Stage.CANCELLING},
        (),
    ),
    (
        "RETRYABLE_FAILED, attempts left: the old job is deleted first (E25)",
        watching(retries=1),
        Answered(0, LOST),
        {"stage": Stage.CANCELLING, "attempt": 0},
        (),
    ),
    (
        "RETRYABLE_FAILED, none left: no delete (E26)",
        watching(retries=1, attempt=1),
        Answered(1, LOST),
        {
            "stage": Stage.OVER,
            "phase": Phase.FAILED,
            "code": "RetriesExhausted|NodeLost",
            "message": "node lost (attempt 2 of 2)",
        },
        (),
    ),
    (
        "a fault is waited out",
        watching(),
        Faulted(0, "busy"),
        {"stage": Stage.WATCHING, "faults": 1, "faulty_since": NOW, "trouble": "busy", "due": NOW + 10},
        (),
    ),
    ("as long as asked", watching(), Faulted(0, "busy", after=25.0), {"due": NOW + 25}, ()),
    (
        "never fetched and failed too often: ends at the next poll (E22)",
        watching(fetched=False, faults=6, faulty_since=NOW - 50, trouble="no route"),
        Due(),
        {
            "stage": Stage.CANCELLING,
            "verdict": Verdict(phase=Phase.FAILED, code="AutoRefreshCacheFailed", message="no route"),
        },
        (),
    ),
    (
        "not before it failed that often (E22)",
        watching(fetched=False, faults=5, faulty_since=NOW - 50),
        Due(),
        {"stage": Stage.WATCHING},
        (Action.GET,),
    ),
    (
        "fetched once, then away for too long (E23)",
        watching(faults=9, faulty_since=NOW - 100, trouble="busy"),
        Due(),
        {
            "stage": Stage.CANCELLING,
            "verdict": Verdict(phase=Phase.RETRYABLE_FAILED, code="AgentUnreachable", message="busy"),
        },
        (),
    ),
    ("fetched once: more patience (E23)", watching(faults=9, faulty_since=NOW - 99), Due(), {}, (Action.GET,)),
    (
        "a phase that nobody knows, too often (E21)",
        watching(faults=5, faulty_since=NOW - 1),
        Faulted(0, "phase 99", Trouble.NONSENSE),
        {"stage": Stage.CANCELLING},
        (),
    ),
    (
        "a phase that nobody knows, once (E21)",
        watching(),
        Faulted(0, "phase 99", Trouble.NONSENSE),
        {"stage": Stage.WATCHING, "faults": 1},
        (),
    ),
    (
        "unknown to its agent: not believed at first",
        watching(created_at=NOW - 999, misses=1, missing_since=NOW - 30),
        Faulted(0, "no such job", Trouble.MISSING),
        {"stage": Stage.WATCHING, "misses": 2, "faults": 0},
        (),
    ),
    (
        "unknown three times over a minute: lost, and run again",
        watching(created_at=NOW - 999, misses=2, missing_since=NOW - 60, retries=1),
        Faulted(0, "no such job", Trouble.MISSING),
        {"stage": Stage.WAITING, "attempt": 1},
        (),
    ),
    (
        "unknown in its first minute: too young to be lost",
        watching(created_at=NOW - 59, misses=9, missing_since=NOW - 60),
        Faulted(0, "no such job", Trouble.MISSING),
        {"stage": Stage.WATCHING},
        (),
    ),
    ("abort while running: cancelled (E27)", watching(), Abort(), {"stage": Stage.CANCELLING, "abort": True}, ()),
    ("after a restart: polled at once (E16)", watching(due=inf), Resumed(), {"stage": Stage.WATCHING, "due": NOW}, ()),
    # CANCELLING
    ("the delete goes out", cancelling(), Due(), {"due": inf}, (Action.DELETE,)),
    ("accepted: the end is awaited", cancelling(), Deleted(0), {"stage": Stage.CONFIRMING, "due": NOW}, ()),
    (
        "accepted, and the job was over before: the next attempt (E25)",
        cancelling(DEAD, retries=1),
        Deleted(0),
        {"stage": Stage.WAITING, "attempt": 1, "meta": b"", "verdict": None, "fetched": False},
        (),
    ),
    ("not accepted: again, later (E29)", cancelling(), DeleteFailed(0, "busy"), {"deletes": 1, "due": NOW + 0.1}, ()),
    (
        "never accepted: the run ends all the same (E29)",
        cancelling(abort=True, deletes=9),
        DeleteFailed(0, "busy"),
        {"stage": Stage.OVER, "phase": Phase.ABORTED, "job_may_live": True},
        (),
    ),
    (
        "never accepted: no second job beside one that may live (E28)",
        cancelling(TIMED_OUT, retries=3, deletes=9),
        DeleteFailed(0, "busy"),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "code": "TimeoutExpired", "job_may_live": True},
        (),
    ),
    (
        "never accepted, but the job is dead: the next attempt (E25)",
        cancelling(DEAD, retries=1, deletes=9),
        DeleteFailed(0, "busy"),
        {"stage": Stage.WAITING, "attempt": 1},
        (),
    ),
    (
        "it had succeeded before the cancel: the result counts",
        cancelling(abort=True),
        Answered(0, Resource(Phase.SUCCEEDED)),
        {"stage": Stage.OVER, "phase": Phase.SUCCEEDED},
        (),
    ),
    (
        "it had failed before the cancel",
        cancelling(TIMED_OUT),
        Answered(0, Resource(Phase.FAILED)),
        {"stage": Stage.OVER, "code": "RetriesExhausted|TimeoutExpired", "job_may_live": False},
        (),
    ),
    (
        "an answer from before the cancel: nothing changes",
        cancelling(due=inf),
        Answered(0, Resource(Phase.RUNNING)),
        {"stage": Stage.CANCELLING, "due": inf},
        (),
    ),
    (
        "an answer from before the cancel: its links are shown",
        cancelling(due=inf),
        Answered(0, Resource(Phase.RUNNING, links=(LINK,))),
        {"stage": Stage.CANCELLING, "due": inf, "links": (LINK,)},
        (),
    ),
    (
        "it was known to be over: the delete goes on",
        cancelling(DEAD, retries=1),
        Answered(0, Resource(Phase.FAILED)),
        {"stage": Stage.CANCELLING, "attempt": 0},
        (),
    ),
    ("abort while it is being cancelled", cancelling(TIMED_OUT), Abort(), {"abort": True}, ()),
    ("abort twice (E27)", cancelling(abort=True), Abort(), {"stage": Stage.CANCELLING}, ()),
    ("after a restart: the delete again", cancelling(due=inf), Resumed(), {"due": NOW}, ()),
    # CONFIRMING
    ("is it over?", confirming(), Due(), {"due": inf}, (Action.GET,)),
    (
        "it never says so: the run ends, without another attempt",
        confirming(TIMED_OUT, retries=3, cancelled_at=NOW - 30),
        Due(),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "job_may_live": True},
        (),
    ),
    ("not yet", confirming(), Answered(0, RUNNING), {"stage": Stage.CONFIRMING, "due": NOW + 0.05}, ()),
    (
        "over after an abort (E27)",
        confirming(abort=True),
        Answered(0, Resource(Phase.ABORTED)),
        {"stage": Stage.OVER, "phase": Phase.ABORTED, "message": "Cancelled.", "job_may_live": False},
        (),
    ),
    (
        "over after a timeout: the next attempt (E28)",
        confirming(TIMED_OUT, retries=1),
        Answered(0, Resource(Phase.ABORTED)),
        {"stage": Stage.WAITING, "attempt": 1},
        (),
    ),
    (
        "over after a timeout, none left (E28)",
        confirming(TIMED_OUT),
        Answered(0, FAILED),
        {"stage": Stage.OVER, "phase": Phase.FAILED, "code": "RetriesExhausted|TimeoutExpired"},
        (),
    ),
    (
        "it succeeded before the cancel reached it",
        confirming(abort=True),
        Answered(0, Resource(Phase.SUCCEEDED)),
        {"stage": Stage.OVER, "phase": Phase.SUCCEEDED},
        (),
    ),
    ("unknown: over", confirming(abort=True), Faulted(0, "gone", Trouble.MISSING), {"stage": Stage.OVER}, ()),
    ("away: asked again", confirming(), Faulted(0, "busy"), {"stage": Stage.CONFIRMING, "due": NOW + 0.1}, ()),
    ("abort while its end is awaited", confirming(TIMED_OUT), Abort(), {"abort": True}, ()),
    ("after a restart: asked at once", confirming(due=inf), Resumed(), {"due": NOW}, ()),
]


@pytest.mark.parametrize(("job", "seen", "fields", "actions"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_row(job: Job, seen: Observation, fields: dict[str, Any], actions: tuple[Action, ...]) -> None:
    after = step(job, seen, NOW)
    assert {name: getattr(after.job, name) for name in fields} == fields
    assert after.actions == actions


def test_every_row_of_the_table_is_tested() -> None:
    assert {(job.stage, type(seen)) for _, job, seen, _, _ in ROWS} == set(TABLE)


@pytest.mark.parametrize(
    "seen", [Created(0, b"old"), Answered(0, FAILED), Faulted(0, "x"), Refused(0, FAILED), Deleted(0)]
)
def test_an_answer_for_an_earlier_attempt_changes_nothing(seen: Observation) -> None:
    for job in (creating(attempt=1), watching(attempt=1), cancelling(attempt=1), confirming(attempt=1)):
        assert step(job, seen, NOW) == Step(job)


def test_errors_interleaved_with_successes_never_fail_a_job() -> None:  # E24
    job, now = watching(), NOW
    for round_ in range(200):
        seen = Answered(0, RUNNING) if round_ % 6 == 5 else Faulted(0, "busy")
        job = step(job, seen, now).job
        now += 40
        assert step(job, Due(), now).actions == (Action.GET,)


def test_backoff_doubles_to_a_minute_and_obeys() -> None:
    assert [backoff(n) for n in (1, 2, 3, 99)] == [0.1, 0.2, 0.4, 60.0]
    assert (backoff(5, 2.5), backoff(5, -1.0), backoff(5, 1e9)) == (2.5, 0.0, 3600.0)
    assert (poll_pause(QUICK, 1), poll_pause(QUICK, 1, 0.0), poll_pause(QUICK, 1, 1e9)) == (10.0, 0.05, 3600.0)


# -- whatever happens ----------------------------------------------------------------------------------------------

phases = st.sampled_from([phase for phase in Phase if phase is not Phase.UNDEFINED])
resources = st.builds(Resource, phases, message=st.sampled_from(["", "m"]))
troubles = st.sampled_from(Trouble)
answers = st.one_of(
    st.builds(Created, st.integers(0, 3), st.sampled_from([b"", b"job"])),
    st.builds(Refused, st.integers(0, 3), resources.filter(lambda one: one.phase.is_failure)),
    st.builds(Answered, st.integers(0, 3), resources),
    st.builds(Faulted, st.integers(0, 3), st.just("x"), troubles),
    st.builds(Deleted, st.integers(0, 3)),
    st.builds(DeleteFailed, st.integers(0, 3), st.just("x")),
    st.sampled_from([Due(), Abort(), Resumed(), Held("full")]),
)
jobs = st.builds(
    waiting,
    retries=st.integers(0, 3),
    timeout=st.sampled_from([None, 5.0, 500.0]),
    active_timeout=st.sampled_from([None, 50.0]),
    rules=st.sampled_from([QUICK, replace(QUICK, repeats_create=False), replace(QUICK, delete_finished=True)]),
)
paths = st.lists(st.tuples(answers, st.sampled_from([0.0, 0.1, 10.0, 200.0])), max_size=60)


@settings(max_examples=400, deadline=None)
@given(jobs, paths)
def test_no_path_leaves_the_end_or_creates_twice(job: Job, path: list[tuple[Observation, float]]) -> None:
    now, created, interrupted = NOW, set(), set()
    for seen, passed in path:
        now += passed
        before = job
        if isinstance(seen, Resumed) or (isinstance(seen, Faulted) and before.stage is Stage.CREATING):
            interrupted.add(before.attempt)  # such a fault is told of a repeated create alone
        job, actions, _ = step(job, seen, now)
        if before.stage is Stage.OVER:
            assert job == before
            assert not actions
        assert (job.stage is Stage.OVER) == job.phase.is_terminal
        assert before.attempt <= job.attempt <= job.retries
        if Action.CREATE in actions:
            assert job.attempt not in created, "this attempt was created before"
            created.add(job.attempt)
        if Action.RECREATE in actions:
            assert before.attempt in interrupted, "the answer to its create was not lost"
            assert job.rules.repeats_create
        if before.abort:
            assert Action.CREATE not in actions
            assert job.abort or job.stage is Stage.OVER
        if Action.DELETE in actions:
            assert job.stage is Stage.CANCELLING
        if job.attempt > before.attempt:
            assert not before.abort
            assert job.stage is Stage.WAITING


def agent_answer(job: Job, action: Action, draw: Any) -> Observation:
    """What an agent may say to an action; a job that is being cancelled may go on for ever, or not be known."""
    if action in (Action.CREATE, Action.RECREATE):
        return draw(
            st.sampled_from([Created(job.attempt, b"job"), Refused(job.attempt, LOST), Refused(job.attempt, FAILED)])
        )
    if action is Action.DELETE:
        return draw(st.sampled_from([Deleted(job.attempt), DeleteFailed(job.attempt, "no")]))
    kinds = [Faulted(job.attempt, "x", trouble) for trouble in Trouble]
    return draw(st.sampled_from([*kinds, Answered(job.attempt, RUNNING), Answered(job.attempt, LOST)]))


def finish(job: Job, draw: Any, limit: int) -> Job:
    """Drive a job as the loop does until it is over."""
    now = job.due if job.due < inf else NOW
    pending: list[Action] = []
    for _ in range(limit):
        if job.stage is Stage.OVER:
            return job
        if pending:
            job, actions, _ = step(job, agent_answer(job, pending.pop(0), draw), now)
        else:
            assert job.due < inf, f"{job} waits for nothing"
            now = max(now, job.due)
            job, actions, _ = step(job, Due(), now)
        pending += [one for one in actions if one is not Action.INTERRUPT]
    raise AssertionError(f"{job} did not end")


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(0, 3))
def test_every_path_with_a_timeout_ends(data: st.DataObject, retries: int) -> None:
    assert finish(waiting(retries=retries, timeout=300.0), data.draw, 1500).stage is Stage.OVER


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_cancelled_path_ends(data: st.DataObject) -> None:
    job = data.draw(st.sampled_from([waiting(), watching(), cancelling(TIMED_OUT), confirming(TIMED_OUT)]))
    over = finish(step(job, Abort(), NOW).job, data.draw, 300)
    assert over.phase in (Phase.ABORTED, Phase.SUCCEEDED)


@pytest.mark.parametrize("trouble", [Trouble.AWAY, Trouble.MISSING, Trouble.NONSENSE])
@pytest.mark.parametrize("fetched", [True, False])
def test_an_agent_that_never_answers_again_ends_the_job(trouble: Trouble, fetched: bool) -> None:  # E22, E23
    job, now = watching(fetched=fetched), NOW
    for _ in range(100):
        if job.stage is Stage.OVER:
            break
        now = max(now, job.due)
        job, actions, _ = step(job, Due(), now)
        for action in actions:
            seen: Observation = Faulted(0, "x", trouble) if action is Action.GET else DeleteFailed(0, "x")
            job = step(job, seen, now).job
    assert job.phase is Phase.FAILED
    assert now - NOW < 1000
