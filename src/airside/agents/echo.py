"""`echo`: the outputs are the inputs. For first steps, tests and measurements."""

from __future__ import annotations

from airside.model import Phase, Resource, Task
from airside.sdk.agent import SyncAgent


class EchoAgent(SyncAgent):
    """Returns every declared output from the input of the same name, at once."""

    name = "echo"
    task_type = "echo"

    async def do(self, task: Task) -> Resource:
        declared = task.interface.outputs or task.inputs
        return Resource(Phase.SUCCEEDED, outputs={name: task.inputs[name] for name in declared if name in task.inputs})
