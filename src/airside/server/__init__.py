"""The gRPC service: dispatch, handle, watch, health."""
