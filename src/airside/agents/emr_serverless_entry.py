"""What EMR Serverless begins with on the driver: it wants one Python file, and this one becomes the task's command."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", os.getcwd())  # noqa: PTH109 - it runs where the library is not
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the container's own command, as given
