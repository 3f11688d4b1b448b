"""How long from nothing to the first result, the packages being in uv's cache."""

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import lab
from benchmarks.lab import GENERATED, TUTORIAL
from tests import servers
from tests.projects import BakedProject, clean_environment
from tests.service import Process, Service

# What a person types to get a result; both print the number.
ASK = {
    "celery": ["python", "-c", "from celery_app.tasks import add; print(add.delay(2, 2).get())"],
    "django": [
        *("python", "manage.py", "shell", "--command"),
        "from jobs.tasks import add; print(add.delay(2, 2).get())",
    ],
}


class Clock:
    """Takes the time of each step."""

    def __init__(self) -> None:
        """Begin with none."""
        self.steps: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Take the time of a step."""
        start = time.perf_counter()
        yield
        self.steps[name] = time.perf_counter() - start


def from_nothing(directory: Path, project_type: str) -> dict[str, float]:
    """Return the seconds of each command from nothing to the first result, on Redis."""
    clock = Clock()
    env = clean_environment()
    with tempfile.TemporaryDirectory(dir=directory) as name, servers.valkey() as url:
        made = BakedProject(
            Path(name) / "my_service", "my_service" if project_type == "django" else "celery_app"
        )
        with clock.step("uvx cookiecutter"):
            words = ["cookiecutter", "--no-input", str(lab.ROOT), f"project_type={project_type}"]
            subprocess.run(
                ["uvx", *words], cwd=name, env=env, stdout=subprocess.DEVNULL, check=True
            )
        with clock.step("uv sync"):
            made.sync()
        with Service(made, f"{url}/0", f"{url}/1") as service:
            with clock.step("worker"):
                service.worker()
            with clock.step("result"):
                printed = service.run("uv", "run", *ASK[project_type]).stdout
            if printed.split()[-1] != "4":
                raise RuntimeError(printed)
    return clock.steps


def demonstration(directory: Path) -> float:
    """Return the seconds of `make demo` on a fresh clone."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        words = ("git", "clone", "--quiet", "--depth", "1", f"file://{lab.ROOT}", name)
        subprocess.run(words, env=clean_environment(), check=True)
        start = time.perf_counter()
        command = ("make", "--silent", "demo")
        subprocess.run(
            command, cwd=name, env=clean_environment(), stdout=subprocess.DEVNULL, check=True
        )
        return time.perf_counter() - start


def ready(directory: Path, settings: str) -> float:
    """Return the seconds from the command `celery worker` to a worker that takes tasks."""
    made = lab.project(directory, broker="redis")
    with lab.contestant(made, "redis", settings, 2, workers=0) as own:
        start = time.perf_counter()
        worker = own.start_worker()
        seconds = time.perf_counter() - start
        stop(worker)
        return seconds


def stop(worker: Process) -> None:
    """End a worker; an idle one leaves at once."""
    worker.stop()
    if re.search("Traceback", worker.output):
        raise RuntimeError(worker.output)


def run(directory: Path, *, quick: bool) -> None:
    """Measure, and write the result file."""
    rounds = 2 if quick else 7
    about = lab.conditions(rounds)
    kinds = [GENERATED, TUTORIAL]
    ready(directory, GENERATED)  # brings the files into memory
    starts = lab.in_turns(kinds, lambda kind: ready(directory, kind), rounds * 3)
    lab.say("worker ready", *(lab.spread(own)[0] for own in starts))
    steps = lab.in_turns([*ASK], lambda kind: from_nothing(directory, kind), rounds)
    figures: dict[str, dict[str, Any]] = {
        "ready": dict(zip(kinds, starts, strict=True)),
        "steps": {
            kind: {step: [each[step] for each in own] for step in own[0]}
            for kind, own in zip(ASK, steps, strict=True)
        },
    }
    if shutil.which("git") and shutil.which("make"):
        figures["demo"] = {"make demo": [demonstration(directory) for _ in range(rounds)]}
        lab.say("make demo", figures["demo"]["make demo"])
    lab.write("first_result", about, figures)
