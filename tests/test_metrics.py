"""The metrics of a worker, as Prometheus reads them."""

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests import servers
from tests.projects import Bake
from tests.proxy import Way, broker
from tests.service import DEADLINE, Process, Service

TASKS = """\
import os
import signal
import time
from pathlib import Path

from celery import signals

from {package} import {app}

HERE = Path(os.environ["HEARTBEAT_DIR"])


@signals.worker_process_init.connect
def start_tracker(**_):
    (HERE / f"tracker-{{os.getpid()}}").touch()


@app.task
def succeed():
    assert (HERE / f"tracker-{{os.getpid()}}").exists()
    return os.getpid()


@app.task
def fail():
    raise ValueError


@app.task(bind=True, max_retries=1)
def again(self):
    time.sleep(0.2)
    if not self.request.retries:
        raise self.retry(countdown=0.3)


@app.task(soft_time_limit=1, time_limit=2)
def hang():
    while True:
        try:
            time.sleep(600)
        except Exception:
            pass


@app.task(max_retries=0)
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def hold():
    (HERE / "held").touch()
    while not (HERE / "release").exists():
        time.sleep(0.02)
"""
SEND = """

from measured import *
for task in (succeed, fail, again, hang, die):
    task.delay()
"""
# Sent long ago, and due since.
SEND_LATE = """
import time
from datetime import UTC, datetime

from celery import signals

@signals.before_task_publish.connect
def send_late(headers, **_):
    assert time.time() - headers["sent_at"] < 60
    due = datetime.fromtimestamp(time.time() - 500, UTC)
    headers |= {"sent_at": time.time() - 1000.0, "eta": due.isoformat()}

from measured import succeed
succeed.delay()
"""
# Two that run, three that wait, and a dead letter.
FILL = """
from measured import *
for task in (hold, hold, succeed, succeed, succeed):
    task.delay()
with app.connection_for_write() as connection:
    dead = app.dead_letter_queue
    app.amqp.Producer(connection).publish("", exchange="", routing_key=dead.name, declare=[dead])
"""
UP = 'celery_broker_up{celery_app="my_service"}'


def scrape(port: int) -> dict[str, float]:
    """Return each sample, by its name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def wait_for(port: int, condition: Callable[[dict[str, float]], object]) -> dict[str, float]:
    """Wait until a scrape is as it should be, and return it."""
    end = time.monotonic() + DEADLINE
    while not condition(samples := scrape(port)):
        ours = {name: value for name, value in samples.items() if name.startswith("celery")}
        assert time.monotonic() < end, ours
        time.sleep(0.1)
    return samples


def share_of(worker: Process) -> int:
    """Return the bytes of a worker's main process; what others have too counts in part."""
    memory = psutil.Process(worker.process.pid).memory_full_info()
    return int(memory.pss)


@pytest.mark.parametrize(("project_type", "kind"), [("celery", "rabbitmq"), ("django", "redis")])
def test_a_worker_tells_what_became_of_its_tasks_and_what_waits(
    synced: Bake, tmp_path: Path, project_type: str, kind: str
) -> None:
    project = synced(project_type=project_type, broker=kind, result_backend="none")
    app = "app" if project_type == "celery" else "celery_app as app"
    (tmp_path / "measured.py").write_text(TASKS.format(package=project.package, app=app))
    port = servers.free_port()
    env = {
        "HEARTBEAT_DIR": str(tmp_path),
        "METRICS_PORT": str(port),
        "PYTHONPATH": str(tmp_path),
    }
    binaries = project.path / ".venv" / "bin"
    with broker(kind) as server, Service(project, server.url, env=env) as service:
        celery = (binaries / "celery", "-A", project.package, "worker", "--include", "measured")
        options = ("--loglevel", "INFO", "--concurrency", "2")
        worker = service.start(*celery, *options, ready=r" ready\.")
        service.run(binaries / "python", "-c", SEND)

        def total(task: str, state: str) -> str:
            return f'celery_tasks_total{{state="{state}",task="measured.{task}"}}'

        ended = {
            total("succeed", "SUCCESS"): 1,
            total("fail", "FAILURE"): 1,
            total("again", "RETRY"): 1,
            total("again", "SUCCESS"): 1,
            total("hang", "FAILURE"): 1,
            total("die", "LOST"): 1,
        }
        samples = wait_for(port, lambda samples: ended.items() <= samples.items())
        totals = {
            each for each in samples if each.startswith("celery_tasks_total") and samples[each]
        }
        assert totals == set(ended)
        for task, runs, least in [("again", 2, 0.4), ("hang", 1, 2), ("fail", 1, 0)]:
            labels = f'{{task="measured.{task}"}}'
            assert samples[f"celery_task_seconds_count{labels}"] == runs
            assert least <= samples[f"celery_task_seconds_sum{labels}"] < least + 60
        # The retry is a task of its own, and waits from when it is due.
        waited = 'celery_queue_seconds_{}{{queue="my_service"}}'.format
        assert samples[waited("count")] == 6
        assert 0 < samples[waited("sum")] < 60
        service.run(binaries / "python", "-c", SEND_LATE)
        more = wait_for(port, lambda samples: samples[waited("count")] == 7)
        assert 500 <= more[waited("sum")] - samples[waited("sum")] < 560
        assert samples["celery_tasks_running"] == 0
        assert samples[UP] == 1
        # Its own, and that of two processes; what is shared with other programs counts in part.
        assert (
            min(samples[f"{name}_memory_bytes"] for name in ("celery", "process_resident"))
            > share_of(worker)
            > 1e6
        )

        # Code that starts with each process has run in those that came later too.
        end = time.monotonic() + DEADLINE
        trackers, children = set[int](), set[int]()
        while len(trackers) < 4 or not children <= trackers:
            assert time.monotonic() < end, worker.output
            trackers = {int(path.name[8:]) for path in tmp_path.glob("tracker-*")}
            children = {child.pid for child in psutil.Process(worker.process.pid).children()}

        # What waits, while the second worker of this machine goes without a port.
        second = service.start(
            *(*celery, *options, "--hostname", "second@%h", "--queues", "unused"), ready=r" ready\."
        )
        assert second.output.count(f"port {port} cannot be used") == 1
        service.run(binaries / "python", "-c", FILL.format(package=project.package))
        wanted = {
            'celery_queue_messages{queue="my_service.dead"}': 1,
            'celery_queue_messages{queue="my_service"}': 3,
            "celery_tasks_running": 2,
        }
        samples = wait_for(port, lambda samples: wanted.items() <= samples.items())

        # A broker that is away, or does not answer, keeps nobody waiting.
        (tmp_path / "release").touch()
        for way in (Way.SILENT, Way.DOWN):
            server.proxy.set(way)
            start = time.monotonic()
            samples = scrape(port)
            assert time.monotonic() - start < 9
            assert samples[UP] == 0
            assert samples[total("succeed", "SUCCESS")] >= 1
            assert not any(name.startswith("celery_queue_messages") for name in samples)
        server.proxy.set(Way.UP)
        wait_for(port, lambda samples: samples[UP] == 1)
        assert worker.process.poll() is None
