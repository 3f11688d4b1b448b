"""The file that a worker keeps fresh while it can work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.health import READY, heartbeat_file
from runtime.heartbeat import INTERVAL
from tests.proxy import Broker, Way, broker
from tests.runtime.conftest import MakeApp, StartWorker
from tests.service import wait_until


@pytest.fixture
def server() -> Iterator[Broker]:
    """Give a Redis server that can go away."""
    with broker("redis") as server:
        yield server


def later(file: Path) -> None:
    """Wait until a file is touched again."""
    before = file.stat().st_mtime_ns
    wait_until(lambda: file.exists() and file.stat().st_mtime_ns > before, "it is not touched")


def test_several_signs_of_life_fit_into_the_time_that_the_probe_allows() -> None:
    assert READY >= 3 * INTERVAL


def test_a_worker_keeps_its_file_fresh_while_it_reads_from_the_broker(
    make_app: MakeApp, run_worker: StartWorker, server: Broker
) -> None:
    app, file = make_app("redis", broker_url=server.url), heartbeat_file("worker")
    file.touch()
    with run_worker(app, pool="threads", concurrency=2) as worker:
        for _ in range(3):
            later(file)
        server.proxy.set(Way.DOWN)
        wait_until(lambda: not file.exists(), "it is still there without a broker")
        server.proxy.set(Way.UP)
        wait_until(file.exists, "it does not come back")
        later(file)
        assert worker.consumer.connection
    assert not file.exists()


def test_a_file_of_an_earlier_worker_is_no_sign_of_life(
    make_app: MakeApp, run_worker: StartWorker
) -> None:
    app, file = make_app("redis"), heartbeat_file("worker")
    file.write_text("an earlier one")
    with run_worker(app):
        assert file.read_text() == ""
