"""What an error of an agent means for the attempt that it ends."""

from __future__ import annotations

from airside.model import ConversionError, Phase, Resource


def refused(error: Exception) -> Resource:
    """How an attempt ends whose create or `do` raised: for good, or so that another attempt may mend it."""
    if isinstance(error, ConversionError):
        return Resource(Phase.FAILED, message=told(error), code="InputConversionError")
    from airside.wire.status import failure  # as in `told`

    return failure(error)


def told(error: Exception) -> str:
    """What an error says, in one line."""
    from airside.wire.status import sentence  # loads gRPC, which a run that goes well does not need

    return sentence(error)
