#% set redis_results = cookiecutter.result_backend == "redis"
#% set django = cookiecutter.project_type == "django"
"""What settings alone cannot give, for workers and for senders.

- A message that keeps killing the whole worker is put aside: `poison.py`.
- A `MemoryError` is a failure like any other; on its own it would end the worker.
- After SIGTERM, running tasks may finish, but not for ever.
#% if cookiecutter.broker == "rabbitmq"
- A delayed task arrives, also if it was sent before the first worker ran.
- A task that is tried again stays in its queue.
#% endif
#% if cookiecutter.broker == "redis"
- A worker outlives a restart of Redis, busy or not.
- A delay after which Redis would deliver a task twice is refused; a retry comes sooner instead.
#% endif
#% if redis_results
- Sending fails in one way, whichever server is down: `kombu.exceptions.OperationalError`.
#% endif
#% if cookiecutter.result_backend != "none"
- A worker stores each result, however long that takes.
#% endif
#% if django
- A task that cannot be sent after commit is logged, and nothing else is harmed.
#% endif
"""

#% if django
import logging
#% endif
#% if cookiecutter.broker == "rabbitmq"
import math
import os
import re
#% else
import os
#% endif
import signal
import threading
from datetime import datetime
from functools import cached_property
from typing import Any, Self

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
#% if django
from celery import Celery, current_app, signals
from celery.contrib.django.task import DjangoTask as Task
#% else
from celery import Celery, Task, current_app, signals
#% endif
from celery.result import AsyncResult
from celery.utils.time import maybe_make_aware
#% if cookiecutter.broker == "redis"
from celery.worker.consumer import Consumer
#% endif
from celery.worker.request import Request
#% if django
from django.db import transaction
#% endif
#% if cookiecutter.broker == "rabbitmq"
from kombu import Queue
#% endif
#% if django or redis_results
from kombu.exceptions import OperationalError
#% endif
#% if cookiecutter.broker == "rabbitmq"
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)
#% endif
#% if redis_results
from redis.exceptions import RedisError
#% endif

from . import logs, metrics
from .heartbeat import Heartbeat
from .poison import Guard
#% if django

logger = logging.getLogger(__name__)
#% endif


class OutOfMemoryError(Exception):
    """A task has raised `MemoryError`."""


class ReliableRequest(Request):
    """What the worker's main process knows of a task."""

    on_success: Any

    def __init_subclass__(cls) -> None:
        """Count successes: of this class, Celery makes one for each task, with its own handler."""
        handle = cls.on_success

        def on_success(self: Self, outcome: Any, **options: Any) -> Any:
            failed, _value, seconds = outcome
            if not failed:
                metrics.count(self.name, "SUCCESS", seconds)
            return handle(self, outcome, **options)

        cls.on_success = on_success
#% if django

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take a message with the arguments of `celery.worker.request.Request`."""
        super().__init__(*args, **options)
        logs.requests[self.id] = self
#% endif

    def on_failure(self, exc_info: Any, *args: Any, **options: Any) -> Any:
        """Handle the failure of the task; a `MemoryError` under a name that does not end us."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):  # as the pool wraps it
            error = error.exc
        metrics.count_failure(self, error)
        if isinstance(error, MemoryError):
            exc_info.exception = OutOfMemoryError(*error.args)
        with logs.about(self):
            return super().on_failure(exc_info, *args, **options)

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001
        """Log that the task has used up its time."""
        with logs.about(self):
            super().on_timeout(soft, timeout)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:  # noqa: FBT001, FBT002
        """End the task because the connection is lost; write no result, that server may be away."""
        super().cancel(pool, signal, emit_retry=emit_retry and not self.task.acks_late)


#% if cookiecutter.broker == "redis"
class ReliableConsumer(Consumer):
    """The part of a worker that reads from the broker."""

    task_consumer: Any

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the channel while that can be tried twice: in kombu 5.7 the first try fails.

        Without it, a worker that is neither idle nor full would end when Redis goes away.
        """
        if self.connection and self.task_consumer:
            for _ in range(2):
                self.connection.maybe_close_channel(self.task_consumer.channel)
        super().on_connection_error_after_connected(exc)


#% endif
class ReliableTask(Task[..., Any]):
    """The base class of all tasks."""

    Request = ReliableRequest  # type: ignore[assignment]
    # Seconds; also the pause before a task runs again whose process was killed.
    default_retry_delay = 2

    def signature_from_request(
        self,
        request: Any = None,
        args: Any = None,
        kwargs: Any = None,
        queue: str | None = None,
        **options: Any,
    ) -> Any:
#% if cookiecutter.broker == "redis"
        """Return the task as it was called, to be sent again after a delay that Redis can keep.

        A longer one would be refused, and then the task would not be tried again at all.
        """
        app: Any = self.app
        limit, _soft = (request or self.request).timelimit or (None, None)
        longest = app.longest_delay(limit)
        if app.delay_of(options) > longest:
            options |= {"countdown": longest, "eta": None}
#% else
        """Return the task as it was called, to be sent again to the queue that it came from.

        Celery sends a retry of a task from any other queue to the default one, when it is delayed.
        """
        delivery_info = (request or self.request).delivery_info or {}
        # The broker's delayed delivery puts 28 digits before the queue's name.
        name = re.sub(r"^([01]\.){28}", "", delivery_info.get("routing_key") or "")
        if queue is None and name in self.app.amqp.queues:
            queue = name
#% endif
        return super().signature_from_request(request, args, kwargs, queue, **options)
#% if django

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Send the task with these arguments when the transaction is committed."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(self, *args: Any, **options: Any) -> None:  # type: ignore[override]
        """Send the task when the transaction is committed, with the options of `apply_async`.

        Nothing is raised if the broker is down: the rows are committed, and later hooks must run.
        """

        def send() -> None:
            try:
                self.apply_async(*args, **options)
            except OperationalError as error:
                logger.error("could not send %s%r: %s", self.name, args, error)  # noqa: TRY400

        transaction.on_commit(send, robust=True)
#% endif


class ReliableCelery(Celery):
    """A Celery app with all of the above."""

    task_cls = ReliableTask  # type: ignore[assignment]

    @cached_property
    def Beat(self) -> Any:  # noqa: N802  # so Celery names it
        """The class that `celery beat` runs."""
        return self.subclass_with_self(logs.Beat)

    def __init__(self, *args: Any, **options: Any) -> None:
        """Create an app with the arguments of `celery.Celery`."""
        super().__init__(*args, **options)
        self.steps["consumer"].update({Guard, Heartbeat})
        self.steps["worker"].add(metrics.Metrics)
#% if cookiecutter.broker == "rabbitmq"
        self.prepared: set[str] = set()  # the names of queues that delayed tasks can come to
#% endif

    def send_task(  # type: ignore[override]
        self, name: str, args: Any = None, kwargs: Any = None, **options: Any
    ) -> AsyncResult[Any]:
#% if cookiecutter.broker == "redis" and redis_results
        """Send the task; `delay` and all other ways end here.

        Raises ValueError for a delay that Redis cannot keep, and `OperationalError` if the broker
        or the result backend is down.
        """
        self.refuse_long_delay(name, self.delay_of(options), options.get("time_limit"))
#% elif cookiecutter.broker == "redis"
        """Send the task; `delay` and all other ways end here.

        Raises ValueError for a delay that Redis cannot keep, and `OperationalError` if the broker
        is down.
        """
        self.refuse_long_delay(name, self.delay_of(options), options.get("time_limit"))
#% elif redis_results
        """Send the task; `delay` and all other ways end here.

        Raises `OperationalError` if the broker or the result backend is down.
        """
        if options.get("countdown") or options.get("eta"):
            self.prepare_delay(self.queue_of(name, args, kwargs, options))
            # Such a delay is of whole seconds; Celery would refuse one of less.
            options |= {"countdown": math.ceil(self.delay_of(options)), "eta": None}
#% else
        """Send the task; `delay` and all other ways end here.

        Raises `OperationalError` if the broker is down.
        """
        if options.get("countdown") or options.get("eta"):
            self.prepare_delay(self.queue_of(name, args, kwargs, options))
            # Such a delay is of whole seconds; Celery would refuse one of less.
            options |= {"countdown": math.ceil(self.delay_of(options)), "eta": None}
#% endif
#% if redis_results
        try:
            return super().send_task(name, args, kwargs, **options)
        except (RedisError, RuntimeError) as error:  # so Celery's backend says that it is away
            raise OperationalError("the result backend is away") from error
#% else
        return super().send_task(name, args, kwargs, **options)
#% endif

    def delay_of(self, options: dict[str, Any]) -> float:
        """Return the seconds until a task that is sent with these options may start."""
        countdown, eta = options.get("countdown"), options.get("eta")
        if isinstance(eta, str):
            eta = datetime.fromisoformat(eta)
        if eta and not countdown:
            countdown = (maybe_make_aware(eta, self.timezone) - self.now()).total_seconds()
        return max(countdown or 0, 0)
#% if cookiecutter.broker == "rabbitmq"

    def queue_of(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Queue:
        """Return the queue to which a task goes that is sent in this way."""
        router: Any = self.amqp.router
        queue: Queue = router.route(dict(options), name, args, kwargs)["queue"]
        return queue

    def prepare_delay(self, queue: Queue) -> None:
        """Declare what keeps a delayed task for the queue, once; a worker does so at its start.

        Celery leaves it at that: a task that is sent before the first worker ran would vanish.
        """
        if queue.name in self.prepared:
            return
        with self.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
            declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
            queue.bind(connection.default_channel).declare()
            bind_queue_to_native_delayed_delivery_exchange(connection, queue)
        self.prepared.add(queue.name)
#% endif
#% if cookiecutter.broker == "redis"

    def longest_delay(self, time_limit: float | None) -> float:
        """Return the longest delay, in seconds, after which a task is done in time for Redis."""
        timeout: float = self.conf.broker_transport_options["visibility_timeout"]
        return max(timeout - (time_limit or self.conf.task_time_limit), 0)

    def refuse_long_delay(self, name: str, delay: float, time_limit: float | None) -> None:
        """Raise ValueError if Redis would deliver the task again before it can be done."""
        longest = self.longest_delay(time_limit)
        if delay > longest:
            message = (
                f"{name}: Redis would run a task with a delay of {delay:.0f} s more than once; "
                f"up to {longest:.0f} s are safe with this visibility timeout and time limit. "
                "Keep the date in a database, and let a periodic task send what is due."
            )
            raise ValueError(message)
#% endif


#% if cookiecutter.result_backend != "none"
@signals.celeryd_init.connect
def keep_trying(conf: Any, **_: Any) -> None:
    """Let a worker try to store a result until it can; whoever else reads one gives up."""
    conf.result_backend_max_retries = float("inf")


#% endif
@signals.worker_shutting_down.connect
def limit_shutdown(how: str, **_: Any) -> None:
    """Turn a warm shutdown into a cold one when its time is over.

    Celery's own soft shutdown always waits for all of that time, whether or not tasks are running.
    """
    if how == "Warm" and hasattr(signal, "SIGQUIT"):  # Windows has none
        seconds = current_app.conf["shutdown_grace_period"]
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGQUIT))
        timer.daemon = True  # a worker that is done does not wait for it
        timer.start()
