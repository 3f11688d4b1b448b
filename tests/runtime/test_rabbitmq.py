"""RabbitMQ as the broker: what its app promises."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import signals
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from tests.runtime.conftest import MakeApp, StartWorker, length
from tests.service import DEADLINE, wait_until

QUORUM = {"x-queue-type": "quorum"}


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


@pytest.mark.parametrize("countdown", [0, 1])
def test_a_task_is_tried_again_in_its_queue_whose_routing_key_is_another(
    app: Any, run_worker: StartWorker, countdown: int
) -> None:
    name = f"{app.main}.other"
    exchange = Exchange(f"{app.main}.exchange", type="topic")
    app.amqp.queues.select_add(Queue(name, exchange, "video.encode", queue_arguments=QUORUM))
    places: list[str] = []

    @app.task(bind=True, max_retries=2)
    def again(self: Any) -> None:
        places.append(self.request.came_from)
        if self.request.retries < 2:
            raise self.retry(countdown=countdown)

    with run_worker(app):
        again.apply_async(queue=name).get(timeout=DEADLINE)
    assert places == [name] * 3


@pytest.mark.parametrize("sent", [0, 1])
def test_a_worker_reads_a_queue_that_is_added(app: Any, run_worker: StartWorker, sent: int) -> None:
    name = f"{app.main}.more"
    task = app.task(noop)
    before = [task.apply_async(queue=name) for _ in range(sent)]
    with run_worker(app) as worker:
        worker.consumer.call_soon(worker.consumer.add_task_queue, name)
        wait_until(lambda: name in worker.app.amqp.queues.consume_from, "it is not added")
        for result in [*before, task.apply_async(queue=name)]:
            result.get(timeout=DEADLINE)


def test_a_queue_that_cannot_be_added_is_logged_and_the_worker_goes_on(
    app: Any, run_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{app.main}.classic"
    with app.connection_for_write() as connection:
        Queue(name)(connection.default_channel).declare()
    task = app.task(noop)
    with run_worker(app) as worker:
        worker.consumer.call_soon(worker.consumer.add_task_queue, name)
        wait_until(lambda: "is not read" in caplog.text, "it is not refused")
        task.delay().get(timeout=DEADLINE)
    assert f"The queue {name} is not read: RabbitMQ has the queue {name} with" in caplog.text


def test_a_queue_that_was_deleted_is_declared_again_for_what_is_sent(app: Any) -> None:
    task = app.task(noop)
    task.delay()
    with app.connection_for_write() as connection:
        app.amqp.queues[app.main](connection.default_channel).delete()
    for _ in range(3):
        task.delay()
    assert length(app) == 3


def test_a_task_that_no_queue_takes_is_an_error_for_its_sender(app: Any) -> None:
    exchange = Exchange(f"{app.main}.exchange", type="topic")
    with app.connection_for_write() as connection:
        exchange(connection.default_channel).declare()
    task = app.task(noop)
    with pytest.raises(OperationalError, match="no queue takes what is sent to nowhere"):
        task.apply_async(exchange=exchange, routing_key="nowhere")
    task.delay()
    assert length(app) == 1


def test_a_delayed_task_that_is_refused_is_the_error_of_one_that_is_not(app: Any) -> None:
    with app.connection_for_write() as connection:
        Queue(app.main)(connection.default_channel).declare()
    task = app.task(noop)
    for countdown in (None, 1):
        with pytest.raises(OperationalError, match=r"RabbitMQ has the queue .+ with another"):
            task.apply_async(countdown=countdown)


def test_a_task_outlasts_the_heartbeats_in_a_worker_that_is_one_process(
    make_app: MakeApp, run_worker: StartWorker
) -> None:
    app = make_app("rabbitmq", broker_heartbeat=1)
    starts: list[float] = []

    @app.task
    def last() -> None:
        starts.append(time.monotonic())
        time.sleep(4)  # RabbitMQ gives a connection up that is silent for two heartbeats

    task = app.task(noop)
    with run_worker(app):
        last.delay().get(timeout=DEADLINE)
        task.delay().get(timeout=DEADLINE)
    assert len(starts) == 1
    assert length(app) == 0


def test_a_worker_of_one_queue_prepares_all(
    make_app: MakeApp, run_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"queue_{uuid.uuid4().hex}"
    queues = [Queue(each, routing_key=each, queue_arguments=QUORUM) for each in (name, name[::-1])]
    app = make_app("rabbitmq", task_queues=queues, task_default_queue=name)
    app.amqp.queues.select([name])
    task = app.task(noop)
    with run_worker(app):
        task.apply_async(queue=name, routing_key=name).get(timeout=DEADLINE)
    assert "delayed delivery" not in caplog.text.lower()


def test_two_queues_that_each_task_would_come_to_are_refused(make_app: MakeApp) -> None:
    app = make_app("rabbitmq", task_queues=[Queue("one"), Queue("two")])
    [(name, why)] = app.wrong_settings()
    assert name == "task_queues"
    assert why == "sends each task for one to two too; give each a routing_key"
    app = make_app("rabbitmq", task_queues=[Queue("one", routing_key="1"), Queue("two")])
    assert not [*app.wrong_settings()]


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
    app = make_app("rabbitmq")
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
