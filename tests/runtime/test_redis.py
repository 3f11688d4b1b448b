"""Redis as the broker: what its app and its consumer promise."""

import threading
import time
from typing import Any

import pytest
from kombu import Queue

from tests.proxy import Way, broker
from tests.runtime.conftest import MakeApp, StartWorker, Take, length
from tests.service import DEADLINE, wait_until


def noop() -> None:
    """Do nothing, as a task."""


@pytest.fixture
def app(make_app: MakeApp) -> Any:
    """Return an app on Redis."""
    return make_app("redis")


def test_a_message_s_origin_leads_back_to_its_queue(app: Any, take: Take) -> None:
    app.task(noop).apply_async(queue="urgent")
    origin = app.origin(take(app, app.amqp.queues["urgent"]), None)
    with app.connection_for_write() as connection:
        app.amqp.Producer(connection).publish({}, **origin)
    assert length(app, "urgent") == 1


def test_a_queue_s_length_is_known_and_nothing_is_created(app: Any) -> None:
    task = app.task(noop)
    assert length(app) == 0
    assert length(app, "absent") == 0
    for _ in range(3):
        task.delay()
    assert length(app) == 3
    with app.connection_for_read() as connection:
        keys = {key.decode() for key in connection.default_channel.client.keys(f"{app.main}*")}
    assert not any("absent" in key for key in keys)


def test_a_delayed_task_is_done_once_and_not_before_its_time(
    app: Any,
    run_worker: StartWorker,
) -> None:
    starts: list[float] = []

    @app.task
    def note() -> None:
        starts.append(time.time())

    due = time.time() + 1
    with run_worker(app):
        first, second = note.apply_async(countdown=1), note.apply_async(countdown=1)
        for result in (first, second):
            result.get(timeout=DEADLINE)
    assert len(starts) == 2
    assert min(starts) >= due


def test_a_task_is_tried_again_in_the_queue_that_it_came_from(
    app: Any,
    run_worker: StartWorker,
) -> None:
    places: list[str] = []

    @app.task(bind=True, max_retries=1)
    def again(self: Any) -> None:
        places.append(self.request.delivery_info["routing_key"])
        if not self.request.retries:
            raise self.retry(countdown=0.1)

    app.amqp.queues.select_add(Queue("urgent"))
    with run_worker(app):
        again.apply_async(queue="urgent").get(timeout=DEADLINE)
    assert places == ["urgent", "urgent"]


def test_a_worker_that_is_neither_idle_nor_full_outlives_a_lost_connection(
    make_app: MakeApp, run_worker: StartWorker
) -> None:
    with broker("redis") as server:
        app = make_app("redis", broker_url=server.url)
        started, release = threading.Event(), threading.Event()

        @app.task
        def hold() -> None:
            started.set()
            release.wait(DEADLINE)

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        # A thread cannot be ended: after the loss, the task is there twice.
        with run_worker(app, pool="threads", concurrency=3) as worker:
            try:
                hold.delay()
                assert started.wait(DEADLINE)
                lost = worker.consumer.restart_count
                server.proxy.set(Way.DOWN)
                wait_until(lambda: worker.consumer.connection is None, "the loss was not noticed")
                server.proxy.set(Way.UP)
                assert add.delay(2, 3).get(timeout=DEADLINE) == 5
                assert worker.consumer.restart_count > lost
            finally:
                release.set()
