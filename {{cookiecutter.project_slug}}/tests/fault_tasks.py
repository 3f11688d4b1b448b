"""Tasks for the fault tests. They note their starts and ends in a file, outside the broker."""

import os
import signal
import sys
import time
from pathlib import Path

from celery import shared_task

if sys.platform == "win32":
    KILL = signal.SIGTERM  # it cannot be caught there
else:
    KILL = signal.SIGKILL


def note(log: str, *words: str) -> int:
    """Append a line to ``log``; return how often the file has it."""
    line = " ".join(words)
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    return Path(log).read_text(encoding="utf-8").splitlines().count(line)


@shared_task
def work(log: str, name: str, seconds: float) -> None:
    """Take some seconds."""
    note(log, "start", name)
    time.sleep(seconds)
    note(log, "end", name)


@shared_task
def die_once(log: str, name: str) -> None:
    """Kill the process that runs the task, the first time."""
    if note(log, "start", name) == 1:
        os.kill(os.getpid(), KILL)
    note(log, "end", name)


@shared_task
def devour(log: str, name: str) -> None:
    """Run out of memory."""
    note(log, "start", name)
    raise MemoryError("too much")


@shared_task
def poison(log: str, name: str, cure: str) -> None:
    """Kill the whole worker, as a host without memory does, until the file ``cure`` exists."""
    note(log, "start", name)
    if not Path(cure).exists():
        # A real task would take a while to fill the memory.
        time.sleep(0.5)
        if sys.platform == "win32":  # a worker is one process there
            os.kill(os.getpid(), KILL)
        else:
            os.killpg(os.getpgrp(), KILL)
    note(log, "end", name)
