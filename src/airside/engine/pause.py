"""How long to wait: until the next poll, and until what failed is tried again."""

from __future__ import annotations

from airside.engine.job import Rules

FIRST_POLL = 0.05
GROWTH = 1.5
LONGEST_BACKOFF = 60.0
LONGEST_ASKED = 3600.0
"""An agent that asks to be left alone for longer is asked again all the same."""


def poll_pause(rules: Rules, polls: int, asked: float | None = None) -> float:
    """Seconds until the next poll: as the agent says, else the interval, or less at first if the rules are `quick`.

    >>> [round(poll_pause(Rules(poll_interval=0.1, quick=True), n), 3) for n in (1, 2, 3, 4)]
    [0.05, 0.075, 0.1, 0.1]
    """
    if asked is not None:
        return min(LONGEST_ASKED, max(FIRST_POLL, asked))
    if not rules.quick:
        return rules.poll_interval
    return min(rules.poll_interval, FIRST_POLL * GROWTH ** min(polls - 1, 50))


def backoff(failures: int, asked: float | None = None) -> float:
    """Seconds until something that failed so often is tried again: as asked, else doubling from 0.1 s to a minute."""
    if asked is not None:
        return min(LONGEST_ASKED, max(0.0, asked))
    return min(LONGEST_BACKOFF, 0.1 * 2.0 ** min(max(failures, 1) - 1, 20))
