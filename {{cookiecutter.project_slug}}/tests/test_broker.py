"""The service at work: real worker processes, on a real broker."""

import pickle
import socket
#% if cookiecutter.broker == "rabbitmq"
import uuid
#% endif
from datetime import timedelta
from pathlib import Path

import pytest
#% if cookiecutter.project_type == "django"
from celery import current_app as app
#% endif
from celery.beat import PersistentScheduler

#% if cookiecutter.project_type == "django"
from jobs import tasks
#% else
from celery_app import app, tasks
#% endif

from .worker import Process, Worker

pytestmark = [pytest.mark.usefixtures("broker")]
#% if cookiecutter.project_type == "django" and cookiecutter.result_backend == "database"
pytestmark += [pytest.mark.django_db(transaction=True)]
#% endif


def free_port() -> int:
    """Return a port of this machine at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_task_is_sent_without_waiting_and_done_by_the_worker(worker: Worker) -> None:
    """`delay` returns at once, and the worker logs what the task returned."""
    result = tasks.add.delay(2, 3)
    worker.wait_for(f"[{result.id}] succeeded", ": 5")
#% if cookiecutter.result_backend != "none"


def test_a_result_comes_back_to_the_sender(worker: Worker) -> None:  # noqa: ARG001
    """The result backend keeps what the task returned."""
    assert tasks.add.delay(2, 3).get(timeout=60) == 5
    assert tasks.report.delay(2).get(timeout=60) == {"pages": 2}
#% endif


def test_a_task_that_fails_is_tried_again_later(worker: Worker) -> None:
    """A server is reached although it was down at the first try."""
    port = free_port()
    result = tasks.reach.delay("127.0.0.1", port)
    worker.wait_for(f"[{result.id}] retry: Retry in ")
    with socket.create_server(("127.0.0.1", port)):
        worker.wait_for(f"[{result.id}] succeeded")


def test_a_task_sent_while_no_worker_runs_is_done_when_one_starts(
    worker_environment: dict[str, str], tmp_path: Path
) -> None:
    """The broker keeps it until then."""
    result = tasks.add.apply_async((20, 22), queue="tests")
    with Worker(tmp_path / "late.log", "--queues", "tests", **worker_environment) as worker:
        worker.wait_for(f"[{result.id}] succeeded")
#% if cookiecutter.broker == "rabbitmq"


def test_a_delayed_task_that_no_worker_expects_is_done_when_one_starts(
    worker_environment: dict[str, str], tmp_path: Path
) -> None:
    """The sender has told the broker where it belongs, although the queue is new."""
    name = f"tests-{uuid.uuid4()}"
    result = tasks.add.apply_async((20, 22), queue=name, countdown=0.5)
    with Worker(tmp_path / "delayed.log", "--queues", name, **worker_environment) as worker:
        worker.wait_for(f"[{result.id}] succeeded")
    with app.connection_for_write() as connection:
        app.amqp.queues[name].bind(connection.default_channel).delete()
#% endif


def test_a_killed_worker_loses_no_task(worker_environment: dict[str, str], tmp_path: Path) -> None:
    """What it was working on is done by the next one."""
    #% if cookiecutter.broker == "redis"
    # The broker gives it to another worker after these seconds, in which it must be done.
    limits = {"CELERY_TASK_TIME_LIMIT": "4", "CELERY_VISIBILITY_TIMEOUT": "5"}
    worker_environment = worker_environment | limits
    #% endif
    options = ("--queues", "tests")
    with Worker(tmp_path / "killed.log", *options, **worker_environment) as killed:
        result = tasks.report.apply_async((4,), queue="tests")
        killed.wait_for(f"[{result.id}] received")
        killed.kill()
    assert f"[{result.id}] succeeded" not in killed.output()
    with Worker(tmp_path / "next.log", *options, **worker_environment) as worker:
        worker.wait_for(f"[{result.id}] succeeded")


def test_beat_sends_what_is_due(worker: Worker, tmp_path: Path) -> None:
    """An entry that was last sent longer ago than its interval is sent at once."""
    schedule = tmp_path / "schedule"
    scheduler = PersistentScheduler(app, schedule_filename=str(schedule))
    entry = scheduler.schedule["every-five-minutes"]
    entry.last_run_at = app.now() - timedelta(minutes=6)
    scheduler.close()
    #= beat = ("-m", "celery", "-A", "{{ cookiecutter.__package }}", "beat", "--loglevel", "INFO")
    with Process(tmp_path / "beat.log", *beat, "--schedule", str(schedule)) as process:
        process.wait_for("Sending due task every-five-minutes")
        worker.wait_for("every five minutes")


def test_a_pickled_message_is_refused_and_the_worker_lives(worker: Worker) -> None:
    """A message that could run code is never loaded."""
    body = pickle.dumps(([2, 3], {}, None))
    with app.producer_or_acquire() as producer:
        producer.publish(
            body,
            routing_key=app.conf.task_default_routing_key,
            exchange=app.conf.task_default_exchange,
            content_type="application/x-python-serialize",
            content_encoding="binary",
            headers={"task": tasks.add.name, "id": "pickled", "lang": "py", "argsrepr": "(2, 3)"},
        )
    worker.wait_for("Refusing to deserialize untrusted content")
    result = tasks.add.delay(2, 3)
    worker.wait_for(f"[{result.id}] succeeded")
