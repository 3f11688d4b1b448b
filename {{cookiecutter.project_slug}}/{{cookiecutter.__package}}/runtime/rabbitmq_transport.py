"""kombu's transport for RabbitMQ, on which nothing waits long for what does not answer.

A connection is made to the first address that answers, and all others of the process avoid those
that did not.

RabbitMQ blocks them while it is out of memory or disk: it reads nothing more from a connection that
has published a message, and takes that message when it blocks no longer. So a message that was
refused may arrive after all. Only the first of each thread does: the connections that were given
up are kept, since RabbitMQ tells them when it blocks no longer.
"""

import contextlib
import os
import time
from typing import Any

from amqp.exceptions import (
    AMQPError,
    InternalError,
    IrrecoverableConnectionError,
    MessageNacked,
    RecoverableConnectionError,
)
from kombu.exceptions import OperationalError
from kombu.log import get_logger
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from .app import BrokerFullError

PATIENCE = 4.0  # seconds
ELECTION = 20.0  # seconds in which the nodes of a queue elect its leader
BLOCKED = "RabbitMQ blocks publishers: out of memory or disk"
NOTICED = 90.0  # seconds in which RabbitMQ takes a node that hangs for lost: 60 by default
TRANSIENT = 1  # the delivery mode of messages that RabbitMQ does not keep on disk

logger = get_logger(__name__)


class RefusedError(OperationalError, IrrecoverableConnectionError):
    """RabbitMQ does not take a message. kombu does not try again."""

    def __init__(self, text: str) -> None:
        """Say why."""
        super().__init__(text)
        self.args = (text,)


class BlockedError(RefusedError, BrokerFullError):
    """RabbitMQ takes no messages at all at the moment."""


class UnconfirmedError(OperationalError, TimeoutError):
    """RabbitMQ does not say whether it has a message. kombu tries again, at the next address."""


class Asking:
    """What waits for answers: the time runs from the question, whatever else RabbitMQ sends."""

    connection: Any

    def wait(self, *args: Any, **options: Any) -> Any:
        """Wait for an answer with the arguments of `amqp.AbstractChannel.wait`."""
        if self.connection:
            self.connection.asked = time.monotonic()
        return super().wait(*args, **options)  # type: ignore[misc]


class Channel(Asking, pyamqp.Channel):
    """A channel that sends no second message while RabbitMQ holds the first one."""

    aside: Any = None
    successor: Any = None
    unconfirmed = False
    returned = False

    def basic_publish_confirm(
        self, message: Any, exchange: str = "", *args: Any, **options: Any
    ) -> None:
        """Publish a message, and return when RabbitMQ has it.

        Raises `BlockedError`, `RefusedError` or `UnconfirmedError`. No one waits for an event or a
        message of remote control, and it is dropped while RabbitMQ blocks.
        """
        self._check()
        if not is_for_control(message, exchange):
            self.publish_confirmed(message, exchange, *args, **options)
        elif not self.connection.blocked:
            # RabbitMQ refuses what all workers get while the queue of one of them is on a node that
            # is away, and kombu would send that again without end.
            self._aside().publish_unconfirmed(message, exchange, *args, **options)

    def basic_consume(self, queue: str = "", *args: Any, **options: Any) -> Any:
        """Read from a queue; do not wait for that of remote control, whose leader may hang."""
        if queue.endswith(".pidbox"):
            options["nowait"] = True
        return super().basic_consume(queue, *args, **options)

    def queue_bind(self, *args: Any, **options: Any) -> Any:
        """Bind a queue to an exchange."""
        return self._bind(super().queue_bind, *args, **options)

    def exchange_bind(self, *args: Any, **options: Any) -> Any:
        """Bind an exchange to another one."""
        return self._bind(super().exchange_bind, *args, **options)

    def _bind(self, bind: Any, *args: Any, **options: Any) -> Any:
        """Make a binding; do not wait for one that was made before, while a node hangs.

        RabbitMQ does all else meanwhile, but makes no binding until it takes the node for lost.
        """
        self._check()
        binding = (bind.__name__, self.connection.virtual_host, *map(str, (args, options)))
        if binding not in BOUND:
            bound = bind(*args, **options)
            BOUND.add(binding)
            return bound
        if time.monotonic() > BINDABLE["from"]:
            aside = self._aside()
            try:
                with self.connection.patient(PATIENCE):
                    return bind.__func__(aside, *args, **options)
            except TimeoutError:
                self.aside = None  # that channel waits on
                BINDABLE["from"] = time.monotonic() + NOTICED
        return None

    def _check(self) -> None:
        if not self.connection:
            raise RecoverableConnectionError("the connection to RabbitMQ is lost")

    def publish_unconfirmed(self, *args: Any, **options: Any) -> None:
        """Publish a message that may get lost."""
        self._basic_publish(*args, **options)

    def _aside(self) -> Any:
        """Return a second channel, without confirms."""
        if not (self.aside and self.aside.is_open):
            self.aside = self.connection.channel()
        return self.aside

    def publish_confirmed(
        self, message: Any, exchange: str = "", routing_key: str = "", *args: Any, **options: Any
    ) -> None:
        """Publish a message, whatever it is, and return when RabbitMQ has it.

        Raises `RefusedError` or `UnconfirmedError`, also for a task that no queue takes.
        """
        if "task" in (message.properties.get("application_headers") or {}):
            options["mandatory"] = True
        end = time.monotonic() + ELECTION
        channel = self.successor or self
        try:
            self.connection.ask_given_up()
            self.connection.asked = time.monotonic()
            while channel.unconfirmed:
                self.connection.drain_events()
            while True:
                channel.returned = False
                with contextlib.suppress(MessageNacked):
                    pyamqp.Channel.basic_publish_confirm(
                        channel, message, exchange, routing_key, *args, **options
                    )
                    if not channel.returned:
                        return
                    break
                if time.monotonic() > end:
                    break
                time.sleep(0.2)  # the queue's nodes may still elect a leader
                if channel is not self:
                    channel.close()
                # To RabbitMQ, a channel can keep to the leader that is lost.
                channel = self.successor = self.connection.channel()
        except TimeoutError as error:
            raise UnconfirmedError(
                f"RabbitMQ does not confirm what is sent to {routing_key}: the node does not "
                "answer, or most nodes of the queue are away"
            ) from error
        if channel.returned:
            self.connection.client.declared_entities.clear()  # kombu declares all once more
            raise UnconfirmedError(f"no queue takes what is sent to {routing_key}")
        raise RefusedError(
            f"RabbitMQ refuses what is sent to {routing_key}: the queue is full, or has no leader "
            "since most of its nodes are away"
        )

    def _basic_publish(self, *args: Any, **options: Any) -> Any:
        sent = super()._basic_publish(*args, **options)  # type: ignore[misc]
        self.unconfirmed = True
        return sent

    def _on_basic_return(self, *_: Any) -> None:
        self.returned = True

    def _on_basic_ack(self, *args: Any) -> None:
        self.unconfirmed = False
        super()._on_basic_ack(*args)  # type: ignore[misc]

    def _on_basic_nack(self, *args: Any) -> None:
        self.unconfirmed = False
        super()._on_basic_nack(*args)  # type: ignore[misc]

    def collect(self) -> None:
        """Forget the connection."""
        self.unconfirmed = False
        super().collect()

    def close(self, *args: Any, **options: Any) -> None:
        """Close the channel, unless RabbitMQ blocks: it would not answer."""
        if not (self.connection and self.connection.blocked):
            super().close(*args, **options)


class Connection(Asking, pyamqp.Connection):
    """A connection that knows whether RabbitMQ blocks it, and waits ``patience`` seconds then."""

    Channel = Channel

    def __init__(self, *args: Any, patience: float = PATIENCE, **options: Any) -> None:
        """Connect with the arguments of `amqp.Connection`."""
        super().__init__(*args, **options)
        self.patience = patience
        self.limit: float | None = None  # seconds for an answer, if not `read_timeout`
        self.asked = 0.0  # when RabbitMQ was asked for what is waited for
        self.blocked = False
        self.process = os.getpid()

    @contextlib.contextmanager
    def patient(self, seconds: float) -> Any:
        """Wait so many seconds."""
        before = self.patience, self.limit
        self.patience = self.limit = seconds
        self.asked = time.monotonic()
        try:
            yield
        finally:
            self.patience, self.limit = before

    def drain_events(self, timeout: float | None = None) -> Any:
        """Read what RabbitMQ sends.

        Without a ``timeout``, an answer is due: raise `BlockedError` if there is none because
        RabbitMQ blocks, and give the connection up if there is none at all.
        """
        if timeout is not None:
            return super().drain_events(timeout)
        try:
            read: Any = self.blocking_read
            while not read(self._left()):
                pass  # it was a heartbeat
        except TimeoutError:
            if self.blocked:
                raise BlockedError(BLOCKED) from None
            if not self.limit:
                self.collect()  # otherwise, closing it would wait again
            raise TimeoutError(f"RabbitMQ at {self.host} does not answer") from None

    def _left(self) -> float | None:
        seconds = self.patience if self.blocked else self.limit or self.read_timeout
        # What has come already is always read.
        return seconds and max(self.asked + seconds - time.monotonic(), 0.01)

    def close(self, *args: Any, **options: Any) -> None:
        """Close the connection; while RabbitMQ blocks it, keep it."""
        if self.blocked:
            GIVEN_UP.append(self)
        else:
            super().close(*args, **options)

    def ask_given_up(self) -> None:
        """Raise `BlockedError` if RabbitMQ still blocks a connection that was given up."""
        with contextlib.suppress(IndexError):  # another thread may be faster
            while True:
                other = GIVEN_UP.pop()
                if (other.process, other.host) == (self.process, self.host):
                    self._ask(other)

    def _ask(self, other: "Connection") -> None:
        try:
            with other.patient(self.patience):
                while other.blocked:
                    other.drain_events()
            other.close()
        except BlockedError:
            GIVEN_UP.append(other)
            raise
        except (OSError, AMQPError):
            other.collect()

    def _on_blocked(self) -> None:
        self.blocked = True

    def _on_unblocked(self) -> None:
        self.blocked = False


GIVEN_UP: list[Connection] = []
BOUND: set[tuple[str, ...]] = set()  # the bindings that this process has made
BINDABLE = {"from": 0.0}  # when those are made again
FAILED: dict[str, float] = {}  # addresses, and when they could not be reached


class Transport(pyamqp.Transport):
    """The transport for `amqp://`: all addresses are those of one cluster."""

    Connection = Connection
    client: Any
    # A node that starts or stops ends connections with an INTERNAL_ERROR.
    recoverable_connection_errors = (
        *pyamqp.Transport.recoverable_connection_errors,
        InternalError,
    )

    def establish_connection(self) -> Any:
        """Return a connection to the first address that answers, those that failed before last.

        All but the last share the time that a single one would have.
        """
        client = self.client
        limit = client.transport_options.get("connect_timeout", client.connect_timeout)
        *others, last = sorted(client.alt, key=lambda each: FAILED.get(each, 0)) or [None]
        for address in others:
            try:
                return self._connect(client, address, limit and limit / len(others))
            except self.connection_errors as error:
                logger.warning("%s cannot be reached: %s", client.host, error)
        return self._connect(client, last, limit)

    def _connect(self, client: Any, address: str | None, limit: float | None) -> Any:
        if address:
            client.switch(address)
            self.client = client  # it has let go of its transport
        # A certificate is for the name of its own server.
        name, tls, options = client.hostname, client.ssl, client.transport_options
        if isinstance(tls, dict):
            client.ssl = {**tls, "server_hostname": tls.get("server_hostname") or name}
        client.transport_options = {**options, "connect_timeout": limit}
        try:
            return super().establish_connection()
        except self.connection_errors:
            if address:
                FAILED[address] = time.monotonic()
            raise
        finally:
            client.hostname, client.ssl, client.transport_options = name, tls, options


class SSLTransport(Transport, pyamqp.SSLTransport):
    """The transport for `amqps://`."""


def is_for_control(message: Any, exchange: str) -> bool:
    """Tell whether a message is an event, or one of remote control."""
    headers = message.properties.get("application_headers") or {}
    transient = message.properties.get("delivery_mode") == TRANSIENT
    return exchange.endswith(".pidbox") or (transient and "task" not in headers)


def install() -> None:
    """Let kombu use it for all URLs of RabbitMQ."""
    for scheme in ("amqp", "pyamqp"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
    TRANSPORT_ALIASES["amqps"] = f"{__name__}:SSLTransport"
