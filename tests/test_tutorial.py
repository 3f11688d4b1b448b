"""Every system of the tutorial that this template comes from, at work in a generated project."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis

from tests import servers
from tests.projects import Bake, BakedProject
from tests.service import Process, Service

ZONE = "Asia/Kolkata"  # five and a half hours from UTC, all the year
SEND = "from celery_app import tasks; "


PREFETCH_COUNT = """\
from {} import app
for answer in app.control.inspect(timeout=100, limit=1).stats().values():
    print(answer["prefetch_count"])
"""
LETTERS = """\
from celery import shared_task


@shared_task
def stamp(letter):
    return f"{letter}, stamped"
"""


def copy(project: BakedProject, directory: Path) -> BakedProject:
    """Return a copy of a project, to be changed."""
    path = directory / project.path.name
    shutil.copytree(project.path, path, symlinks=True)
    return BakedProject(path, project.package)


def edit(project: BakedProject, name: str, old: str, new: str) -> None:
    """Change a file as the owner of a project does."""
    text = project.read(name)
    assert old in text, f"{name} has no {old!r}"
    (project.path / name).write_text(text.replace(old, new), encoding="utf-8")


# --- Plain Celery, on Redis -------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(synced: Bake) -> Iterator[Service]:
    """Run a worker of the default answers, its results in another database than its queue."""
    with (
        servers.addresses("redis", "redis") as env,
        Service(synced(), env["CELERY_BROKER_URL"], env["CELERY_RESULT_BACKEND"]) as service,
    ):
        service.worker()
        yield service


def test_a_task_is_asynchronous_with_delay_and_nobody_waits_for_it(plain: Service) -> None:
    lines = plain.python("""
from celery_app import tasks

slow = tasks.report.delay(10)
quick = tasks.add.delay(2, 3)
print(slow.ready())
print(quick.get(timeout=100))
print(slow.get(timeout=100))
""")

    assert lines.splitlines() == ["False", "5", "{'pages': 10}"]


def test_redis_is_broker_and_result_store_in_different_databases(plain: Service) -> None:
    task = plain.python(SEND + "r = tasks.add.delay(2, 3); r.get(timeout=100); print(r.id)")

    queues = redis.Redis.from_url(plain.env["CELERY_BROKER_URL"], decode_responses=True)
    results = redis.Redis.from_url(plain.env["CELERY_RESULT_BACKEND"], decode_responses=True)
    with queues, results:
        kept = json.loads(results.get(*results.keys(f"*celery-task-meta-{task}")))  # type: ignore[arg-type]
        assert kept["status"] == "SUCCESS"
        assert kept["result"] == 5
        assert not queues.keys("*celery-task-meta-*")
        assert queues.keys("*_kombu.binding*")
        assert not results.keys("*_kombu.binding*")


def test_app_py_sends_tasks_and_shows_them_finish(plain: Service) -> None:
    lines = plain.run("uv", "run", "python", "app.py").stdout.splitlines()

    assert lines[0].startswith("Sent, without waiting: ")
    sums = ["0 + 0: 0", "1 + 1: 2", "2 + 2: 4", "3 + 3: 6", "4 + 4: 8"]
    assert sorted(lines[1:]) == [*sums, "a report of 3 pages: {'pages': 3}"]


def test_tasks_that_are_queued_while_no_worker_runs_are_done_when_one_starts(synced: Bake) -> None:
    with (
        servers.addresses("redis", "redis") as env,
        Service(synced(), env["CELERY_BROKER_URL"], env["CELERY_RESULT_BACKEND"]) as service,
    ):
        ids = service.python(SEND + "print(*[tasks.add.delay(n, n).id for n in range(5)])").split()
        worker = service.worker()
        for task in ids:
            worker.wait_for(rf"{task}\] succeeded")


# --- RabbitMQ ---------------------------------------------------------------------------------


def test_rabbitmq_is_the_broker_with_redis_for_results(synced: Bake) -> None:
    project = synced(broker="rabbitmq", result_backend="redis")
    with (
        servers.addresses("rabbitmq", "redis") as env,
        Service(project, env["CELERY_BROKER_URL"], env["CELERY_RESULT_BACKEND"]) as service,
    ):
        assert service.env["CELERY_BROKER_URL"].startswith("amqp://")
        task = service.python(SEND + "print(tasks.add.delay(2, 3).id)")  # while no worker runs
        service.worker()
        ask = f"print(app.AsyncResult('{task}').get(timeout=100))"
        assert service.python(f"from celery_app import app; {ask}") == "5"
        with redis.Redis.from_url(env["CELERY_RESULT_BACKEND"]) as results:
            assert results.keys(f"*celery-task-meta-{task}")


# --- A schedule, and a configuration in a module of its own -----------------------------------


@dataclass
class Schedule:
    """A service with a worker and with beat as a process of its own."""

    service: Service
    worker: Process
    beat: Process


@pytest.fixture(scope="module")
def hasty(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """Give a project in another zone, whose owner made the interval one of a second.

    Its daily task is set to five minutes ago, by the clock of that zone.
    """
    project = copy(bake(timezone=ZONE, result_backend="none"), tmp_path_factory.mktemp("hasty"))
    due = datetime.now(ZoneInfo(ZONE)) - timedelta(minutes=5)
    config = "celery_app/celeryconfig.py"
    edit(project, config, "timedelta(minutes=5)", "timedelta(seconds=1)")
    edit(project, config, 'hour="6", minute="30"', f'hour="{due.hour}", minute="{due.minute}"')
    edit(project, config, "worker_prefetch_multiplier = 1", "worker_prefetch_multiplier = 3")
    project.sync()
    return project


@pytest.fixture(scope="module")
def schedule(hasty: BakedProject) -> Iterator[Schedule]:
    """Run beat and a worker after ten minutes, so to speak, in which beat was down."""
    with (
        servers.addresses("redis", "none") as env,
        Service(hasty, env["CELERY_BROKER_URL"]) as service,
    ):
        service.python("""
from celery_app import app
from celery_app.runtime.beat import BeatScheduler

scheduler = BeatScheduler(app)
scheduler.lead()
scheduler.runs["every-morning"] -= 600
scheduler.close()
""")
        worker = service.worker()
        yield Schedule(service, worker, service.beat())


def test_the_configuration_is_a_module_of_its_own(schedule: Schedule) -> None:
    # Its owner has set worker_prefetch_multiplier to 3, the worker has two processes.
    assert schedule.service.python(PREFETCH_COUNT.format("celery_app")) == "6"


def test_a_timedelta_schedule_sends_its_task_again_and_again(schedule: Schedule) -> None:
    schedule.beat.wait_for("Sending due task every-five-minutes", times=3)
    schedule.worker.wait_for("every five minutes", times=3)


def test_a_crontab_schedule_goes_by_the_clock_of_a_time_zone_other_than_utc(
    schedule: Schedule,
) -> None:
    schedule.beat.wait_for("Sending due task every-morning")
    schedule.worker.wait_for(r"It is \S+\+05:30, every morning")


def test_beat_runs_as_a_process_of_its_own(schedule: Schedule) -> None:
    schedule.beat.wait_for("Sending due task")

    assert schedule.beat.process.pid != schedule.worker.process.pid
    assert "Sending due task" not in schedule.worker.output


def test_beat_runs_inside_the_worker(hasty: BakedProject) -> None:
    with (
        servers.addresses("redis", "none") as env,
        Service(hasty, env["CELERY_BROKER_URL"]) as service,
    ):
        worker = service.worker("-B")
        worker.wait_for("Sending due task every-five-minutes")
        worker.wait_for(r"It is \S+, every five minutes")


# --- Django -----------------------------------------------------------------------------------


@dataclass
class Site:
    """A Django service with a worker and a web server."""

    service: Service
    worker: Process
    url: str

    def shell(self, code: str) -> str:
        """Run Python in Django's shell and return what it printed."""
        command = ("python", "manage.py", "shell", "--verbosity", "0", "--command", code)
        return self.service.run("uv", "run", *command).stdout.strip()


@pytest.fixture(scope="module")
def site(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a Django service whose owner added an app with a task, and a setting."""
    baked = bake(project_type="django", result_backend="database")
    project = copy(baked, tmp_path_factory.mktemp("site"))
    app = project.path / "letters"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "tasks.py").write_text(LETTERS, encoding="utf-8")
    settings = f"{project.package}/settings.py"
    edit(project, settings, '    "jobs",\n', '    "jobs",\n    "letters",\n')
    edit(project, settings, "PREFETCH_MULTIPLIER = 1", "PREFETCH_MULTIPLIER = 3")
    project.sync()
    with (
        servers.addresses("redis", "database") as env,
        Service(project, env["CELERY_BROKER_URL"]) as service,
    ):
        service.run("uv", "run", "python", "manage.py", "migrate")
        yield Site(service, service.worker(), service.web())


def test_django_configures_celery_in_the_namespace_celery(site: Site) -> None:
    # Its owner has set CELERY_WORKER_PREFETCH_MULTIPLIER to 3, the worker has two processes.
    assert site.shell(PREFETCH_COUNT.format(f"{site.service.project.package}.celery")) == "6"


def test_autodiscovery_finds_the_tasks_of_an_app_that_was_added(site: Site) -> None:
    # The worker lists the tasks it knows.
    site.worker.wait_for(r"\. letters\.tasks\.stamp\b")
    site.worker.wait_for(r"\. jobs\.tasks\.add\b")


def test_a_shared_task_is_done_by_the_worker(site: Site) -> None:
    code = "from letters.tasks import stamp; print(stamp.delay('Dear Ada').get(timeout=100))"
    assert site.shell(code) == "Dear Ada, stamped"


def test_a_view_enqueues_and_answers_json(site: Site) -> None:
    status, answer = request(f"{site.url}/jobs/add/", {"x": 2, "y": 3})
    assert status == HTTPStatus.ACCEPTED
    assert answer["url"] == f"/jobs/{answer['id']}/"

    site.worker.wait_for(rf"{answer['id']}\] succeeded in .*: 5")
    status, answer = request(f"{site.url}{answer['url']}")
    assert status == HTTPStatus.OK
    assert answer["state"] == "SUCCESS"
    assert answer["result"] == 5


def request(url: str, body: dict[str, int] | None = None) -> tuple[int, dict[str, Any]]:
    """Send ``body`` as JSON, or nothing; return the status and the JSON of the answer."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(asked, timeout=120) as response:  # noqa: S310
        assert response.headers["Content-Type"] == "application/json"
        return response.status, json.load(response)
