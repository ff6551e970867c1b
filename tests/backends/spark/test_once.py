"""One attempt, one driver, although the service is killed in the middle of creates and calls go wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from airside.agents.spark_submit import SparkSubmitTask
from airside.testing.client import Wire

pytestmark = [pytest.mark.backend, pytest.mark.may_block, pytest.mark.timeout(900)]
COUNT = 8
KINDS = ("reset_before", "reset_after", "503", "503_after", "malformed")


async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_driver(
    spark: Any, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    wire: Wire = "v2"
    run, path = f"run-{time.time_ns()}", spark.write("nothing.py", "print('done')")
    proxy = fault_proxy(spark.rest, seed=7, share=0.25, kinds=list(KINDS), latency=[0.02, 0.2])
    options = f'address = "{proxy.url}"\nui = "{spark.options["ui"]}"'
    service = killed_service("spark_submit", env={}, options=options, seed=7)
    small = {"spark.driver.memory": "512m"}
    task = SparkSubmitTask(name="one", application=path, args=[run], env={"PATH": "/usr/bin:/bin"}, spark_conf=small)
    handles = await service.create([task] * COUNT, run=run, kills=3, wire=wire)
    await service.finish(handles, "spark_submit", wire)
    commands = [spark.launch_command(one["id"]) for one in spark.drivers() if one["worker"] != "None"]
    keys = [re.findall(r'"-Dspark.airside.attempt=(\w+)"', command)[0] for command in commands if run in command]
    assert len(keys) == len(set(keys)) == COUNT
    assert service.kills >= 1
    assert proxy.counts()["faults"]
