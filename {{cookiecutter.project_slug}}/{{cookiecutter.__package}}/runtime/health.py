"""The health probe: tells from the age of a file whether a worker or beat is healthy.

`health.py worker` tells whether the worker is ready: it spoke with the broker within the last 20
seconds. `health.py --live worker` tells whether it hangs: a broker that is down is no reason to
restart it. Run this file by its path: it imports nothing of Celery, so it costs milliseconds.
"""

import os
import sys
import time
from pathlib import Path

# Seconds since the last sign of life.
READY, LIVE = 20, 300


def heartbeat_file(name: str) -> Path:
    """Return the path of the file that the process ``name``, `worker` or `beat`, keeps fresh.

    It lies in HEARTBEAT_DIR, by default the directory of the project.
    """
    directory = os.environ.get("HEARTBEAT_DIR") or Path(__file__).parents[2]
    return Path(directory) / f"{name}.heartbeat"


def main(arguments: list[str]) -> int:
    """Print one line, and return the exit status: 0 means healthy."""
    live = "--live" in arguments
    names = [name for name in arguments if name != "--live"]
    if names not in (["worker"], ["beat"]):
        print("usage: health.py [--live] worker|beat", file=sys.stderr)
        return 2
    limit = LIVE if live else READY
    try:
        age = time.time() - heartbeat_file(names[0]).stat().st_mtime
    except FileNotFoundError:
        print(f"{names[0]}: starting, or the broker cannot be reached")
        return 0 if live else 1
    print(f"{names[0]}: last sign of life {age:.0f} s ago; healthy up to {limit} s")
    return 0 if age <= limit else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
