r"""kombu's transport for Redis, without a moment in which a taken message is nowhere.

kombu takes a message (BRPOP) and records it as unacknowledged in a second step; a worker that is
killed in between loses it. Here one script takes and records. What blocks is a wait for a *bell*,
a short list beside each queue that every sender touches:

    look    a script takes what the prefetch allows, and carries the acknowledgements; it finds
            every queue empty: it silences the bells, so that each ring after it is heard
    wait    BRPOP of the bells, for a second or until the next delayed message is due; then look

Messages with an `eta` in the future wait in a sorted set beside their queue, not in a worker.

    <queue>, <queue>\x06\x163 …   ready messages, a list for each priority, as kombu's
    <queue>.delayed …             messages and when they are due, one beside each such list
    <queue>.bell                  up to a hundred rings
    unacked, unacked_index        what workers have taken, as kombu's

A message is recorded under a tag that is made for each take: two deliveries never share one, and
the process knows the tags of a take whose reply it never read.
"""
# ruff: noqa: SLF001 - it stands on private names of kombu

import json
from base64 import b64encode
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from hashlib import sha1
from math import inf
from queue import Empty
from threading import Lock
from time import monotonic, time
from typing import Any, NamedTuple
from uuid import uuid4

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport import _transport_cache as transports  # type: ignore[attr-defined]
from kombu.transport import redis as base
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from kombu.utils.url import url_to_parts
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from .app import BrokerFullError
from .sentinel import SentinelConnection, SentinelSSLConnection, connections, replicated

# Seconds for which the tags of a lost take are looked for: its script may still be on its way.
LOST_FOR = 60

# Seconds that it takes to hand over a message, if it is not done before.
SLOW = 0.1

# Seconds until a worker without an event loop, whose prefetch is full, looks again.
FULL = 0.05

# How many queues that expire a channel knows: a worker declares one for each task that it counts.
EXPIRING = 10_000

# A full server (`maxmemory`, `noeviction`) refuses a script whose first write could need memory,
# and lets one pass whose first write only frees some. TAKE, RESTORE and BIND begin with such a
# write and PUT does not: workers can empty a full server, senders cannot fill it further.

# KEYS: index and hash of what is unacknowledged; by priority and queue, delayed messages and list;
# the bells. ARGV: now; the tag of this take; how many to take; the number of queues; of each its
# name as JSON, or nothing where nothing is recorded; the tags that are done.
# Answers when the next message is due, if every queue is empty now, and key and message of each.
TAKE = """
local queues = tonumber(ARGV[4])
for i = 5 + queues, #ARGV do
  redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('HDEL', KEYS[2], ARGV[i])
end
local bells = #KEYS - queues + 1
local full = 1 + 2 * ARGV[3]
local reply = {''}
for key = 3, bells - 1, 2 do
  local name = ARGV[5 + (key - 3) / 2 % queues]
  while #reply < full do
    local raw = redis.call('ZRANGEBYSCORE', KEYS[key], '-inf', ARGV[1], 'LIMIT', 0, 1)[1]
    if raw then
      redis.call('ZREM', KEYS[key], raw)
    else
      raw = redis.call('RPOP', KEYS[key + 1])
    end
    if not raw then break end
    reply[#reply + 1] = key - 3
    reply[#reply + 1] = raw
    if name ~= '' then
      local tag = ARGV[2] .. (#reply - 1) / 2
      redis.call('HSET', KEYS[2], tag, '[' .. raw .. ',"",' .. name .. ']')
      redis.call('ZADD', KEYS[1], ARGV[1], tag)
    end
  end
end
if #reply == full then return reply end
for key = 3, bells - 1, 2 do
  local due = redis.call('ZRANGE', KEYS[key], 0, 0, 'WITHSCORES')[2]
  if due and (reply[1] == '' or tonumber(due) < tonumber(reply[1])) then reply[1] = due end
end
for key = bells, #KEYS do redis.call('DEL', KEYS[key]) end
return reply
"""

# KEYS: list, bell, delayed messages. ARGV: LPUSH (last) or RPUSH (next), message, when it is due
# (0: now). Those who wait know of the first delayed message: one that is not the first needs no
# bell. Every waiting worker looks again at a ring; a hundred are enough for all.
PLACE = """
if ARGV[3] == '0' then
  redis.call(ARGV[1], KEYS[1], ARGV[2])
else
  redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2])
end
if ARGV[3] == '0' or redis.call('ZRANGE', KEYS[3], 0, 0)[1] == ARGV[2] then
  if redis.call('LLEN', KEYS[2]) < 100 then redis.call('LPUSH', KEYS[2], '') end
end
"""

# KEYS, then: every list of the queue. ARGV, then, of a queue that expires: milliseconds until it
# does, and until its delayed messages do, which live until they were due for as long.
PUT = (
    PLACE
    + """
if ARGV[4] then
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
  for i = 4, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
  if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[5]) then
    redis.call('PEXPIRE', KEYS[3], ARGV[5])
  end
end
"""
)

# KEYS, then: index and hash of what is unacknowledged. ARGV, then: the tag.
RESTORE = (
    """
if redis.call('HDEL', KEYS[5], ARGV[4]) == 0 then return 0 end
redis.call('ZREM', KEYS[4], ARGV[4])
"""
    + PLACE
    + "return 1"
)

# KEYS: the sets in which an exchange keeps its bindings. ARGV: the binding.
BIND = """
for i = 1, #KEYS do
  redis.call('SREM', KEYS[i], ARGV[1])
  redis.call('SADD', KEYS[i], ARGV[1])
end
"""

# KEYS: index of what is unacknowledged. ARGV: now; the tags of what is still held.
KEEP = """
for i = 2, #ARGV do
  if redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[i])
  end
end
"""


@cache
def sha_of(script: str) -> str:
    """Return the name under which a server knows a script."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


def due(message: Any) -> float:
    """Return the timestamp of a message's `eta`, or 0 if it has none that can be read."""
    try:
        eta = datetime.fromisoformat(message["headers"]["eta"])
        return (eta if eta.tzinfo else eta.replace(tzinfo=UTC)).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0


class Debts:
    """What this process owes one server, whatever becomes of its connections."""

    def __init__(self) -> None:
        """Begin with none."""
        self.acks: deque[str] = deque()
        self.flushing = Lock()
        # Tags of messages that may be recorded as taken by nobody any more, and since when.
        self.lost: dict[str, float] = {}

    def lose(self, tags: Iterable[str]) -> None:
        """Have `tags` given back once the server can be reached."""
        self.lost.update(dict.fromkeys(tags, monotonic()))

    def collect_acks(self) -> list[str]:
        """Return the tags to acknowledge, and forget them: other threads may do so, too."""
        tags = []
        with suppress(IndexError):
            while True:
                tags.append(self.acks.popleft())
        return tags


_debts: dict[Hashable, Debts] = defaultdict(Debts)


class Taken(NamedTuple):
    """A message as it was taken."""

    tag: str
    queue: str
    key: str
    raw: bytes


class Take(NamedTuple):
    """A take whose reply was not read yet."""

    tag: str
    queues: list[str]
    keys: list[str]
    limit: int
    acks: list[str]
    command: list[Any]

    @property
    def tags(self) -> list[str]:
        """Return every tag under which it can have recorded a message."""
        return [f"{self.tag}{n}" for n in range(1, self.limit + 1)]

    def read(self, reply: list[Any]) -> list[Taken]:
        """Return what was taken."""
        numbers, raws = reply[1::2], reply[2::2]
        return [
            Taken(tag, self.queues[n // 2 % len(self.queues)], self.keys[n + 1], raw)
            for tag, n, raw in zip(self.tags, numbers, raws, strict=False)
        ]


class Message(virtual.Message):
    """A message; one that cannot be read becomes one of bytes, which nobody accepts by default."""

    raw: bytes | None = None  # as it was in the queue
    queue = ""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        """Read what was taken, or a message that kombu has read already."""
        if not isinstance(payload, Taken):
            super().__init__(payload, channel, **kwargs)
            return
        self.raw, self.queue = payload.raw, payload.queue
        delivery = {"exchange": "", "routing_key": payload.queue}
        try:
            message = loads(payload.raw)
            if not isinstance(message["body"], str):
                raise TypeError("a body is text")  # noqa: TRY301
            properties = message["properties"]
            properties["delivery_tag"] = payload.tag
            if not properties.get("delivery_info"):
                properties["delivery_info"] = delivery
            super().__init__(message, channel, **kwargs)
        except Exception:  # noqa: BLE001 - anything can be in a queue
            message = {
                "body": b64encode(payload.raw).decode(),
                "content-type": "application/octet-stream",
                "content-encoding": "binary",
                "properties": {
                    "body_encoding": "base64",
                    "delivery_tag": payload.tag,
                    "delivery_info": delivery,
                },
            }
            super().__init__(message, channel, **kwargs)


class QoS(base.QoS):
    """Acknowledgements; what was taken is recorded already."""

    channel: "Channel"
    _vrestore_count: int

    def append(self, message: Any, delivery_tag: str) -> None:
        """Count a message that was delivered."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        virtual.QoS.ack(self, delivery_tag)
        self.channel.acknowledge(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        """Give a message back to its queue, as the last one, or drop it."""
        if not requeue:
            self.ack(delivery_tag)
        elif not self.channel.closed:  # one that is closed has given it back, or lost it
            try:
                self.restore_by_tag(delivery_tag, leftmost=True)
            except self.channel.failures:
                self.channel.debts.lose([delivery_tag])
            virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Give back what was delivered and not acknowledged, or do so once there is a server."""
        delivered: dict[str, Any] = self._delivered or {}
        try:
            self.channel.flush_acks()
            for tag in reversed(delivered.copy()):  # each before the one that came after it
                self.restore_by_tag(tag, client)
                delivered.pop(tag, None)
        except self.channel.failures:
            self.channel.debts.lose(delivered)
        delivered.clear()

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int = 10) -> None:
        """Give back what this process lost, and what others took a visibility timeout ago.

        Without kombu's mutex: a worker killed while it holds it would stop all for five minutes.
        """
        try:
            self.channel.settle()
            self.keep_held()
            self._vrestore_count += 1
            if (self._vrestore_count - 1) % (interval or 1):
                return
            with self.channel.conn_or_acquire() as client:
                for tag in client.zrange(
                    self.unacked_index_key,
                    time() - self.visibility_timeout,
                    0,
                    desc=True,
                    byscore=True,
                    offset=num and start,
                    num=num,
                ):
                    self.restore_by_tag(bytes_to_str(tag), client)
        except NoPermissionError:
            raise
        except ResponseError as error:
            # Raised while a worker connects, it would leave the connection open.
            base.warning("Redis refuses to take messages back, and is asked again: %s", error)

    def keep_held(self) -> None:
        """Let the visibility timeout of what this worker holds begin again: it lives."""
        held = {*(self._delivered or ())} - {*(self._dirty or ())}
        if self.channel._take is not None:  # its reply is not read while the prefetch is full
            held.update(self.channel._take.tags)
        if held:
            self.channel.run(KEEP, [self.channel.unacked_index_key], [repr(time()), *held])

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002
        """Give one message back to its queue, as the next or the last one."""
        self.channel.give_back(tag, client, "LPUSH" if leftmost else "RPUSH")


class Client(base.PrefixedStrictRedis):
    """Sends the commands of a pipeline as they are: a full server refuses every transaction."""

    def pipeline(self, transaction: Any = False, shard_hint: Any = None) -> Any:  # noqa: FBT002
        """Return a pipeline that is no transaction, unless it is said to be."""
        return super().pipeline(transaction, shard_hint)


class Channel(base.Channel):
    """Takes and records in one step, and waits for bells."""

    QoS = QoS
    Message = Message
    connection: Any  # the transport; None once the channel is closed
    qos: Any
    connection_errors: tuple[type[Exception], ...]
    failures: tuple[type[Exception], ...]
    keyprefix_binding_permanent: str
    unacked_restore_interval: float
    _in_poll: Any
    _brpop_sent_at: float | None
    _expires: dict[str, int]
    _queue_cycle: Any
    _q_for_pri: Callable[[str, int], str]
    _disconnect_pools: Callable[[], None]
    _flush_brpop_reauth: Callable[[], None]
    _maybe_update_queues_expire: Callable[[Any, str], None]
    _lookup: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Open the channel, with what its process still owes the server."""
        self._take: Take | None = None  # in flight; without one, a wait may be
        self._look = True
        self._next_due = inf
        self._script_known = False
        self._no_ack: set[str] = set()
        self._sync_client: Any = None
        super().__init__(*args, **kwargs)
        # Of a server that is away, or refuses writes (MISCONF, NOREPLICAS, READONLY).
        self.failures = (*self.connection_errors, ResponseError)
        client = self.connection.client
        server = tuple(client.alt) or (client.hostname, client.port)
        self.debts = _debts[server, client.virtual_host, self.global_keyprefix, self.unacked_key]

    # --- Names and scripts ---

    def _bell(self, queue: str) -> str:
        return f"{queue}.bell"

    def _lists(self, queue: str) -> list[str]:
        return [self._q_for_pri(queue, priority) for priority in self.priority_steps]

    def _delayed(self, queue: str) -> list[str]:
        return [f"{name}.delayed" for name in self._lists(queue)]

    def _command(self, script: str, keys: list[str], arguments: list[Any]) -> list[Any]:
        # In lower case, since kombu puts `global_keyprefix` before the first key of an EVALSHA.
        return [
            "evalsha",
            sha_of(script),
            len(keys),
            *(self.global_keyprefix + key for key in keys),
            *arguments,
        ]

    def run(self, script: str, keys: list[str], arguments: list[Any], client: Any = None) -> Any:
        """Run a script, wherever it is known; its ``keys`` are without the prefix."""
        command = self._command(script, keys, arguments)
        with self.conn_or_acquire(client) as client:  # noqa: PLR1704
            try:
                return client.execute_command(*command)
            except NoScriptError:
                return client.execute_command("eval", script, *command[2:])

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002
        # kombu makes one for each command, which takes as long as the command.
        if asynchronous:
            return super()._create_client(asynchronous)  # type: ignore[misc]
        if not self._sync_client or self._sync_client.connection_pool is not self.pool:
            self._sync_client = super()._create_client()  # type: ignore[misc]
        return self._sync_client

    def _get_client(self) -> Any:
        super()._get_client()  # type: ignore[misc] # checks the version of redis-py
        return partial(Client, global_keyprefix=self.global_keyprefix)

    # --- Sending ---

    def _place(
        self, queue: str, message: Any, raw: str | bytes, side: str
    ) -> tuple[list[str], list[Any]]:
        """Return KEYS and ARGV of PLACE."""
        name = self._q_for_pri(queue, self._get_message_priority(message))
        when = due(message)
        return (
            [name, self._bell(queue), f"{name}.delayed"],
            [side, raw, repr(when) if when > time() else 0],
        )

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        keys, arguments = self._place(queue, message, dumps(message), "LPUSH")
        expires = self._expires.get(queue)
        if expires is not None:
            keys += self._lists(queue)
            wait = max(0, due(message) - time())
            arguments += [expires, expires + int(wait * 1000)]
        batch = kwargs.get("_publish_batch")
        if batch is not None:
            batch.add("execute_command", "eval", PUT, *self._command(PUT, keys, arguments)[2:])
            return
        self._store(keys, arguments)

    def _get_message_priority(self, message: Any, reverse: bool = False) -> int:  # noqa: FBT001, FBT002
        try:
            priority: int = super()._get_message_priority(message, reverse)
        except OverflowError:  # JSON has 1e999
            priority = self.default_priority
        return priority

    def put_raw(self, queue: str, raw: bytes) -> None:
        """Put a message on a queue as it once was there, whether or not it can be read."""
        try:
            message = loads(raw)
        except Exception:  # noqa: BLE001 - anything can be in a queue
            message = None
        self._store(*self._place(queue, message, raw, "LPUSH"))

    def _store(self, keys: list[str], arguments: list[Any]) -> None:
        try:
            self._write(keys, arguments)
        except ResponseError as error:
            if "'maxmemory'" in str(error):
                text = "Redis is full: it refuses writes at maxmemory"
                raise BrokerFullError(text) from error
            raise

    def _write(self, keys: list[str], arguments: list[Any]) -> None:
        self.run(PUT, keys, arguments)

    # --- Taking ---

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,  # noqa: FBT001
        callback: Any,
        consumer_tag: str | None,
        **kwargs: Any,
    ) -> str:
        """Consume from a queue."""
        (self._no_ack.add if no_ack else self._no_ack.discard)(queue)
        self._look = True

        def deliver(message: Any) -> None:
            if message.raw and self._records(queue) and due(message._raw) > time():
                # On the list, since its sender uses kombu's transport: it is delayed here.
                self.give_back(message.delivery_tag, redelivered=False)
                virtual.QoS.ack(self.qos, message.delivery_tag)
            else:
                callback(message)

        consumer: str = super().basic_consume(queue, no_ack, deliver, consumer_tag, **kwargs)
        return consumer

    def _records(self, queue: str) -> bool:
        return self.ack_emulation and queue not in self._no_ack

    def _limit(self) -> int:
        """Return how many messages to take at once.

        One outside an event loop, where a call delivers one message, and where Celery's
        `worker_disable_prefetch` puts a rule of its own in `can_consume`.
        """
        qos = self.qos
        if not (self.connection.cycle.loop and qos.prefetch_count) or "can_consume" in vars(qos):
            return 1
        return max(1, int(qos.can_consume_max_estimate()))

    def _new_take(
        self, queues: list[str], limit: int, acks: list[str], *, record: bool = True
    ) -> Take:
        keys = []
        for priority in self.priority_steps:
            for queue in queues:
                name = self._q_for_pri(queue, priority)
                keys += [f"{name}.delayed", name]
        tag = f"{uuid4()}."
        names = [json.dumps(queue) if record and self._records(queue) else "" for queue in queues]
        command = self._command(
            TAKE,
            [self.unacked_index_key, self.unacked_key, *keys, *map(self._bell, queues)],
            [repr(time()), tag, limit, len(queues), *names, *acks],
        )
        return Take(tag, queues, keys, limit, acks, command)

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = list(self._queue_cycle.consume(len(self.active_queues)))
        if not queues:
            return
        self._lose_take()
        if self._look:
            self._take = self._new_take(queues, self._limit(), self.debts.collect_acks())
            command = self._take.command
            if not self._script_known:
                command[:2] = ["eval", TAKE]
        else:
            bells = [self.global_keyprefix + self._bell(queue) for queue in queues]
            timeout = min(timeout or self.brpop_timeout or 1, self._next_due - time())
            # Redis 6.2.5 takes one millisecond for none, and none for ever.
            command = ["BRPOP", *bells, max(0.002, round(timeout, 3))]
        connection = self.client.connection
        self._in_poll = connection
        self._brpop_sent_at = monotonic()
        connection.send_command(*command)

    def _brpop_read(self, **_options: Any) -> bool:
        try:
            try:
                reply = self.client.connection.read_response()
            except NoScriptError:
                self._script_known = False
                raise Empty from None
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            take, self._take = self._take, None
            if take is None:  # a bell, or none for as long as it was to wait
                self._look = True
                raise Empty
            self._script_known = True
            taken = take.read(reply)
            self._look = len(taken) == take.limit  # else every queue is empty now
            self._next_due = float(reply[0] or inf)
            self._hand_over(taken)
            return True
        finally:
            self._lose_take()  # there is none, unless its reply was an error
            self._in_poll = None
            self._flush_brpop_reauth()

    def _hand_over(self, messages: list[Taken]) -> None:
        if not messages:
            raise Empty
        for message in messages:
            self._queue_cycle.rotate(message.queue)
            if self._records(message.queue):
                self.qos.append(None, message.tag)
        waiting, started = deque(messages), monotonic()
        try:
            # For others is what was cancelled meanwhile, what comes while the channel closes, and
            # what would wait here for a task that runs right here, as in Celery's solo pool.
            while (
                waiting
                and waiting[0].queue in self.connection._callbacks
                and not self._closing
                and monotonic() - started < SLOW
            ):
                message, started = waiting.popleft(), monotonic()
                self.connection._deliver(message, message.queue)
        finally:
            for message in reversed(waiting):
                if self._records(message.queue):
                    self.give_back(message.tag, redelivered=False)
                    virtual.QoS.ack(self.qos, message.tag)
                else:
                    keys = [message.key, self._bell(message.queue), f"{message.key}.delayed"]
                    self.run(PUT, keys, ["RPUSH", message.raw, 0])

    def _lose_take(self) -> None:
        """Have a take whose reply will not come given back, and its acknowledgements repeated."""
        take, self._take = self._take, None
        if take is not None:
            self._look = True
            self.debts.acks.extend(take.acks)
            self.debts.lose(take.tags)

    def _on_connection_disconnect(self, connection: Any) -> None:
        if self._in_poll is connection:
            self._lose_take()
            self._look = True
        super()._on_connection_disconnect(connection)  # type: ignore[misc]

    def basic_get(self, queue: str, no_ack: bool = False, **_kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        """Take one message, if there is one."""
        take = self._new_take([queue], 1, [], record=not no_ack)
        # Not by a client of redis-py: it may repeat a command, and the first take would be lost.
        connection = self.pool.get_connection()
        try:
            connection.send_command("eval", TAKE, *take.command[2:])
            taken = take.read(connection.read_response())
        except self.connection_errors:
            self.debts.lose(take.tags)
            raise
        finally:
            self.pool.release(connection)
        self._maybe_update_queues_expire(self._create_client(), queue)
        if not taken:
            return None
        message = self.Message(taken[0], channel=self)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message

    # --- Giving back ---

    def give_back(
        self, tag: str, client: Any = None, side: str = "RPUSH", *, redelivered: bool = True
    ) -> bool:
        """Give a message back to its queue, and tell whether it was there."""
        index, unacked = self.unacked_index_key, self.unacked_key
        with self.conn_or_acquire(client) as client:  # noqa: PLR1704
            record = client.hget(unacked, tag)
            if record is None:
                client.zrem(index, tag)
                return False
            raw, ours, name = record.rpartition(b',"",')
            if ours:
                raw, queues = raw[1:], [loads(name[:-1])]
            else:  # of a worker that uses kombu's transport
                message, exchange, routing_key = loads(record)
                raw, queues = dumps(message), self._lookup(exchange, routing_key) or [routing_key]
            try:
                message = loads(raw)
                if redelivered:
                    message["headers"]["redelivered"] = True
                    message["properties"]["delivery_info"]["redelivered"] = True
                    raw = dumps(message)
            except Exception:  # noqa: BLE001 - anything can be in a queue; back it goes as it is
                message = None
            places = [self._place(queue, message, raw, side) for queue in queues]
            keys, arguments = places[0]
            if not self.run(RESTORE, [*keys, index, unacked], [*arguments, tag], client):
                return False  # somebody else gave it back, or it is done
            for keys, arguments in places[1:]:
                self.run(PUT, keys, arguments, client)
            return True

    def settle(self) -> None:
        """Pay what the process owes: acknowledgements first, then what it lost goes back."""
        self.flush_acks()
        for tag, since in list(self.debts.lost.items()):
            if self.give_back(tag) or monotonic() - since > LOST_FOR:
                self.debts.lost.pop(tag, None)

    def _basic_cancel(self, consumer_tag: str) -> None:
        super()._basic_cancel(consumer_tag)  # type: ignore[misc]
        if not self._closing:
            self.flush_acks()  # no take will carry them

    def close(self) -> None:
        """Close the channel; what it took goes back."""
        if self.closed:
            return
        self._closing = True
        if self._take is not None:
            with suppress(Empty, *self.failures):
                self._brpop_read()
        self._in_poll = None  # a wait needs no answer
        with suppress(*self.failures):
            self.settle()
        super().close()
        self._disconnect_pools()  # once more: giving back opened one again

    # --- Acknowledging ---

    def acknowledge(self, tag: str) -> None:
        """Acknowledge a message: with the next take, or at once where none is sure to come."""
        self.debts.acks.append(tag)
        loops = self.connection and self.connection.cycle.loop and self._active_queues
        if loops or self.closed:
            return
        # One thread at a time sends those of all, or each would need a connection of its own.
        while self.debts.acks and self.debts.flushing.acquire(blocking=False):
            try:
                self.flush_acks()
            except ResponseError:  # Redis refuses writes; `settle` repeats it
                return
            finally:
                self.debts.flushing.release()

    def flush_acks(self) -> None:
        """Send the acknowledgements that did not travel with a take."""
        tags = self.debts.collect_acks()
        if not tags:
            return
        try:
            keys = [self.unacked_index_key, self.unacked_key]
            self.run(TAKE, keys, [0, "", 0, 0, *tags])  # without queues, it only acknowledges
        except BaseException:
            self.debts.acks.extend(tags)
            raise

    @property
    def taking(self) -> bool:
        """Tell whether a take is under way, and its reply is read as soon as it comes."""
        return self._take is not None and bool(self.qos.can_consume())

    # --- Queues ---

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        super()._new_queue(queue, **kwargs)
        if len(self._expires) > EXPIRING:
            del self._expires[next(iter(self._expires))]

    def delayed_count(self, queue: str) -> int:
        """Return how many messages of a queue wait until they are due."""
        with self.conn_or_acquire() as client:
            prefix = self.global_keyprefix
            return sum(client.execute_command("zcard", prefix + n) for n in self._delayed(queue))

    def delayed(self, queue: str, limit: int = 100) -> list[tuple[float, Any]]:
        """Return when the next messages of a queue are due, and the messages as they are sent."""
        with self.conn_or_acquire() as client:
            found = [
                (score, loads(raw))
                for name in self._delayed(queue)
                for raw, score in client.zrange(name, 0, limit - 1, withscores=True)
            ]
        return sorted(found, key=lambda pair: pair[0])[:limit]

    def delayed_queues(self) -> set[str]:
        """Return the names of the queues that have delayed messages."""
        prefix, end = self.global_keyprefix, ".delayed"
        with self.conn_or_acquire() as client:
            keys = [bytes_to_str(key) for key in client.scan_iter(match=f"{prefix}*{end}")]
        return {key[len(prefix) : -len(end)].partition(self.sep)[0] for key in keys}

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return super()._has_queue(queue, **kwargs) or self.delayed_count(queue) > 0

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False,  # noqa: FBT001, FBT002
                     **kwargs: Any) -> None:  # fmt: skip
        """Delete a queue; one with delayed messages is not empty."""
        # A queue that cannot be deleted keeps no channel from closing.
        with suppress(*(self.failures if self._closing else ())):
            if not (if_empty and self.delayed_count(queue)):
                super().queue_delete(queue, if_unused=if_unused, if_empty=if_empty, **kwargs)

    def _purge(self, queue: str) -> int:
        delayed = self.delayed_count(queue)
        self._create_client().delete(self._bell(queue), *self._delayed(queue))
        return super()._purge(queue) + delayed

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        self._create_client().delete(self._bell(queue), *self._delayed(queue))

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[misc]
        except ResponseError as error:
            if "'maxmemory'" not in str(error):
                raise
            member = self.sep.join([routing_key or "", pattern or "", queue or ""])
            tables = self.keyprefix_queue, self.keyprefix_binding_permanent
            self.run(BIND, [table % (exchange,) for table in tables], [member])

    @cached_property
    def _refresh_binding(self) -> Any:
        allowed = "redis.call('SREM', KEYS[1], ARGV[1])\n"
        return self._create_client().register_script(allowed + base.REFRESH_BINDING)  # type: ignore[attr-defined]


class Poller(base.MultiChannelPoller):
    """Lets each channel send its acknowledgements as the event loop turns."""

    loop: Any = None  # that of a worker, if one drives the transport
    _held = False
    _channels: set[Channel]
    _restore_at = 0.0

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Read without an event loop, as with gevent: there, no timer restores what is overdue.

        kombu restores when a poll ends without an answer, but a take answers sooner.
        """
        if monotonic() >= self._restore_at:
            intervals = [channel.unacked_restore_interval for channel in self._channels]
            self._restore_at = monotonic() + min(intervals, default=0)
            self.maybe_restore_messages()
        takers = [channel for channel in self._channels if channel.active_queues]
        if takers and not any(channel.qos.can_consume() for channel in takers):
            # No socket tells of the end of a task, after which there is more to take.
            timeout = FULL if timeout is None else min(timeout, FULL)
        return super().get(callback, timeout)

    def on_poll_start(self) -> None:
        """Take or wait; send acknowledgements unless the next take will carry them.

        But hand over first: where a task has ended, a process of the pool is idle, and is written
        its next task when the loop polls. To take more is work that would make it wait.
        """
        if self.loop and not self._held and any(channel.debts.acks for channel in self._channels):
            self._held = True
            self.loop._waker.wake()  # the poll comes back at once
            return
        self._held = False
        super().on_poll_start()
        if not any(channel.taking for channel in self._channels):
            for channel in self._channels:
                channel.flush_acks()


class Transport(base.Transport):
    """The transport of `redis://` and `rediss://` URLs."""

    Channel: type[base.Channel] = Channel
    cycle: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Poll with this module's poller."""
        super().__init__(*args, **kwargs)
        self.polling_interval = None  # it is the length of a wait; no sleep comes between two
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let the event loop of a worker drive this transport."""
        self.cycle.loop = loop
        super().register_with_event_loop(connection, loop)


class SentinelChannel(Channel, base.SentinelChannel):
    """The same, of the master that Sentinel names."""

    connection_class = SentinelConnection
    connection_class_ssl = SentinelSSLConnection
    master_name = ""
    sentinel_kwargs: dict[str, Any] | None = None

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002
        options = self._connparams(asynchronous)  # type: ignore[attr-defined]
        one = options.pop("host"), options.pop("port")
        urls = map(url_to_parts, self.connection.client.alt)
        servers = [(url.hostname or "", url.port or 26379) for url in urls] or [one]
        return connections(servers, self.master_name, self.sentinel_kwargs, options)

    def _write(self, keys: list[str], arguments: list[Any]) -> None:
        with replicated(self._create_client()) as pipe:
            pipe.execute_command("eval", PUT, *self._command(PUT, keys, arguments)[2:])


class SentinelTransport(Transport, base.SentinelTransport):
    """The transport of `sentinel://` URLs."""

    Channel = SentinelChannel


def install() -> None:
    """Make these the transports of their URLs, in this process."""
    for scheme, name in (
        ("redis", "Transport"),
        ("rediss", "Transport"),
        ("sentinel", "SentinelTransport"),
    ):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{name}"
        transports.pop(scheme, None)
