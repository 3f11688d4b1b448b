"""Results: a worker can store them while Redis is full."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import states
from celery.exceptions import TimeoutError as NoResultError

from tests import servers
from tests.runtime.conftest import MakeApp


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
