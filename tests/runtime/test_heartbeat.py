"""The files that a worker and beat keep fresh while they can work."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.schedules import schedule

from runtime.health import READY, heartbeat_file
from runtime.heartbeat import INTERVAL, BeatScheduler
from tests.proxy import Broker, Way, broker
from tests.runtime.conftest import MakeApp, StartWorker, length
from tests.service import wait_until


def noop() -> None:
    """Do nothing, as a task."""


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


class Beat:
    """Beat's scheduler with an entry that is due when the test says so."""

    def __init__(self, app: Any, directory: Path) -> None:
        """Prepare it; its schedule lies in a directory."""
        app.task(noop)
        entry = {"task": f"{__name__}.noop", "schedule": timedelta(hours=1)}
        app.conf.beat_schedule = {"hourly": entry}
        self.scheduler = BeatScheduler(app=app, schedule_filename=str(directory / "schedule"))
        self.file = heartbeat_file("beat")

    def ring(self) -> None:
        """Let the entry be due."""
        self.scheduler.schedule["hourly"].schedule = schedule(timedelta(0))
        self.scheduler.populate_heap()


@pytest.fixture
def beat(make_app: MakeApp, server: Broker, tmp_path: Path) -> Iterator[Beat]:
    """Give a beat on a server that can go away."""
    heartbeat_file("beat").touch()
    beat = Beat(make_app("redis", broker_url=server.url), tmp_path)
    yield beat
    beat.scheduler.close()


def test_beat_touches_its_file_with_each_tick(beat: Beat) -> None:
    assert not beat.file.exists(), "one of an earlier beat"
    for _ in range(2):
        assert 0 <= beat.scheduler.tick() <= INTERVAL
        assert beat.file.exists()
        beat.file.unlink()
    assert length(beat.scheduler.app) == 0
    beat.file.touch()
    beat.scheduler.close()
    assert not beat.file.exists()


def test_beat_sends_what_is_due(beat: Beat) -> None:
    beat.scheduler.tick()
    beat.ring()
    assert beat.scheduler.tick() == 0
    assert length(beat.scheduler.app) == 1


@pytest.mark.parametrize("way", [Way.DOWN, Way.SILENT])
def test_what_is_due_without_a_broker_is_sent_once_it_is_back(
    make_app: MakeApp, server: Broker, tmp_path: Path, way: Way
) -> None:
    options = {"socket_timeout": 0.2, "socket_connect_timeout": 0.2}
    app = make_app("redis", broker_url=server.url, broker_transport_options=options)
    beat = Beat(app, tmp_path)
    beat.scheduler.tick()
    beat.ring()
    server.proxy.set(way)
    for _ in range(2):
        assert beat.scheduler.tick() == INTERVAL
        assert not beat.file.exists()
    server.proxy.set(Way.UP)
    assert beat.scheduler.tick() == 0
    assert beat.file.exists()
    assert length(app) == 1
    beat.scheduler.close()
