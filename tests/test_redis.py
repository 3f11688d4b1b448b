"""Redis: no message is lost on its way to a worker, and delays wait in the server."""

import contextlib
import os
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from tests import servers
from tests.projects import Bake
from tests.proxy import Way, broker, proxied
from tests.service import DEADLINE, Process, Service, wait_until
from tests.test_recipes import open_shell, tell

ROUNDS = 4
SEND = "from celery_app.tasks import add\nprint(add.delay(2, 3).id)"
# Each for longer than the visibility timeout, or it proves nothing.
DELAYS = """
from datetime import datetime, timedelta, timezone
from celery import group
from celery_app import app
from celery_app.tasks import add

later = datetime.now(timezone.utc) + timedelta(seconds=12)
print(add.apply_async((2, 3), countdown=12).id)
print(add.apply_async((2, 3), eta=later).id)
print(app.send_task("celery_app.tasks.add", (2, 3), countdown=12).id)
for result in group(add.s(2, 3), add.s(4, 5)).apply_async(countdown=12).results:
    print(result.id)
"""
REVOKED = """
from celery_app.tasks import add

result = add.apply_async((2, 3), countdown=3)
result.revoke()
print(result.id)
"""
# At the soft limit, its process waits to store that it has failed.
KILLED = """
from celery_app.tasks import report
print(report.apply_async((60,), soft_time_limit=1, time_limit=2).id)
"""
RETRY = """
from celery_app import app


@app.task(bind=True)
def wait(self):
    if not self.request.retries:
        raise self.retry(countdown=12)
"""


def hold(worker: Process, server: redis.Redis) -> None:
    """Stop a worker just while it waits for the server to give it a message."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        os.killpg(worker.process.pid, signal.SIGSTOP)
        commands = {client["cmd"] for client in server.client_list() if "b" in client["flags"]}
        if commands & {"brpop", "bzmpop"}:
            return
        os.killpg(worker.process.pid, signal.SIGCONT)
        time.sleep(0.05)
    pytest.fail("the worker does not wait for messages")


def test_a_result_backend_that_is_away_stops_no_worker_whose_task_is_killed(synced: Bake) -> None:
    project = synced(project_type="celery", broker="redis", result_backend="redis")
    with servers.valkey() as url, servers.valkey() as results, contextlib.ExitStack() as stack:
        proxy = stack.enter_context(proxied(urlsplit(results).port))
        service = stack.enter_context(Service(project, f"{url}/0", f"{results}/1"))
        through = {"CELERY_RESULT_BACKEND": f"redis://localhost:{proxy.port}/1"}
        worker = service.worker(env=through)
        proxy.set(Way.DOWN)
        shell = stack.enter_context(open_shell(service))
        (killed,) = tell(shell, KILLED)
        worker.wait_for("Hard time limit")
        tell(shell, SEND)
        worker.wait_for(r"add\[\S+\] received")
        proxy.set(Way.UP)
        state = f"from celery_app import app; print(app.AsyncResult({killed!r}).state)"
        wait_until(lambda: tell(shell, state) == ["FAILURE"], "the failure is not stored")


def test_a_worker_that_is_killed_while_it_waits_loses_nothing(synced: Bake) -> None:
    project = synced(result_backend="none")
    env = {"CELERY_TASK_TIME_LIMIT": "3", "CELERY_VISIBILITY_TIMEOUT": "5"}
    with servers.valkey() as url, Service(project, f"{url}/0", env=env) as service:
        tasks = []
        with redis.Redis.from_url(url) as server, open_shell(service) as shell:
            for _ in range(ROUNDS):
                worker = service.worker()
                hold(worker, server)
                tasks += [line for _ in range(3) for line in tell(shell, SEND)]
                worker.kill()
        service.worker()
        assert len(tasks) == 3 * ROUNDS

        def done(task: str) -> bool:
            return any(f"{task}] succeeded" in each.output for each in service.processes)

        wait_until(lambda: all(map(done, tasks)), "the end of each task")


def test_a_delay_longer_than_the_visibility_timeout_runs_once(synced: Bake) -> None:
    project = synced(result_backend="none")
    env = {"CELERY_TASK_TIME_LIMIT": "3", "CELERY_VISIBILITY_TIMEOUT": "4"}
    with servers.valkey() as url, Service(project, f"{url}/0", env=env) as service:
        service.env["PYTHONPATH"] = str(service.directory)
        (service.directory / "patient.py").write_text(RETRY)
        workers = [service.worker("--include", "patient", name=name) for name in ("one", "two")]
        tasks = service.python(DELAYS).split()
        tasks.append(service.python("from patient import wait\nprint(wait.delay().id)"))
        delayed = ("uv", "run", "python", "-m", "celery_app.runtime.delayed")
        wait_until(
            lambda: service.run(*delayed).stdout.endswith(f"{len(tasks)} delayed in my_service\n"),
            "the delayed tasks in the list",
        )

        def ends(task: str) -> int:
            return sum(each.output.count(f"{task}] succeeded") for each in workers)

        wait_until(lambda: all(ends(task) for task in tasks), "the end of each task")
        assert [ends(task) for task in tasks] == [1] * len(tasks)
        received = "".join(each.output for each in workers)
        # The retry comes twice, each of the others once: none was taken before its time.
        assert [received.count(f"{task}] received") for task in tasks] == [*[1] * 5, 2]


def test_purge_and_revoke_reach_delayed_tasks(synced: Bake) -> None:
    project = synced(result_backend="none")
    with servers.valkey() as url, Service(project, f"{url}/0") as service:
        service.python(DELAYS)
        said = service.run("uv", "run", "celery", "-A", "celery_app", "purge", "--force").stdout
        assert "Purged 5 messages" in said
        worker = service.worker()
        code = (
            "from celery_app.tasks import add; r = add.apply_async((2, 3), countdown=3); r.revoke()"
        )
        task = service.python(f"{code}; print(r.id)")
        worker.wait_for(rf"Discarding revoked task: celery_app.tasks.add\[{task}\]")


def test_a_worker_says_that_redis_is_silent_and_ends_when_it_is_told(
    synced: Bake, tmp_path: Path
) -> None:
    made = synced(broker="redis", result_backend="none")
    env = {"HEARTBEAT_DIR": str(tmp_path), "CELERY_SHUTDOWN_GRACE_PERIOD": "1"}
    heartbeat = tmp_path / "worker.heartbeat"
    with broker("redis") as server, Service(made, server.url, env=env) as service:
        worker = service.worker()
        wait_until(heartbeat.exists, "the worker is not ready")
        server.proxy.set(Way.SILENT)
        wait_until(lambda: not heartbeat.exists(), "the worker says that it can work")
        assert worker.stop() == 0
