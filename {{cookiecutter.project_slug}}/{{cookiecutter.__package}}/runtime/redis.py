"""The app for Redis as the broker."""

from collections.abc import Iterator
from typing import Any

from kombu import Connection

from . import app
from .checks import split_urls
from .worker import ReliableConsumer


class RedisConsumer(ReliableConsumer):
    """The part of a worker that reads from Redis."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the channel while that can be tried twice: in kombu 5.7 the first try fails.

        Without it, a worker that is neither idle nor full would end when Redis goes away.
        """
        if self.connection and self.task_consumer:
            for _ in range(2):
                self.connection.maybe_close_channel(self.task_consumer.channel)
        super().on_connection_error_after_connected(exc)


class ReliableCelery(app.ReliableCelery):
    """A Celery app on Redis.

    A delay after which Redis would deliver a task twice is refused; a retry comes sooner instead.
    """

    consumer_cls = RedisConsumer
    schemes = ("redis", "rediss", "redis+socket", "sentinel")

    def wrong_settings(self) -> Iterator[tuple[str, str]]:
        """Yield the names of settings that are wrong on Redis alone, each with the error."""
        options, limit = self.conf.broker_transport_options, self.conf.task_time_limit or 0
        timeout = options.get("visibility_timeout", 3600)  # as in kombu
        if not isinstance(timeout, int | float) or timeout <= limit:
            error = f"has a visibility_timeout of {timeout!r}; it must be more than task_time_limit"
            yield "broker_transport_options", f"{error}, {limit}, or tasks run twice side by side"
        url = split_urls(self.conf.broker_url)[0]
        if url.scheme in {"redis", "rediss"} and not (url.path[1:] or "0").isdecimal():
            yield "broker_url", "must end with the number of a database, as in localhost:6379/0"
        if url.scheme == "sentinel" and "master_name" not in options:
            yield "broker_transport_options", "has no master_name, which Sentinel needs"

    def send_options(
        self, name: str, args: Any, kwargs: Any, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the ``options``; raise ValueError for a delay that Redis cannot keep."""
        del args, kwargs
        delay = self.delay_of(options)
        longest = self.longest_delay(options.get("time_limit"))
        if delay > longest:
            message = (
                f"{name}: Redis would run a task with a delay of {delay:.0f} s more than once; "
                f"up to {longest:.0f} s are safe with this visibility timeout and time limit. "
                "Keep the date in a database, and let a periodic task send what is due."
            )
            raise ValueError(message)
        return options

    def retry_options(self, request: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Return the ``options`` with a delay that Redis can keep."""
        limit, _soft = request.timelimit or (None, None)
        longest = self.longest_delay(limit)
        if self.delay_of(options) > longest:
            options |= {"countdown": longest, "eta": None}
        return options

    def longest_delay(self, time_limit: float | None) -> float:
        """Return the longest delay, in seconds, after which a task is done in time for Redis."""
        timeout: float = self.conf.broker_transport_options["visibility_timeout"]
        return max(timeout - (time_limit or self.conf.task_time_limit), 0)

    def origin(self, message: Any, consumer: Any) -> dict[str, str]:
        """Return the exchange and routing key that lead to the queue a message was read from."""
        del consumer
        info = message.delivery_info
        return {"exchange": info["exchange"], "routing_key": info["routing_key"]}

    def queue_length(self, connection: Connection, name: str) -> int:
        """Return how many messages wait in a queue; 0 if it does not exist. It creates nothing."""
        # Not passively: then kombu 5.7 forgets the prefix of the keys.
        channel: Any = connection.default_channel
        length: int = channel.queue_declare(name).message_count
        return length
