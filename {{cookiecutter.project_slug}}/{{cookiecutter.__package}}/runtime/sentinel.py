"""Finds the master that Sentinel names, for the broker and for the results: `sentinel://` URLs.

A message or a result counts as written when the replicas have it, too: one of them may be the
master in the next moment. What workers take and acknowledge does not wait for them: where that is
undone by a failover, the message is delivered again.
"""
# mypy: allow-untyped-calls

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic
from typing import Any

from celery.backends import redis
from redis import SSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
)

from .results import STORE, RedisBackend

# A sentinel that is gone or silent costs a second; redis-py would try it eleven times.
SHORT = {"socket_timeout": 1, "socket_connect_timeout": 1, "retry": Retry(NoBackoff(), 0)}

# Seconds that a write may take to reach every replica. In a planned failover, Sentinel promotes one
# of them, and within about a second moves the others away from a master that still takes writes: a
# replica that is left after this time counts, one that is not there any more does not.
REPLICATION = 3

# Seconds after which the sentinels are asked again which server is the master. Until they are, an
# old master answers as if it were one.
VALID = 1


class Sentinels(Sentinel):
    """The sentinels of a master. One object for all of a process, so that all learn what one does.

    redis-py asks them in a fixed order, and each connection waits for one that is silent.
    """

    sentinels: list[Any]
    best: Any = None  # the one that answered last
    replicas = 0  # how many must have what is written

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the address of the master; raise MasterNotFoundError if none is known."""
        said, failed = [], None
        for sentinel in sorted(self.sentinels, key=lambda each: each is not self.best):
            try:
                state = sentinel.sentinel_masters().get(service_name)
                if state and self.check_master_state(state, service_name):
                    alive = self.filter_slaves(sentinel.sentinel_slaves(service_name))
                    self.replicas = max(1, len(alive)) if state["num-slaves"] else 0
                    self.best = sentinel
                    return state["ip"], state["port"]
                said.append("it is down" if state else "it is unknown")
            except (RedisConnectionError, RedisTimeoutError) as error:
                said.append(str(error))
                failed = error
        text = f"the sentinels know no master {service_name}: {'; '.join(said)}"
        raise MasterNotFoundError(text) from failed


_sentinels: dict[Any, Sentinels] = {}


class SentinelConnection(SentinelManagedConnection):
    """A connection to the master; it ends when the server is no master that takes writes."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Return a reply; raise ConnectionError if the next connection may find another master."""
        try:
            # As elsewhere in redis-py: after an error, a reply that comes late is not another's.
            return super().read_response(*args, **{"disconnect_on_error": True} | kwargs)
        except ResponseError as error:
            moved = isinstance(error, MasterDownError)
            if not moved and not str(error).startswith(("NOREPLICAS", "UNBLOCKED")):
                raise
            self.disconnect()
            raise RedisConnectionError(str(error)) from error


class SentinelSSLConnection(SentinelConnection, SSLConnection):
    """The same, with TLS."""


class Connections(SentinelConnectionPool):
    """A pool of connections to the master."""

    verified = -inf

    def verify(self) -> None:
        """Ask the sentinels, from time to time, and leave a server that is not the master."""
        if monotonic() - self.verified > VALID:
            self.get_master_address()
            self.verified = monotonic()


def connections(
    servers: Iterable[tuple[str, int]],
    master_name: str,
    sentinel_kwargs: dict[str, Any] | None,
    options: dict[str, Any],
) -> Connections:
    """Return a pool of connections to a master, each made with the ``options``."""
    key = tuple(servers), master_name
    if key not in _sentinels:
        _sentinels[key] = Sentinels(key[0], sentinel_kwargs=SHORT | (sentinel_kwargs or {}))
    options = {"connection_class": SentinelConnection} | options
    return Connections(master_name, _sentinels[key], **options)


@contextmanager
def replicated(client: Any) -> Iterator[Any]:
    """Give a pipeline whose commands are sent at the end, and wait until the replicas have them.

    Raises redis-py's ConnectionError if none has them after `REPLICATION` seconds.
    """
    pool: Connections = client.connection_pool
    pool.verify()
    wanted = pool.sentinel_manager.replicas
    with client.pipeline(transaction=False) as pipe:
        yield pipe
        pipe.execute_command("WAIT", wanted, REPLICATION * 1000)
        have = pipe.execute()[-1]
    if wanted and not have:
        pool.disconnect()  # the next connection asks the sentinels
        raise RedisConnectionError(f"no replica has what was written {REPLICATION} s ago")
    pool.sentinel_manager.replicas = have  # one that is away makes no other write wait


class SentinelBackend(RedisBackend, redis.SentinelBackend):
    """Celery's result backend, with these connections."""

    connection_class_ssl = SentinelSSLConnection
    _transport_options: dict[str, Any]

    def _get_pool(self, **params: Any) -> Connections:
        servers = [(host["host"], host["port"]) for host in params.pop("hosts")]
        options = self._transport_options
        return connections(
            servers, options.get("master_name", ""), options.get("sentinel_kwargs"), params
        )

    def _store_result(self, *args: Any, **options: Any) -> Any:
        # It stores nothing if there is a result, which must not be one that only an old master has.
        self.client.connection_pool.verify()
        return super()._store_result(*args, **options)  # type: ignore[misc]

    def _set(self, key: str, value: Any, expires: Any = None) -> None:
        seconds = self.expires if expires is None else expires
        with replicated(self.client) as pipe:
            pipe.eval(STORE, 1, key, value, seconds or 0)
