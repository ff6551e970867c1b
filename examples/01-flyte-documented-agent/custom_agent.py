"""The agent that Flyte's documentation shows, in our words: it hands tasks to a job service that speaks REST."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass

import grpc
import requests
from flyteidl.admin.agent_pb2 import (
    PENDING,
    PERMANENT_FAILURE,
    RUNNING,
    SUCCEEDED,
    CreateTaskResponse,
    DeleteTaskResponse,
    GetTaskResponse,
    Resource,
)
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate

from airside import AgentBase, AgentRegistry

logger = logging.getLogger(__name__)

STATES = {"waiting": PENDING, "working": RUNNING, "done": SUCCEEDED, "cancelled": PERMANENT_FAILURE}
TIMEOUT = 10.0  # seconds


@dataclass
class Metadata:
    """What finds the job again. Flyte keeps it while the job runs, so it holds no secret."""

    job_id: str


class CustomAgent(AgentBase):
    """Starts, watches and cancels jobs of the service at CUSTOM_SERVICE_URL."""

    def __init__(self, task_type: str):
        super().__init__(task_type=task_type)  # the service finds the agent by this name
        self._url = os.environ.get("CUSTOM_SERVICE_URL", "http://127.0.0.1:9000/jobs")

    def create(
        self,
        context: grpc.ServicerContext,
        output_prefix: str,
        task_template: TaskTemplate,
        inputs: LiteralMap | None = None,
    ) -> CreateTaskResponse:
        """Submit the job, and hand back its id as JSON in bytes."""
        # The prefix is new for every attempt and the same when a create is repeated: a good key.
        data = {"key": output_prefix, "seconds": task_template.custom.fields["seconds"].number_value}
        response = requests.post(self._url, json=data, timeout=TIMEOUT)
        response.raise_for_status()
        metadata = Metadata(job_id=str(response.json()["job_id"]))
        return CreateTaskResponse(resource_meta=json.dumps(asdict(metadata)).encode("utf-8"))

    def get(self, context: grpc.ServicerContext, resource_meta: bytes) -> GetTaskResponse:
        """Ask the service how the job does."""
        metadata = Metadata(**json.loads(resource_meta.decode("utf-8")))
        response = requests.get(self._url, json={"job_id": metadata.job_id}, timeout=TIMEOUT)
        if response.status_code == requests.codes.not_found:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details(f"the service knows no job {metadata.job_id}")
            return GetTaskResponse()
        response.raise_for_status()
        return GetTaskResponse(resource=Resource(state=STATES[response.json()["state"]]))

    def delete(self, context: grpc.ServicerContext, resource_meta: bytes) -> DeleteTaskResponse:
        """Cancel the job; if that fails, say so on the context, and Flyte asks again."""
        try:
            metadata = Metadata(**json.loads(resource_meta.decode("utf-8")))
            requests.delete(self._url, json={"job_id": metadata.job_id}, timeout=TIMEOUT).raise_for_status()
        except Exception as e:
            logger.exception("the job was not cancelled")
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details(f"the job was not cancelled: {e}")
        return DeleteTaskResponse()


AgentRegistry.register(CustomAgent(task_type="custom"))
