"""The metrics of a worker: what is counted, and what Prometheus gets."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from billiard.exceptions import Terminated as PoolTerminated
from celery.exceptions import Ignore, Reject, Retry, Terminated, WorkerLostError
from prometheus_client import REGISTRY

from runtime import metrics
from runtime.beat import BeatScheduler
from runtime.metrics import Broker
from tests import servers
from tests.runtime.conftest import MakeApp, StartWorker, Take
from tests.service import DEADLINE, wait_until


class Sender:
    """A request, of which its name counts."""

    name = "count"
    cancelled = False


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Forget what a test has registered and counted."""
    before = set(REGISTRY._collector_to_names)  # noqa: SLF001  # it has no public list
    yield
    for collector in set(REGISTRY._collector_to_names) - before:  # noqa: SLF001
        REGISTRY.unregister(collector)
    for each in (metrics.TASKS, metrics.SECONDS, metrics.BURIED, metrics.WAITED):
        each.clear()


def total(task: str, state: str) -> float | None:
    """Return how many runs of a task ended in a state."""
    return REGISTRY.get_sample_value("celery_tasks_total", {"task": task, "state": state})


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "SUCCESS"),
        (ValueError(), "FAILURE"),
        (MemoryError(), "FAILURE"),
        (Retry(), "RETRY"),
        (Ignore(), "IGNORED"),
        (Reject(), "REJECTED"),
        (Terminated(), "REVOKED"),
        (PoolTerminated(), "REVOKED"),
        (WorkerLostError(), "LOST"),
        (SystemExit(), "LOST"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_end_of_a_run_is_counted_by_what_it_was(
    error: BaseException | None, state: str
) -> None:
    metrics.count(Sender, error, 2.5)
    metrics.count(Sender, error, 0.5)
    assert total("count", state) == 2
    samples = [sample for metric in metrics.TASKS.collect() for sample in metric.samples]
    assert {sample.labels["state"] for sample in samples} == {state}
    assert REGISTRY.get_sample_value("celery_task_seconds_sum", {"task": "count"}) == 3
    assert REGISTRY.get_sample_value("celery_task_seconds_count", {"task": "count"}) == 2


def test_the_queues_of_a_worker_and_of_dead_letters_are_measured(
    app: Any, kind: str, take: Take
) -> None:
    @app.task
    def noop() -> None:
        pass

    empty = Broker(app)
    assert empty.describe() == []
    for _ in range(3):
        noop.delay()
    noop.apply_async(countdown=1000)
    dead = app.dead_letter_queue
    with app.connection_for_write() as connection:
        app.amqp.Producer(connection).publish("", routing_key=dead.name, declare=[dead])
    take(app).ack()
    up, _, waiting, later = Broker(app).collect()
    assert [(each.labels, each.value) for each in up.samples] == [({"celery_app": app.main}, 1)]
    lengths = {each.labels["queue"]: each.value for each in waiting.samples}
    assert lengths == {app.main: 2, dead.name: 1}
    # RabbitMQ keeps what is delayed for all queues together.
    delayed = {each.labels["queue"]: each.value for each in later.samples}
    assert delayed == ({app.main: 1, dead.name: 0} if kind == "redis" else {})


def test_a_broker_that_cannot_be_reached_is_said_and_nothing_else(
    make_app: MakeApp, kind: str
) -> None:
    scheme = "redis" if kind == "redis" else "amqp"
    app = make_app(kind, broker_url=f"{scheme}://localhost:{servers.free_port()}//")
    up, beat, waiting, later = Broker(app).collect()
    assert [each.value for each in up.samples] == [0]
    assert beat.samples == waiting.samples == later.samples == []


def test_beat_is_up_while_one_has_the_lease(app: Any) -> None:
    def is_up() -> bool:
        _, beat, *_ = Broker(app).collect()
        [sample] = beat.samples
        assert sample.labels == {"celery_app": app.main}
        return sample.value == 1

    assert not is_up()
    scheduler = BeatScheduler(app)
    scheduler.tick()
    wait_until(is_up, "no beat is up")
    scheduler.close()
    wait_until(lambda: not is_up(), "beat is up for ever")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_that_of_all_processes_of_the_worker() -> None:
    code = "import sys; kept = b'x' * 2**26; print('here', flush=True); sys.stdin.read()"
    before = metrics.memory()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        assert 2**26 < metrics.memory() - before < 2**27
        child.stdin.close()
    assert 2**20 < metrics.memory() < before + 2**25


@pytest.mark.parametrize("port", [None, 0])
def test_without_a_port_nothing_is_served(
    make_app: MakeApp, run_worker: StartWorker, port: int | None
) -> None:
    app = make_app("redis", metrics_port=port)
    metrics.install(app)
    before = set(REGISTRY._collector_to_names)  # noqa: SLF001
    with run_worker(app):
        assert set(REGISTRY._collector_to_names) == before  # noqa: SLF001


def test_the_time_in_the_queue_is_that_since_a_task_was_due_and_of_its_first_delivery(
    app: Any, run_worker: StartWorker, take: Take
) -> None:
    app.conf.metrics_port = servers.free_port()
    metrics.install(app)

    @app.task
    def noop() -> None:
        pass

    def waited(what: str) -> float:
        return REGISTRY.get_sample_value(f"celery_queue_seconds_{what}", {"queue": app.main}) or 0

    again = noop.delay()
    take(app).requeue()
    due = noop.apply_async(countdown=1)
    with run_worker(app):
        for result in (again, due):
            result.get(timeout=DEADLINE)
        wait_until(lambda: waited("count"), "it was not measured")
    assert waited("count") == 1
    assert 0 <= waited("sum") < DEADLINE


def test_a_dead_letter_is_counted_by_its_cause() -> None:
    metrics.count_buried("died")
    assert REGISTRY.get_sample_value("celery_dead_letters_total", {"cause": "died"}) == 1


def test_a_worker_serves_what_its_tasks_did_and_one_whose_port_is_taken_works_on(
    make_app: MakeApp, run_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    port = servers.free_port()
    app = make_app("redis", metrics_port=port)
    metrics.install(app)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return str(answer.read(), "utf-8")

    with run_worker(app):
        assert add.delay(2, 3).get(timeout=DEADLINE) == 5
        # The result is there a moment before the run is counted.
        wait_until(lambda: total("add", "SUCCESS") == 1, "it was not counted")
        said = scrape()
    assert 'celery_tasks_total{state="SUCCESS",task="add"} 1.0' in said
    assert f'celery_broker_up{{celery_app="{app.main}"}} 1.0' in said
    assert f'celery_queue_messages{{queue="{app.main}"}} 0.0' in said
    assert "celery_tasks_running 0.0" in said

    # The server of the first one is still there.
    with run_worker(app):
        assert add.delay(2, 3).get(timeout=DEADLINE) == 5
    assert f"metrics: port {port} cannot be used" in caplog.text
