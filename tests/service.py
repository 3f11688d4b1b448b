"""A generated service at work: its real processes, on a real broker."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.projects import BakedProject, clean_environment
from tests.servers import free_port

DEADLINE = 120.0


class Process:
    """A process of the service, in a process group of its own, with its output in a file."""

    def __init__(
        self, command: list[str], project: BakedProject, env: dict[str, str], log: Path
    ) -> None:
        """Start it."""
        self.command = command
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=project.path,
                env=env | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Return what the process has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str, *, times: int = 1, deadline: float = DEADLINE) -> None:
        """Wait until the output holds a pattern."""
        end = time.monotonic() + deadline
        while len(re.findall(pattern, self.output)) < times:
            running = self.process.poll() is None
            assert running, f"{self.command} ended before {pattern!r}:\n{self.output}"
            assert time.monotonic() < end, f"{self.command}: no {pattern!r}:\n{self.output}"
            time.sleep(0.05)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Ask the process to end, end what is left of its group; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(DEADLINE)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """Kill the whole group, as a machine that goes down does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)


class Service:
    """The processes of one project on one broker; leaving the context ends them all."""

    def __init__(
        self,
        project: BakedProject,
        broker_url: str,
        result_url: str | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        """Start nothing yet."""
        self.project = project
        self.env = {"CELERY_BROKER_URL": broker_url} | (env or {})
        if result_url:
            self.env["CELERY_RESULT_BACKEND"] = result_url
        self.processes: list[Process] = []
        self._directory = tempfile.TemporaryDirectory(prefix="service-")
        self.directory = Path(self._directory.name)

    def __enter__(self) -> Self:
        """Take the service in use."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every process; add what they said to an error."""
        for process in reversed(self.processes):
            process.stop()
        if error is not None:
            for process in self.processes:
                error.add_note(f"--- {' '.join(process.command)}\n{process.output}")
        self._directory.cleanup()

    def start(
        self, *command: str | Path, ready: str | None = None, env: dict[str, str] | None = None
    ) -> Process:
        """Start a process of the project, and wait until its output says that it is ready."""
        log = self.directory / f"{len(self.processes)}.log"
        words = [str(word) for word in command]
        process = Process(words, self.project, clean_environment() | self.env | (env or {}), log)
        self.processes.append(process)
        if ready:
            process.wait_for(ready)
        return process

    def celery(
        self, *options: str, ready: str | None = None, env: dict[str, str] | None = None
    ) -> Process:
        """Start a command of Celery on the project's app."""
        return self.start(
            "uv", "run", "celery", "-A", self.project.package, *options, ready=ready, env=env
        )

    def worker(
        self, *options: str, name: str = "worker", env: dict[str, str] | None = None
    ) -> Process:
        """Start a worker with two processes and wait until it takes tasks."""
        standard = ("--loglevel", "INFO", "--concurrency", "2", "--hostname", f"{name}@%h")
        return self.celery("worker", *standard, *options, ready=rf"{name}@\S+ ready\.", env=env)

    def beat(self, *options: str, env: dict[str, str] | None = None) -> Process:
        """Start beat."""
        return self.celery("beat", "--loglevel", "INFO", *options, ready=r"beat: Starting", env=env)

    def web(self, env: dict[str, str] | None = None) -> str:
        """Start Django's development server and return its URL."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = ("python", "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}")
        process = self.start("uv", "run", *command, env=env)
        end = time.monotonic() + DEADLINE
        while not answers(url):
            running = process.process.poll() is None
            assert running, f"the web server ended:\n{process.output}"
            assert time.monotonic() < end, f"the web server does not answer:\n{process.output}"
            time.sleep(0.05)
        return url

    def run(
        self, *command: str | Path, env: dict[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the project against the service's servers."""
        return self.project.run(*command, env=self.env | (env or {}), check=check)

    def python(self, code: str, env: dict[str, str] | None = None) -> str:
        """Run Python code in the project and return what it printed."""
        return self.run("uv", "run", "python", "-c", code, env=env).stdout.strip()


def wait_until(condition: Callable[[], object], what: str, *, deadline: float = DEADLINE) -> None:
    """Return as soon as a condition holds; fail with what did not come if it never does."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Tell whether a web server answers there, whatever it answers."""
    try:
        urllib.request.urlopen(url, timeout=10).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
