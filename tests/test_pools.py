"""Each kind of pool: what a worker promises holds in threads, with gevent and one by one too."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import servers
from tests.projects import Bake, BakedProject
from tests.proxy import Way, broker
from tests.service import Process, Service, wait_until
from tests.test_metrics import scrape

TASKS = """\
import os
import time
from pathlib import Path

from celery_app import app

HERE = Path(os.environ["HEARTBEAT_DIR"])


@app.task
def hold(name):
    with (HERE / f"{name}-starts").open("a") as file:
        file.write("x")
    while not (HERE / name).exists():
        time.sleep(0.02)
"""


def answers(kind: str) -> dict[str, str]:
    """Return the answers of the project."""
    return {"broker": kind, "result_backend": "redis"}


def with_gevent(project: Bake) -> Bake:
    """Return what gives a copy of a project that has gevent."""

    def installed(**answers: str) -> BakedProject:
        made = project(**answers)
        made.sync()
        made.run("uv", "pip", "install", "--quiet", "gevent")
        return made

    return installed


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_worker_keeps_its_promises_with_each_pool(
    synced: Bake, project: Bake, tmp_path: Path, pool: str, kind: str
) -> None:
    made = (with_gevent(project) if pool == "gevent" else synced)(**answers(kind))
    (tmp_path / "held.py").write_text(TASKS)
    port = servers.free_port()
    env = {
        "CELERY_REDELIVERY_LIMIT": "1",
        "CELERY_TASK_TIME_LIMIT": "120",
        "HEARTBEAT_DIR": str(tmp_path),
        "METRICS_PORT": str(port),
        "PYTHONPATH": str(tmp_path),
    }
    limits = {"CELERY_TASK_TIME_LIMIT": "5", "CELERY_VISIBILITY_TIMEOUT": "6"}
    python = made.path / ".venv" / "bin" / "python"
    worker_of = ("-m", "celery", "-A", "celery_app", "worker", "--pool", pool, "--include", "held")
    with servers.valkey() as redis, servers.rabbitmq() as amqp:
        url = f"{redis}/0" if kind == "redis" else amqp
        with Service(made, url, f"{redis}/1", env=env) as service:

            def worker(**environment: str) -> Process:
                options = ("--loglevel", "INFO", "--concurrency", "2")
                return service.start(
                    *(python, *worker_of, *options), ready=r" ready\.", env=environment
                )

            def send(call: str) -> str:
                code = f"import held; print(held.{call}.id)"
                return service.run(python, "-c", code).stdout.strip()

            def started(name: str, times: int) -> Callable[[], bool]:
                file = tmp_path / f"{name}-starts"
                return lambda: file.exists() and len(file.read_text()) == times

            def state(task: str) -> str:
                code = f"from celery_app import app; print(app.AsyncResult({task!r}).state)"
                return service.run(python, "-c", code).stdout.strip()

            # Warm: what runs is done, and counted.
            one = worker()
            task = send("hold.delay('warm')")
            wait_until(started("warm", 1), "the task starts")
            assert scrape(port)["celery_tasks_running"] == 1
            service.run(python, "celery_app/runtime/health.py", "worker")
            one.process.send_signal(signal.SIGTERM)
            one.wait_for("Warm shutdown")
            (tmp_path / "warm").touch()
            assert one.process.wait(servers.DEADLINE) == 0
            assert state(task) == "SUCCESS"

            # Cold, when the grace period is over or asked for: what runs goes back at once.
            task = send("hold.delay('cold')")
            for number, how in enumerate((signal.SIGTERM, signal.SIGQUIT), 1):
                one = worker(CELERY_SHUTDOWN_GRACE_PERIOD="0.5")
                wait_until(started("cold", number), "the task starts")
                one.process.send_signal(how)
                assert one.process.wait(servers.DEADLINE) == 0
                assert "Traceback" not in one.output
            (tmp_path / "cold").touch()
            worker().wait_for(rf"\[{task}\] succeeded")
            service.processes[-1].stop()
            assert started("cold", 3)()

            # A message that kills its worker is put aside.
            send("hold.delay('deadly')")
            for number in (1, 2):
                one = worker(**limits)
                wait_until(started("deadly", number), "the task starts")
                one.kill()
            worker(**limits).wait_for("is a dead letter")


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_with_gevent_a_task_that_a_broken_connection_ended_is_done_again(
    project: Bake, tmp_path: Path, kind: str
) -> None:
    made = with_gevent(project)(**answers(kind))
    (tmp_path / "held.py").write_text(TASKS)
    env = {
        "CELERY_TASK_TIME_LIMIT": "5",
        "CELERY_VISIBILITY_TIMEOUT": "6",
        "HEARTBEAT_DIR": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
    }
    celery = (made.path / ".venv/bin/celery", "-A", "celery_app", "worker", "--pool", "gevent")
    starts = tmp_path / "cut-starts"
    with (
        servers.valkey() as redis,
        broker(kind) as server,
        Service(made, server.url, f"{redis}/1", env=env) as service,
    ):
        options = ("--loglevel", "INFO", "--include", "held")
        worker = service.start(*celery, *options, ready=r" ready\.")
        service.python("import held; held.hold.delay('cut')")
        wait_until(starts.exists, "the task starts")
        server.proxy.set(Way.DOWN)
        worker.wait_for("Terminating cut|[Cc]onnection.*lost")
        server.proxy.set(Way.UP)
        wait_until(lambda: len(starts.read_text()) > 1, "the task starts again")
        (tmp_path / "cut").touch()
        worker.wait_for("succeeded")
