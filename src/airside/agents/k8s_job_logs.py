"""The log of a pod's main container, followed as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from airside.agents.k8s_job_states import main_of
from airside.agents.stamped_lines import instant_of, lines_after
from airside.model import LogLine, NotFound, Retry

_CLOCKS_DIFFER = 60.0  # seconds by which a node's clock may be ahead of ours; what is read twice is given once
_PAUSE = 0.5  # seconds between two looks at a pod of which nothing comes


def lines_of(pods: Any, newest: Callable[[], Any], *, after: str, limit: int, patience: float) -> Iterator[LogLine]:
    """The lines after the time `after`, until the container ends. `newest` gives the Job's newest pod, or None."""
    begin, given, seen = instant_of(after) if after else None, 0, -1
    while given < limit:
        if given == seen:
            time.sleep(_PAUSE)  # nothing came: the pod has not begun, or its node is away
        seen = given
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


def _read(
    pods: Any, pod: Any, after: str, begin: datetime | None, *, follow: bool, patience: float
) -> Iterator[LogLine]:
    """The lines of one request; it ends with the container, or when nothing has come for a while."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    more: dict[str, Any] = {}
    if begin is not None:
        more["since_seconds"] = max(1, int(time.time() - begin.timestamp() + _CLOCKS_DIFFER))
    try:
        response = pods.read_namespaced_pod_log(
            pod.metadata.name,
            pod.metadata.namespace,
            container=main_of(pod),
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
        yield from lines_after(response.stream(16384), after)
    except ReadTimeoutError:
        return
    except (HTTPError, OSError) as exc:
        raise Retry(f"The log broke off: {exc}") from exc
    finally:
        response.close()
