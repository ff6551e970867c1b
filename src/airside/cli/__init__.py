"""The command line, and the composition root: it reads the environment and files, wires objects, and prints."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ("main",)


def main() -> NoReturn:
    """The command `airside`. Ctrl-C is answered from the first moment on, while the command still loads."""
    try:
        from airside.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
