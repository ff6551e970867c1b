"""The log of a pod's main container, followed as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from airside.agents.k8s_job_manifest import MAIN
from airside.model import Fail, LogLine, NotFound, Retry

_PAUSE = 0.5  # seconds between two looks at a pod that has not begun
_LONGEST = 64 * 1024  # characters of a line; the rest of it is left out


def lines_of(pods: Any, newest: Callable[[], Any], *, after: str, limit: int, patience: float) -> Iterator[LogLine]:
    """The lines after the time `after`, until the container ends. `newest` gives the Job's newest pod, or None."""
    begin, given = _instant(after) if after else None, 0
    while given < limit:
        pod = newest()
        over = pod is not None and pod.status.phase in ("Succeeded", "Failed")
        if pod is not None and (over or pod.status.phase == "Running"):
            for line in _read(pods, pod, after, begin, follow=not over, patience=patience):
                yield line
                after, begin, given = line.cursor, line.timestamp, given + 1
                if given == limit:
                    return
            if over:
                return
        else:
            time.sleep(_PAUSE)


def _read(
    pods: Any, pod: Any, after: str, begin: datetime | None, *, follow: bool, patience: float
) -> Iterator[LogLine]:
    """The lines of one request; it ends with the container, or when nothing has come for a while."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    names = [container.name for container in pod.spec.containers]
    more: dict[str, Any] = {}
    if begin is not None:
        more["since_seconds"] = max(1, int(time.time() - begin.timestamp()) + 2)
    try:
        response = pods.read_namespaced_pod_log(
            pod.metadata.name,
            pod.metadata.namespace,
            container=MAIN if MAIN in names else names[0],
            follow=follow,
            timestamps=True,
            _preload_content=False,
            _request_timeout=(10.0, patience),
            **more,
        )
    except ApiException as exc:
        if exc.status == 404:
            raise NotFound("The pod of the Job is gone, and its log with it.") from exc
        raise Retry(f"The log cannot be read: {exc.status} {exc.reason}") from exc
    except (HTTPError, OSError) as exc:
        raise Retry(f"Kubernetes cannot be reached: {exc}") from exc
    try:
        for raw in _split(response.stream(16384)):
            stamp, _, text = raw.decode("utf-8", errors="replace").partition(" ")
            if not after or _order(stamp) > _order(after):
                yield LogLine(text[:_LONGEST], timestamp=_instant(stamp), originator="user", cursor=stamp)
    except ReadTimeoutError:
        return
    except (HTTPError, OSError) as exc:
        raise Retry(f"The log broke off: {exc}") from exc
    finally:
        response.close()


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
    if rest:
        yield rest


def _order(stamp: str) -> tuple[str, str]:
    """Times in an order: Kubernetes leaves out the zeros at the end of nanoseconds.

    >>> _order("2024-01-02T03:04:05.1Z") > _order("2024-01-02T03:04:05.09Z")
    True
    """
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return seconds, fraction.ljust(9, "0")


def _instant(stamp: str) -> datetime:
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    try:
        return datetime.fromisoformat(f"{seconds}.{fraction[:6].ljust(6, '0')}").replace(tzinfo=UTC)
    except ValueError:
        raise Fail(f"{stamp!r} is no place in this log; take the token of the page before.", code="BadToken") from None
