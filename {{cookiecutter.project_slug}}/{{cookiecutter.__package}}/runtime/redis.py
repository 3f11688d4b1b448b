"""The app for Redis as the broker."""

import json
import time
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from . import app, redis_transport
from .app import QueueGoneError, Refusal
from .beat import Lease, Runs
from .checks import split_urls
from .revoked import MOST, REVOKED_FOR
from .worker import ReliableConsumer

redis_transport.install()

# Seconds between two attempts to connect.
LONGEST_PAUSE = 5

# The ends of the keys of beat.
LEASE, RUNS = "beat.lease", "beat.runs"
# KEYS: the lease, and the last runs. ARGV: who asks; for how many milliseconds; its last runs.
# Answers with the runs that are kept, or with nothing if the lease is another's.
KEEP = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
if holder then redis.call('SET', KEYS[2], ARGV[3]) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return redis.call('GET', KEYS[2]) or '{}'
"""

# KEYS: the set of what was revoked. ARGV: now; what is too old; the rank of what is too much; for
# how many seconds it is kept; the entries. It begins as a full server allows.
REVOKE = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
for i = 5, #ARGV do redis.call('ZADD', KEYS[1], ARGV[1], ARGV[i]) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
"""


class RedisConsumer(ReliableConsumer):
    """The part of a worker that reads from Redis."""

    def ask(self) -> None:
        """Ask whether Redis answers."""

        def ping(channel: Any) -> None:
            with channel.conn_or_acquire() as client:
                client.ping()

        self.line.do(ping)

    def ensure_connected(self, conn: Any) -> Any:
        """Return the connection once Redis can be reached; end if it refuses this worker."""
        ensure = conn.ensure_connection

        def ensure_or_end(say: Any, *args: Any, **options: Any) -> Any:
            def failed(error: Exception, interval: float) -> None:
                self.end_if_refused(error)  # kombu would try again for ever
                say(error, interval)

            return ensure(failed, *args, interval_max=LONGEST_PAUSE, **options)

        conn.ensure_connection = ensure_or_end
        # Events and answers to commands are sent from the loop: it must not try for ever.
        conn.ensure = partial(conn.ensure, max_retries=0)
        return super().ensure_connected(conn)


class RedisLease(Lease):
    """Beat's lease: a key that expires, beside one with the last runs."""

    # Milliseconds; beat renews it several times in this time.
    duration = 15_000

    def __init__(self, app: Any) -> None:
        """Prepare the lease of an ``app``, under a name of its own."""
        super().__init__(app)
        self.holder = str(uuid.uuid4())

    def exchange(self, runs: Runs) -> Runs | None:
        """Keep the lease and the ``runs``; return what is kept, or None if another one leads."""
        keys = [f"{self.app.main}.{end}" for end in (LEASE, RUNS)]
        kept = self.channel.run(KEEP, keys, [self.holder, self.duration, json.dumps(runs)])
        return None if kept is None else json.loads(kept)

    def end(self, runs: Runs) -> None:
        """Let the lease expire at once."""
        self.duration = 1
        super().end(runs)


class ReliableCelery(app.ReliableCelery):
    """A Celery app on Redis: it loses no message, and delays wait in the server."""

    consumer_cls = RedisConsumer
    lease_cls = RedisLease
    schemes = ("redis", "rediss", "redis+socket", "sentinel")

    def wrong_settings(self) -> Iterator[tuple[str, str]]:
        """Yield the names of settings that are wrong on Redis alone, each with the error."""
        options, limit = self.conf.broker_transport_options, self.conf.task_time_limit or 0
        timeout = options.get("visibility_timeout", 3600)  # as in kombu
        if not isinstance(timeout, int | float) or timeout <= limit:
            error = f"has a visibility_timeout of {timeout!r}; it must be more than task_time_limit"
            yield "broker_transport_options", f"{error}, {limit}, or tasks run twice side by side"
        if options.get("retry_on_timeout"):
            error = "has retry_on_timeout, with which replies are taken for those of other commands"
            yield "broker_transport_options", f"{error}; leave it out"
        urls = split_urls(self.conf.broker_url)
        if urls[0].scheme != "redis+socket" and not (urls[0].path[1:] or "0").isdecimal():
            yield "broker_url", "must end with the number of a database, as in localhost:6379/0"
        for name in self.amqp.queues:
            queue, _, end = name.rpartition(".")
            if end in {"delayed", "bell"} and queue in self.amqp.queues:
                yield "task_queues", f"has the queue {name}, a name that {queue} needs for itself"
        same = {(url.username, url.password, url.path) for url in urls}
        if urls[0].scheme == "sentinel" and len(same) > 1:
            yield "broker_url", "must have the same user, password and database for each sentinel"

    def refusal(self, error: BaseException) -> Refusal | None:
        """Return what Redis refuses, or None if the error is of another kind."""
        refused = isinstance(error, AuthenticationError | NoPermissionError)
        if refused or (isinstance(error, RedisError) and "DB index" in str(error)):
            return Refusal(f"Redis refuses this: {error}")
        return self.refusal(error.__cause__) if error.__cause__ else None

    def origin(self, message: Any, consumer: Any) -> dict[str, str]:
        """Return the exchange and routing key that lead to the queue a message was read from."""
        del consumer
        return {"exchange": "", "routing_key": message.queue}

    def seal(self, message: Any) -> tuple[Any, dict[str, Any]]:
        """Return a message as the body of a dead letter, and what else must be kept of it."""
        # What was sent to all workers was in no queue.
        return message.raw or dumps(message._raw), {}  # noqa: SLF001  # as kombu read it

    def unseal(self, channel: Any, body: Any, about: dict[str, Any]) -> None:
        """Put the message of a dead letter back on its queue, as it came.

        Raises `QueueGoneError` if it was sent to all workers, which have no queue in common.
        """
        if not about["routing_key"]:
            raise QueueGoneError("it was sent to all workers")
        channel.put_raw(about["routing_key"], body)

    def keep_revoked(self, entries: list[str]) -> None:
        """Keep what was revoked, in a sorted set by time.

        Raises `kombu.exceptions.OperationalError` if Redis refuses it.
        """
        now = time.time()
        limits = [now - REVOKED_FOR, -1 - MOST, REVOKED_FOR]
        with self.connection_or_acquire() as connection:
            channel: Any = connection.default_channel
            try:
                channel.run(REVOKE, [self.revoked_key], [now, *limits, *entries])
            except ResponseError as error:
                raise OperationalError(f"Redis does not keep what is revoked: {error}") from error

    def kept_revoked(self) -> list[str]:
        """Return what is kept there."""
        with self.connection_or_acquire() as connection:
            channel: Any = connection.default_channel
            # In lower case, since kombu puts the prefix before the keys of some commands.
            key = f"{channel.global_keyprefix}{self.revoked_key}"
            with channel.conn_or_acquire() as client:
                kept = client.execute_command("zrange", key, 0, -1)
        return [bytes_to_str(entry) for entry in kept]

    @property
    def revoked_key(self) -> str:
        """The key of the set of what was revoked, without the prefix."""
        return f"{self.main}.revoked"

    def queue_length(self, connection: Connection, name: str) -> int:
        """Return how many messages wait in a queue; 0 if it does not exist. It creates nothing."""
        # Not by declaring the queue: then kombu forgets whether it expires.
        channel: Any = connection.default_channel
        length: int = channel._size(name)  # noqa: SLF001
        return length

    def delayed_length(self, connection: Connection, name: str) -> int:
        """Return how many messages of a queue wait for their `countdown` or `eta`."""
        channel: Any = connection.default_channel
        length: int = channel.delayed_count(name)
        return length

    def has_beat(self, connection: Connection) -> bool:
        """Tell whether a beat has the lease. It creates nothing."""
        channel: Any = connection.default_channel
        key = f"{channel.global_keyprefix}{self.main}.{LEASE}"
        with channel.conn_or_acquire() as client:
            return bool(client.execute_command("exists", key))
