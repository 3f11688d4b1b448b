"""The service at work: real worker processes, on a real broker."""

import pickle
import socket
import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import current_app as app
from celery.beat import Service

#= from {{ cookiecutter.__tasks }} import add, reach, report

from .lab import QUEUE, Lab
from .worker import Process, Worker

#= pytestmark = pytest.mark.usefixtures("broker"{{ ', "transactional_db"' if cookiecutter.project_type == "django" }})


def free_port() -> int:
    """Return a port of this machine on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_task_is_sent_without_waiting_and_done_by_the_worker(worker: Worker) -> None:
    """`delay` returns at once, and the worker logs what the task returned."""
    result = add.delay(2, 3)
    worker.wait_for(f"[{result.id}] succeeded", ": 5")


def test_a_task_that_fails_is_tried_again_later(worker: Worker) -> None:
    """It reaches a server that was down at the first try."""
    port = free_port()
    result = reach.delay("127.0.0.1", port)
    worker.wait_for(f"[{result.id}] retry: Retry in ")
    with socket.create_server(("127.0.0.1", port)):
        worker.wait_for(f"[{result.id}] succeeded")


def test_a_task_sent_while_no_worker_runs_is_done_when_one_starts(tmp_path: Path) -> None:
    """The broker keeps it until then."""
    result = add.apply_async((20, 22), queue=QUEUE)
    with Worker(tmp_path / "late.log", "--queues", QUEUE) as worker:
        worker.wait_for(f"[{result.id}] succeeded")


def test_a_killed_worker_loses_no_task(lab: Lab) -> None:
    """The next worker does what the killed one was working on."""
    result = report.apply_async((4,), queue=QUEUE)
    killed = lab.worker()
    killed.wait_for(f"[{result.id}] received")
    killed.kill()
    assert f"[{result.id}] succeeded" not in killed.output()
    lab.worker().wait_for(f"[{result.id}] succeeded")


def test_beat_sends_what_is_due(worker: Worker, tmp_path: Path) -> None:
    """An entry that was last sent longer ago than its interval is sent at once."""
    scheduler: Any = Service(app, scheduler_cls=app.conf.beat_scheduler).scheduler
    assert scheduler.lead()
    scheduler.runs["every-five-minutes"] -= 360
    scheduler.close()
    #= beat = ("-m", "celery", "-A", "{{ cookiecutter.__package }}", "beat", "--loglevel", "INFO")
    with Process(tmp_path / "beat.log", *beat) as process:
        process.wait_for("Sending due task every-five-minutes")
        worker.wait_for("every five minutes")


def test_a_pickled_message_is_refused_and_the_worker_lives(worker: Worker, lab: Lab) -> None:
    """A message that could run code is never loaded; it becomes a dead letter."""
    refused = str(uuid.uuid4())
    body = pickle.dumps(([2, 3], {}, None))
    with app.producer_or_acquire() as producer:
        producer.publish(
            body,
            routing_key=app.conf.task_default_routing_key,
            exchange=app.conf.task_default_exchange,
            content_type="application/x-python-serialize",
            content_encoding="binary",
            headers={"task": add.name, "id": refused, "lang": "py", "argsrepr": "(2, 3)"},
        )
    worker.wait_for(f"[{refused}] is a dead letter: ContentDisallowed: ", "untrusted")
    assert f"{refused} is deleted" in lab.dead_letters("delete", refused)
    result = add.delay(2, 3)
    worker.wait_for(f"[{result.id}] succeeded")
