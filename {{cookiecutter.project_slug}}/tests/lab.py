"""Where workers may die."""

import os
import subprocess
import sys
from pathlib import Path

from celery import current_app as app

from . import fault_tasks
from .worker import Worker, wait_until

# A queue that no other worker reads, also of another service on the same server.
QUEUE = f"{app.main}.faults"
# How often a message may kill its worker.
LIMIT = 2


class Lab:
    """Workers that may die, and the file in which their tasks note what they do."""

    def __init__(self, directory: Path) -> None:
        """Work in ``directory``."""
        self.directory = directory
        self.notes = directory / "notes"
        self.notes.touch()
        self.workers: list[Worker] = []
        # What the workers get in addition to the environment of the tests.
        self.environment = {
            "HEARTBEAT_DIR": str(directory),
            "CELERY_SHUTDOWN_GRACE_PERIOD": "1",
            "CELERY_REDELIVERY_LIMIT": str(LIMIT),
            #% if cookiecutter.broker == "redis"
            "CELERY_TASK_TIME_LIMIT": "4",
            "CELERY_VISIBILITY_TIMEOUT": "6",
            #% endif
        }

    def worker(self) -> Worker:
        """Start one more worker."""
        log = self.directory / f"worker{len(self.workers)}.log"
        options = ("--queues", QUEUE, "--include", fault_tasks.__name__)
        self.workers.append(Worker(log, *options, **self.environment).__enter__())
        return self.workers[-1]

    def count(self, *words: str) -> int:
        """Return how often the tasks have noted a line."""
        return self.notes.read_text(encoding="utf-8").splitlines().count(" ".join(words))

    def wait_for(self, *words: str) -> None:
        """Wait until a task has noted a line."""
        wait_until(lambda: self.count(*words), f"{words} in {self.notes}")

    def dead_letters(self, *arguments: str) -> str:
        """Run the command that lists dead letters, and return its output."""
        #= module = "{{ cookiecutter.__package }}.runtime.dead_letters"
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=Path(__file__).parent.parent,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
