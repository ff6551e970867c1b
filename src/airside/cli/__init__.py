"""The command line, and the composition root: it reads the environment and files, wires objects, and prints."""

from __future__ import annotations

from airside.cli.main import main

__all__ = ("main",)
