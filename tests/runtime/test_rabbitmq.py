"""RabbitMQ as the broker: what its app promises."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import signals
from kombu import Exchange, Queue

from tests.runtime.conftest import MakeApp, StartWorker, length
from tests.service import DEADLINE, wait_until


def noop() -> None:
    """Do nothing, as a task."""


@pytest.fixture
def app(make_app: MakeApp) -> Any:
    """Return an app on RabbitMQ."""
    return make_app("rabbitmq")


@pytest.mark.parametrize("seconds", [1, 0.2])
def test_a_delayed_task_arrives_although_no_worker_ran_yet(app: Any, seconds: float) -> None:
    app.task(noop).apply_async(countdown=seconds)
    assert length(app) == 0
    wait_until(lambda: length(app) == 1, "it did not arrive")


@pytest.mark.filterwarnings("ignore:.*'queue' task attribute")
@pytest.mark.parametrize("way", ["task", "name", "route"])
def test_a_delayed_task_arrives_in_its_own_queue_however_it_is_sent(
    make_app: MakeApp, way: str
) -> None:
    queue = f"urgent_{uuid.uuid4().hex}"
    routes = {f"{__name__}.noop": {"queue": queue}} if way == "route" else {}
    app = make_app("rabbitmq", task_routes=routes)
    task = app.task(noop, queue=None if way == "route" else queue)
    if way == "task":
        task.apply_async(countdown=1)
    else:
        app.send_task(task.name, countdown=1)
    wait_until(lambda: length(app, queue) == 1, "it did not arrive")


def test_a_delayed_task_can_be_sent_to_an_exchange_of_the_owner_s(make_app: MakeApp) -> None:
    """Where no queue is named, its bindings are the owner's."""
    route = {"exchange": "owned", "exchange_type": "topic", "routing_key": "key"}
    app = make_app("rabbitmq", task_routes={f"{__name__}.noop": route})
    app.task(noop).apply_async(countdown=1)


def test_a_message_s_origin_leads_back_to_its_queue(
    app: Any,
    run_worker: StartWorker,
) -> None:
    """Whether or not it was delayed, in a queue that has another routing key."""
    name = f"{app.main}.other"
    exchange = Exchange(f"{app.main}.exchange", type="topic")
    arguments = app.queue_arguments
    queue = Queue(name, exchange, "key.of.others", queue_arguments=arguments)
    app.amqp.queues.select_add(queue)
    origins: list[dict[str, str]] = []

    def note(sender: Any, request: Any, **_: Any) -> None:
        origins.append(app.origin(request.message, sender))

    signals.task_received.connect(note)
    task = app.task(noop)
    with run_worker(app):
        for countdown in (None, 1):
            task.apply_async(queue=queue, countdown=countdown).get(timeout=DEADLINE)
        task.delay().get(timeout=DEADLINE)
    assert origins == [{"exchange": "", "routing_key": each} for each in (name, name, app.main)]
    with app.connection_for_write() as connection:
        app.amqp.Producer(connection).publish({}, **origins[0])
    assert length(app, name) == 1


def test_a_task_is_tried_again_in_the_queue_that_it_came_from(
    app: Any,
    run_worker: StartWorker,
) -> None:
    places: list[str] = []

    @app.task(bind=True, max_retries=2)
    def again(self: Any) -> None:
        places.append(self.request.delivery_info["routing_key"])
        if self.request.retries < 2:
            raise self.retry(countdown=1)

    queue = f"{app.main}.urgent"
    app.amqp.queues.select(queue)
    with run_worker(app):
        again.apply_async(queue=queue).get(timeout=DEADLINE)
    assert len(places) == 3
    assert all(place.endswith(queue) for place in places)


def test_a_queue_s_length_is_known_and_nothing_is_created(app: Any) -> None:
    task = app.task(noop)
    assert length(app) == 0
    for _ in range(3):
        task.delay()
    assert length(app) == 3
    with app.connection_for_read() as connection:
        assert app.queue_length(connection, f"{app.main}.absent") == 0
        # The same connection goes on, and the queue is not there.
        assert app.queue_length(connection, app.main) == 3
        with pytest.raises(connection.channel_errors, match="NOT_FOUND"):
            connection.channel().queue_declare(f"{app.main}.absent", passive=True)


def test_threads_share_the_queue_for_replies(make_app: MakeApp) -> None:
    """As those of Flower do; RabbitMQ would break a connection that consumes too early."""
    app = make_app("rabbitmq", control_queue_durable=True, control_queue_exclusive=False)
    for _ in range(8):
        queue = app.control.mailbox.get_reply_queue()
        queue.name = uuid.uuid4().hex
        ready = threading.Barrier(8)

        def consume(queue: Queue = queue, ready: threading.Barrier = ready) -> None:
            with app.connection_for_read() as connection:
                connection.connect()
                ready.wait()
                with connection.Consumer([queue]):
                    pass

        with ThreadPoolExecutor(ready.parties) as pool:
            for done in [pool.submit(consume) for _ in range(ready.parties)]:
                done.result()
