"""How the service is run. Built by the command line, checked here, never read from the environment."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from airside.wire import limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of one service process. Times are in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 picks a free port; `Server.port` tells which."""
    metrics_port: int | None = None
    """Where /metrics, /readyz and /healthz are served over HTTP; None: nowhere, 0: a free port."""
    drain_delay: float = 15.0
    """After SIGTERM the service says NOT_SERVING but goes on accepting for this long: endpoints lag."""
    grace: float = 10.0
    """Calls in flight get this long to finish after the drain."""
    max_age: float | None = None
    """Overrides every agent's `max_age`: how old an answer from memory may be.

    0 makes every ask a refresh, and nothing is refreshed but by an ask: for tests that count calls.
    """
    max_wait: float = 2.0
    """An ask waits at most this long for a refresh, then the last answer goes out."""
    max_request_bytes: int = limits.REQUEST
    max_calls: int = 10_000
    """Calls that are carried out at once; one more is refused with RESOURCE_EXHAUSTED. Listings do not count."""
    off_loop_bytes: int = 256 * limits.KIB
    """Requests over this size are parsed and converted on a thread, not on the loop."""
    local_storage: tuple[str, ...] | None = None
    """Folders of this machine that callers may name: in output prefixes, and as files of inputs and outputs.

    None: every folder if only this machine reaches the service, else none.
    """
    unserved_tolerance: float = 7200.0
    """How long a job whose handle is ours but cannot be served here now is answered RUNNING."""
    max_jobs: int = 200_000
    """How many jobs are remembered at once; the ones unasked for longest are forgotten first."""
    max_answer_bytes: int = 256 * limits.MIB
    """What the answers of remembered creates may weigh together; the oldest are forgotten first.

    A repeat of a create that was forgotten is carried out again, which makes a second job if the agent cannot tell.
    """

    @property
    def is_public(self) -> bool:
        """True if callers from other machines may reach the service."""
        return not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """True if only this machine reaches an address.

    >>> [is_loopback(host) for host in ("127.0.0.1", "[::1]", "localhost", "::", "example.org")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
