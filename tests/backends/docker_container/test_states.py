"""The table of the docker_container agent holds the states that the engines document. Needs no engine."""

from __future__ import annotations

from airside.agents.docker_container_states import PHASES

DOCKER = {"created", "running", "paused", "restarting", "removing", "exited", "dead"}
PODMAN = {
    "unknown", "configured", "created", "initialized", "running", "stopped", "paused", "exited", "removing", "stopping",
}  # fmt: skip


def test_every_state_is_in_the_table() -> None:
    """Neither SDK has an enum of them: these are those of the API's description and of Podman's source."""
    assert set(PHASES) == DOCKER | PODMAN
