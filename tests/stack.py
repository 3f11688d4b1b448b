"""A generated project in real containers: what its README says is typed, nothing is replaced."""

import json
import re
import secrets
import subprocess
from typing import Any

import yaml

from tests.projects import BakedProject
from tests.service import wait_until

SECRETS = ("BROKER_PASSWORD", "DATABASE_PASSWORD", "FLOWER_PASSWORD", "SECRET_KEY")
SEND = """
from {tasks} import report
print(*[report.delay({pages}).id for _ in range({number})])
"""
# Waits for the end of each task; what is not done at the end is lost.
FETCH = """
import time
import {package}
from celery.result import AsyncResult
waiting, end = {ids!r}, time.monotonic() + {seconds}
while waiting and time.monotonic() < end:
    waiting = [each for each in waiting if AsyncResult(each).state != "SUCCESS"]
    time.sleep(0.5)
print(*waiting)
"""


class Stack:
    """The containers of a project, in its own Compose project."""

    def __init__(self, project: BakedProject) -> None:
        """Write the secrets that the README asks for; start nothing."""
        self.project = project
        self.django = "manage.py" in project.files()
        self.readme = project.read("README.md")
        self.services: dict[str, Any] = yaml.safe_load(project.read("compose.yaml"))["services"]
        self.image = self.services["worker"]["image"]
        self.variables = {name: secrets.token_hex(32) for name in SECRETS}
        self.variables |= {"ALLOWED_HOSTS": "localhost", "SECURE_SSL_REDIRECT": "0"}
        self.configure()

    def configure(self, **variables: str) -> None:
        """Write `.env`, with further variables."""
        lines = [f"{name}={value}\n" for name, value in (self.variables | variables).items()]
        (self.project.path / ".env").write_text("".join(lines))

    def types(self, command: str) -> None:
        """Type a command of the README."""
        assert re.search(rf"(?m)(^|`){re.escape(command)}($|`)", self.readme), command
        self.compose(*command.split()[2:])

    def compose(self, *words: str, check: bool = True) -> str:
        """Run a command of Compose and return what it printed."""
        return self.project.run("docker", "compose", *words, check=check).stdout

    def start(self) -> None:
        """Start what does not run, and wait until everything is healthy."""
        self.types("docker compose up --build --detach")
        self.wait()

    def wait(self) -> None:
        """Wait until everything is healthy, also a worker whose broker was away: `--wait` fails."""

        def well(container: dict[str, Any]) -> bool:
            if container["Service"] == "migrate":
                return bool(container["ExitCode"] == 0)
            return bool(container["Health"] == "healthy")

        wait_until(lambda: all(map(well, self.containers())), "not all are healthy", deadline=240)

    def remove(self) -> None:
        """Leave nothing of it behind."""
        self.compose("down", "--volumes", "--remove-orphans")
        self.project.run("docker", "image", "rm", "--force", self.image)
        label = f"label=com.docker.compose.project={self.project.path.name}"
        self.project.run("docker", "image", "prune", "--force", "--filter", label)

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """Return what Compose tells of the containers, those that ended included."""
        said = self.compose("ps", "--all", "--format", "json", *services)
        # One object a line, or, from older versions, all in a list.
        found = [json.loads(line) for line in said.splitlines()]
        return found[0] if found and isinstance(found[0], list) else found

    def about(self, container: dict[str, Any]) -> dict[str, Any]:
        """Return what the engine knows of a container."""
        said = self.project.run("docker", "inspect", container["ID"]).stdout
        described: dict[str, Any] = json.loads(said)[0]
        return described

    def execute(self, service: str, *words: str, check: bool = True) -> str:
        """Run a command in the container of a service."""
        return self.compose("exec", "-T", service, *words, check=check)

    def python(self, code: str) -> str:
        """Run Python beside beat, which knows the tasks and is no worker."""
        django = ("python", "manage.py", "shell", "--verbosity", "0", "--command")
        return self.execute("beat", *(django if self.django else ("python", "-c")), code)

    def send(self, number: int, pages: int) -> list[str]:
        """Send reports, each of which takes half a second a page; return their ids."""
        tasks = "jobs.tasks" if self.django else "celery_app.tasks"
        return self.python(SEND.format(tasks=tasks, pages=pages, number=number)).split()

    def lost(self, ids: list[str], seconds: int = 150) -> list[str]:
        """Wait for the end of tasks; return those that are not done then."""
        return self.python(
            FETCH.format(package=self.project.package, ids=ids, seconds=seconds)
        ).split()

    def exits(self) -> dict[str, int]:
        """Return the exit status of each service, all of which have ended."""
        found = self.containers()
        assert {each["State"] for each in found} == {"exited"}, found
        return {each["Service"]: each["ExitCode"] for each in found}


def engine_answers() -> bool:
    """Tell whether there is a Docker engine with Compose 2."""
    try:
        for words in (["docker", "info"], ["docker", "compose", "version"]):
            subprocess.run(words, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
