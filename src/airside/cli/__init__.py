"""The command `airside`."""

from airside.cli.main import main

__all__ = ("main",)
