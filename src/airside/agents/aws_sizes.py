"""How large a container of AWS is: what its task asks for, in the sizes that there are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from airside.agents.quantities import amount, size
from airside.model import Container, Fail

_MIB = 2**20
# What Fargate offers: MiB of memory by vCPUs.
FARGATE: Mapping[float, Sequence[int]] = {
    0.25: (512, 1024, 2048),
    0.5: range(1024, 4096 + 1, 1024),
    1: range(2048, 8192 + 1, 1024),
    2: range(4096, 16384 + 1, 1024),
    4: range(8192, 30720 + 1, 1024),
    8: range(16384, 61440 + 1, 4096),
    16: range(32768, 122880 + 1, 8192),
}


class Size(NamedTuple):
    """vCPUs, MiB of memory, GPUs."""

    cpus: float
    memory: int
    gpus: int = 0


def size_of(container: Container | None, cpus: str, memory: str) -> Size:
    """What a container asks for: its limits, else its requests, else these. `Fail` for what cannot be read.

    >>> size_of(Container(requests={"cpu": "500m"}, limits={"memory": "1Gi"}), "1", "2Gi")
    Size(cpus=0.5, memory=1024, gpus=0)
    """
    asked = {**container.requests, **container.limits} if container is not None else {}
    try:
        gpus = amount(asked["gpu"]) if asked.get("gpu") else 0
        return Size(
            amount(asked.get("cpu") or cpus), math.ceil(size(asked.get("memory") or memory) / _MIB), math.ceil(gpus)
        )
    except ValueError as exc:
        raise Fail(f"The container's resources cannot be read: {exc}.") from exc


def on_fargate(asked: Size) -> Size:
    """The smallest size of Fargate's that holds what is asked for. `Fail` if there is none.

    >>> on_fargate(Size(0.3, 700))
    Size(cpus=0.5, memory=1024, gpus=0)
    """
    if asked.gpus:
        raise Fail("Fargate has no GPUs.")
    for cpus, memories in FARGATE.items():
        enough = [memory for memory in memories if memory >= asked.memory]
        if cpus >= asked.cpus and enough:
            return Size(cpus, enough[0])
    raise Fail(f"Fargate has no {asked.cpus:g} vCPUs with {asked.memory} MiB; its most is 16 with 122880.")
