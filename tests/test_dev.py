"""`honcho start` in a fresh project: everything comes up, reloads, and goes, with no task lost."""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import psutil
import pytest

from tests import servers
from tests.projects import Bake, BakedProject
from tests.service import DEADLINE, Process, Service, wait_until
from tests.test_deployment import SECRETS
from tests.test_readme import change_addresses, running_in, wait_for_the_end_of_all

START = ("uv", "run", "honcho", "start")
HOLD = """return x + y


@shared_task
def hold(path: str) -> None:
    from pathlib import Path

    while not Path(path).exists():
        time.sleep(0.1)
"""
TROUBLE = r"WARNING|ERROR|CRITICAL|Traceback|[^y]Warning:"  # SecurityWarning: root runs the tests


class Development(Service):
    """A project whose owner types `honcho start`, at addresses that nobody else uses."""

    def __init__(self, project: BakedProject, broker: str, redis: str) -> None:
        """Start nothing yet."""
        self.ports = change_addresses(project, broker, redis)
        super().__init__(project, broker, f"{redis}/1")
        self.tasks = "jobs" if "manage.py" in project.files() else "celery_app"

    def honcho(self, *processes: str) -> Process:
        """Start the processes of the Procfile, or some of them; wait until a worker is ready."""
        return self.start(*START, *processes, ready=r" ready\.")

    def send(self, task: str) -> str:
        """Send a task: ``add.delay(2, 3)``; return its id."""
        setup = "import django; django.setup(); " if self.tasks == "jobs" else ""
        imports = f"import {self.project.package}; {setup}from {self.tasks} import tasks"
        return self.python(f"{imports}; print(tasks.{task}.id)")

    def edit(self, old: str, new: str) -> None:
        """Change the module of the tasks, and save it as an editor does.

        Python takes a cached module for current whose source has the same size and second, so a
        change of the same length is not always seen.
        """
        assert len(new) != len(old)
        path = self.project.path / self.tasks / "tasks.py"
        text = path.read_text(encoding="utf-8")
        assert old in text
        saved = path.with_suffix(".tmp")
        saved.write_text(text.replace(old, new), encoding="utf-8")
        saved.replace(path)


@pytest.fixture
def development(project: Bake, request: pytest.FixtureRequest) -> Iterator[Development]:
    """Give a fresh project with nothing at the address of its Redis; see that no process stays."""
    project_type, broker, result_backend = request.param.split("-")
    answers = {"project_type": project_type, "broker": broker, "result_backend": result_backend}
    made = project(**answers)
    # What Compose reads there disturbs no development.
    lines = [f"{name}={value}" for name, value in SECRETS.items()]
    (made.path / ".env").write_text("\n".join([*lines, "COMPOSE_PROFILES=flower"]))
    with contextlib.ExitStack() as stack:
        redis = f"redis://localhost:{servers.free_port()}"
        url = f"{redis}/0"
        if broker == "rabbitmq":
            url = stack.enter_context(servers.rabbitmq())
        stack.callback(wait_for_the_end_of_all, made)
        service = Development(made, url, redis)
        if result_backend != "redis":
            del service.env["CELERY_RESULT_BACKEND"]
        yield stack.enter_context(service)


def interrupt(terminal: Process) -> None:
    """Press Ctrl-C in a terminal; everything ends."""
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.process.wait(DEADLINE)


def fetch(
    url: str, login: str | None = None, body: dict[str, int] | None = None
) -> tuple[int, Any]:
    """Return the status that a web server answers, and the JSON if it is some."""
    headers = {"Content-Type": "application/json"} if body else {}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    data = json.dumps(body).encode() if body else None
    try:
        asked = urllib.request.Request(url, data, headers)  # noqa: S310
        with urllib.request.urlopen(asked, timeout=DEADLINE) as response:  # noqa: S310
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, None


def ask_for_tasks(development: Development, terminal: Process) -> dict[str, str]:
    """Have the demo send its tasks, or the web server; return their ids and names."""
    if development.tasks == "celery_app":
        shown = development.run("uv", "run", "python", "app.py").stdout
        assert "a report of 3 pages: {'pages': 3}" in shown
        terminal.wait_for(r"Task \S+ succeeded", times=6)
        return {
            task: name for name, task in re.findall(r"Task (\S+)\[(\S+)\] recei", terminal.output)
        }
    server = r"Starting development server at (http://127\.0\.0\.1:(\d+))/"
    terminal.wait_for(server)
    [(url, port)] = re.findall(server, terminal.output)
    assert f"Port {development.ports['web']} is taken; using {port}." in terminal.output
    wait_until(lambda: servers.listens(int(port)), "the web server does not listen")
    answers = [fetch(f"{url}/jobs/add/", body={"x": number, "y": 1}) for number in range(3)]
    assert [status for status, _ in answers] == [202, 202, 202]
    return {job["id"]: "jobs.tasks.add" for _, job in answers}


def check_flower(development: Development, terminal: Process, tasks: dict[str, str]) -> None:
    """See that Flower asks for its login, and shows that these tasks succeeded."""
    says = r"Flower: (http://127\.0\.0\.1:(\d+)), user admin, password (\S+)"
    terminal.wait_for(says)
    [(url, port, password)] = re.findall(says, terminal.output)
    assert f"Port {development.ports['flower']} is taken; using {port}." in terminal.output
    wait_until(lambda: servers.listens(int(port)), "Flower does not listen")
    assert fetch(f"{url}/api/tasks") == (401, None)
    assert fetch(f"{url}/api/tasks", "admin:password") == (401, None)

    def shown() -> dict[str, str]:
        status, known = fetch(f"{url}/api/tasks", f"admin:{password}")
        assert status == 200
        return {task: each["name"] for task, each in known.items() if each["state"] == "SUCCESS"}

    wait_until(lambda: tasks.items() <= shown().items(), "Flower does not show the tasks")


@pytest.mark.parametrize(
    "development", ["celery-redis-redis", "django-rabbitmq-redis"], indirect=True
)
def test_one_command_brings_everything_up_and_ctrl_c_loses_no_task(
    development: Development,
) -> None:
    with contextlib.ExitStack() as others:
        for taken in development.ports.values():
            others.enter_context(socket.create_server(("127.0.0.1", taken)))
        first = development.honcho()
        first.wait_for(r"beat: Starting")
        first.wait_for(r"Flower: ")
        check_flower(development, first, ask_for_tasks(development, first))
    assert not re.search(TROUBLE, first.output), first.output
    task = development.send("report.delay(24)")
    first.wait_for(rf"{task}\] received")
    interrupt(first)
    wait_for_the_end_of_all(development.project)
    assert f"{task}] succeeded" not in first.output

    second = development.honcho()
    second.wait_for(rf"{task}\] succeeded")  # long before the visibility timeout
    os.killpg(second.process.pid, signal.SIGHUP)  # as a terminal does that is closed
    second.process.wait(DEADLINE)
    wait_for_the_end_of_all(development.project)
    assert not re.search(TROUBLE, second.output), second.output


@pytest.mark.parametrize("development", ["celery-redis-redis"], indirect=True)
def test_a_task_whose_processes_were_all_killed_comes_back(development: Development) -> None:
    development.env |= {"CELERY_TASK_TIME_LIMIT": "12", "CELERY_VISIBILITY_TIMEOUT": "15"}
    first = development.honcho("broker", "worker")
    task = development.send("report.delay(16)")
    first.wait_for(rf"{task}\] received")
    first.kill()
    for process in running_in(development.project):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_for_the_end_of_all(development.project)

    second = development.honcho("broker", "worker")
    second.wait_for(rf"{task}\] succeeded")
    [honcho] = [
        process
        for process in psutil.Process(second.process.pid).children()
        if "honcho" in " ".join(process.cmdline())
    ]
    honcho.send_signal(signal.SIGINT)  # to honcho alone, as `kill` does
    second.process.wait(DEADLINE)


def supervisor_of(development: Development) -> psutil.Process:
    """Return the process that starts the worker anew."""
    [found] = [
        process
        for process in running_in(development.project)
        if process.cmdline()[1:] == ["dev.py", "worker"]
    ]
    return found


@pytest.mark.parametrize("development", ["celery-redis-redis"], indirect=True)
def test_the_worker_starts_anew_when_python_changes_and_cuts_no_task(
    development: Development,
) -> None:
    metrics = servers.free_port()
    development.env["METRICS_PORT"] = str(metrics)
    development.edit("return x + y", HOLD)
    development.env["CELERY_SHUTDOWN_GRACE_PERIOD"] = "1"  # which is for production
    terminal = development.honcho("broker", "worker")
    release = development.directory / "release"
    slow = development.send(f"hold.delay({str(release)!r})")
    terminal.wait_for(rf"{slow}\] received")
    development.edit("return x + y", "return x + y + 1000")
    terminal.wait_for(r" ready\.", times=2)
    quick = development.send("add.delay(2, 3)")
    terminal.wait_for(rf"{quick}\] succeeded in .*: 1005")
    assert f"Port {metrics} is taken; " in terminal.output  # by the old one, which has a task
    release.touch()
    terminal.wait_for(rf"{slow}\] succeeded")
    assert len(re.findall(rf"{slow}\] received", terminal.output)) == 1
    assert len(re.findall(rf"{slow}\] succeeded", terminal.output)) == 1
    supervisor = supervisor_of(development)
    wait_until(lambda: len(supervisor.children()) == 1, "the old worker is not gone")

    development.edit("return x + y + 1000", "return x + (y + 2000")
    terminal.wait_for("SyntaxError: '\\(' was never closed")
    terminal.wait_for("The worker has ended; change a file to start it again.")
    development.edit("return x + (y + 2000", "return x + y + 2000")
    terminal.wait_for(r" ready\.", times=3)
    assert len(re.findall("The worker has ended", terminal.output)) == 1

    project = development.project
    package = next((project.path / ".venv").glob("lib/*/site-packages/celery/__init__.py"))
    for path in (
        *(project.path / "tests" / "test_tasks.py", package, project.path / ".valkey" / "x.py"),
        *(project.path / development.tasks / name for name in ("notes.txt", "__pycache__/x.py")),
    ):
        with contextlib.suppress(FileNotFoundError):
            path.touch()
    development.edit("return x + y + 2000", "return x + y + 30_000")
    terminal.wait_for(r" ready\.", times=4)
    quick = development.send("add.delay(2, 3)")
    terminal.wait_for(rf"{quick}\] succeeded in .*: 30005")
    changed = re.findall(r"Changed: (.*)", terminal.output)
    assert changed == [f"{development.tasks}/tasks.py"] * 4
    assert len(re.findall(r" ready\.", terminal.output)) == 4

    supervisor.kill()
    terminal.process.wait(DEADLINE)
    wait_for_the_end_of_all(project)


@pytest.mark.parametrize(
    ("combination", "variable", "line"),
    [
        (
            "celery-redis-redis",
            "CELERY_BROKER_URL=redis://localhost:{}/0",
            r"Cannot use Redis at redis://localhost:\d+/0 \(.+\)\. To start one: docker run .*",
        ),
        (
            "django-rabbitmq-none",
            "CELERY_BROKER_URL=amqp://guest:secret@localhost:{}//",
            r"Cannot use RabbitMQ at amqp://guest:\*\*@localhost:\d+// \(.+\)\. To start one: .*",
        ),
    ],
)
def test_what_is_no_broker_is_said_in_one_line_and_ends_everything(
    project: Bake, combination: str, variable: str, line: str
) -> None:
    names = ("project_type", "broker", "result_backend")
    made = project(**dict(zip(names, combination.split("-"), strict=True)))
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        name, _, url = variable.partition("=")
        done = made.run(*START, env={name: url.format(other.server_port)}, check=False)
        other.shutdown()

    said = re.findall(r"^\S+ (?!system)\S+ +\| (.*)$", done.stdout, re.MULTILINE)
    assert done.returncode == 1
    assert len(said) == 1, done.stdout
    assert re.fullmatch(line, said[0])
    wait_for_the_end_of_all(made)
