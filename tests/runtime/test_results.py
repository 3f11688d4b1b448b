"""Results: a worker can store them while Redis is full."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import states
from celery.exceptions import TimeoutError as NoResultError

from tests import servers
from tests.runtime.conftest import MakeApp
from tests.service import DEADLINE, wait_until


@pytest.fixture
def full() -> Iterator[str]:
    """Give the URL of a Redis that refuses writes."""
    with servers.valkey() as url:
        with redis.Redis.from_url(url) as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                client.set("key", "value")
        yield f"{url}/0"


@pytest.mark.parametrize("expires", [60, None])
def test_a_result_can_be_stored_and_read(make_app: MakeApp, full: str, expires: int | None) -> None:
    app = make_app("redis", result_backend=full, result_expires=expires)
    result = app.AsyncResult("one")
    with pytest.raises(NoResultError):
        result.get(timeout=0.01)
    app.backend.store_result("one", None, states.STARTED)
    app.backend.store_result("one", 42, states.SUCCESS)
    assert result.get(timeout=5) == 42
    with redis.Redis.from_url(full) as client:
        kept = client.ttl(app.backend.get_key_for_task("one"))
    assert 0 < kept <= 60 if expires else kept == -1


def test_who_waits_for_a_result_gets_it(make_app: MakeApp, full: str) -> None:
    app = make_app("redis", result_backend=full)
    result = app.AsyncResult("one")
    client: Any = redis.Redis.from_url(full)
    with client, client.pubsub() as listener:
        listener.subscribe(app.backend.get_key_for_task("one"))
        assert listener.get_message(timeout=5)
        app.backend.store_result("one", 42, states.SUCCESS)
        told: Any = listener.get_message(timeout=5)
    assert b"42" in told["data"]
    assert result.get(timeout=5) == 42


def test_other_writes_are_tried_again(make_app: MakeApp, full: str) -> None:
    app = make_app("redis", result_backend=full)
    with redis.Redis.from_url(full) as client, pytest.raises(redis.RedisError) as caught:
        client.incr("chord")
    error: Any = caught.value
    assert app.backend.exception_safe_to_retry(error)
    assert not app.backend.exception_safe_to_retry(redis.ResponseError("wrong kind of value"))


def readonly(client: Any, _directory: Path) -> Callable[[], Any]:
    """Make a server a replica, and return what makes it a master again."""
    client.replicaof("127.0.0.1", 1)
    return lambda: client.replicaof("NO", "ONE")


def noreplicas(client: Any, _directory: Path) -> Callable[[], Any]:
    """Let a server demand a replica, and return what lets it do without."""
    client.config_set("min-replicas-to-write", 1)
    return lambda: client.config_set("min-replicas-to-write", 0)


def misconf(client: Any, directory: Path) -> Callable[[], Any]:
    """Let a server fail to write to its disk, and return what makes it go on without."""
    (directory / client.config_get("dbfilename")["dbfilename"]).mkdir()
    client.config_set("save", "3600 1")
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "it saves")
    return lambda: client.config_set("save", "")


@pytest.mark.parametrize("refuse", [readonly, noreplicas, misconf])
def test_a_result_waits_for_a_server_that_refuses_writes(
    make_app: MakeApp, tmp_path: Path, refuse: Callable[[Any, Path], Callable[[], Any]]
) -> None:
    server = servers.start_valkey(tmp_path, save="")
    url = f"redis://127.0.0.1:{server.port}/0"
    app = make_app(
        "redis",
        result_backend=url,
        result_backend_always_retry=True,
        result_backend_max_retries=1_000_000,
    )
    client: Any = redis.Redis.from_url(url)
    try:
        allow = refuse(client, tmp_path)
        stored = threading.Thread(target=app.backend.store_result, args=("one", 42, "SUCCESS"))
        stored.start()
        name = f"errorstat_{refuse.__name__.upper()}"
        wait_until(lambda: name in client.info("errorstats"), "nothing was refused")
        allow()
        stored.join(DEADLINE)
        assert app.AsyncResult("one").get(timeout=5) == 42
    finally:
        client.close()
        server.terminate()


def test_a_new_connection_is_made_after_a_server_became_a_replica(
    make_app: MakeApp, full: str
) -> None:
    backend = make_app("redis", result_backend=full).backend
    with redis.Redis.from_url(full) as client:
        backend.client.ping()
        identity = backend.client.client_id()
        backend.on_backend_retryable_error(redis.ResponseError("MISCONF"))
        assert backend.client.client_id() == identity
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(redis.exceptions.ReadOnlyError) as caught:
            backend.client.set("key", "value")
        backend.on_backend_retryable_error(caught.value)
        assert backend.client.client_id() != identity
