"""What stops a measurement."""


class BenchError(Exception):
    """The measurement could not be made, or would not mean anything; the message says why."""
