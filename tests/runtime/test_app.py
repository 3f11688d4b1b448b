"""Sending, settings and names, which are the same on each broker."""

import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from celery.beat import PersistentScheduler
from celery.utils.imports import symbol_by_name
from kombu.exceptions import OperationalError

from runtime import redis
from runtime.app import ReliableCelery, ReliableTask
from runtime.beat import BeatScheduler
from runtime.worker import ReliableConsumer, ReliableRequest
from tests import servers
from tests.runtime.conftest import MakeApp, Take, length


def noop() -> None:
    """Do nothing, as a task."""


def nowhere() -> str:
    """Return the URL of a Redis server that is not there."""
    return f"redis://localhost:{servers.free_port()}/0"


def test_the_settings_of_our_own_have_defaults() -> None:
    conf = ReliableCelery("named").conf
    assert conf["metrics_port"] is None
    assert conf["redelivery_limit"] == 3
    assert conf["shutdown_grace_period"] == 25


@pytest.mark.parametrize("namespace", [None, "CELERY"])
def test_the_configuration_wins_over_the_runtime_and_the_runtime_over_celery(
    namespace: str | None,
) -> None:
    class Configuration:
        """The owner's, in both forms."""

        shutdown_grace_period = CELERY_SHUTDOWN_GRACE_PERIOD = 7
        beat_scheduler = CELERY_BEAT_SCHEDULER = "celery.beat:PersistentScheduler"

    app = ReliableCelery("named")
    app.config_from_object(Configuration, namespace=namespace)
    assert app.conf["shutdown_grace_period"] == 7
    assert symbol_by_name(app.conf.beat_scheduler) is PersistentScheduler
    assert symbol_by_name(app.conf.worker_consumer) is ReliableConsumer
    app.conf.shutdown_grace_period = 8
    assert app.conf["shutdown_grace_period"] == 8


def test_the_app_names_its_own_classes(app: Any) -> None:
    assert symbol_by_name(app.conf.beat_scheduler) is BeatScheduler
    assert symbol_by_name(app.conf.worker_consumer) is app.consumer_cls
    assert isinstance(app.task(noop), ReliableTask)
    assert ReliableTask.Request is ReliableRequest


def test_an_app_that_is_sent_to_a_new_process_is_the_same_there() -> None:
    app = redis.ReliableCelery("named", shutdown_grace_period=7)
    copy = pickle.loads(pickle.dumps(app))  # noqa: S301
    assert type(copy) is redis.ReliableCelery
    assert copy.main == "named"
    assert copy.conf["shutdown_grace_period"] == 7
    assert copy.conf.beat_scheduler == app.conf.beat_scheduler


def test_dead_letters_have_a_queue_of_the_service_s_name(app: Any) -> None:
    queue = app.dead_letter_queue
    assert queue.name == f"{app.main}.dead"
    assert queue.queue_arguments == app.queue_arguments


def test_each_way_of_sending_reaches_the_queue(app: Any) -> None:
    task = app.task(noop)
    task.delay()
    task.apply_async()
    task.s().delay()
    app.send_task(task.name)
    assert length(app) == 4


@pytest.mark.parametrize("way", ["delay", "countdown", "send_task"])
def test_a_broker_that_cannot_be_reached_is_one_error(
    make_app: MakeApp, kind: str, way: str
) -> None:
    url = nowhere() if kind == "redis" else f"amqp://localhost:{servers.free_port()}//"
    app = make_app(kind, broker_url=url)
    task = app.task(noop)
    with pytest.raises(OperationalError):
        {
            "delay": task.delay,
            "countdown": lambda: task.apply_async(countdown=5),
            "send_task": lambda: app.send_task(task.name),
        }[way]()


def test_a_result_backend_that_cannot_be_reached_is_the_same_error(
    make_app: MakeApp, kind: str
) -> None:
    app = make_app(kind, result_backend=nowhere())
    task = app.task(noop)
    with pytest.raises(OperationalError, match="the result backend cannot be reached"):
        task.delay()
    assert length(app) == 0
    task.apply_async(ignore_result=True)
    assert length(app) == 1


def test_an_error_of_the_caller_s_stays_what_it_is(app: Any) -> None:
    task = app.task(noop)
    with pytest.raises(TypeError):
        task.delay(1)

    def route(*_: Any, **_options: Any) -> None:
        raise RuntimeError("not today")

    app.conf.task_routes = [route]
    with pytest.raises(RuntimeError, match="not today"):
        task.delay()


def test_what_celery_takes_by_its_place_is_taken_by_its_place(app: Any, take: Take) -> None:
    sent = app.send_task("absent", (1,), {"x": 2}, None, None, "an-id", expires=60)
    assert sent.id == "an-id"
    message = take(app)
    assert message.decode()[:2] == [[1], {"x": 2}]
    assert message.headers["expires"]


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("options_at", "seconds"),
    [
        (lambda _: {}, 0),
        (lambda _: {"countdown": None, "eta": None}, 0),
        (lambda _: {"countdown": 90.5}, 90.5),
        (lambda _: {"countdown": -1}, 0),
        (lambda now: {"eta": now + HOUR}, 3600),
        (lambda now: {"eta": now.astimezone(timezone(5 * HOUR)) + HOUR}, 3600),
        (lambda now: {"eta": (now + HOUR).isoformat()}, 3600),
        (lambda now: {"eta": now - HOUR}, 0),
    ],
    ids=["none", "empty", "countdown", "negative", "eta", "zone", "text", "past"],
)
def test_a_delay_is_known_in_each_form(
    options_at: Callable[[datetime], dict[str, Any]], seconds: float
) -> None:
    options = options_at(datetime.now(UTC))
    assert ReliableCelery("named").delay_of(options) == pytest.approx(seconds, abs=60)


def test_a_date_without_a_time_zone_is_utc_as_for_celery() -> None:
    app = ReliableCelery("named", timezone="Asia/Tokyo")
    naive = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
    assert app.delay_of({"eta": naive}) == pytest.approx(3600, abs=60)
