"""Jobs of a Django project: each that was accepted is done, although its broker or web server goes.

`--capture=no` shows how often jobs have run.
"""

import contextlib
import http.client
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import servers
from tests.projects import Bake, BakedProject
from tests.proxy import Proxy, Way, broker, proxied
from tests.service import Process, Service, answers, wait_until
from tests.test_publishing import post

REQUESTS = 200
OUTAGE = 5.0  # seconds
# Two entries at once: two processes then look for jobs that wait.
IMPATIENT = """\
from datetime import timedelta
from {package}.settings import *

ENTRY = CELERY_BEAT_SCHEDULE["send-waiting-jobs"]
ENTRY |= {{"schedule": timedelta(seconds=2), "args": (2,)}}
CELERY_BEAT_SCHEDULE = {{"one": ENTRY, "other": ENTRY}}
"""
# Ends when every job was sent, and prints the ids of all.
ALL_SENT = """\
import time
from jobs.models import Job

while Job.objects.filter(sent=False).exists():
    time.sleep(0.1)
print(*Job.objects.values_list("pk", flat=True))
"""


def start_web(service: Service, port: int) -> Process:
    """Start the web server of production, and wait until it answers."""
    web = service.start("uv", "run", "gunicorn", env={"PORT": str(port)})
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/health/"), web.output)
    return web


def ask(url: str) -> str:
    """Have a job accepted and return its id; ask again when nothing is answered."""
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, answer = post(url)
            assert status == http.HTTPStatus.ACCEPTED, answer
            return str(answer["id"])
        time.sleep(0.1)


def succeeded(*workers: Process) -> set[str]:
    """Return the ids of the tasks that workers have done."""
    return {
        task
        for worker in workers
        for task in re.findall(r"\[([0-9a-f-]{36})\] succeeded", worker.output)
    }


@contextlib.contextmanager
def database(
    kind: str, project: BakedProject, directory: Path
) -> Iterator[tuple[str, Proxy | None]]:
    """Give the URL of a database, and the way to its server."""
    if kind == "sqlite":
        yield f"sqlite:///{directory / 'db.sqlite3'}", None
        return
    project.run("uv", "sync", "--quiet", "--extra", "postgres")
    with servers.postgresql("app", "secret") as url:
        port = urlsplit(url).port
        with proxied(port) as proxy:
            yield url.replace(f":{port}/", f":{proxy.port}/"), proxy


@pytest.mark.parametrize(("kind", "data"), [("redis", "sqlite"), ("rabbitmq", "postgresql")])
def test_each_job_that_was_accepted_is_done(
    project: Bake, synced: Bake, tmp_path: Path, kind: str, data: str
) -> None:
    chosen = {"project_type": "django", "broker": kind, "result_backend": "none"}
    made = project(**chosen) if data == "postgresql" else synced(**chosen)
    (tmp_path / "impatient.py").write_text(IMPATIENT.format(package=made.package))
    env = {"DJANGO_SETTINGS_MODULE": "impatient", "PYTHONPATH": str(tmp_path), "UV_NO_SYNC": "1"}
    with (
        broker(kind) as server,
        database(data, made, tmp_path) as (url, way),
        Service(made, server.url, env=env | {"DATABASE_URL": url}) as service,
        ThreadPoolExecutor(4) as pool,
    ):
        manage = ("uv", "run", "python", "manage.py")
        service.run(*manage, "migrate")
        port = servers.free_port()
        web = start_web(service, port)
        worker = service.worker("-B")
        jobs = f"http://127.0.0.1:{port}/jobs/add/"
        accepted = [pool.submit(ask, jobs) for _ in range(REQUESTS)]
        wait_until(lambda: sum(job.done() for job in accepted) > REQUESTS / 10, "answers")
        server.stop()
        time.sleep(OUTAGE / 2)
        web.kill()
        start_web(service, port)
        time.sleep(OUTAGE / 2)
        server.start()
        ids = {job.result() for job in accepted}
        assert len(ids) == REQUESTS
        # What the killed server did not answer is done, too.
        ids.update(service.run(*manage, "shell", "-v0", "-c", ALL_SENT).stdout.split())
        wait_until(lambda: ids <= succeeded(worker), "every job")
        runs = Counter(re.findall(r"jobs\.tasks\.add\[([0-9a-f-]{36})\] received", worker.output))
        print(f"measured: {kind}: runs of jobs: {Counter(runs.values())}")  # noqa: T201
        assert max(runs.values()) <= 2

        if way:
            for gone in (Way.DOWN, Way.SILENT):
                way.set(gone)
                status, answer = post(jobs)
                assert status == http.HTTPStatus.SERVICE_UNAVAILABLE
                assert answer == {"message": "The database cannot be reached; try again later."}
            way.set(Way.UP)
            wait_until(lambda: post(jobs)[0] == http.HTTPStatus.ACCEPTED, "the database")


# Calls a task, and prints its id.
CALL = "from jobs.tasks import report; print({call}.id)"
KILLED = "report.apply_async((60,), soft_time_limit=1, time_limit=2)"
# Ends when the tasks with these ids have ended, and prints how.
ENDS = """\
import time
from django_celery_results.models import TaskResult

ended = TaskResult.objects.filter(task_id__in={ids}, status__in=["SUCCESS", "FAILURE"])
while ended.count() < {count}:
    time.sleep(0.1)
print(*[TaskResult.objects.get(task_id=each).status for each in {ids}])
"""


def test_each_result_is_stored_once_the_database_is_back(project: Bake, tmp_path: Path) -> None:
    made = project(project_type="django", broker="redis", result_backend="database")
    with (
        broker("redis") as server,
        database("postgresql", made, tmp_path) as (url, way),
        Service(made, server.url, env={"DATABASE_URL": url, "UV_NO_SYNC": "1"}) as service,
    ):
        assert way
        manage = ("uv", "run", "python", "manage.py")

        def shell(code: str) -> str:
            return service.run(*manage, "shell", "-v0", "-c", code).stdout.strip()

        def ends(*ids: str) -> list[str]:
            return shell(ENDS.format(ids=ids, count=len(ids))).split()

        service.run(*manage, "migrate")
        worker = service.worker()
        # The main process stores this one, on a connection that the outage cuts.
        assert ends(shell(CALL.format(call=KILLED))) == ["FAILURE"]
        task = shell(CALL.format(call="report.delay(4)"))
        worker.wait_for(rf"\[{task}\] received")
        way.set(Way.DOWN)
        worker.wait_for(r"Failed operation _store_result")
        way.set(Way.UP)
        assert ends(task, shell(CALL.format(call=KILLED))) == ["SUCCESS", "FAILURE"]
