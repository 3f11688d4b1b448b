"""Sending a task when the broker, or the result backend, is not there: an error, and soon.

How soon is not judged, only that it comes; `--capture=no` shows the seconds.
"""

import contextlib
import json
import re
import sqlite3
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent import futures
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.projects import Bake
from tests.proxy import Broker, Proxy, Way, broker, proxied, redis
from tests.service import Process, Service

KINDS = ["redis", "rabbitmq"]

# A process that sends a task whenever it is told to, as a web server does.
SENDER = """\
import sys
import time
from pathlib import Path

from celery_app.tasks import add

with Path(sys.argv[1]).open() as orders:
    while True:
        if not (order := orders.readline().strip()):
            time.sleep(0.05)
            continue
        start = time.monotonic()
        try:
            outcome = add.delay(2, 3).id and "sent"
        except Exception as error:
            outcome = f"{type(error).__name__} {error}"
        print(f"{order}: {outcome} | {time.monotonic() - start:.1f} s")
"""
# A task that calls another one, by a way to the broker that is not the worker's own: without its
# own the worker would give the task back.
RELAY = """\
import os

from celery import signals
from celery_app import app
from celery_app.tasks import add


@signals.worker_process_init.connect
def use_another_way(**_):
    app.conf.broker_write_url = os.environ["WRITE_URL"]


@app.task
def relay():
    return add.delay(2, 3).id
"""
SEND_RELAY = """\
import relay

print(relay.relay.delay().id)
"""
ON_COMMIT = """\
from django.db import transaction
from jobs.models import Job
from jobs.tasks import add

with transaction.atomic():
    job = Job.objects.create(task=add.name)
    add.delay_on_commit(2, 3)
    transaction.on_commit(lambda: print("a later hook"))
print("committed", Job.objects.filter(pk=job.pk).exists())
"""
ROUTED = """\
from celery_app import app
from celery_app.tasks import add

app.conf.task_routes = {"celery_app.tasks.add": {"queue": "aside"}}
print(add.apply_async((2, 3), countdown=1).id)
"""
SHORT_DELAYS = """\
from datetime import datetime, timedelta, timezone

from celery_app.tasks import add

later = datetime.now(timezone.utc) + timedelta(seconds=0.9)
for delay in ({"countdown": 0.1}, {"eta": later}, {"eta": later.isoformat()}, {"countdown": -1}):
    print(add.apply_async((2, 3), **delay).id)
"""


def report(what: str, seconds: float) -> None:
    """Show how long it took; nothing depends on it."""
    print(f"measured: {what}: {seconds:.1f} s")  # noqa: T201


class Sender:
    """A process that sends when told to."""

    def __init__(self, service: Service, name: str, env: dict[str, str]) -> None:
        """Start it with these addresses of its servers."""
        self.orders = service.directory / name
        self.orders.touch()
        self.process = service.start("uv", "run", "python", "-c", SENDER, self.orders, env=env)

    def send(self, order: str) -> str:
        """Send a task, and return what came of it."""
        with self.orders.open("a") as orders:
            orders.write(f"{order}\n")
        line = rf"(?m)^{order}: (.*) \| (\S+) s$"
        self.process.wait_for(line)
        found = re.findall(line, self.process.output)
        assert len(found) == 1
        outcome, seconds = found[0]
        report(order, float(seconds))
        return str(outcome)


def cut_off(sender: Sender, proxy: Proxy, what: str) -> list[str]:
    """Send while a server can be reached, while it cannot, and again; return what came of it."""
    assert sender.send(f"{what} up") == "sent"
    outcomes = []
    for way in ("silent after it was up", "down", "silent after it was down"):
        proxy.set(Way.SILENT if "silent" in way else Way.DOWN)
        outcomes.append(sender.send(f"{what} {way}"))
    proxy.set(Way.UP)
    assert sender.send(f"{what} up again") == "sent"
    return outcomes


@contextlib.contextmanager
def plain(synced: Bake, kind: str) -> Iterator[tuple[Broker, Broker, Service]]:
    """Give a plain project, its broker, and its results in a server of their own."""
    project = synced(broker=kind)
    with (
        broker(kind) as server,
        redis() as results,
        Service(project, server.url, f"{results.url}/1") as service,
    ):
        service.env["HEARTBEAT_DIR"] = str(service.directory)
        yield server, results, service


@pytest.mark.parametrize("kind", KINDS)
def test_a_sender_hears_of_a_server_that_is_gone_or_silent(synced: Bake, kind: str) -> None:
    with (
        plain(synced, kind) as (server, results, service),
        futures.ThreadPoolExecutor() as pool,
    ):
        # Each has one server behind a proxy, and reaches the other one directly.
        direct = dict(service.env)
        for name, one in (("CELERY_BROKER_URL", server), ("CELERY_RESULT_BACKEND", results)):
            direct[name] = direct[name].replace(f":{one.proxy.port}", f":{one.proxy.upstream}")
        cut = Sender(service, "broker", direct | {"CELERY_BROKER_URL": server.url})
        deaf = Sender(service, "results", direct | {"CELERY_RESULT_BACKEND": f"{results.url}/1"})
        both = [
            pool.submit(cut_off, cut, server.proxy, f"{kind}, broker"),
            pool.submit(cut_off, deaf, results.proxy, f"{kind}, results"),
        ]
        of_broker, of_results = (one.result() for one in both)
        assert all(outcome.startswith("OperationalError ") for outcome in of_broker), of_broker
        # The broker takes a task where the subscription to its result looks fine to the sender.
        for outcome in of_results:
            expected = "sent$|OperationalError the result backend cannot be reached"
            assert re.match(expected, outcome), outcome
        if kind == "rabbitmq":
            # On the wire: Confirm.Select, its answer, and an acknowledgement of a message.
            assert re.search(rb"\x01..\0\0\0\x05\0\x55\0\x0a\0\xce", server.proxy.sent, re.DOTALL)
            assert re.search(rb"\x01..\0\0\0\x04\0\x55\0\x0b\xce", server.proxy.received, re.DOTALL)
            assert re.search(rb"\x01..\0\0\0\x0d\0\x3c\0\x50", server.proxy.received, re.DOTALL)


@pytest.mark.parametrize("kind", KINDS)
def test_app_py_ends_in_one_line_when_a_server_is_missing(synced: Bake, kind: str) -> None:
    with plain(synced, kind) as (server, results, service):
        for way, of_results in ((Way.DOWN, Way.UP), (Way.SILENT, Way.UP), (Way.UP, Way.DOWN)):
            server.proxy.set(way)
            results.proxy.set(of_results)
            start = time.monotonic()
            done = service.run("uv", "run", "python", "app.py", check=False)
            seconds = time.monotonic() - start
            report(f"{kind}: app.py, broker {way.name}, results {of_results.name}", seconds)
            assert done.returncode == 1
            assert done.stdout == ""
            assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_cannot_call_another_one_fails(synced: Bake, kind: str) -> None:
    with plain(synced, kind) as (server, _, service), proxied(server.proxy.upstream) as way:
        (service.directory / "relay.py").write_text(RELAY)
        service.env["PYTHONPATH"] = str(service.directory)
        service.env["WRITE_URL"] = server.url.replace(f":{server.proxy.port}", f":{way.port}")
        options = ("--loglevel", "INFO", "--concurrency", "1")
        worker = service.start(
            "uv", "run", "celery", "-A", "relay", "worker", *options, ready=r"\S+ ready\."
        )
        worker.wait_for(rf"{service.python(SEND_RELAY)}\] succeeded")
        for state in (Way.DOWN, Way.SILENT):
            way.set(state)
            failed = service.python(SEND_RELAY)
            worker.wait_for(rf"{failed}\] raised unexpected: OperationalError")
            report(f"{kind}: a task, broker {state.name}", seconds_of(worker, failed))
        way.set(Way.UP)
        worker.wait_for(rf"{service.python(SEND_RELAY)}\] succeeded")


def seconds_of(worker: Process, task: str) -> float:
    """Return the seconds between the first and the last line that a log has about a task."""
    times = re.findall(rf"(?m)^(\S+) .*{task}", worker.output)
    first, *_, last = (datetime.fromisoformat(each) for each in times)
    return (last - first).total_seconds()


@pytest.fixture(params=KINDS)
def site(
    request: pytest.FixtureRequest, synced: Bake, tmp_path: Path
) -> Iterator[tuple[Broker, Service, Path]]:
    """Give a Django project with an empty database, and its broker."""
    kind: str = request.param
    project = synced(project_type="django", broker=kind, result_backend="none")
    database = tmp_path / "db.sqlite3"
    env = {"DATABASE_URL": f"sqlite:///{database}"}
    with broker(kind) as server, Service(project, server.url, env=env) as service:
        service.run("uv", "run", "python", "manage.py", "migrate")
        yield server, service, database


def test_a_view_keeps_the_row_that_it_cannot_send(site: tuple[Broker, Service, Path]) -> None:
    server, service, database = site
    url = service.web()
    jobs = "select id, sent from jobs_job order by created"
    status, answer = post(f"{url}/jobs/add/")
    assert status == HTTPStatus.ACCEPTED, answer
    for number, way in enumerate((Way.SILENT, Way.DOWN), 1):  # silent after it was connected
        server.proxy.set(way)
        start = time.monotonic()
        status, answer = post(f"{url}/jobs/add/")
        report(f"{server.url.split(':')[0]}: a view, broker {way.name}", time.monotonic() - start)
        assert status == HTTPStatus.ACCEPTED, answer
        assert "later" in answer["message"]
        with contextlib.closing(sqlite3.connect(database)) as connection:
            rows = connection.execute(jobs).fetchall()
        assert [sent for _, sent in rows] == [1, *[0] * number]
    with urllib.request.urlopen(f"{url}/jobs/{uuid.UUID(rows[-1][0])}/", timeout=120) as response:  # noqa: S310
        assert json.load(response)["state"] == "UNSENT"
    server.proxy.set(Way.UP)
    status, answer = post(f"{url}/jobs/add/")
    assert status == HTTPStatus.ACCEPTED, answer


def post(url: str) -> tuple[int, dict[str, Any]]:
    """Ask for a sum; return the status and the JSON of the answer, whatever it is."""
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, b'{"x": 2, "y": 3}', headers)  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=120) as response:  # noqa: S310
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_after_commit_nothing_is_raised_and_later_hooks_run(
    site: tuple[Broker, Service, Path],
) -> None:
    server, service, _ = site
    shell = ("uv", "run", "python", "manage.py", "shell", "--verbosity", "0", "--command")
    for way in (Way.DOWN, Way.SILENT):
        server.proxy.set(way)
        start = time.monotonic()
        done = service.run(*shell, ON_COMMIT)
        report(f"{server.url.split(':')[0]}: on commit, {way.name}", time.monotonic() - start)
        assert done.stdout.splitlines() == ["a later hook", "committed True"]
        assert re.search(r"could not send jobs\.tasks\.add\(\(2, 3\), {}\): .+", done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_a_delay_of_less_than_a_second_is_one(synced: Bake, kind: str) -> None:
    project = synced(broker=kind, result_backend="none")
    with broker(kind) as server, Service(project, server.url) as service:
        worker = service.worker()
        for task in service.python(SHORT_DELAYS).split():
            worker.wait_for(rf"{task}\] succeeded")


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_a_delayed_task_of_a_routed_queue_waits_for_its_first_worker(
    synced: Bake, kind: str
) -> None:
    project = synced(broker=kind, result_backend="none")
    with broker(kind) as server, Service(project, server.url) as service:
        task = service.python(ROUTED)
        service.worker("--queues", "aside").wait_for(rf"{task}\] succeeded")
