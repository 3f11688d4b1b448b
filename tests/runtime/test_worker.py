"""What the worker's main process does with a task, and how it ends."""

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import signals, states
from celery.concurrency.base import BasePool
from celery.exceptions import Retry

from runtime.worker import ReliableRequest, current_request, requests, run_ended, run_started
from tests.projects import RUNTIME, BakedProject
from tests.proxy import Proxy, Way, proxied
from tests.runtime.conftest import MakeApp, StartWorker, Take, length
from tests.service import DEADLINE, Process, Service, wait_until

FRONT = """\
import json
import os
import signal
import time
from pathlib import Path

from celery.signals import worker_shutdown

from .runtime.redis import ReliableCelery
from .runtime.worker import run_ended

app = ReliableCelery("service")
app.config_from_object(json.loads(os.environ["SETTINGS"]))


@app.task(name="wait")
def wait():
    Path("started").touch()
    while True:
        time.sleep(0.05)


@app.task(name="die", reject_on_worker_lost=False)
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@run_ended.connect
def ended(**_):
    Path("ended").touch()


@worker_shutdown.connect
def leaving(**_):
    Path("leaving").touch()
"""
StartService = Callable[..., Process]


class Pool(BasePool):
    """A pool that can only be told to end a task."""

    def __init__(self) -> None:
        """Know of nothing that was ended."""
        self.ended: list[int] = []

    def terminate_job(self, pid: int, signal: object = None) -> None:
        """Note what is ended."""
        del signal
        self.ended.append(pid)


@pytest.fixture
def request_for(take: Take) -> Callable[[Any], Any]:
    """Give a function that sends a task, and returns what a worker makes of its message."""

    def request_for(task: Any) -> ReliableRequest:
        task.delay()
        return ReliableRequest(take(task.app), app=task.app, task=task)

    return request_for


@pytest.fixture
def app(make_app: MakeApp) -> Any:
    """Return an app on Redis: what the worker does is the same on each broker."""
    return make_app("redis")


@pytest.fixture
def start(app: Any, small_project: BakedProject) -> Iterator[StartService]:
    """Give a function that starts a worker of `FRONT`; its options are settings."""
    (small_project.path / "service" / "__init__.py").write_text(FRONT)
    settings = app.conf.table(with_defaults=False, censored=False)
    del settings["beat_scheduler"], settings["worker_consumer"]  # named as `runtime`'s
    # Nothing may be written beside the runtime.
    with Service(
        small_project, app.conf.broker_url, env={"PYTHONDONTWRITEBYTECODE": "1"}
    ) as service:

        def start(pool: str = "prefork", **options: Any) -> Process:
            celery = (sys.executable, "-m", "celery", "-A", "service", "worker", "--pool", pool)
            env = {"SETTINGS": json.dumps(settings | options)}
            return service.start(*celery, "--loglevel", "INFO", ready=r" ready\.", env=env)

        yield start


@pytest.fixture
def away(app: Any, start: StartService, small_project: BakedProject) -> Iterator[Any]:
    """Give a worker whose result backend is silent while a process of its pool is lost.

    With it come the proxy before the result backend, and the result of the task that ran there.
    """
    with proxied(urlsplit(app.conf.result_backend).port) as proxy:
        backend = f"redis://localhost:{proxy.port}/1"
        worker = start(result_backend=backend, worker_concurrency=2, worker_lost_wait=0.1)
        proxy.set(Way.SILENT)
        lost = app.send_task("die")
        wait_until((small_project.path / "ended").exists, "the process was not lost")
        yield worker, proxy, lost


def test_a_silent_result_backend_stops_no_worker_that_loses_a_process(
    app: Any, away: tuple[Process, Proxy, Any]
) -> None:
    worker, _, _ = away
    app.send_task("unknown")
    # Celery would ask the result backend until its connections time out, after two minutes each.
    worker.wait_for("unregistered task of type 'unknown'", deadline=20)
    # It cannot store that the task has failed, and does not wait for that without end.
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(DEADLINE) == 0
    assert "The worker leaves before it has stored how all tasks ended" in worker.output


def test_a_worker_that_leaves_stores_how_its_tasks_ended(
    app: Any, away: tuple[Process, Proxy, Any], small_project: BakedProject
) -> None:
    worker, proxy, lost = away
    worker.wait_for("Task handler raised error")
    worker.process.send_signal(signal.SIGTERM)
    wait_until((small_project.path / "leaving").exists, "the worker does not leave")
    assert lost.state == states.PENDING
    proxy.set(Way.UP)
    assert worker.process.wait(DEADLINE) == 0
    assert lost.state == states.FAILURE
    assert length(app) == 0


def test_a_task_that_runs_out_of_memory_fails_alone(app: Any, run_worker: StartWorker) -> None:
    @app.task
    def devour() -> None:
        raise MemoryError("too much")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with run_worker(app):
        failed = devour.delay()
        with pytest.raises(MemoryError, match="too much"):
            failed.get(timeout=DEADLINE)
        assert add.delay(2, 3).get(timeout=DEADLINE) == 5
    assert length(app) == 0


@pytest.mark.parametrize("mistake", [{"x": {1}}, {"no_such_argument": 1}])
def test_a_retry_that_can_never_be_sent_fails(
    app: Any, run_worker: StartWorker, mistake: dict[str, Any]
) -> None:
    starts: list[str] = []

    @app.task(bind=True)
    def again(self: Any, x: Any = None) -> None:
        starts.append(x)
        raise self.retry(kwargs=mistake, countdown=0)

    with run_worker(app):
        lost = again.delay()
        with pytest.raises(Exception, match=r"JSON serializable|no_such_argument"):
            lost.get(timeout=DEADLINE)
    assert lost.state == states.FAILURE
    assert len(starts) == 1
    assert length(app) == 0


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_task_that_ends_its_process_fails_alone(
    make_app: MakeApp, kind: str, run_worker: StartWorker, pool: str
) -> None:
    """As in a process of the pool: it is tried again, and then it has failed."""
    app = make_app(kind, task_retry_on_worker_lost=True)
    starts: list[str] = []

    @app.task(max_retries=1, default_retry_delay=0.1)
    def leave() -> None:
        starts.append("leave")
        sys.exit(3)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with run_worker(app, pool=pool, concurrency=1):
        lost = leave.delay()
        assert add.delay(2, 3).get(timeout=DEADLINE) == 5
        wait_until(lambda: lost.state == states.FAILURE, "it has not failed")
    assert len(starts) == 2
    assert length(app) == 0


def test_each_run_is_announced_once_when_it_starts_and_when_it_has_ended(
    app: Any, run_worker: StartWorker
) -> None:
    @app.task
    def succeed() -> None:
        time.sleep(0.01)

    @app.task
    def fail() -> None:
        raise ValueError

    @app.task(bind=True, max_retries=1)
    def again(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0)

    ended: list[tuple[str, type, bool]] = []
    seconds: list[float] = []
    started: list[str] = []

    def note_start(sender: Any, **_: Any) -> None:
        started.append(sender.name.rpartition(".")[2])

    def note(sender: Any, **values: Any) -> None:
        known = requests.get(sender.id) is sender
        ended.append((sender.name.rpartition(".")[2], type(values["error"]), known))
        seconds.append(values["seconds"])

    run_started.connect(note_start)
    run_ended.connect(note)
    with run_worker(app):
        for task in (succeed, fail, again):
            task.delay()
        wait_until(lambda: len(ended) >= 4, "four runs")
    assert sorted(ended, key=str) == [
        ("again", type(None), True),
        ("again", Retry, True),
        ("fail", ValueError, True),
        ("succeed", type(None), True),
    ]
    assert sorted(started) == ["again", "again", "fail", "succeed"]
    assert seconds[0] >= 0.01
    assert all(0 <= each < DEADLINE for each in seconds)


def test_a_request_is_known_only_while_it_is_there(
    app: Any,
    request_for: Callable[[Any], Any],
) -> None:
    @app.task
    def noop() -> None:
        pass

    request = request_for(noop)
    task_id = request.id
    assert requests[task_id] is request
    del request
    assert task_id not in requests


@pytest.mark.parametrize("soft", [True, False])
def test_lines_about_a_time_limit_are_written_while_its_request_is_known(
    app: Any,
    request_for: Callable[[Any], Any],
    caplog: pytest.LogCaptureFixture,
    *,
    soft: bool,
) -> None:
    @app.task
    def noop() -> None:
        pass

    class Note(logging.Handler):
        """Notes the request that is known while a line is written."""

        def emit(self, record: logging.LogRecord) -> None:
            record.request = current_request.get()

    caplog.set_level("INFO")
    request = request_for(noop)
    log, note = logging.getLogger("celery.worker.request"), Note()
    log.addHandler(note)
    request.on_timeout(soft, 5)
    log.removeHandler(note)
    (record,) = (each for each in caplog.records if "time limit (5s)" in each.getMessage())
    assert vars(record)["request"] is request
    assert current_request.get() is None
    state = app.AsyncResult(request.id).state
    assert state == (states.PENDING if soft else states.FAILURE)


def test_a_worker_stores_results_however_long_that_takes(app: Any) -> None:
    app.conf.result_backend_max_retries = 8
    signals.celeryd_init.send(sender="worker", instance=None, conf=app.conf, options={})
    assert app.conf.result_backend_max_retries == float("inf")


def test_a_success_that_is_not_a_run_s_end_is_not_announced(
    app: Any,
    run_worker: StartWorker,
) -> None:
    """A task that is revoked never ran."""
    ended: list[Any] = []

    @app.task
    def noop() -> None:
        pass

    def note(sender: Any, **_: Any) -> None:
        ended.append(sender.id)

    run_ended.connect(note)
    revoked = noop.apply_async(expires=-1)
    ran = noop.delay()
    with run_worker(app):
        wait_until(lambda: ended, "a run")
    assert ended == [ran.id]
    assert revoked.state == states.REVOKED


@pytest.mark.parametrize("acks_late", [True, False])
def test_a_task_whose_connection_is_lost_is_ended_and_needs_no_result_backend(
    app: Any,
    request_for: Callable[[Any], Any],
    *,
    acks_late: bool,
) -> None:
    @app.task(acks_late=acks_late)
    def noop() -> None:
        pass

    pool, request = Pool(), request_for(noop)
    request.on_accepted(42, time.monotonic())
    request.cancel(pool)
    assert pool.ended == [42]
    # The broker gives a late acknowledged task to a worker again: nothing is to be told.
    state = app.AsyncResult(request.id).state
    assert state == (states.PENDING if acks_late else states.RETRY)


def test_a_warm_shutdown_ends_after_the_grace_period_and_puts_back_what_runs(
    app: Any, start: StartService, small_project: BakedProject
) -> None:
    worker = start(shutdown_grace_period=0.5, worker_concurrency=1)
    task = app.send_task("wait")
    wait_until((small_project.path / "started").exists, "the task did not start")
    assert length(app) == 0
    begin = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(DEADLINE)
    assert 0.5 <= time.monotonic() - begin < 25
    assert length(app) == 1
    assert task.state == states.PENDING


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_shutdown_from_afar_ends_after_the_grace_period_too(
    app: Any, start: StartService, small_project: BakedProject, pool: str
) -> None:
    worker = start(pool, shutdown_grace_period=1, worker_enable_remote_control=True)
    app.send_task("wait")
    wait_until((small_project.path / "started").exists, "the task did not start")
    assert length(app) == 0
    begin = time.monotonic()
    app.control.shutdown()
    worker.process.wait(DEADLINE)
    assert time.monotonic() - begin >= 1
    assert length(app) == 1


# Its last object takes longer to go than the grace period, when signals have no handlers any more.
ENDING = f"""
import sys, time
sys.path.append({str(RUNTIME.parent)!r})
from celery import current_app
from runtime.worker import limit_shutdown


class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(1)


slow = Slow()
current_app.conf["shutdown_grace_period"] = 0.5
limit_shutdown("Warm")
"""


def test_the_end_of_the_grace_period_does_not_kill_a_worker_that_is_ending() -> None:
    assert subprocess.run([sys.executable, "-Bc", ENDING], check=False).returncode == 0


AGAIN = f"""
import signal, sys
sys.path.append({str(RUNTIME.parent)!r})
from celery import current_app
from runtime.worker import limit_shutdown

for period in (60, 600):
    current_app.conf["shutdown_grace_period"] = period
    limit_shutdown("Warm")
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
"""


def test_another_signal_does_not_extend_the_grace_period() -> None:
    assert subprocess.run([sys.executable, "-Bc", AGAIN], check=False).returncode == 0
