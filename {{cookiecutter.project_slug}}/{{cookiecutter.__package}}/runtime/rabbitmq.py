"""The app for RabbitMQ as the broker."""

import contextlib
import json
import math
import re
import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any, ClassVar

from celery.concurrency.solo import TaskPool as SoloPool
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from kombu import Connection, Producer, Queue
from kombu.compression import compress
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox
from kombu.transport.native_delayed_delivery import (
    MAX_LEVEL,
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)

from . import app, rabbitmq_transport
from .app import QueueGoneError, Refusal
from .beat import Lease, Runs
from .checks import EX_CONFIG
from .rabbitmq_transport import PATIENCE
from .revoked import MOST, REVOKED_FOR, Control
from .worker import Line, ReliableConsumer

rabbitmq_transport.install()

# Quorum queues outlive the loss of a node.
QUORUM = "quorum"
DAY = 24 * 3600.0
# RabbitMQ says 0 of a quorum queue whose leader does not answer within 250 ms: ask again.
COUNTS = 3
PAGE = 500  # messages of a stream that are acknowledged at once
# The codes with which RabbitMQ refuses something: access, precondition failed, not allowed.
REFUSALS = {403, 406, 530}
OTHER_ARGUMENTS = re.compile(r"inequivalent arg '(.+?)' for (\w+) '(.+?)' in vhost '(.+?)': (.+)")
# The header with the name of the queue, which the worker adds to what it reads.
CAME_FROM = "came_from"
OUTLASTED = re.compile(r"delivery acknowledgement on channel \d+ timed out\D+(\d+) ms")

logger = get_logger(__name__)


class ReplicatedMailbox(Mailbox):
    """Queues for remote control that outlive the loss of a node, as all others do.

    A durable classic queue is on one node: while that is away, nobody can declare it again.
    """

    def get_queue(self, hostname: str) -> Queue:
        """Return the queue of a worker."""
        return replicated(super().get_queue(hostname))

    def get_reply_queue(self) -> Queue:
        """Return the queue for the answers to a command."""
        return replicated(super().get_reply_queue())


class ReplicatedQueue(Queue):
    """A quorum queue that the threads of a process may share, as those of Flower do."""

    declaring: ClassVar[Any] = threading.Lock()

    def queue_declare(self, *args: Any, **options: Any) -> Any:
        """Declare it; one thread after the other.

        RabbitMQ tells the second that it exists, and breaks its connection if it consumes before
        the declaration of the first is done.
        """
        with self.declaring:
            return super().queue_declare(*args, **options)


def replicated(queue: Queue) -> ReplicatedQueue:
    """Return a queue as a quorum queue."""
    return ReplicatedQueue(**queue.as_dict() | {"queue_arguments": {"x-queue-type": QUORUM}})


class ReliableControl(Control):
    """Remote control of workers."""

    Mailbox = ReplicatedMailbox


class OneBroker(DelayedDelivery):
    """Prepares delayed delivery once: several addresses are those of one cluster.

    Celery prepares it at each address, and waits for those that do not answer.
    """

    prepared = False

    def start(self, c: Any) -> None:
        """Start with the connection; to repeat it takes long while a node hangs."""
        if not (self.prepared and self.kept(c)):
            super().start(c)
        self.prepared = True

    def kept(self, c: Any) -> bool:
        """Tell whether RabbitMQ still has the first of its exchanges, and so all."""
        try:
            with c.connection.channel() as channel:
                channel.exchange_declare(level_name(MAX_LEVEL), "topic", passive=True)
        except c.channel_errors:
            return False
        return True

    def _bind_queues(self, app: Any, connection: Any) -> None:
        for queue in app.amqp.queues.values():  # the worker may read only some of them
            queue.bind(connection.default_channel).declare()
        super()._bind_queues(app, connection)  # type: ignore[misc]
        # A retry from the worker's own loop prepares none of them again.
        app.prepared.update(queue.name for queue in app.amqp.queues.values())

    def _validate_broker_urls(self, broker_urls: Any) -> set[str]:
        return {broker_urls if isinstance(broker_urls, str) else ";".join(broker_urls)}


def queue_of(message: Any, consumer: Any) -> str | None:
    """Return the name of the queue that a message was read from, if it is still read."""
    tags = consumer.task_consumer._active_tags  # noqa: SLF001  # kombu has no public way
    tag = message.delivery_info["consumer_tag"]
    return next((name for name in tags if tags[name] == tag), None)


class RabbitMQConsumer(ReliableConsumer):
    """The part of a worker that reads from RabbitMQ."""

    event_dispatcher: Any

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc,valid-type]
        """Its steps: those of Celery, with our own preparation of delayed delivery."""

        default_steps: ClassVar[list[Any]] = [
            OneBroker if "DelayedDelivery" in step else step
            for step in Consumer.Blueprint.default_steps
        ]

    def __init__(self, *args: Any, **options: Any) -> None:
        """Create a consumer with the arguments of Celery's own."""
        super().__init__(*args, **options)
        if isinstance(self.pool, SoloPool):
            self.amqheartbeat = 0  # while a task runs, nobody sends one

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        """Return what takes each message, with the name of the queue that it was read from."""
        take = super().create_task_handler(*args, **options)

        def take_named(message: Any) -> None:
            message.headers[CAME_FROM] = queue_of(message, self)
            take(message)

        return take_named

    def add_task_queue(
        self,
        queue: Any,
        exchange: Any = None,
        exchange_type: str | None = None,
        routing_key: str | None = None,
        **options: Any,
    ) -> Any:
        """Read from one more queue, as a sender declares it; if it is refused, say so and go on."""
        queues = self.app.amqp.queues
        known = queue in queues
        if not known and (exchange or routing_key or options):
            options |= {
                "exchange": exchange or queue,
                "exchange_type": exchange_type or self.app.conf.task_default_exchange_type,
                "routing_key": routing_key or queue,
                "queue_arguments": self.app.queue_arguments,
            }
            queues.add(queue, **options)
        try:
            self.app.prepare_delay(queues[queue])
        except Exception as error:  # noqa: BLE001  # each transport has its own
            if not known:
                del queues[queue]
            refusal = self.app.refusal(error)
            logger.error(  # noqa: TRY400  # one line says it all
                "The queue %s is not read: %s", queue, refusal.text if refusal else error
            )
        else:
            super().add_task_queue(queue)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Reconnect; if a task took longer than RabbitMQ waits for its end, name the setting."""
        if match := OUTLASTED.search(str(exc)):
            self.take_back(int(match[1]) / 1000)
        self.line = Line(self.app.connection_for_read)
        if self.event_dispatcher and self.event_dispatcher.connection:
            self.event_dispatcher.connection.collect()  # a node that hangs says no goodbye
        super().on_connection_error_after_connected(exc)

    def ask(self) -> None:
        """Purge a queue that is always empty: that takes most of its nodes, as a delivery does.

        For all else that leaves no trace, RabbitMQ needs only one.
        """

        def purge(channel: Any) -> None:
            name = f"{self.app.main}.alive"
            queue = Queue(name, queue_arguments=self.app.queue_arguments, expires=DAY)(channel)
            queue.queue_declare()
            queue.purge()

        self.line.do(purge)

    def take_back(self, timeout: float) -> None:
        """Log and count the tasks that are ended because of RabbitMQ's `consumer_timeout`."""
        now = time.time()
        seconds = {request: now - request.time_start for request in tuple(state.active_requests)}
        # RabbitMQ does not name them, and counts the time in which they waited in the worker.
        least = min(timeout, max(seconds.values(), default=0))
        for request in [each for each in seconds if seconds[each] >= least]:
            logger.error(
                "Task %s[%s] is ended after %.0f s, and delivered again: RabbitMQ's "
                "consumer_timeout is %.0f s. Make it longer, or the task's time limit shorter",
                request.name,
                request.id,
                seconds[request],
                timeout,
            )
            if self.on_taken_back:
                self.on_taken_back(request)


class RabbitMQLease(Lease):
    """Beat's lease: RabbitMQ sends the messages of a queue to one of its consumers.

    They are the last runs. The process that gets them leads, until its connection is gone; then
    another one gets what was not acknowledged. Each process adds a message when it comes.
    """

    # Seconds; RabbitMQ notices within three of them that a host is frozen or gone.
    connection_options: ClassVar[dict[str, Any]] = {"heartbeat": 6}

    def open(self) -> None:
        """Consume the queue, which may already have a consumer that gets everything."""
        arguments = {"x-queue-type": QUORUM, "x-single-active-consumer": True}
        name = self.app.beat_queue
        self.queue = Queue(name, queue_arguments=arguments).bind(self.channel)
        self.messages: list[Any] = []
        self.known = 0  # messages whose runs the scheduler has
        self.channel.Consumer(self.queue, on_message=self.messages.append).consume()
        self._publish({})

    def exchange(self, runs: Runs) -> Runs | None:
        """Keep the lease and the ``runs``; return what is kept, or None if another one leads."""
        if not self.messages:
            self.queue.queue_declare(passive=True)  # what came before the answer is read, too
        if not self.messages:
            return None
        mark = self._publish(runs)
        # It comes back to the process that leads, and after all other messages.
        while mark not in [each.properties["correlation_id"] for each in self.messages]:
            self.channel.connection.drain_events(timeout=PATIENCE)
        if self.known:
            self.messages[self.known - 1].ack(multiple=True)
            del self.messages[: self.known]
        self.known = len(self.messages)
        kept: Runs = {}
        for message in self.messages:
            for name, last in message.payload.items():
                kept[name] = max(last, kept.get(name, last))
        return kept

    def _publish(self, runs: Runs) -> str:
        mark = str(uuid.uuid4())
        Producer(self.channel).publish(runs, routing_key=self.queue.name, correlation_id=mark)
        return mark


class ReliableCelery(app.ReliableCelery):
    """A Celery app on RabbitMQ.

    A delayed task arrives, also if it was sent before the first worker ran, and a task that is
    tried again stays in its queue.
    """

    schemes = ("amqp", "amqps", "pyamqp")
    consumer_cls = RabbitMQConsumer
    lease_cls = RabbitMQLease
    control_cls = ReliableControl
    queue_arguments = {"x-queue-type": QUORUM}  # noqa: RUF012  # declared in the base class

    def __init__(self, *args: Any, **options: Any) -> None:
        """Create an app with the arguments of `celery.Celery`; the first is the service's name."""
        super().__init__(*args, **options)
        self.prepared: set[str] = set()  # the names of queues that delayed tasks can come to

    def send_options(
        self, name: str, args: Any, kwargs: Any, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the ``options`` with a delay of whole seconds, which RabbitMQ can keep."""
        if options.get("countdown") or options.get("eta"):
            router: Any = self.amqp.router
            task: Any = options.get("task_type") or self.tasks.get(name)
            own = {"queue": task.queue} if getattr(task, "queue", None) else {}
            route = router.route(own | options, name, args, kwargs, task)
            if "queue" in route:  # else to an exchange, whose bindings are the owner's
                self.prepare_delay(route["queue"])
            # Celery would refuse a delay of less than a second.
            options |= {"countdown": math.ceil(self.delay_of(options)), "eta": None}
        return options

    def prepare_delay(self, queue: Queue) -> None:
        """Declare what keeps a delayed task for the queue, once; a worker does so at its start.

        Celery leaves it at that: a task that is sent before the first worker ran would vanish.
        """
        if queue.name in self.prepared:
            return
        with self.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
            declare_native_delayed_delivery_exchanges_and_queues(connection, QUORUM)
            queue.bind(connection.default_channel).declare()
            bind_queue_to_native_delayed_delivery_exchange(connection, queue)
        self.prepared.add(queue.name)

    def retry_options(self, request: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Return the ``options`` with the queue that the task came from.

        Celery sends a delayed retry of a task from any other queue to the default one.
        """
        if options["queue"] is None and (name := request.get(CAME_FROM)):
            options["queue"] = name
        return options

    def wrong_settings(self) -> Iterable[tuple[str, str]]:
        """Say where a task would come to several queues."""
        taken: dict[tuple[str, str], str] = {}
        for queue in self.amqp.queues.values():
            where = queue.exchange.name, queue.routing_key
            other = taken.setdefault(where, queue.name)
            if other != queue.name and queue.exchange.type in {"direct", "topic"}:
                why = f"sends each task for {other} to {queue.name} too; give each a routing_key"
                yield "task_queues", why

    def patient_connection(self) -> Connection:
        """Return a connection that waits as long as RabbitMQ blocks publishers."""
        return self.connection_for_write(transport_options={"patience": DAY})

    def refusal(self, error: BaseException) -> Refusal | None:
        """Return what RabbitMQ refuses, or None if the error is of another kind."""
        code, text = getattr(error, "reply_code", None), getattr(error, "reply_text", None) or ""
        if code not in REFUSALS or OUTLASTED.search(text):
            return None
        if not (match := OTHER_ARGUMENTS.search(text)):
            return Refusal(f"RabbitMQ refuses this: {text}")
        argument, kind, name, vhost, difference = match.groups()
        difference = re.sub(r"the value | of type '\w+'", "", difference)
        way_out = "delete it"
        if kind == "queue":
            way_out = f"delete it once it is empty: rabbitmqctl delete_queue --vhost {vhost} {name}"
        return Refusal(
            f"RabbitMQ has the {kind} {name} with another {argument}: {difference}. "
            f"Use another name, or {way_out}",
            EX_CONFIG,
        )

    def origin(self, message: Any, consumer: Any) -> dict[str, str]:
        """Return the exchange and routing key that lead to the queue a message was read from."""
        # Its own routing key may hold a delay; the queue's name is always right.
        name = queue_of(message, consumer) or message.headers[CAME_FROM]
        return {"exchange": "", "routing_key": name}

    def seal(self, message: Any) -> tuple[Any, dict[str, Any]]:
        """Return a message as the body of a dead letter, and what else must be kept of it."""
        body, compression = message.body, message.headers.get("compression")
        if compression and not message.errors:  # kombu has decompressed it
            body, _ = compress(body, compression)
        if isinstance(body, str):  # amqp has decoded it
            body = body.encode(message.content_encoding) if body else b""
        # The other properties would act on the letter, too: one that expires would vanish.
        ours = {"application_headers", "content_type", "content_encoding"}
        properties = {key: value for key, value in message.properties.items() if key not in ours}
        marks = {"x-delivery-count", "x-acquired-count", CAME_FROM}  # what came with the delivery
        return body, {
            "headers": {key: message.headers[key] for key in message.headers.keys() - marks},
            "properties": properties,
            "content_type": message.content_type,
            "content_encoding": message.content_encoding,
        }

    def unseal(self, channel: Any, body: Any, about: dict[str, Any]) -> None:
        """Put the message of a dead letter back on its queue, as it came.

        Raises `QueueGoneError` if that does not exist any more.
        """
        probe = channel.connection.channel()  # the broker closes it on an error
        try:
            probe.queue_declare(about["routing_key"], passive=True)
        except channel.connection.channel_errors as error:
            raise QueueGoneError(f"The queue {about['routing_key']} is gone") from error
        finally:
            probe.close()
        properties = dict(about["properties"])
        message = channel.prepare_message(
            body or b"",  # amqp reads an empty one as text
            priority=properties.pop("priority", None),
            content_type=about["content_type"],
            content_encoding=about["content_encoding"],
            headers=about["headers"],
            properties=properties,
        )
        channel.publish_confirmed(message, about["exchange"], about["routing_key"])

    @property
    def beat_queue(self) -> str:
        """The name of the queue that the beats consume."""
        return f"{self.main}.beat"

    @property
    def revoked_stream(self) -> Queue:
        """The stream of what was revoked: every worker can read all of it."""
        arguments = {
            "x-queue-type": "stream",
            "x-max-age": f"{REVOKED_FOR}s",
            # Bytes. Age and size hold for whole segments.
            "x-max-length-bytes": MOST * 200,
            "x-stream-max-segment-size-bytes": MOST * 20,
        }
        return Queue(
            f"{self.main}.revoked",
            queue_arguments=arguments,
            consumer_arguments={"x-stream-offset": "first"},
        )

    def keep_revoked(self, entries: list[str]) -> None:
        """Keep what was revoked, as one message of a stream."""
        stream = self.revoked_stream
        # No connection of the pool: it may lead to a node that hangs.
        with self.connection_for_write() as connection:
            self.amqp.Producer(connection).publish(
                json.dumps(entries),
                exchange="",
                routing_key=stream.name,
                declare=[stream],
                retry=True,
                retry_policy=self.conf.task_publish_retry_policy,
            )

    def kept_revoked(self) -> list[str]:
        """Return what is kept there: all that comes before a mark that is made now."""
        mark = f"read {uuid.uuid4()}"
        # Without the mark, for a RabbitMQ that blocks publishers: until nothing comes.
        with contextlib.suppress(OperationalError):
            self.keep_revoked([mark])
        found: list[str] = []

        def read(message: Any) -> None:
            found.extend(json.loads(message.body))
            if not message.delivery_tag % PAGE:
                message.ack(multiple=True)

        with self.connection_for_read() as connection:
            consumer = connection.Consumer([self.revoked_stream], on_message=read)
            consumer.qos(prefetch_count=2 * PAGE)
            with consumer, contextlib.suppress(TimeoutError):
                while mark not in found[-1:]:
                    connection.drain_events(timeout=PATIENCE)
        return [entry for entry in found if not entry.startswith("read ")]

    def queue_length(self, connection: Connection, name: str) -> int:
        """Return how many messages wait in a queue; 0 if it does not exist. It creates nothing."""
        return self.count(connection, name, "message_count")

    def has_beat(self, connection: Connection) -> bool:
        """Tell whether a beat has the lease. It creates nothing."""
        return self.count(connection, self.beat_queue, "consumer_count") > 0

    def count(self, connection: Connection, name: str, what: str) -> int:
        """Return a count of RabbitMQ's of a queue; 0 if it does not exist."""
        count = 0
        with contextlib.suppress(*connection.channel_errors):
            channel: Any = connection.channel()  # one of its own: the broker closes it on an error
            for _ in range(COUNTS):
                count = count or getattr(channel.queue_declare(name, passive=True), what)
            channel.close()
        return count
