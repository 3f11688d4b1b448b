"""What the worker's main process does with a task, and how it ends."""

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import signals, states
from celery.concurrency.base import BasePool
from celery.exceptions import Retry

from runtime.worker import ReliableRequest, current_request, requests, run_ended, run_started
from tests.projects import RUNTIME, BakedProject
from tests.runtime.conftest import MakeApp, StartWorker, Take, length
from tests.service import DEADLINE, Service, wait_until

FRONT = """\
import json
import os
import time
from pathlib import Path

from .runtime.redis import ReliableCelery

app = ReliableCelery("service")
app.config_from_object(json.loads(os.environ["SETTINGS"]))


@app.task(name="wait")
def wait():
    Path("started").touch()
    while True:
        time.sleep(0.05)
"""


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
    app: Any,
    small_project: BakedProject,
) -> None:
    settings = app.conf.table(with_defaults=False, censored=False)
    del settings["beat_scheduler"], settings["worker_consumer"]  # named as `runtime`'s
    settings |= {"shutdown_grace_period": 0.5, "worker_concurrency": 1}
    (small_project.path / "service" / "__init__.py").write_text(FRONT)
    # Nothing may be written beside the runtime.
    env = {"SETTINGS": json.dumps(settings), "PYTHONDONTWRITEBYTECODE": "1"}
    with Service(small_project, app.conf.broker_url, env=env) as service:
        celery = (sys.executable, "-m", "celery", "-A", "service", "worker")
        options = ("--loglevel", "INFO")
        worker = service.start(*celery, *options, ready=r" ready\.")
        task = app.send_task("wait")
        wait_until((small_project.path / "started").exists, "the task did not start")
        assert length(app) == 0
        begin = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        worker.process.wait(DEADLINE)
        assert 0.5 <= time.monotonic() - begin < 25
        assert length(app) == 1
        assert task.state == states.PENDING


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
