"""Messages that no worker can do are put aside, and stop nobody."""

import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import signals, states
from celery.exceptions import NotRegistered
from kombu import Connection, Queue

from runtime import poison, worker
from runtime.letters import HEADER
from runtime.worker import message_buried
from tests.proxy import Way, proxied
from tests.runtime.conftest import MakeApp, StartWorker, Take, length
from tests.service import DEADLINE, wait_until


@pytest.fixture
def app(make_app: MakeApp, kind: str) -> Any:
    """Return an app on each broker, whose workers put messages aside."""
    app = make_app(kind, redelivery_limit=2)
    poison.install(app)
    return app


@pytest.fixture
def redelivered(take: Take) -> Callable[..., Any]:
    """Give a function that sends a task which a worker had taken, and started so often."""

    def redelivered(task: Any, starts: int, queue: str | None = None) -> Any:
        result = task.apply_async(queue=queue)
        take(task.app, task.app.amqp.queues[queue] if queue else None).requeue()
        if starts > 1:  # the first start is not counted
            poison.Ledger(task.app).note(result.id, starts)
        return result

    return redelivered


def is_counted(app: Any, task_id: str) -> bool:
    """Tell whether the starts of a task are counted."""
    return length(app, f"{app.main}.starts.{task_id}") > 0


def test_starts_are_counted_in_the_broker_and_forgotten(app: Any) -> None:
    ledger = poison.Ledger(app)
    assert ledger.starts("one") == 1  # it was delivered, so one worker has started it
    assert ledger.note("one", 2)
    assert ledger.note("one", 3)
    assert ledger.note("two", 0)
    assert (poison.Ledger(app).starts("one"), poison.Ledger(app).starts("two")) == (3, 0)
    for name in ("one", "absent"):
        ledger.clear(name)
        ledger.remove(name)
    ledger.remove("two")  # what is counted stays
    assert not is_counted(app, "one")
    assert is_counted(app, "two")


def test_a_task_with_a_long_id_is_counted(app: Any) -> None:
    """A queue's name has at most 255 bytes."""
    ledger = poison.Ledger(app)
    for letter in "aé":
        ledger.note(letter * 245, 2)
        assert ledger.starts(letter * 245) == 2
        assert ledger.starts(letter * 246) == 1


def test_slow_calls_are_done_in_their_order_and_their_errors_kept() -> None:
    errands, done = worker.Errands("errands"), list[int]()
    futures = [errands.do(done.append, number) for number in range(5)]
    failed = errands.do(int, "no number")
    assert errands.do(int, "7").result(DEADLINE) == 7
    assert done == [0, 1, 2, 3, 4]
    assert all(future.done() for future in futures)
    assert isinstance(failed.exception(), ValueError)


def test_slow_calls_are_waited_for_only_so_long_and_left_out_if_cancelled() -> None:
    errands, release, done = worker.Errands("errands"), threading.Event(), list[int]()
    assert errands.finish(0)  # nothing was to be done
    errands.do(release.wait, DEADLINE)
    cancelled = errands.do(done.append, 1)
    errands.do(done.append, 2)
    assert cancelled.cancel()
    assert not errands.finish(0.01)
    release.set()
    assert errands.finish(DEADLINE)
    assert done == [2]


def test_a_message_that_killed_its_worker_too_often_becomes_a_dead_letter(
    app: Any,
    run_worker: StartWorker,
    redelivered: Callable[..., Any],
    take: Take,
) -> None:
    runs: list[int] = []
    causes: list[str] = []

    @app.task(name="kill")
    def kill(number: int) -> None:
        runs.append(number)

    def note(cause: str, **_: Any) -> None:
        causes.append(cause)

    message_buried.connect(note)
    killer = redelivered(kill.s(1), 3)
    with run_worker(app):
        kill.delay(2).get(timeout=DEADLINE)
        with pytest.raises(Exception, match="the worker died 3 times while it ran") as failure:
            killer.get(timeout=DEADLINE)
        wait_until(lambda: not is_counted(app, killer.id), "its count is still there")
    assert type(failure.value).__name__ == "WorkerKilledError"
    assert app.dead_letter_queue.name in str(failure.value)
    assert runs == [2]
    assert causes == ["died"]
    assert length(app) == 0
    about = take(app, app.dead_letter_queue).headers[HEADER]
    assert about["id"] == killer.id
    assert about["task"] == "kill"
    assert about["reason"] == "the worker died 3 times while it ran"
    assert about["routing_key"] == app.main


def test_a_message_that_comes_again_is_done_and_loses_its_count(
    app: Any,
    run_worker: StartWorker,
    redelivered: Callable[..., Any],
) -> None:
    during: list[int] = []

    @app.task(bind=True)
    def note(self: Any) -> None:
        during.append(poison.Ledger(app).starts(self.request.id))

    result = redelivered(note, 1)
    with run_worker(app):
        result.get(timeout=DEADLINE)
        wait_until(lambda: not is_counted(app, result.id), "its count is still there")
    assert during == [2]


def test_only_what_waits_behind_a_message_that_comes_again_is_counted(
    app: Any,
    run_worker: StartWorker,
    redelivered: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: set[str] = set()
    note = poison.Ledger.note

    def noted(self: poison.Ledger, task_id: str, starts: int) -> bool:
        counted.add(task_id)
        return note(self, task_id, starts)

    @app.task
    def work() -> None:
        pass

    monkeypatch.setattr(poison.Ledger, "note", noted)
    app.conf.worker_prefetch_multiplier = 1
    again = redelivered(work, 1)
    others = [work.delay() for _ in range(100)]
    with run_worker(app, pool="threads", concurrency=2):
        for result in [again, *others]:
            result.get(timeout=DEADLINE)
        wait_until(lambda: not any(is_counted(app, each) for each in counted), "a count is left")
    assert again.id in counted
    # A worker of two processes has taken one more by the time that this one starts.
    assert len(counted) <= 3


def test_a_message_that_two_workers_did_not_survive_has_one_to_itself(
    app: Any,
    run_worker: StartWorker,
    redelivered: Callable[..., Any],
) -> None:
    received: set[str] = set()
    running: set[str] = set()
    beside: dict[str, set[str]] = {}
    buried: list[str] = []

    @app.task
    def work(name: str, until: int) -> None:
        beside[name] = set(running)
        running.add(name)
        wait_until(lambda: len(buried) >= until, f"{name}: not told to end")
        running.discard(name)

    def note(request: Any, **_: Any) -> None:
        received.add(request.args[0])

    def note_buried(cause: str, **_: Any) -> None:
        buried.append(cause)

    def let_the_guard_look() -> None:
        """Return when the guard has put another message aside, after its other calls."""
        before = len(buried)
        app.send_task("unknown")
        wait_until(lambda: len(buried) > before, "it was not put aside")

    signals.task_received.connect(note)
    message_buried.connect(note_buried)
    app.conf.worker_prefetch_multiplier = 4
    other = f"{app.main}.other"
    suspect = redelivered(work.s("suspect", 3), 2, other)
    first = work.delay("first", 2)
    with run_worker(app, pool="threads", concurrency=3) as worker:
        wait_until(lambda: "first" in running, "the first did not start")
        worker.consumer.call_soon(worker.consumer.add_task_queue, other)
        wait_until(lambda: "suspect" in received, "it did not come")
        # It could start: its starts are read, then one more is noted.
        for _ in range(2):
            let_the_guard_look()
        wait_until(lambda: "suspect" in running, "it did not start")
        last = work.delay("last", 0)
        wait_until(lambda: "last" in received, "the last did not come")
        let_the_guard_look()
        for result in (first, suspect, last):
            result.get(timeout=DEADLINE)
    assert beside == {"first": set(), "suspect": set(), "last": set()}


def test_a_worker_that_leaves_removes_the_counts_of_unfinished_tasks(
    app: Any,
    run_worker: StartWorker,
    redelivered: Callable[..., Any],
) -> None:
    started, release = threading.Event(), threading.Event()

    @app.task
    def hold() -> None:
        started.set()
        release.wait(DEADLINE)

    result = redelivered(hold, 1)
    try:
        with run_worker(app, pool="threads", concurrency=2):
            assert started.wait(DEADLINE)
            assert is_counted(app, result.id)
        assert not is_counted(app, result.id)
    finally:
        release.set()


BAD: dict[str, tuple[str, dict[str, Any], dict[str, str], str]] = {
    "no JSON": ("{", {"task": "add", "id": "bad"}, {}, "unreadable"),
    "no object": ("[]", {"task": "add", "id": "bad"}, {}, "unreadable"),
    "no header": (json.dumps([[], {}, {}]), {}, {}, "unreadable"),
    "no id": (json.dumps([[], {}, {}]), {"task": "add"}, {}, "unreadable"),
    "no such task": (json.dumps([[], {}, {}]), {"task": "other", "id": "bad"}, {}, "unregistered"),
    "a pickle": (
        "x",
        {"task": "add", "id": "bad"},
        {"content_type": "application/x-python-serialize"},
        "unreadable",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_message_that_is_no_task_is_put_aside_and_the_next_one_is_done(
    app: Any,
    run_worker: StartWorker,
    take: Take,
    bad: str,
) -> None:
    body, headers, properties, cause = BAD[bad]
    causes: list[str] = []

    def note(cause: str, **_: Any) -> None:
        causes.append(cause)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    message_buried.connect(note)
    properties = {"content_type": "application/json", "content_encoding": "utf-8"} | properties
    with app.connection_for_write() as connection:
        app.amqp.queues[app.main](connection.default_channel).declare()
        producer = app.amqp.Producer(connection, auto_declare=False)
        producer.publish(body, exchange="", routing_key=app.main, headers=headers, **properties)
    with run_worker(app):
        assert add.delay(2, 3).get(timeout=DEADLINE) == 5
        wait_until(lambda: causes, "it was not put aside")
        if "id" in headers:
            result = app.AsyncResult("bad")
            wait_until(lambda: result.state == states.FAILURE, "nobody was told")
            assert type(result.result).__name__ == "UnreadableMessageError"
            result.forget()
    assert causes == [cause]
    assert length(app) == 0
    letter = take(app, app.dead_letter_queue)
    assert letter.headers[HEADER]["task"] == headers.get("task")
    assert letter.headers[HEADER]["reason"]


def test_a_letter_that_could_not_be_posted_is_posted_once_after_a_reconnect(
    make_app: MakeApp,
    rabbitmq_url: str,
    run_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The first letter still waits when the connection is back.
    monkeypatch.setattr(poison, "RETRY", 6.0)
    parts, causes = urlsplit(rabbitmq_url), list[str]()

    def note(cause: str, **_: Any) -> None:
        causes.append(cause)

    def failures() -> int:
        return caplog.text.count("Cannot put a message aside yet")

    message_buried.connect(note)
    with proxied(parts.port) as proxy, Connection(rabbitmq_url) as connection:
        way = f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}"
        app = make_app("rabbitmq", broker_url=f"amqp://{way}{parts.path}")
        poison.install(app)
        # No letter can be posted where a queue of another type has the name.
        other = Queue(app.dead_letter_queue.name)(connection.default_channel)
        other.queue_declare()
        with run_worker(app) as running:
            consumer, done = running.consumer, threading.Event()
            app.send_task("unknown")
            wait_until(lambda: failures() == 1, "it could be posted")
            proxy.set(Way.DOWN)
            proxy.set(Way.UP)
            wait_until(lambda: caplog.text.count("Connected to") >= 2, "no new connection")
            wait_until(lambda: failures() >= 2, "it did not come again")
            other.delete()
            # Called after all that the timer has now.
            consumer.call_soon(consumer.timer.call_after, poison.RETRY, done.set)
            assert done.wait(DEADLINE)
            (guard,) = (each for each in consumer.steps if isinstance(each, poison.Guard))
            wait_until(lambda: not guard.letters, "a letter is not posted")
        assert causes == ["unregistered"]
        assert length(app, app.dead_letter_queue.name) == 1
        assert length(app) == 0


def test_a_failure_of_a_message_put_aside_that_is_not_stored_is_logged(
    make_app: MakeApp, valkey: str, run_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    with proxied(urlsplit(valkey).port) as proxy:
        app = make_app("redis", result_backend=f"redis://127.0.0.1:{proxy.port}/1")
        poison.install(app)
        app.send_task("unknown")
        proxy.set(Way.DOWN)
        with run_worker(app):
            wait_until(
                lambda: "how a task ended could not be stored" in caplog.text, "nothing is logged"
            )
    assert length(app, app.dead_letter_queue.name) == 1


def test_without_the_part_a_worker_drops_what_it_does_not_know_as_celery_does(
    make_app: MakeApp, kind: str, run_worker: StartWorker
) -> None:
    app = make_app(kind)
    unknown = app.send_task("unknown")
    with run_worker(app), pytest.raises(NotRegistered):
        unknown.get(timeout=DEADLINE)
    assert length(app) == 0
    assert length(app, app.dead_letter_queue.name) == 0
