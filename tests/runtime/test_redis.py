"""Redis as the broker: what its app and its consumer promise."""

import json
import threading
import time
from typing import Any

import pytest
from celery import signals
from kombu import Queue
from redis import Redis

from runtime import checks, poison, redis_transport
from runtime.app import QueueGoneError
from tests import servers
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


def test_a_task_that_is_due_takes_no_further_message_meanwhile(
    app: Any, run_worker: StartWorker
) -> None:
    etas: list[Any] = []
    signals.task_received.connect(lambda request, **_: etas.append(request.eta), weak=False)
    task = app.task(noop)
    with run_worker(app):
        task.apply_async(countdown=0.5).get(timeout=DEADLINE)
    assert etas == [None]


def test_a_task_that_its_worker_holds_is_nobody_else_s(
    make_app: MakeApp, run_worker: StartWorker
) -> None:
    """Here, because of its rate limit, for longer than the visibility timeout."""
    options = {"visibility_timeout": 2, "unacked_restore_interval": 0.1}
    app = make_app("redis", broker_transport_options=options, worker_prefetch_multiplier=2)
    starts: list[str] = []

    @app.task(bind=True, rate_limit="12/m")
    def limited(self: Any) -> None:
        starts.append(self.request.id)

    with run_worker(app, pool="threads", concurrency=2):
        results = [limited.delay() for _ in range(3)]
        for result in results:
            result.get(timeout=DEADLINE)
    assert sorted(starts) == sorted(result.id for result in results)
    assert length(app) == 0


def test_a_message_to_all_workers_can_be_a_dead_letter(app: Any) -> None:
    sent = {"body": "x", "properties": {"delivery_tag": "1", "body_encoding": None}, "headers": {}}
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        message = redis_transport.Message(dict(sent), channel=channel)
        body, _ = app.seal(message)
        assert json.loads(body)["body"] == "x"
        with pytest.raises(QueueGoneError, match="it was sent to all workers"):
            app.unseal(channel, body, app.origin(message, None))


@pytest.mark.parametrize(
    "message",
    [
        {"properties": {"priority": float("inf")}},
        {"x": {"__type__": "decimal", "__value__": "x"}},
    ],
)
def test_any_message_can_be_put_back(app: Any, message: Any) -> None:
    with app.connection_for_write() as connection:
        about = {"routing_key": app.main}
        app.unseal(connection.default_channel, json.dumps(message).encode(), about)
    assert length(app) == 1


def test_a_queue_whose_name_another_needs_is_refused(make_app: MakeApp) -> None:
    for end in ("delayed", "bell"):
        queues = [Queue("mail"), Queue(f"mail.{end}"), Queue("other.delayed")]
        app = make_app("redis", task_queues=queues)
        [(name, why)] = app.wrong_settings()
        assert (name, why) == (
            "task_queues",
            f"has the queue mail.{end}, a name that mail needs for itself",
        )


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


def test_a_setting_that_mixes_up_replies_is_said(make_app: MakeApp) -> None:
    app = make_app("redis", broker_transport_options={"retry_on_timeout": True})
    (error,) = checks.errors(app)
    assert error.startswith("broker_transport_options has retry_on_timeout")


def take_one(app: Any, connection: Any) -> Any:
    """Send a task, and take its message on a connection; it is not acknowledged."""
    app.task(noop).delay()
    message: Any = app.amqp.queues[app.main].bind(connection.default_channel).get()
    assert message
    return message


def settle(app: Any) -> None:
    """Have given back what is lost, as a worker does that connects."""
    with app.connection_for_read() as connection:
        connection.default_channel.qos.restore_visible()


def test_a_task_that_goes_back_after_its_channel_was_closed_is_there_once(
    make_app: MakeApp,
) -> None:
    with broker("redis") as server:
        app = make_app("redis", broker_url=server.url)
        for way in (Way.UP, Way.DOWN):
            connection = app.connection_for_read()
            message = take_one(app, connection)
            server.proxy.set(way)
            connection.close()
            message.requeue()
            server.proxy.set(Way.UP)
            settle(app)
            assert length(app) == 1
            app.control.purge()


def test_a_task_that_cannot_go_back_now_does_so_later(make_app: MakeApp) -> None:
    with broker("redis") as server:
        app = make_app("redis", broker_url=server.url)
        with app.connection_for_read() as connection:
            message = take_one(app, connection)
            server.proxy.set(Way.DOWN)
            message.requeue()
            server.proxy.set(Way.UP)
            assert length(app) == 0
            message.channel.qos.restore_visible()
            assert length(app) == 1


def refuse_writes(client: Redis, replicas: int = 1) -> None:
    """Let a server refuse writes (NOREPLICAS), or take them again with ``replicas`` 0."""
    client.config_set("min-replicas-to-write", replicas)


def test_what_was_taken_goes_back_after_a_server_has_refused_writes(make_app: MakeApp) -> None:
    with servers.valkey() as url, Redis.from_url(url) as client:
        app = make_app("redis", broker_url=f"{url}/0")
        connection = app.connection_for_read()
        channel = take_one(app, connection).channel
        refuse_writes(client)
        connection.close()
        assert channel.connection is None  # it is closed to the end
        settle(app)  # that it is refused is no error
        refuse_writes(client, 0)
        assert length(app) == 0
        settle(app)
        assert length(app) == 1


def test_a_worker_outlives_a_server_that_refuses_writes_and_leaves_no_connection(
    make_app: MakeApp, run_worker: StartWorker
) -> None:
    with servers.valkey() as url, Redis.from_url(url) as client:
        app = make_app(
            "redis",
            broker_url=f"{url}/0",
            broker_channel_error_retry=True,
            worker_enable_remote_control=True,
        )
        starts: list[int] = []
        started, release = threading.Event(), threading.Event()

        @app.task
        def hold() -> None:
            starts.append(1)
            started.set()
            release.wait(DEADLINE)

        def connected() -> int:
            return len(client.client_list())

        with run_worker(app, pool="threads", concurrency=3) as worker:
            try:
                hold.delay()
                assert started.wait(DEADLINE)
                before, count = connected(), worker.consumer.restart_count
                refuse_writes(client)
                wait_until(lambda: worker.consumer.restart_count > count + 4, "it goes on")
                assert connected() <= before + 2
                refuse_writes(client, 0)
                wait_until(lambda: len(starts) == 2, "the task did not come again")
            finally:
                refuse_writes(client, 0)
                release.set()


def test_a_count_of_starts_expires_and_few_are_known(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_transport, "EXPIRING", 3)
    connections: list[Any] = []

    def connect() -> Any:
        connections.append(app.connection_for_write())
        return connections[-1]

    ledger = poison.Ledger(app, connect)
    for name in "abcde":
        ledger.note(name, 2)
    (connection,) = connections
    channel = connection.default_channel
    assert len(channel._expires) == 3  # noqa: SLF001
    longest = poison.STARTS_EXPIRE * 1000
    for name in "abcde":
        key = f"{app.main}{app.main}.starts.{name}"
        assert longest - 1000 * DEADLINE < channel.client.execute_command("pttl", key) <= longest
    connection.close()


def test_many_acknowledgements_at_once_need_one_connection(make_app: MakeApp) -> None:
    with broker("redis") as server:
        app = make_app(
            "redis",
            broker_url=server.url,
            broker_transport_options={"max_connections": 1, "socket_timeout": DEADLINE},
        )
        with app.connection_for_read() as connection:
            messages = [take_one(app, connection) for _ in range(3)]
            channel = messages[0].channel
            server.proxy.set(Way.SILENT)
            first = threading.Thread(target=messages[0].ack)
            first.start()
            wait_until(channel.debts.flushing.locked, "nobody sends")
            for message in messages[1:]:
                message.ack()
            server.proxy.set(Way.UP)
            first.join(DEADLINE)
            assert not channel.debts.acks
            unacked = channel.global_keyprefix + channel.unacked_key
            assert channel.client.execute_command("exists", unacked) == 0
