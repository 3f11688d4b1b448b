"""kombu's transport for RabbitMQ, on which nothing waits long while RabbitMQ blocks publishers.

RabbitMQ blocks them while it is out of memory or disk: it reads nothing more from a connection that
has published a message, and takes that message when it blocks no longer. So a message that was
refused may arrive after all. Only the first of each thread does: the connections that were given
up are kept, since RabbitMQ tells them when it blocks no longer.
"""

import contextlib
import os
import time
from typing import Any

from amqp.exceptions import AMQPError, IrrecoverableConnectionError, MessageNacked
from kombu.transport import TRANSPORT_ALIASES, pyamqp

from .app import BrokerFullError

PATIENCE = 4.0  # seconds
ELECTION = 8.0  # seconds in which the nodes of a queue elect its leader
TRANSIENT = 1  # the delivery mode of messages that RabbitMQ does not keep on disk


class BlockedError(BrokerFullError, IrrecoverableConnectionError):
    """RabbitMQ takes no messages at the moment. kombu does not try again."""

    def __init__(self, *_: Any) -> None:
        """Say why; pickle calls it with arguments."""
        super().__init__("RabbitMQ blocks publishers: out of memory or disk")
        self.args = (self.reply_text,)


class Channel(pyamqp.Channel):
    """A channel that sends no second message while RabbitMQ holds the first one."""

    connection: Any
    aside: Any = None
    unconfirmed = False

    def basic_publish_confirm(
        self, message: Any, exchange: str = "", *args: Any, **options: Any
    ) -> Any:
        """Publish a message, and return when RabbitMQ has it.

        Raises `BlockedError`. No one waits for an event or a message of remote control, and it is
        dropped while RabbitMQ blocks.
        """
        if not is_for_control(message, exchange):
            return self._publish(message, exchange, *args, **options)
        if not self.connection.blocked:
            self._for_control().publish_unconfirmed(message, exchange, *args, **options)
        return None

    def publish_unconfirmed(self, *args: Any, **options: Any) -> None:
        """Publish a message that may get lost."""
        self._basic_publish(*args, **options)

    def _for_control(self) -> Any:
        """Return a channel without confirms.

        RabbitMQ refuses what all workers get while the queue of one of them is on a node that is
        away, and kombu would send that again without end.
        """
        if not (self.aside and self.aside.is_open):
            self.aside = self.connection.channel()
        return self.aside

    def _publish(self, *args: Any, **options: Any) -> Any:
        self.connection.ask_given_up()
        while self.unconfirmed:
            self.connection.drain_events()
        end = time.monotonic() + ELECTION
        while True:
            try:
                return super().basic_publish_confirm(*args, **options)
            except MessageNacked:  # the queue has no leader, until its nodes have elected one
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def _basic_publish(self, *args: Any, **options: Any) -> Any:
        sent = super()._basic_publish(*args, **options)  # type: ignore[misc]
        self.unconfirmed = True
        return sent

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


class Connection(pyamqp.Connection):
    """A connection that knows whether RabbitMQ blocks it, and waits ``patience`` seconds then."""

    Channel = Channel

    def __init__(self, *args: Any, patience: float = PATIENCE, **options: Any) -> None:
        """Connect with the arguments of `amqp.Connection`."""
        super().__init__(*args, **options)
        self.patience = patience
        self.blocked = False
        self.process = os.getpid()

    @contextlib.contextmanager
    def patient(self, seconds: float) -> Any:
        """Wait so many seconds."""
        before, self.patience = self.patience, seconds
        try:
            yield
        finally:
            self.patience = before

    def drain_events(self, timeout: float | None = None) -> Any:
        """Read what RabbitMQ sends; raise `BlockedError` if it says nothing because it blocks."""
        if timeout is not None or not self.blocked:
            return super().drain_events(timeout)
        try:
            return super().drain_events(self.patience)
        except TimeoutError:
            raise BlockedError from None

    def close(self, *args: Any, **options: Any) -> None:
        """Close the connection; while RabbitMQ blocks it, keep it."""
        if self.blocked:
            GIVEN_UP.append(self)
        else:
            super().close(*args, **options)

    def ask_given_up(self) -> None:
        """Raise `BlockedError` if RabbitMQ still blocks a connection that was given up."""
        with contextlib.suppress(IndexError):  # another thread may be faster
            while other := GIVEN_UP.pop():
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


class Transport(pyamqp.Transport):
    """The transport for `amqp://`."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):
    """The transport for `amqps://`."""

    Connection = Connection


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
