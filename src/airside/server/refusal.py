"""Calls that the service refuses, and how each refusal looks on the wire."""

from __future__ import annotations

import grpc
from google.protobuf.message import DecodeError

from airside.model import AirsideError
from airside.server.handle import HandleError
from airside.server.unexpected import explained
from airside.wire.status import status_for


class Refusal(AirsideError):
    """The call cannot be carried out as it was sent."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class UnknownTaskType(Refusal):
    """No agent here serves the task type."""

    status = grpc.StatusCode.NOT_FOUND


class UnknownAgent(Refusal):
    """No agent here has the name."""

    status = grpc.StatusCode.NOT_FOUND


class NotOffered(Refusal):
    """The agent does not offer the method."""

    status = grpc.StatusCode.UNIMPLEMENTED


class NoData(Refusal):
    """There is nothing in the range that was asked for."""

    status = grpc.StatusCode.OUT_OF_RANGE


class TooManyCalls(Refusal):
    """As many calls as are allowed are being carried out."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


def wire_status(exc: BaseException) -> tuple[grpc.StatusCode, str]:
    """The gRPC status of an error, in one sentence. An unexpected one is logged under the id it ends with."""
    if isinstance(exc, Refusal):
        return exc.status, str(exc)
    if isinstance(exc, HandleError):
        return grpc.StatusCode.INVALID_ARGUMENT, str(exc)
    if isinstance(exc, DecodeError):
        return grpc.StatusCode.INVALID_ARGUMENT, "The request is not the protobuf message that this method takes."
    return status_for(exc)[0], explained(exc)
