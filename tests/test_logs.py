"""The logs of real processes: every line an object, each event once, and no password."""

import json
import re
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from tests import servers
from tests.projects import Bake, BakedProject
from tests.proxy import Way
from tests.proxy import broker as started
from tests.service import DEADLINE, Process, Service, answers

PASSWORD = "hidden-7f3a"  # noqa: S105
SUM = b'{"x": 2, "y": 3}'
KEY = "key-of-the-web-server-" + "0123456789" * 5
# `add` sends others, which say something in every way there is.
TASKS = """

import logging
import os
import signal
import sys
import warnings

import structlog
from celery.exceptions import SoftTimeLimitExceeded


@shared_task(bind=True, max_retries=1)
def speak(self, url):
    logging.getLogger("library").info("by a library: %s", url)
    logger.info("by a task's logger")
    structlog.get_logger("structured").info("structured", pages=3, server=url)
    print("printed")
    print("on two", "lines", sep="\\n", file=sys.stderr)
    warnings.warn("warned", stacklevel=1)
    if not self.request.retries:
        raise self.retry(countdown=1)
    raise ValueError(f"raised at {url}")


@shared_task(soft_time_limit=1, time_limit=2)
def hang():
    try:
        time.sleep(600)
    except SoftTimeLimitExceeded:
        time.sleep(600)


@shared_task(max_retries=0)
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task
def start(url):
    for signature in (speak.si(url), hang.si(), die.si()):
        signature.apply_async()
"""
# How often the log has what `start` and the tasks that it sends are to say.
SAID = {
    "by a library: ": 2,
    "by a task's logger": 2,
    "structured": 2,
    "printed": 2,
    "on two": 2,
    "lines": 2,
    ".*UserWarning: warned": 2,
    r"Task \S+speak\S+ received": 2,
    r"Task \S+speak\S+ retry: Retry in 1s": 1,
    r"Task \S+speak\S+ raised unexpected: ValueError": 1,
    r"Task \S+start\S+ received": 1,
    r"Task \S+start\S+ succeeded in ": 1,
    r"Soft time limit \(1s\) exceeded for ": 1,
    r"Hard time limit \(2s\) exceeded for ": 1,
    r"Task handler raised error: .*TimeLimitExceeded": 1,
    r"Task handler raised error: .*WorkerLostError": 1,
    r"\S+ ready\.": 1,
}
DONE = ("raised at", "Hard time limit", "WorkerLostError")


def lines(process: Process) -> list[dict[str, Any]]:
    """Return the lines that a process has logged; each of them is an object, and whole."""
    found = []
    for text in process.output.splitlines():
        line = json.loads(text)
        assert {"timestamp", "level", "logger", "event"} <= set(line), text
        assert line["timestamp"].endswith("Z"), text
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None
        found.append(line)
    assert PASSWORD not in process.output
    assert KEY not in process.output
    return found


def check_said(worker: Process, **wanted: str) -> None:
    """Check that a worker has said everything once, each line of a task with what it carries."""
    said = lines(worker)
    counts = {
        pattern: sum(bool(re.match(pattern, line["event"])) for line in said) for pattern in SAID
    }
    assert counts == SAID
    of_tasks = [line for line in said if line.get("task", "").endswith(("speak", "hang", "die"))]
    assert len(of_tasks) >= 22
    for line in of_tasks:
        assert line.items() >= wanted.items(), line
    # A task has one id, in the main process and in its child.
    for name in ("speak", "hang", "die"):
        assert len({line["task_id"] for line in of_tasks if line["task"].endswith(name)}) == 1
    for pattern in SAID:
        for line in said:
            if re.match(pattern, line["event"]) and "ready" not in pattern:
                assert re.fullmatch(r"[0-9a-f-]{36}", line["task_id"]), line
    (raised,) = (line for line in said if "raised unexpected" in line["event"])
    assert "ValueError: raised at redis://:***@" in raised["exception"]
    assert raised["exception"].startswith("Traceback")
    assert all(line["pages"] == 3 for line in said if line["event"] == "structured")


@pytest.fixture
def secured() -> Iterator[tuple[Any, str]]:
    """Give a Redis server with a password, and its URL without a database."""
    with started("redis") as server:
        assert server.valkey
        redis.Redis(port=server.valkey.port).config_set("requirepass", PASSWORD)
        yield server, f"redis://:{PASSWORD}@127.0.0.1:{server.proxy.port}"


def ask(url: str, given: str, body: bytes | None = None) -> tuple[int, str]:
    """Send a request with an id; return the status of the answer, and the id that it has."""
    headers = {"Content-Type": "application/json", "X-Request-ID": given}
    request = urllib.request.Request(f"{url}?token={KEY}", body, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, answer.headers["X-Request-ID"]
    except urllib.error.HTTPError as error:
        return error.code, error.headers["X-Request-ID"]


def with_tasks(project: BakedProject, path: str) -> BakedProject:
    """Add the tasks to a project, and install it."""
    source = project.path / path
    text = source.read_text(encoding="utf-8").replace("return x + y", "{ start.delay(URL) }")
    source.write_text(text.replace("{ start.delay(URL) }", "return start.delay(URL) and x + y"))
    with source.open("a", encoding="utf-8") as file:
        file.write(TASKS + f'\n\nURL = "redis://:{PASSWORD}@host/0"\n')
    project.sync()
    return project


def stop_and_check(process: Process, signum: signal.Signals = signal.SIGTERM) -> list[str]:
    """End a process, and return the events of all that it has logged."""
    process.process.send_signal(signum)
    process.process.wait(DEADLINE)
    return [line["event"] for line in lines(process)]


def test_django_s_processes_log_objects_and_a_request_s_id_is_in_its_tasks_lines(
    project: Bake, secured: tuple[Any, str], tmp_path: Path
) -> None:
    made = with_tasks(project(project_type="django"), "jobs/tasks.py")
    server, base = secured
    port = servers.free_port()
    (tmp_path / "key").write_text(f"{KEY}\n")
    env = {
        "ALLOWED_HOSTS": "127.0.0.1",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "DEBUG": "0",
        "HEARTBEAT_DIR": str(tmp_path),
        "LOG_FORMAT": "json",
        "PORT": str(port),
        "SECRET_KEY_FILE": str(tmp_path / "key"),
        "SECURE_SSL_REDIRECT": "0",
    }
    with Service(made, f"{base}/0", f"{base}/1", env) as service:
        bin_ = made.path / ".venv" / "bin"
        service.run(bin_ / "python", "manage.py", "migrate", "--verbosity", "0")
        service.run(bin_ / "python", "manage.py", "collectstatic", "--no-input")
        celery = (bin_ / "celery", "-A", made.package)
        worker = service.start(
            *(*celery, "worker", "--loglevel", "INFO", "--concurrency", "2"),
            ready=r" ready\.",
        )
        beat = service.start(
            *(*celery, "beat", "--loglevel", "INFO"),
            ready="beat: Starting",
        )
        web = service.start(bin_ / "gunicorn", ready="Booting worker")
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + DEADLINE
        while not answers(url):
            assert time.monotonic() < end, web.output
            time.sleep(0.05)

        # An id is taken where it is sane, and made where it is not.
        assert ask(f"{url}/jobs/add/", "Client-42", SUM) == (202, "Client-42")
        for text in DONE:
            worker.wait_for(text)
        check_said(worker, request_id="Client-42")
        (line,) = (line for line in lines(web) if line.get("request_id") == "Client-42")
        assert line.pop("milliseconds") >= 0
        assert line | {"timestamp": "", "request_id": ""} == {
            "timestamp": "",
            "level": "info",
            "logger": f"{made.package}.runtime.web",
            "event": "request",
            "method": "POST",
            "path": "/jobs/add/",
            "status": 202,
            "request_id": "",
        }
        for bad in ("x" * 65, "a b", '"'):
            assert re.fullmatch(r"[0-9a-f-]{36}", ask(f"{url}/", bad)[1])
        # A probe that succeeds is no news.
        assert ask(f"{url}/health/", "Probe")[0] == 200
        paths = {line.get("path") for line in lines(web)}
        assert "/" in paths
        assert "/health/" not in paths

        # The broker goes away, and comes back.
        server.proxy.set(Way.DOWN)
        worker.wait_for("Connection to broker lost")
        beat.wait_for("the broker cannot be reached, nothing is sent")
        assert ask(f"{url}/jobs/add/", "Client-43", SUM) == (202, "Client-43")
        failed = [line for line in lines(web) if line.get("request_id") == "Client-43"]
        unsent, answered = failed[-2:]
        assert re.fullmatch(r"could not send add\(2, 3\): .+", unsent["event"])
        assert "exception" not in unsent
        assert (answered["event"], answered["status"]) == ("request", 202)
        server.proxy.set(Way.UP)
        worker.wait_for("Connected to ", times=2)

        said = stop_and_check(worker)
        assert "worker: Warm shutdown (MainProcess)" in said
        stop_and_check(beat)
        assert Counter(stop_and_check(web))["Handling signal: term"] == 1

        # A password that is wrong is as secret.
        wrong = service.start(
            *(*celery, "worker", "--loglevel", "INFO"),
            env={"CELERY_BROKER_URL": base.replace(PASSWORD, f"{PASSWORD}-wrong") + "/0"},
        )
        wrong.wait_for("invalid username-password pair")
        stop_and_check(wrong, signal.SIGKILL)


def test_a_plain_service_logs_objects_or_readable_lines(
    project: Bake, secured: tuple[Any, str], tmp_path: Path
) -> None:
    made = with_tasks(project(broker="rabbitmq"), "celery_app/tasks.py")
    if not (commands := servers.rabbitmq_commands()):
        servers.unavailable("no RabbitMQ here: to have one, apt-get install rabbitmq-server")
    _, results = secured
    with started("rabbitmq") as server:
        host = server.url.rpartition("/")[2]
        servers.RabbitMQ.of_session(commands).control(
            f'rabbit_auth_backend_internal:add_user(<<"{host}">>, <<"{PASSWORD}">>, <<"tests">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"{host}">>, <<"{host}">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
        )
        url = server.url.replace("guest:guest", f"{host}:{PASSWORD}")
        with Service(made, url, f"{results}/1", {"HEARTBEAT_DIR": str(tmp_path)}) as service:
            json_lines = {"LOG_FORMAT": "json"}
            celery = (made.path / ".venv" / "bin" / "celery", "-A", "celery_app")
            options = ("worker", "--loglevel", "INFO", "--concurrency", "2")
            worker = service.start(*celery, *options, ready=r" ready\.", env=json_lines)
            send = "from celery_app import tasks; print(tasks.add.delay(2, 3).get(timeout=100))"
            assert service.run(made.path / ".venv" / "bin" / "python", "-c", send).stdout == "5\n"
            for text in DONE:
                worker.wait_for(text)
            check_said(worker)
            server.proxy.set(Way.DOWN)
            worker.wait_for("Connection to broker lost")
            server.proxy.set(Way.UP)
            worker.wait_for("Connected to ", times=2)
            stop_and_check(worker)
            wrong = service.start(
                *(*celery, "beat", "--loglevel", "INFO"),
                env=json_lines | {"CELERY_BROKER_URL": url.replace(PASSWORD, f"{PASSWORD}-wrong")},
            )
            wrong.wait_for("ACCESS_REFUSED")
            stop_and_check(wrong)

            # Readable: the same events, once, and no password either.
            log = tmp_path / "worker.log"
            reader = service.start(*celery, *options, "--logfile", log)
            end = time.monotonic() + DEADLINE
            while not log.exists() or " ready." not in log.read_text():
                assert time.monotonic() < end, reader.output
                time.sleep(0.05)
            said = service.run(celery[0].parent / "python", "app.py")
            assert said.stderr == ""
            assert "report of 3 pages: " in said.stdout
            text = log.read_text()
            assert len(re.findall(r"\[info +\] Task celery_app.tasks.add\S+ succeeded", text)) == 5
            assert PASSWORD not in text + reader.output
            assert "\x1b" not in text
