"""Cases about DeleteTask: it cancels, and asking again or too late is no error."""

from __future__ import annotations

from airside.model import Phase
from airside.testing.conformance.case import Probe, cases, is_over, never_over

_TRIES = 3  # on a busy machine a job may be over before anybody asks


async def cancels(probe: Probe) -> None:
    """DeleteTask of a job that is not over is OK, and the job ends without success"""
    went_on = 0
    for _ in range(_TRIES):
        handle = await probe.new_job()
        if await _is_over_now(probe, handle):
            continue
        probe.expect_ok(await probe.delete(handle), "DeleteTask")
        still_ran = not await _is_over_now(probe, handle)
        with never_over("the job goes on after DeleteTask"):
            resource = await probe.finish(handle)
        if not Phase(resource.phase).is_success:
            return
        went_on += still_ran  # once may be a cancel that came too late
    probe.expect(went_on < _TRIES, f"{went_on} jobs went on after DeleteTask, and succeeded")
    probe.skip("every job was over before it could be cancelled; give inputs that make it last")


async def _is_over_now(probe: Probe, handle: bytes) -> bool:
    answer = await probe.get(handle)
    probe.expect_ok(answer, "GetTask")
    return is_over(answer.message.resource)


async def may_be_repeated(probe: Probe) -> None:
    """DeleteTask of a cancelled job and of a finished one is OK"""
    cancelled = await probe.new_job()
    probe.expect_ok(await probe.delete(cancelled), "the first DeleteTask")
    probe.expect_ok(await probe.delete(cancelled), "the second DeleteTask")
    finished, _ = await probe.finished()
    probe.expect_ok(await probe.delete(finished), "DeleteTask of a finished job")


CASES = cases("delete", {"S33": cancels, "S34": may_be_repeated})
