"""Any path through the life of a job, as the loop, an agent and a crash may lead it."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airside import Phase, Resource
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
)
from airside.engine.machine import step
from airside.engine.news import news

RULES = Rules(
    poll_interval=10.0,
    fault_tolerance=100.0,
    unfetched_tolerance=30.0,
    missing_for=20.0,
    delete_tries=3,
    cancel_patience=30.0,
)
FAILURES = [Resource(Phase.FAILED, code="Broken"), Resource(Phase.RETRYABLE_FAILED, message="lost")]
ENDS = [*FAILURES, Resource(Phase.SUCCEEDED), Resource(Phase.ABORTED)]
PHASES = [*ENDS, Resource(Phase.QUEUED), Resource(Phase.RUNNING, message="3 of 7")]
LONG_ENOUGH = 1000
"""Steps after which a job whose agent always answers must be over."""


class AJob(RuleBasedStateMachine):
    """A job, the calls that are under way for it, and what the store has of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.job = self.stored = Job(id="r1", queued_at=self.now, due=self.now, retries=2, rules=RULES)
        self.calls: list[tuple[int, Action]] = []
        self.asked_to_create: set[int] = set()
        self.interrupted: set[int] = set()
        self.aborted = False
        self.end: Job | None = None

    def see(self, seen: Observation) -> None:
        """One step, as the loop takes it."""
        before = self.job
        after = step(before, seen, self.now)
        self.job = after.job
        told = news(before, after, self.now)
        if told is not None:
            self.stored = told.job
        for action in after.actions:
            if action is Action.INTERRUPT:
                continue
            if action is Action.CREATE:
                assert self.job.attempt not in self.asked_to_create, "this attempt was created before"
                assert not before.abort, "a cancelled job was created"
                self.asked_to_create.add(self.job.attempt)
            if action is Action.RECREATE:
                assert self.job.attempt in self.interrupted, "the answer to the create was not lost"
                assert self.job.rules.repeats_create
            if action is Action.DELETE:
                assert self.job.stage is Stage.CANCELLING
            if action in (Action.CREATE, Action.RECREATE, Action.DELETE):
                assert _intent(self.stored) == _intent(self.job), "the intent is not in the store"
            self.calls.append((self.job.attempt, action))

    # -- what may happen -------------------------------------------------------------------------------------------

    @rule(repeats=st.booleans(), deletes=st.booleans(), timeout=st.sampled_from([None, 5.0, 500.0]))
    @precondition(lambda self: self.job.stage is Stage.WAITING and not self.asked_to_create)
    def it_is_of_another_kind(self, repeats: bool, deletes: bool, timeout: float | None) -> None:
        rules = replace(RULES, repeats_create=repeats, delete_finished=deletes)
        limit = None if timeout is None else 2 * timeout
        self.job = self.stored = replace(self.job, rules=rules, timeout=timeout, active_timeout=limit)

    @rule(seconds=st.sampled_from([0.0, 0.1, 10.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    @precondition(lambda self: self.job.due < inf)
    def it_is_due(self) -> None:
        self.now = max(self.now, self.job.due)
        self.see(Due())

    @rule()
    @precondition(lambda self: self.job.stage is Stage.WAITING)
    def a_quota_holds_it(self) -> None:
        self.see(Held("The quota is used up."))

    @rule()
    def somebody_cancels_it(self) -> None:
        self.aborted = self.job.stage is not Stage.OVER or self.aborted
        self.see(Abort())

    @rule(which=st.integers(0, 3), data=st.data())
    @precondition(lambda self: self.calls)
    def a_call_is_answered(self, which: int, data: st.DataObject) -> None:
        attempt, action = self.calls.pop(which % len(self.calls))
        answers = _answers(attempt, action)
        if self.job.verdict is not None and self.job.verdict.dead and action is Action.DELETE:
            answers = answers[:2]  # a job that is known to be over is not asked about once more
        self.see(data.draw(st.sampled_from(answers)))

    @rule()
    def the_engine_is_killed_and_another_one_goes_on(self) -> None:
        self.calls.clear()
        self.job = replace(self.stored, rules=self.job.rules)
        if self.job.stage is Stage.OVER:
            return  # nobody takes it up again
        if self.job.stage is Stage.CREATING:
            self.interrupted.add(self.job.attempt)
        self.see(Resumed())

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def the_end_is_the_end(self) -> None:
        assert (self.job.stage is Stage.OVER) == self.job.phase.is_terminal
        if self.job.stage is not Stage.OVER:
            assert self.end is None, "it is over no more"
            return
        self.end = self.end or self.job
        assert self.job == self.end
        assert self.stored == self.end, "the store does not know of the end"

    @invariant()
    def attempts_are_counted(self) -> None:
        assert max(self.asked_to_create, default=0) <= self.job.attempt <= self.job.retries

    @invariant()
    def it_waits_for_something(self) -> None:
        assert self.job.stage is Stage.OVER or self.job.due < inf or self.calls, f"{self.job} waits for nothing"

    @invariant()
    def a_cancel_is_not_forgotten(self) -> None:
        assert not self.aborted or self.job.abort or self.job.stage is Stage.OVER

    def teardown(self) -> None:
        """From wherever it is: once its agent tells the truth, it ends."""
        for _ in range(LONG_ENOUGH):
            if self.job.stage is Stage.OVER:
                break
            if self.calls:
                attempt, action = self.calls.pop(0)
                self.see(_truth(attempt, action))
            else:
                self.it_is_due()
        assert self.job.stage is Stage.OVER, f"{self.job} does not end"
        assert not self.job.abort or self.job.phase in (Phase.ABORTED, Phase.SUCCEEDED)


def _intent(job: Job) -> tuple[Stage, int, bytes]:
    return job.stage, job.attempt, job.meta


def _answers(attempt: int, action: Action) -> list[Observation]:
    """What may come of a call."""
    match action:
        case Action.CREATE:
            refusals = [Refused(attempt, one, may_live=lives) for one in FAILURES for lives in (False, True)]
            at_once = [Answered(attempt, one) for one in PHASES]
            return [Created(attempt, b"job"), *refusals, *at_once]
        case Action.RECREATE:
            return [Created(attempt, b"job"), Refused(attempt, FAILURES[0]), Faulted(attempt, "away")]
        case Action.DELETE:
            ended = [Answered(attempt, one) for one in ENDS]
            return [Deleted(attempt), DeleteFailed(attempt, "no"), *ended]
    faults = [Faulted(attempt, "away", trouble, after) for trouble in Trouble for after in (None, 5.0)]
    return [*faults, *(Answered(attempt, one) for one in PHASES)]


def _truth(attempt: int, action: Action) -> Observation:
    """What an agent says that works, of a job that is over."""
    match action:
        case Action.CREATE | Action.RECREATE:
            return Created(attempt, b"job")
        case Action.DELETE:
            return Deleted(attempt)
    return Answered(attempt, Resource(Phase.SUCCEEDED))


TestAnyPath = AJob.TestCase
TestAnyPath.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
