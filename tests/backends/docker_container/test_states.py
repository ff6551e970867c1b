"""The table of the docker_container agent holds the states that the engines document. Needs no engine."""

from __future__ import annotations

from airside.agents.docker_container_states import PHASES, resource_of
from airside.model import Phase

DOCKER = {"created", "running", "paused", "restarting", "removing", "exited", "dead"}
PODMAN = {
    "unknown", "configured", "created", "initialized", "running", "stopped", "paused", "exited", "removing", "stopping",
}  # fmt: skip


def test_every_state_is_in_the_table() -> None:
    """Neither SDK has an enum of them: these are those of the API's description and of Podman's source."""
    assert set(PHASES) == DOCKER | PODMAN


def test_memory_that_ran_out_is_told_where_the_engine_says_so() -> None:
    state = {"Status": "exited", "ExitCode": 137, "OOMKilled": True}
    resource = resource_of({"State": state, "HostConfig": {"Memory": 2**24}})
    assert (resource.phase, resource.code) == (Phase.RETRYABLE_FAILED, "OutOfMemory")


def test_a_state_that_is_not_known_is_running() -> None:
    assert resource_of({"State": {"Status": "dreaming"}}).phase is Phase.RUNNING
