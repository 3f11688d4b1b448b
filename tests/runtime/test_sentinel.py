"""Redis with a standby: three real sentinels, a master and two replicas."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import SentinelConnectionPool

from runtime import sentinel
from tests import sentinels
from tests.runtime.conftest import MakeApp, StartWorker, length
from tests.sentinels import MASTER, Group
from tests.service import DEADLINE, wait_until

PASSWORD = "p@ss:/;%#? word"  # noqa: S105
OWN_PASSWORD = "s;en/ti%nel"  # noqa: S105


def noop() -> None:
    """Do nothing, as a task."""


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    """Give a group of servers that no test changes for good."""
    with sentinels.group(
        password=PASSWORD, sentinel_password=OWN_PASSWORD, careful=False
    ) as servers:
        yield servers


@pytest.fixture
def make(make_app: MakeApp, group: Group, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give a function that makes an app on the group, with what the generated settings say."""
    monkeypatch.setattr(sentinel, "_sentinels", {})

    def make(**changes: Any) -> Any:
        own = {"password": OWN_PASSWORD} | changes
        options = {"master_name": MASTER, "sentinel_kwargs": own, "socket_timeout": 5}
        return make_app(
            "redis",
            broker_url=group.url(0),
            broker_transport_options=options | {"visibility_timeout": 600},
            result_backend=group.url(1),
            result_backend_transport_options=options,
        )

    return make


def test_passwords_of_any_characters_lead_to_the_master(
    make: Callable[..., Any], run_worker: StartWorker
) -> None:
    app = make()
    task = app.task(noop)
    with run_worker(app):
        result = task.delay()
        assert result.get(timeout=DEADLINE) is None
    shown = app.connection_for_read().as_uri()
    assert "sentinel://" in shown
    assert "ss%3A" not in shown
    assert "word" not in shown


def test_a_wrong_password_of_the_sentinels_is_a_refusal(make: Callable[..., Any]) -> None:
    app = make(password="wrong")  # noqa: S106
    with pytest.raises(OperationalError, match="Redis refuses this"):
        app.task(noop, ignore_result=True).delay()


def test_a_task_is_accepted_when_a_replica_has_it(make: Callable[..., Any], group: Group) -> None:
    app = make()
    task = app.task(noop, ignore_result=True)
    task.delay()
    before = length(app)
    master = group.master()
    replicas = [server for server in group.servers if server is not master]
    try:
        replicas[0].signal(signal.SIGSTOP)
        task.delay()  # the other one has it
        assert length(app) == before + 1
        replicas[1].signal(signal.SIGSTOP)
        with pytest.raises(OperationalError, match="no replica has what was written 3 s ago"):
            task.delay()
    finally:
        for server in replicas:
            server.signal(signal.SIGCONT)
    wait_until(lambda: all(map(group.complete, group.sentinels)), "the group is not complete")
    task.delay()


def test_each_process_waits_once_for_a_sentinel_that_is_silent(
    make: Callable[..., Any], group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = Redis.sentinel_masters

    def note(one: Any) -> Any:
        asked.append(one.connection_pool.connection_kwargs["port"])
        return ask(one)

    monkeypatch.setattr(Redis, "sentinel_masters", note)
    app = make()
    first = group.sentinels[0]
    first.signal(signal.SIGSTOP)
    try:
        for _ in range(3):
            with app.connection_for_write() as connection:
                connection.default_channel.client.ping()
    finally:
        first.signal(signal.SIGCONT)
    assert asked.count(first.port) == 1
    assert len(asked) >= 4


@pytest.fixture
def channel(make: Callable[..., Any]) -> Iterator[Any]:
    """Give a channel to the master."""
    with make().connection_for_write() as connection:
        yield connection.default_channel


def test_a_master_without_replicas_is_left(channel: Any) -> None:
    client = channel._create_client()  # noqa: SLF001
    client.config_set("min-replicas-to-write", 5)
    try:
        with pytest.raises(RedisConnectionError, match="NOREPLICAS"):
            client.set("key", "value")
    finally:
        client.config_set("min-replicas-to-write", 0)


def test_who_waits_at_a_master_that_is_none_any_more_is_told(channel: Any) -> None:
    connection = channel.pool.get_connection()
    connection.send_command("CLIENT", "ID")
    identity = connection.read_response()
    connection.send_command("BRPOP", "nothing", 0)
    client = channel._create_client()  # noqa: SLF001
    wait_until(lambda: client.execute_command("CLIENT", "UNBLOCK", identity, "ERROR"), "no wait")
    with pytest.raises(RedisConnectionError, match="UNBLOCKED"):
        connection.read_response()
    assert connection._sock is None  # noqa: SLF001


def test_a_connection_whose_reply_was_not_read_is_closed(channel: Any) -> None:
    connection = channel.pool.get_connection()
    connection.send_command("BRPOP", "nothing", 0)
    with pytest.raises(RedisTimeoutError):
        connection.read_response(timeout=0.01)
    assert connection._sock is None  # noqa: SLF001
    channel.pool.release(connection)


def test_a_replica_is_no_master(channel: Any, group: Group) -> None:
    manager = channel.pool.sentinel_manager
    (address, *_) = manager.discover_slaves(MASTER)

    class Stale:
        """Sentinels that name a replica."""

        def discover_master(self, _name: str) -> Any:
            return address

    options = {
        name: value
        for name, value in channel.pool.connection_kwargs.items()
        if name != "connection_pool"
    }
    make_pool: Any = SentinelConnectionPool
    pool = make_pool(MASTER, Stale(), **options, connection_class=channel.pool.connection_class)
    connection: Any = pool.get_connection()
    for command in (["BRPOP", "a", 1], ["EVAL", "redis.call('SET', KEYS[1], 1)", 1, "a"]):
        connection.send_command(*command)
        with pytest.raises(RedisConnectionError):
            connection.read_response()
    connection.send_command("INCR")
    with pytest.raises(ResponseError, match="wrong number"):
        connection.read_response()
    pool.disconnect()
    assert group.master()
