"""The worker's main process: what it knows of a task, how it reads from the broker, how it ends."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextvars import ContextVar
from functools import partial
from queue import SimpleQueue
from typing import Any, Self
from weakref import WeakValueDictionary

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]
from celery import current_app, signals, states
from celery.apps import worker
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import InvalidTaskError, NotRegistered, WorkerShutdown, WorkerTerminate
from celery.platforms import EX_FAILURE, EX_OK
from celery.utils.dispatch import Signal
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu import Connection
from kombu.asynchronous import get_event_loop
from kombu.common import ignore_errors

from . import checks

# By its types, nothing ever tells a worker to end.
STATE: Any = state

# Sent when a run of a task starts: `sender` is its request.
run_started = Signal(name="run_started")
logger = get_logger(__name__)

# The states of a task that has not started, as Celery sees it where a command revokes a task.
WAITING = states.UNREADY_STATES - {states.STARTED}
LOOKUP = 1.0  # seconds in which the result backend may answer; the loop waits for it
LEAVE = 3.0  # seconds in which a worker that leaves stores how its tasks ended

# Sent when a run of a task has ended: `sender` is its request, `error` what it raised or None,
# `seconds` how long it took.
run_ended = Signal(name="run_ended", providing_args=["error", "seconds"])

# Sent when a message became a dead letter: `cause` is died, unregistered or unreadable.
message_buried = Signal(name="message_buried", providing_args=["cause"])

# What the main process knows, by task id; and the one whose end it deals with, while it does.
requests: WeakValueDictionary[str, Request] = WeakValueDictionary()
current_request: ContextVar[Any] = ContextVar("current_request", default=None)


class OutOfMemoryError(Exception):
    """A task has raised `MemoryError`, which on its own would end the whole worker."""


class ReliableRequest(Request):
    """What the worker's main process knows of a task."""

    on_success: Any
    cancelled = False  # it was ended because the connection is lost
    _payload: Any

    def __init_subclass__(cls) -> None:
        """Announce successes: Celery makes a subclass for each task, with its own `on_success`."""
        handle = cls.on_success

        def on_success(self: Self, outcome: Any, **options: Any) -> Any:
            if isinstance(outcome, ExceptionInfo):  # SystemExit, in a thread or a greenlet
                return self.on_failure(outcome)
            failed, _value, seconds = outcome
            if not failed and seconds is None:  # killed by gevent: its message goes back
                return None
            if not failed:
                run_ended.send(sender=self, error=None, seconds=seconds)
            return handle(self, outcome, **options)

        cls.on_success = on_success

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take a message with the arguments of `celery.worker.request.Request`."""
        try:
            super().__init__(*args, **options)
        except KeyError as error:
            raise InvalidTaskError(f"it has no {error.args[0]}") from error
        check_types(self.request_dict, self._payload)
        eta = super().eta
        self.due = eta.timestamp() if eta else 0.0  # raises where the timer would fail
        requests[self.id] = self

    @property
    def eta(self) -> Any:
        """When the task may start; None if it may now, or Celery would take one more meanwhile."""
        return super().eta if self.due > time.time() else None

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
        self.cancelled = True
        with contextlib.suppress(NotImplementedError):  # a thread goes on
            super().cancel(pool, signal, emit_retry=emit_retry and not self.task.acks_late)

    def _success_was_stored(self) -> Any:
        """Return what is stored of a success; False if there is none, or no answer in time."""
        # Celery asks the result backend from the loop, for as long as that is silent.
        lookup = stores.do(super()._success_was_stored)  # type: ignore[misc]  # not in its types
        try:
            return lookup.result(LOOKUP)
        except TimeoutError:
            lookup.cancel()
            return False

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        token = current_request.set(self)
        try:
            yield
        finally:
            current_request.reset(token)


# The types of what Celery reads from a message's headers, before or after it runs the task.
TEXT = str | None
HEADERS: dict[str, Any] = {
    "id": str,
    "task": str,
    "root_id": TEXT,
    "parent_id": TEXT,
    "group": TEXT,
    "shadow": TEXT,
    "argsrepr": TEXT,
    "kwargsrepr": TEXT,
    "reply_to": TEXT,
    "origin": TEXT,
    "retries": int | None,
    "replaced_task_nesting": int | None,
    "group_index": int | None,
    "stamped_headers": list | None,
    "stamps": dict | None,
    "timelimit": list | tuple | None,
}
# The same for the third part of its body.
OPTIONS: dict[str, Any] = {
    "callbacks": list | None,
    "errbacks": list | None,
    "chain": list | None,
    "chord": dict | None,
}


def check_types(headers: dict[str, Any], payload: Any) -> None:
    """Raise `InvalidTaskError` if a message is not one that Celery can run."""
    args, kwargs, options = payload
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise InvalidTaskError("its arguments are not a list and an object")
    if not isinstance(options, dict | None):
        raise InvalidTaskError("its options are not an object")
    for table, values in ((HEADERS, headers), (OPTIONS, options or {})):
        for name, expected in table.items():
            if not isinstance(values.get(name), expected):
                raise InvalidTaskError(f"its {name} is {values.get(name)!r}")
    limits = headers.get("timelimit") or (None, None)
    if len(limits) != len(("hard", "soft")) or not all(
        isinstance(each, float | int | None) for each in limits
    ):
        raise InvalidTaskError(f"its timelimit is {limits!r}")


class Errands(threading.Thread):
    """Does slow calls one after the other, off the worker's loop."""

    def __init__(self, name: str) -> None:
        """Start with the first call; as a daemon, it keeps no worker from leaving."""
        super().__init__(name=name, daemon=True)
        self.starting = threading.Lock()
        self.busy = threading.RLock()  # while it does a call
        self.calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def do(self, call: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        """Return the future outcome of a call; one that is cancelled in time is not made."""
        future: Future[Any] = Future()
        self.calls.put((future, partial(call, *args, **options)))
        with self.starting:  # several threads may have calls
            if not self.is_alive():
                self.start()
        return future

    def finish(self, seconds: float) -> bool:
        """Wait until the calls are done; return False if that takes longer."""
        return not self.is_alive() or not wait([self.do(bool)], seconds).not_done

    def run(self) -> None:
        """Do the calls as they come."""
        while True:
            future, call = self.calls.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                with self.busy:
                    outcome = call()
                future.set_result(outcome)
            except Exception as error:  # noqa: BLE001  # raised where the result is asked for
                future.set_exception(error)


# Stores how tasks ended, where the worker's loop must not wait for the result backend.
stores = Errands("results")


def wait_to_fork() -> None:
    """Wait, for a moment, until nothing is being stored.

    A process that is forked while a thread writes to SQLite takes the file for locked, for ever.
    """
    stores.busy.acquire(timeout=LOOKUP)


def go_on_after_fork() -> None:
    """Let things be stored again."""
    with contextlib.suppress(RuntimeError):  # that moment was too short
        stores.busy.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=wait_to_fork, after_in_parent=go_on_after_fork, after_in_child=go_on_after_fork
    )


def store(call: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Let a call store how a task ended, off the loop; log an error."""

    def tell(stored: Future[Any]) -> None:
        if error := stored.exception():
            logger.error("how a task ended could not be stored: %r", error)

    stores.do(call, *args, **options).add_done_callback(tell)


class Line:
    """A connection to the broker that is kept from one call to the next."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        """Have ``connect`` make the connection for the first call, and for one after an error."""
        self.connect = connect
        self.connection: Connection | None = None

    def do(self, call: Callable[[Any], Any]) -> Any:
        """Return the outcome of a call, which gets the channel."""
        connection = self.connection or self.connect()
        self.connection = None
        try:
            outcome = call(connection.ensure_connection(max_retries=1).default_channel)
        except BaseException:
            connection.collect()
            raise
        self.connection = connection
        return outcome


def store_off_loop(backend: Any) -> None:
    """Let the calling thread of this process store how tasks ended without waiting for ``backend``.

    So the worker's loop goes on while the result backend is away. Celery lets it store only what no
    process of the pool can: that a task was killed or revoked.
    """
    here = os.getpid(), threading.get_ident()
    state_of, revoke = backend.get_state, backend.mark_as_revoked

    def is_here() -> bool:
        return (os.getpid(), threading.get_ident()) == here

    def off_loop(call: Callable[..., Any]) -> Callable[..., Any]:
        def store_later(*args: Any, **options: Any) -> Any:
            return (partial(store, call) if is_here() else call)(*args, **options)

        return store_later

    def get_state(task_id: str) -> Any:
        return states.PENDING if is_here() else state_of(task_id)

    def mark_as_revoked(task_id: str, *args: Any, **options: Any) -> None:
        # A command revokes a task without its request, and must not hide how it has ended.
        if "request" in options or state_of(task_id) in WAITING:
            revoke(task_id, *args, **options)

    backend.get_state, backend.mark_as_revoked = get_state, mark_as_revoked
    for name in ("mark_as_failure", "mark_as_retry", "mark_as_revoked"):
        setattr(backend, name, off_loop(getattr(backend, name)))


class ReliableConsumer(Consumer):
    """The part of a worker that reads from the broker; each broker's module extends it."""

    app: Any
    connection: Any
    connection_errors: tuple[type[Exception], ...]
    task_consumer: Any
    # Puts aside a message that is no task for this worker, and why; Celery drops it without.
    on_unreadable: Callable[[Any, Exception], None] | None = None
    # Is told of a request that the broker delivers again though this worker still runs it.
    on_taken_back: Callable[[Any], None] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        """Create a consumer with the arguments of Celery's own.

        It does not talk with other workers (gossip), nor wait a second for them at the start
        (mingle): the broker keeps what is revoked.
        """
        super().__init__(*args, **options, without_mingle=True, without_gossip=True)
        self.line = Line(self.app.connection_for_read)  # beside the loop's own connection

    def ask(self) -> None:
        """Ask the broker whether it can deliver, off the loop; raise an error if it cannot."""

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Say why there is no connection; end if the broker refuses it."""
        self.end_if_refused(exc)
        super().on_connection_error_before_connected(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Give up the connection and what runs; end if the broker refuses what is asked of it."""
        if state.active_requests or not self.app.refusal(exc):
            super().on_connection_error_after_connected(exc)
        self.end_if_refused(exc)

    def end_if_refused(self, error: Exception) -> None:
        """End the worker in one line, if the broker refuses something."""
        if refusal := self.app.refusal(error):
            logger.critical("The worker ends. %s", refusal.text)
            raise WorkerShutdown(refusal.status)

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        """Return what takes each message; one that Celery cannot take stops nobody."""
        take = super().create_task_handler(*args, **options)

        def take_task(message: Any) -> None:
            try:
                take(message)
            except Exception as error:
                ours = isinstance(error, (*self.connection_errors, MemoryError))
                # To kombu, KeyError is an error of Redis's connection; here, a header is missing.
                if not self.on_unreadable or (ours and not isinstance(error, KeyError)):
                    raise
                self.on_unreadable(message, error)

        return take_task

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Put a message aside that names no task."""
        if self.on_unreadable:
            self.on_unreadable(message, InvalidTaskError("it names no task"))
        else:
            super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Put a message aside whose task this worker does not know; a newer one may."""
        if self.on_unreadable:
            self.on_unreadable(message, NotRegistered(str(exc.args[0])))
        else:
            super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Put a message aside that Celery cannot run."""
        if self.on_unreadable:
            self.on_unreadable(message, exc)
        else:
            super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Put a message aside whose body cannot be decoded, or must not be."""
        if self.on_unreadable:
            self.on_unreadable(message, exc)
        else:
            super().on_decode_error(message, exc)


class Worker(worker.Worker):
    """The command `celery worker`."""

    app: Any
    pool: Any
    consumer: Any

    def on_before_init(self, *args: Any, **options: Any) -> None:
        """Check the configuration when the tasks are imported and `celeryd_init` was sent."""
        super().on_before_init(*args, **options)
        checks.stop_if_wrong(self.app)

    def start(self) -> None:
        """Work until a shutdown, and leave after a cold one with what no pool can end."""
        if not (self.pool.is_green or isinstance(self.pool, SoloPool)):  # they run tasks right here
            store_off_loop(self.app.backend)
        with contextlib.suppress(WorkerTerminate):  # a warm shutdown became a cold one
            try:
                super().start()
            finally:
                # Their messages are acknowledged: nobody else stores how they ended.
                if not stores.finish(LEAVE):
                    logger.error("The worker leaves before it has stored how all tasks ended")
        if STATE.should_terminate and not self.pool.uses_semaphore:
            if connection := self.consumer.connection:
                ignore_errors(connection, connection.close)  # gives back what is not done
            atexit._run_exitfuncs()  # noqa: SLF001  # after SIGHUP, one starts the worker again
            os._exit(EX_OK)  # Python would wait for threads

    def stop(self, *args: Any, **options: Any) -> None:
        """Begin a warm shutdown, also one that no signal has asked for: from afar, or an error."""
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            limit_warm_shutdown()
        super().stop(*args, **options)

    def register_with_event_loop(self, hub: Any) -> None:
        """Let the loop drive the pool, again after each reconnect."""
        processes = self.pool._pool._pool if self.pool.uses_semaphore else ()  # noqa: SLF001
        for process in processes:
            # It has just ended and is watched no longer, which Celery does not expect here.
            if vars(process).get("_sentinel_poll", 0) is None:
                del vars(process)["_sentinel_poll"]
        super().register_with_event_loop(hub)

    def wait_for_soft_shutdown(self) -> bool:
        """Begin a cold shutdown. Only processes can be ended; of other pools, the worker leaves.

        Celery would go on in the signal handler, which fails in the task itself (solo), in the
        event loop (gevent), or because a thread cannot be ended.
        """
        waited = super().wait_for_soft_shutdown()
        if not self.pool.uses_semaphore:
            raise WorkerTerminate(EX_FAILURE)
        return waited


@signals.celeryd_init.connect
def store_every_result(conf: Any, **_: Any) -> None:
    """Let a worker try to store a result until it can; a sender that reads one gives up."""
    conf.result_backend_max_retries = float("inf")


@signals.worker_shutting_down.connect
def limit_shutdown(how: str, **_: Any) -> None:
    """Limit a warm shutdown, and let it begin at once."""
    if how == "Warm":
        limit_warm_shutdown()
    loop: Any = get_event_loop()
    if loop and loop._waker:  # noqa: SLF001  # an idle one polls for a second before it looks
        loop._waker.wake()  # noqa: SLF001


def limit_warm_shutdown() -> None:
    """Turn a warm shutdown into a cold one after `shutdown_grace_period` seconds.

    Celery's soft shutdown always waits for all of that time, whether or not tasks are running.
    """
    # Windows has no such signals. A second request does not extend the time.
    if sys.platform != "win32" and not signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGQUIT))
        # Zero would switch the timer off.
        grace: float = current_app.conf["shutdown_grace_period"] or 0.001
        signal.setitimer(signal.ITIMER_REAL, grace)
        # A process that is ending has no handlers any more: the timer would kill it.
        atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
