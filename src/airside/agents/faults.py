"""Refusals while a job is there: what a backend refuses now it may allow later, and it says nothing of the job.

A job counts as failed for good if `get` raises `Fail`, and as not to be cancelled if `delete` does. So an account that
is locked out for a minute must not become a `Fail` there: the job goes on all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airside.model import Fail, Retry


def fault_of(exc: Exception) -> Exception:
    """The error to raise for a job that is there: `Retry` in place of `Fail`, any other as it is.

    >>> fault_of(Fail("The token is refused.", code="Forbidden"))
    Retry('The token is refused.')
    """
    return Retry(exc.message) if isinstance(exc, Fail) else exc


@contextmanager
def faults() -> Iterator[None]:
    """Raise what a `Fail` in this block means for a job that is there."""
    try:
        yield
    except Fail as exc:
        raise fault_of(exc) from exc
