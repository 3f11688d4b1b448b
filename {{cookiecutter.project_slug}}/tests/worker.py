"""The service's own processes, run for a test."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

# The longest that a test waits for a process, in seconds; a busy machine is slow.
PATIENCE = 120


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as ``condition`` holds; fail with ``what`` if it never does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


class Process:
    """A Python command of this project, in a process group of its own, with its output in a file.

    Entering its context starts the process; leaving it ends the whole group.
    """

    def __init__(self, log: Path, *arguments: str, **environment: str) -> None:
        """Prepare to run ``python *arguments``, in the environment of the tests and more."""
        self.log = log
        self.arguments = arguments
        self.environment = os.environ | {"PYTHONUNBUFFERED": "1"} | environment

    def __enter__(self) -> Self:
        """Start the process."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.arguments],
                cwd=Path(__file__).parent.parent,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(self, *error: object) -> None:
        """End the process and all that it has started; how it ends is not tested."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.kill()

    def output(self) -> str:
        """Return what the process has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, *texts: str) -> None:
        """Wait until the process has printed each of ``texts``; fail if it ends before that."""

        def printed() -> bool:
            output = self.output()
            if all(text in output for text in texts):
                return True
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.arguments} has ended:\n{output}")
            return False

        wait_until(printed, f"{texts} in {self.log}")

    def stop(self) -> int:
        """Send SIGTERM, as an orchestrator does; return the exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Kill the whole group, as if its host died."""
        if sys.platform == "win32":  # it has no groups, and a worker is one process there
            self.process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


class Worker(Process):
    """A worker of two processes; its context begins when it is ready."""

    def __init__(self, log: Path, *options: str, **environment: str) -> None:
        """Prepare to run a worker with more ``options`` of Celery's command."""
        #= celery = ("-m", "celery", "-A", "{{ cookiecutter.__package }}", "worker")
        # Two workers on one machine need different names.
        name = ("--hostname", f"{log.stem}@localhost")
        always = ("--loglevel", "INFO", "--concurrency", "2")
        super().__init__(log, *celery, *name, *always, *options, **environment)

    def __enter__(self) -> Self:
        """Start it, and wait until it takes tasks."""
        super().__enter__()
        try:
            self.wait_for(" ready.")
        except BaseException:
            self.kill()
            raise
        return self
