"""What the Slurm agent makes of words and states, where no cluster is needed to tell."""

from __future__ import annotations

import logging

import pytest

from airside.agents.slurm_errors import kind_of, refusal
from airside.agents.slurm_states import Row, seconds_of, summarise
from airside.model import AgentError, Fail, NotFound, Phase, Retry


def test_an_unknown_state_is_running_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        resource = summarise([Row(job_id="7", state="HIBERNATING")])
    assert resource.phase is Phase.RUNNING
    assert "HIBERNATING" in caplog.text


@pytest.mark.parametrize(
    ("words", "kind", "raised"),
    [
        ("slurm_load_jobs error: Invalid job id specified", "not found", NotFound),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", "system", Retry),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", "system", Retry),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nJob violates accounting/QOS policy (job submit limit)",
            "quota",
            Retry,
        ),
        ("sbatch: error: AssocMaxSubmitJobLimit", "quota", Retry),
        ("Invalid account or account/partition combination specified", "forbidden", Fail),
        ("scancel: error: Kill job error on job id 7: Access/permission denied", "forbidden", Fail),
        ("sbatch: error: invalid partition specified: nope", "user", Fail),
        ("sbatch: error: Invalid --time specification", "user", Fail),
    ],
)
def test_refusals_are_told_apart(words: str, kind: str, raised: type[AgentError]) -> None:
    assert kind_of(words) == kind
    error = refusal("The job was not accepted", words)
    assert type(error) is raised
    if isinstance(error, Retry) and kind == "quota":
        assert error.after == 60.0


def test_words_that_nobody_knows_are_worth_another_try_unless_a_task_may_be_wrong() -> None:
    assert type(refusal("Asked", "something new", user=False)) is Retry
    assert type(refusal("Asked", "something new")) is Fail


def test_what_a_job_has_used_is_told() -> None:
    row = Row(job_id="7", state="COMPLETED", cpus=4, seconds=90, start="2026-01-02T03:04:05")
    info = summarise([row]).info or {}
    assert (info["cpus"], info["seconds"], info["cpu_seconds"]) == (4, 90, 360)
    tasks = [Row(job_id="7", task=str(task), state="COMPLETED", cpus=2, seconds=task) for task in range(3)]
    info = summarise(tasks).info or {}
    assert (info["cpus"], info["cpu_seconds"], info["tasks"]) == (6, 6, 3)
    assert "seconds" not in info
    assert seconds_of("3-00:00:01") == 259201
