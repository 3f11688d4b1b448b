"""Metrics for Prometheus, served by the worker's main process at METRICS_PORT.

The main process counts how the runs of its tasks end, without task events. Whenever Prometheus
asks, it asks the broker how many messages wait and whether beat is there, and the system how much
memory the worker has.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celery.bootsteps import StartStopStep
from celery.exceptions import Ignore, Reject, Retry, Terminated, WorkerLostError
from celery.utils.log import get_logger
from celery.worker import state
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .app import ReliableCelery
from .worker import message_buried, run_ended, run_started

PATIENCE = 2  # seconds to wait for the broker; Prometheus waits for 10
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)

TASKS = Counter("celery_tasks", "Runs of tasks, by how they ended.", ["task", "state"])
SECONDS = Histogram("celery_task_seconds", "How long they took.", ["task"], buckets=BUCKETS)
BURIED = Counter("celery_dead_letters", "Messages put aside, by the cause.", ["cause"])
WAITED = Histogram(
    "celery_queue_seconds",
    "How long tasks waited, from when they were sent or due until they started.",
    ["queue"],
    buckets=[10 * seconds for seconds in BUCKETS],
)
RUNNING = Gauge("celery_tasks_running", "Tasks that run at this moment.")
RUNNING.set_function(lambda: len(state.active_requests))
MEMORY = Gauge("celery_memory_bytes", "Memory of the worker with all its processes.")
# Exceptions that end a run without being a failure.
STATES = {Retry: "RETRY", Ignore: "IGNORED", Reject: "REJECTED", Terminated: "REVOKED"}

logger = get_logger(__name__)


def install(app: ReliableCelery) -> None:
    """Let the workers of ``app`` serve metrics, if `metrics_port` is set."""
    app.steps["worker"].add(Metrics)


def count(sender: Any, error: BaseException | None, seconds: float, **_: Any) -> None:
    """Count a run of the request ``sender``, which ended with ``error``, or with None: well.

    LOST is one whose process died: it is tried again, or its message comes back.
    """
    if error is None:
        end = "SUCCESS"
    elif isinstance(error, WorkerLostError | SystemExit) or sender.cancelled:
        end = "LOST"
    else:
        end = STATES.get(type(error), "FAILURE")
    TASKS.labels(sender.name, end).inc()
    SECONDS.labels(sender.name).observe(seconds)


def count_buried(cause: str, **_: Any) -> None:
    """Count a dead letter."""
    BURIED.labels(cause).inc()


def memory() -> float:
    """Return the bytes that this process and its children have; what they share counts once.

    A child of a child is left out. Only Linux tells; elsewhere, it is not a number.
    """
    processes = ["self"]
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            processes += children.read_text("utf-8").split()
    kibibytes = 0
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended, or is not on Linux
            lines = Path(f"/proc/{process}/smaps_rollup").read_text("utf-8")
            kibibytes += sum(map(int, re.findall(r"(?m)^Pss: +(\d+) kB", lines)))
    return kibibytes * 1024 or math.nan


class Broker(Collector):
    """What the broker knows: whether beat is there, and how many messages wait in each queue.

    The queues are those of the worker, and that of dead letters.
    """

    def __init__(self, app: ReliableCelery) -> None:
        """Ask the broker of ``app``."""
        self.app = app

    def describe(self) -> list[GaugeMetricFamily]:
        """Describe nothing, so that the broker is not asked before somebody asks."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Ask the broker; if it cannot be reached, only say that."""
        # Not `app`: Prometheus is often configured to add that label to what it scrapes.
        label = ["celery_app"]
        up = GaugeMetricFamily("celery_broker_up", "Whether the broker answers.", labels=label)
        beat = GaugeMetricFamily(
            "celery_beat_up", "Whether a beat sends what is due.", labels=label
        )
        waiting = GaugeMetricFamily("celery_queue_messages", "Waiting messages.", labels=["queue"])
        later = GaugeMetricFamily("celery_queue_delayed", "Messages not due yet.", labels=["queue"])
        try:
            lengths, has_beat = self.ask()
            for name, (messages, delayed) in lengths.items():
                waiting.add_metric([name], messages)
                if delayed is not None:
                    later.add_metric([name], delayed)
            beat.add_metric([self.app.main], has_beat)
            up.add_metric([self.app.main], 1)
        except Exception as error:  # noqa: BLE001  # each transport has its own
            logger.warning("metrics: the broker cannot be reached: %s", error)
            up.add_metric([self.app.main], 0)
        yield from (up, beat, waiting, later)

    def ask(self) -> tuple[dict[str, tuple[int, int | None]], bool]:
        """Return the lengths of the queues, and whether a beat is there.

        A length is how many messages wait, and how many of the queue are delayed, if known.
        """
        limits = ("socket_timeout", "socket_connect_timeout", "connect_timeout", "read_timeout")
        options = dict.fromkeys(limits, PATIENCE)
        names = [*self.app.amqp.queues.consume_from, self.app.dead_letter_queue.name]
        with self.app.connection_for_read(
            connect_timeout=PATIENCE, transport_options=options
        ) as connection:
            length, delayed = self.app.queue_length, self.app.delayed_length
            lengths = {
                name: (length(connection, name), delayed(connection, name)) for name in names
            }
            return lengths, self.app.has_beat(connection)


class Metrics(StartStopStep):
    """Serves the metrics, from a thread of its own."""

    requires = ("celery.worker.components:Pool",)

    def include_if(self, worker: Any) -> bool:
        """Tell whether a port is set."""
        return bool(worker.app.conf["metrics_port"])

    def start(self, worker: Any) -> None:
        """Start with the worker, which goes on without metrics if the port is taken."""
        port = worker.app.conf["metrics_port"]
        self.worker, self.app = worker, worker.app
        run_started.connect(self.observe)
        run_ended.connect(count)
        message_buried.connect(count_buried)
        for name in worker.app.tasks:
            for end in ("SUCCESS", "FAILURE", "LOST"):
                TASKS.labels(name, end)  # 0, since Prometheus cannot see a counter begin with 1
        MEMORY.set_function(memory)
        REGISTRY.register(Broker(worker.app))
        try:
            start_http_server(port)
        except OSError as error:
            logger.error(  # noqa: TRY400  # one line says it all
                "metrics: port %s cannot be used: %s", port, error
            )

    def observe(self, sender: Any, **_: Any) -> None:
        """Take the time that the task of the request ``sender`` has waited.

        A retry is a task of its own, due after its delay. A message that is delivered again is left
        out: it has run before.
        """
        sent_at = sender.request_dict.get("sent_at")
        if not isinstance(sent_at, float) or sender.delivery_info["redelivered"]:
            return
        due = max(sent_at, sender.due)
        with contextlib.suppress(StopIteration):  # the consumer has changed since
            queue = self.app.origin(sender.message, self.worker.consumer)["routing_key"]
            # On Redis, a message has no more than its routing key.
            name = queue if queue in self.app.amqp.queues.consume_from else "other"
            WAITED.labels(name).observe(max(sender.time_start - due, 0))
