"""Stops a message that keeps killing the whole worker, for example by using up the memory.

Such a message is never acknowledged, so the broker delivers it again and again. Here, in the
worker's main process, its deliveries are counted; after `redelivery_limit` deaths it becomes a dead
letter: see `dead_letters.py`.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from celery.bootsteps import StartStopStep
from celery.utils.log import get_logger
from celery.worker import state
from kombu import Connection, Queue

from .app import ReliableCelery

# Seconds. A strike outlives any queue; it is removed when the task ends, however it ends.
STRIKE_EXPIRES = 7 * 24 * 3600.0
# What a broker or its transport adds to the headers of a message that it delivers again.
MARKS = {"redelivered", "x-delivery-count", "x-acquired-count"}
RECHECK = 0.2  # seconds between looks at the pool, while something is held or watched

logger = get_logger(__name__)


class WorkerKilledError(Exception):
    """The failure of a task whose message went to the dead-letter queue."""


def install(app: ReliableCelery) -> None:
    """Let the workers of ``app`` put messages aside that keep killing them."""
    app.steps["consumer"].add(Guard)


class Strikes:
    """Counts, in the broker, the starts of a message that the worker did not survive.

    The counter is a queue of its own, one empty message for a start. So it works with every broker
    and every result backend.
    """

    def __init__(self, app: ReliableCelery) -> None:
        """Keep the counters in the broker of ``app``."""
        self.app = app

    def _queue(self, connection: Connection, task_id: str) -> Any:
        name = f"{self.app.main}.strikes.{task_id}"
        arguments = self.app.queue_arguments
        queue = Queue(name, expires=STRIKE_EXPIRES, queue_arguments=arguments)
        return queue.bind(connection.ensure_connection(max_retries=1).default_channel)

    def count(self, task_id: str) -> int:
        """Return the strikes of a task."""
        with self.app.connection_for_write() as connection:
            return int(self._queue(connection, task_id).queue_declare().message_count)

    def add(self, task_id: str) -> None:
        """Add one, confirmed by the broker."""
        with self.app.connection_for_write() as connection:
            queue = self._queue(connection, task_id)
            queue.queue_declare()
            producer = self.app.amqp.Producer(queue.channel, auto_declare=False)
            producer.publish("", exchange="", routing_key=queue.name)

    def clear(self, task_id: str) -> None:
        """Forget them."""
        with self.app.connection_for_write() as connection:
            queue = self._queue(connection, task_id)
            queue.queue_declare()
            queue.purge()
            queue.delete()


class Guard(StartStopStep):
    """Stands between the broker and the pool, and looks at every message that comes again.

    A redelivered message gets a strike when it starts, and loses its strikes when it leaves this
    worker in any way but by the worker's death. One with a strike starts only in an idle worker
    and has it to itself, so the next death is its own doing and not a neighbour's. One with
    `redelivery_limit` strikes goes to the dead-letter queue. Other messages cost one comparison.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        """Take the place of the pool, where the ``consumer`` hands over its requests."""
        super().__init__(consumer, **options)
        self.consumer, self.timer, self.app = consumer, consumer.timer, consumer.app
        self.strikes = Strikes(self.app)
        self.limit: int = self.app.conf["redelivery_limit"]
        self.run: Callable[[Any], None] = consumer.on_task_request
        consumer.on_task_request = self.receive
        self.held: deque[Any] = deque()  # requests that wait for their turn
        self.watched: set[Any] = set()  # running requests that have a strike
        self.alone = self.ticking = False

    def start(self, consumer: Any) -> None:  # noqa: ARG002
        """After a (re)connect: what was held will be delivered again, what ran was cancelled."""
        self.held.clear()
        if self.watched:
            self.tick()

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        """Let go of what has not started; the broker delivers it again."""
        self.held.clear()

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002
        """Give back unfinished tasks without a strike: this worker did not die of them."""
        self.forget(set(self.watched))

    def receive(self, request: Any) -> None:
        """Take a request that is ready to run, in place of the pool."""
        if self.held or self.alone or request.delivery_info["redelivered"]:
            self.held.append(request)
            self.tick()
        else:
            self.run(request)

    def tick(self) -> None:
        """Start what may start, and look again soon while anything is left."""
        try:
            self.forget({r for r in self.watched if r not in state.reserved_requests})
            self.alone = self.alone and self.busy()
            while self.held and state.should_stop is None and self.start_first():
                pass
        except Exception:
            # Nothing is lost: what is held is not acknowledged, and its turn comes again.
            logger.warning("Cannot judge a redelivered task yet", exc_info=True)
        if (self.held or self.watched or self.alone) and not self.ticking:
            self.ticking = True
            self.timer.call_after(RECHECK, self.tock)

    def tock(self) -> None:
        """Run the timer's tick."""
        self.ticking = False
        self.tick()

    def busy(self) -> bool:
        """Tell whether the pool has something to do; Celery counts held requests as reserved."""
        return len(state.reserved_requests) > len(self.held)

    def start_first(self) -> bool:
        """Start or bury the first of the held requests; return False when it has to wait."""
        request = self.held[0]
        if self.alone:
            return False
        if request.delivery_info["redelivered"]:
            if not hasattr(request, "strikes"):
                request.strikes = self.strikes.count(request.id)
            if request.strikes >= self.limit:
                self.bury(request)
                return True
            if request.strikes and self.busy():
                return False
            self.strikes.add(request.id)
            self.watched.add(request)
            self.alone = request.strikes > 0
        self.held.popleft()
        self.run(request)
        return True

    def forget(self, requests: set[Any]) -> None:
        """Take the strikes from requests that this worker has outlived."""
        for request in requests:
            self.strikes.clear(request.id)
            self.watched.discard(request)

    def bury(self, request: Any) -> None:
        """Move the message to the dead-letter queue, and only then acknowledge it."""
        queue, message = self.app.dead_letter_queue, request.message
        reason = f"the worker died {request.strikes + 1} times while it ran"
        request.task.backend.mark_as_failure(
            request.id,
            WorkerKilledError(f"{reason}; its message is in the queue {queue.name}"),
            request=request._context,  # noqa: SLF001  # as Celery itself calls it
            store_result=request.store_errors,
        )
        with self.app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
            letter = {"reason": reason, **self.app.origin(message, self.consumer)}
            headers = {**message.headers, "dead_letter": letter}
            publish_again(self.app.amqp.Producer(connection), message, headers, queue)
        logger.critical("Task %s[%s] is a dead letter: %s", request.name, request.id, reason)
        self.held.popleft()
        state.task_ready(request)
        request.acknowledge()
        self.strikes.clear(request.id)


def publish_again(producer: Any, message: Any, headers: dict[str, Any], queue: Queue) -> None:
    """Publish a message to ``queue`` as it is, but for its headers."""
    producer.publish(
        message.body,
        exchange=queue.exchange or "",
        routing_key=queue.routing_key or queue.name,
        declare=[queue] if queue.name else None,
        headers={key: value for key, value in headers.items() if key not in MARKS},
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        **{key: message.properties.get(key) for key in ("correlation_id", "reply_to", "priority")},
    )
