"""The worker's main process: what it knows of a task, how it reads from the broker, how it ends."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self
from weakref import WeakValueDictionary

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from celery import current_app, signals
from celery.utils.dispatch import Signal
from celery.worker.consumer import Consumer
from celery.worker.request import Request

# Sent when a run of a task starts: `sender` is its request.
run_started = Signal(name="run_started")
# Sent when a run of a task has ended: `sender` is its request, `error` what it raised or None,
# `seconds` how long it took.
run_ended = Signal(name="run_ended", providing_args=["error", "seconds"])

# What the main process knows, by task id; and the one whose end it deals with, while it does.
requests: WeakValueDictionary[str, Request] = WeakValueDictionary()
current_request: ContextVar[Any] = ContextVar("current_request", default=None)


class OutOfMemoryError(Exception):
    """A task has raised `MemoryError`, which on its own would end the whole worker."""


class ReliableRequest(Request):
    """What the worker's main process knows of a task."""

    on_success: Any

    def __init_subclass__(cls) -> None:
        """Announce successes: Celery makes a subclass for each task, with its own `on_success`."""
        handle = cls.on_success

        def on_success(self: Self, outcome: Any, **options: Any) -> Any:
            failed, _value, seconds = outcome
            if not failed:
                run_ended.send(sender=self, error=None, seconds=seconds)
            return handle(self, outcome, **options)

        cls.on_success = on_success

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take a message with the arguments of `celery.worker.request.Request`."""
        super().__init__(*args, **options)
        requests[self.id] = self

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """Take note that the task starts, and announce it."""
        super().on_accepted(pid, time_accepted)
        run_started.send(sender=self)

    def on_failure(self, exc_info: Any, *args: Any, **options: Any) -> Any:
        """Handle the failure of the task; a `MemoryError` becomes an ordinary one."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):  # as the pool wraps it
            error = error.exc
        seconds = time.time() - self.time_start if self.time_start else 0
        run_ended.send(sender=self, error=error, seconds=seconds)
        if isinstance(error, MemoryError):
            exc_info.exception = OutOfMemoryError(*error.args)
        with self._current():
            return super().on_failure(exc_info, *args, **options)

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001
        """Handle the end of the task's time limit."""
        with self._current():
            super().on_timeout(soft, timeout)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:  # noqa: FBT001, FBT002
        """End the task because the connection is lost; write no result, that server may be away."""
        super().cancel(pool, signal, emit_retry=emit_retry and not self.task.acks_late)

    @contextmanager
    def _current(self) -> Iterator[None]:
        token = current_request.set(self)
        try:
            yield
        finally:
            current_request.reset(token)


class ReliableConsumer(Consumer):
    """The part of a worker that reads from the broker; each broker's module extends it."""

    connection: Any
    task_consumer: Any


@signals.celeryd_init.connect
def store_every_result(conf: Any, **_: Any) -> None:
    """Let a worker try to store a result until it can; a sender that reads one gives up."""
    conf.result_backend_max_retries = float("inf")


@signals.worker_shutting_down.connect
def limit_shutdown(how: str, **_: Any) -> None:
    """Turn a warm shutdown into a cold one after `shutdown_grace_period` seconds.

    Celery's soft shutdown always waits for all of that time, whether or not tasks are running.
    """
    if how == "Warm" and hasattr(signal, "SIGQUIT"):  # Windows has none
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGQUIT))
        # Zero would switch the timer off.
        grace: float = current_app.conf["shutdown_grace_period"] or 0.001
        signal.setitimer(signal.ITIMER_REAL, grace)
