"""Adapters that make agents written against other interfaces ours.

>>> from airside.sdk.adapt import adapt
>>> from airside.sdk.agent_base import AgentBase
>>> class Custom(AgentBase):
...     def create(self, context, output_prefix, task_template, inputs=None): ...
...     def get(self, context, resource_meta): ...
...     def delete(self, context, resource_meta): ...
>>> adapt(Custom(task_type="custom"), ADAPTERS).task_types
(TaskType(name='custom', version=0),)
"""

from __future__ import annotations

from airside.sdk.adapt import Adapter
from airside.sdk.agent import Agent
from airside.sdk.agent_base import AgentBase


def agent_base(agent: object) -> Agent | None:
    """An `AgentBase` as the raw protocol, None for anything else."""
    if not isinstance(agent, AgentBase):
        return None
    from airside.hosting.agent_base import BaseFace  # loads grpc and protobuf

    return BaseFace(agent)


ADAPTERS: tuple[Adapter, ...] = (agent_base,)
"""What `adapt` takes to know every kind of agent. What an adapter needs is loaded when it is needed."""
