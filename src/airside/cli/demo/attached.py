"""The process of the demo's service: `airside serve`, which ends when the demo does, however that ends."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading

from airside.cli.main import execute


def main(folder: str, arguments: list[str]) -> int:
    """Serve until told to stop, or until the demo is gone: killed, it has stopped nothing and removed nothing."""
    alone = threading.Event()

    def watch() -> None:
        while os.read(0, 1):  # nothing is written: standard input closes when the demo ends
            pass
        alone.set()
        shutil.rmtree(folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    code = execute(arguments)
    if alone.is_set():
        shutil.rmtree(folder, ignore_errors=True)  # what came into it since
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
