"""An agent of the low-level face that does what the task's config orders."""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
from flyteidl.admin import agent_pb2
from flyteidl.core.execution_pb2 import TaskExecution

from airside import AgentBase, AgentRegistry


class LowLevel(AgentBase):
    """Its metadata is its order."""

    max_age = 0.001

    def create(self, context: Any, output_prefix: str, task_template: Any, inputs: Any = None) -> Any:
        order = task_template.custom["order"]
        if order == "refuse":
            context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
            context.set_details("no such table")
        return agent_pb2.CreateTaskResponse(resource_meta=json.dumps(order).encode())

    def get(self, context: Any, resource_meta: bytes) -> Any:
        match json.loads(resource_meta):
            case "down":
                context.abort(grpc.StatusCode.UNAVAILABLE, "the warehouse is down")
            case "mistake":
                return {}["rows"]
            case "exit":
                sys.exit(3)
            case "over":
                return _answer(TaskExecution.SUCCEEDED)
            case "failed":
                return _answer(TaskExecution.FAILED, "exited with 3")
        return _answer(TaskExecution.RUNNING)

    def delete(self, context: Any, resource_meta: bytes) -> Any:
        return agent_pb2.DeleteTaskResponse()


def _answer(phase: Any, message: str = "") -> Any:
    return agent_pb2.GetTaskResponse(resource=agent_pb2.Resource(phase=phase, message=message))


AgentRegistry.register(LowLevel(task_type="lowlevel"))
