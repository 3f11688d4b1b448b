"""Metrics for Prometheus, served by the worker's main process at METRICS_PORT.

The main process counts what becomes of its tasks, without task events. How many messages wait, it
asks the broker whenever it is asked itself.
"""

#% if cookiecutter.broker == "rabbitmq"
import contextlib
#% endif
import time
from collections.abc import Iterator
from typing import Any

from celery import Celery, current_app
from celery.bootsteps import StartStopStep
from celery.exceptions import Ignore, Reject, Retry, Terminated, WorkerLostError
from celery.utils.log import get_logger
from celery.worker import state
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .poison import dead_letter_queue

PATIENCE = 2  # seconds that the broker has for an answer; Prometheus waits for 10
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)

TASKS = Counter("celery_tasks", "Runs of tasks, by how they ended.", ["task", "state"])
SECONDS = Histogram("celery_task_seconds", "How long they took.", ["task"], buckets=BUCKETS)
RUNNING = Gauge("celery_tasks_running", "Tasks that run at this moment.")
RUNNING.set_function(lambda: len(state.active_requests))
# What ends a run and is no failure, or is none yet.
STATES = {Retry: "RETRY", Ignore: "IGNORED", Reject: "REJECTED", Terminated: "REVOKED"}

logger = get_logger(__name__)


def count(task: str, end: str, seconds: float) -> None:
    """Count a run of a task that ended in a state such as SUCCESS, if the counts are served."""
    if current_app.conf["metrics_port"]:
        TASKS.labels(task, end).inc()
        SECONDS.labels(task).observe(seconds)


def count_failure(request: Any, error: BaseException) -> None:
    """Count a run that ended with an ``error``, for which Celery raises some that are none.

    LOST is one whose process died: it is tried again, or its message comes back.
    """
    lost = isinstance(error, WorkerLostError | SystemExit)
    end = "LOST" if lost else STATES.get(type(error), "FAILURE")
    started = request.time_start
    count(request.name, end, time.time() - started if started else 0)


class Queues(Collector):
    """The messages that wait in the queues of a worker, and in that of dead letters."""

    def __init__(self, app: Celery) -> None:
        """Look at the queues of ``app``."""
        self.app = app

    def describe(self) -> list[GaugeMetricFamily]:
        """Describe nothing, so that the broker is not asked before somebody asks."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Ask the broker; while it is away, only that is known."""
        up = GaugeMetricFamily("celery_broker_up", "Whether the broker answers.")
        waiting = GaugeMetricFamily("celery_queue_messages", "Waiting messages.", labels=["queue"])
        try:
            for name, messages in self.lengths().items():
                waiting.add_metric([name], messages)
            up.add_metric([], 1)
        except Exception as error:  # noqa: BLE001  # each transport has its own
            logger.warning("metrics: the broker does not answer: %s", error)
            up.add_metric([], 0)
        yield from (up, waiting)

    def lengths(self) -> dict[str, int]:
        """Return the number of messages in each queue; one that does not exist yet has none."""
        limits = ("socket_timeout", "socket_connect_timeout", "connect_timeout", "read_timeout")
        names = [*self.app.amqp.queues.consume_from, dead_letter_queue(self.app).name]
        lengths = dict.fromkeys(names, 0)
        options = dict.fromkeys(limits, PATIENCE)
        with self.app.connection_for_read(
            connect_timeout=PATIENCE, transport_options=options
        ) as connection:
            #% if cookiecutter.broker == "redis"
            channel: Any = connection.default_channel
            for name in names:
                # It creates nothing; asked passively, kombu forgets the prefix of the keys.
                lengths[name] = channel.queue_declare(name).message_count
            #% else
            for name in names:
                with contextlib.suppress(*connection.channel_errors):
                    channel: Any = connection.channel()
                    lengths[name] = channel.queue_declare(name, passive=True).message_count
                    channel.close()
            #% endif
        return lengths


class Metrics(StartStopStep):
    """Serves the metrics, from a thread of its own."""

    requires = ("celery.worker.components:Pool",)

    def include_if(self, worker: Any) -> bool:
        """Tell whether a port is set."""
        return bool(worker.app.conf["metrics_port"])

    def start(self, worker: Any) -> None:
        """Start with the worker; where the port is taken, that is all that is missing."""
        port = worker.app.conf["metrics_port"]
        REGISTRY.register(Queues(worker.app))
        try:
            start_http_server(port)
        except OSError as error:
            logger.error(  # noqa: TRY400  # one line says it all
                "metrics: nothing is served at port %s: %s", port, error
            )
