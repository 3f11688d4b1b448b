"""What was revoked stays so, and stops nobody."""

import time
from typing import Any

import pytest
from celery import states
from celery.bootsteps import StartStopStep
from celery.worker import state
from kombu.exceptions import OperationalError
from redis import Redis

from runtime.worker import store_off_loop
from tests import servers
from tests.runtime.conftest import MakeApp, StartWorker
from tests.service import DEADLINE, wait_until


def noop() -> None:
    """Do nothing, as a task."""


class OffLoop(StartStopStep):
    """Stores how tasks ended off the loop of its worker, as `celery worker` does."""

    def start(self, parent: Any) -> None:
        """Start before the worker hears commands."""
        store_off_loop(parent.app.backend)


def wait_for_answer(app: Any) -> None:
    """Wait until the worker answers a command."""
    wait_until(lambda: app.control.ping(timeout=1, limit=1), "it does not answer")


@pytest.fixture
def app(make_app: MakeApp, kind: str) -> Any:
    """Return an app on each broker in turn, whose workers hear commands."""
    return make_app(kind, worker_enable_remote_control=True)


def test_whatever_was_revoked_a_worker_starts(
    app: Any, run_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    # As the command line gives them, and as a program does.
    for headers in (["tenant=bad", "x"], {"tenant": ["worse"]}):
        app.control.broadcast("revoke_by_stamped_headers", {"headers": headers})
    app.control.revoke([])
    app.control.revoke(["one", 42])
    app.keep_revoked(["no JSON", "[1]"])
    task = app.task(noop)
    with run_worker(app):
        task.delay().get(timeout=DEADLINE)
        assert "one" in state.revoked
        stamps: Any = state.revoked_stamps
        assert set(stamps["tenant"]) == {"bad", "worse"}
    for text in ("42", "no JSON", "[1]"):
        assert f"what was revoked cannot be read: {text!r}" in caplog.text


def test_a_task_is_revoked_while_the_result_backend_is_away(
    make_app: MakeApp, kind: str, run_worker: StartWorker
) -> None:
    nowhere = "redis://localhost:1/0"
    app = make_app(
        kind,
        worker_enable_remote_control=True,
        result_backend=nowhere,
        result_backend_always_retry=True,
        result_backend_max_retries=float("inf"),
    )
    app.steps["worker"].add(OffLoop)
    with run_worker(app, pool="threads", concurrency=1):
        wait_for_answer(app)
        app.control.revoke("gone")
        wait_for_answer(app)


def test_what_has_ended_stays_so_when_it_is_revoked(app: Any, run_worker: StartWorker) -> None:
    task = app.task(noop)
    app.steps["worker"].add(OffLoop)
    with run_worker(app, pool="threads", concurrency=1):
        done = task.delay()
        done.get(timeout=DEADLINE)
        wait_for_answer(app)
        app.control.revoke([done.id, "waits"])
        waits = app.AsyncResult("waits")
        wait_until(lambda: waits.state == states.REVOKED, "it is not revoked")
    assert done.state == states.SUCCESS


def test_a_full_redis_keeps_what_is_revoked(make_app: MakeApp) -> None:
    with servers.valkey() as url, Redis.from_url(url) as client:
        app = make_app("redis", broker_url=f"{url}/0")
        app.keep_revoked(["one"])
        client.config_set("maxmemory", 1)
        app.keep_revoked(["two"])
        assert set(app.kept_revoked()) == {"one", "two"}
        client.config_set("min-replicas-to-write", 1)
        with pytest.raises(OperationalError, match="Redis does not keep what is revoked"):
            app.control.revoke("three")


def test_what_was_revoked_long_ago_is_forgotten(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app("redis")
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now - 8 * 24 * 3600)
        app.keep_revoked(["old"])
    app.keep_revoked(["new"])
    assert app.kept_revoked() == ["new"]
