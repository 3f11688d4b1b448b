"""The app and its tasks: what holds on every broker when something is sent.

`redis.py` and `rabbitmq.py` each have the class for their broker, which an app is made of.
"""

import time
from collections.abc import Iterable
from datetime import datetime
from inspect import signature
from typing import Any, ClassVar, NamedTuple

from celery import Celery, Task
from celery.backends.asynchronous import E_RETRY_LIMIT_EXCEEDED  # type: ignore[attr-defined]
from celery.exceptions import Reject
from celery.result import AsyncResult
from celery.utils.time import maybe_make_aware
from kombu import Connection, Queue
from kombu.exceptions import OperationalError

from .beat import Beat, BeatScheduler, Lease
from .heartbeat import Heartbeat
from .revoked import Control, Revoked
from .worker import ReliableConsumer, ReliableRequest, Worker

# The classes that keep results in Redis, by the scheme of the URL.
RESULT_BACKENDS = {
    "redis": f"{__package__}.results:RedisBackend",
    "rediss": f"{__package__}.results:RedisBackend",
    "sentinel": f"{__package__}.sentinel:SentinelBackend",
}

# The names of what `Celery.send_task` takes after `kwargs`, in their order.
SEND_OPTIONS = tuple(signature(Celery.send_task).parameters)[4:]


class BrokerFullError(OperationalError):
    """The broker takes no more messages: it is out of memory or disk."""


class QueueGoneError(OperationalError):
    """The queue of a dead letter does not exist any more."""


class Refusal(NamedTuple):
    """What a broker refuses, in a line, and the exit status of a worker that ends because of it."""

    text: str
    status: int = 1


class ReliableTask(Task[..., Any]):
    """The base class of all tasks."""

    Request = ReliableRequest  # type: ignore[assignment]
    # Seconds; also the pause before a task runs again whose process was killed.
    default_retry_delay = 2

    def retry(self, *args: Any, **options: Any) -> Any:
        """Try the task again, as `celery.Task.retry` does.

        If the broker cannot be reached, the task goes back to its queue; if it can never be sent,
        the task fails. Celery would drop it.
        """
        app: Any = self.app
        try:
            return super().retry(*args, **options)
        except Reject as error:
            reason = error.args[0]
            away = isinstance(reason, OperationalError)
            if away and not app.refusal(reason.__cause__ or reason):
                raise Reject(reason, requeue=True) from None
            raise reason from None

    def signature_from_request(
        self,
        request: Any = None,
        args: Any = None,
        kwargs: Any = None,
        queue: str | None = None,
        **options: Any,
    ) -> Any:
        """Return the task as it was called, to be sent again by `retry`."""
        app: Any = self.app
        options = app.retry_options(request or self.request, options | {"queue": queue})
        return super().signature_from_request(request, args, kwargs, **options)


class ReliableCelery(Celery):
    """A Celery app; the modules of the brokers say what it does on theirs."""

    task_cls = ReliableTask  # type: ignore[assignment]
    control_cls = Control  # type: ignore[assignment]
    consumer_cls: ClassVar[type[ReliableConsumer]] = ReliableConsumer
    lease_cls: ClassVar[type[Lease]] = Lease
    # What the URL of the broker begins with.
    schemes: ClassVar[tuple[str, ...]] = ()
    # The arguments of the queues that the runtime declares for itself.
    queue_arguments: ClassVar[dict[str, Any]] = {}

    def __init__(self, *args: Any, **options: Any) -> None:
        """Create an app with the arguments of `celery.Celery`; the first is the service's name."""
        super().__init__(*args, **options)
        self.on_after_configure.connect(self._set_defaults)
        self.Worker = self.subclass_with_self(Worker)  # type: ignore[misc]
        self.Beat = self.subclass_with_self(Beat)  # type: ignore[misc]
        self.steps["consumer"] |= {Heartbeat, Revoked}

    def _set_defaults(self, source: Any, **_: Any) -> None:
        defaults = {
            "beat_scheduler": path_of(BeatScheduler),
            "worker_consumer": path_of(self.consumer_cls),
            # Settings of our own. In the first, the owner lists names that a plug-in reads.
            "known_settings": (),
            "metrics_port": None,
            "redelivery_limit": 3,
            "shutdown_grace_period": 25,
        }
        # Before Celery's defaults and after the configuration; `add_defaults` would override it.
        source.maps.insert(-1, defaults)

    def wrong_settings(self) -> Iterable[tuple[str, str]]:
        """Return the names of settings that are wrong on this broker alone, each with the error."""
        return ()

    @property
    def dead_letter_queue(self) -> Queue:
        """The queue of messages that were put aside; no worker consumes it."""
        return Queue(f"{self.main}.dead", queue_arguments=self.queue_arguments)

    def send_task(
        self, name: str, args: Any = None, kwargs: Any = None, *others: Any, **options: Any
    ) -> AsyncResult[Any]:
        """Send a task with the arguments of Celery's method; `delay` and all other ways end here.

        Raises `kombu.exceptions.OperationalError` if the broker refuses it, or if the broker or the
        result backend cannot be reached.
        """
        options |= zip(SEND_OPTIONS, others, strict=False)
        # A retry is sent at another time than what it repeats.
        options["headers"] = {**(options.get("headers") or {}), "sent_at": time.time()}
        try:
            options = self.send_options(name, args, kwargs, options)
            return super().send_task(name, args, kwargs, **options)
        except Exception as error:
            if is_away(self.backend, error):
                raise OperationalError("the result backend cannot be reached") from error
            if refusal := self.refusal(error):
                raise OperationalError(refusal.text) from error
            raise

    def _get_backend(self) -> Any:
        self.loader.override_backends = RESULT_BACKENDS | self.loader.override_backends
        return super()._get_backend()  # type: ignore[misc]

    def refusal(self, error: BaseException) -> Refusal | None:
        """Return what the broker refuses, or None if the error is of another kind."""
        raise NotImplementedError

    def patient_connection(self) -> Connection:
        """Return a connection for what must not be sent twice: it waits for the broker."""
        return self.connection_for_write()

    def send_options(
        self, name: str, args: Any, kwargs: Any, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the ``options`` with which a task is sent on this broker."""
        del name, args, kwargs
        return options

    def retry_options(self, request: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Return the ``options`` with which the task of ``request`` is tried again."""
        del request
        return options

    def origin(self, message: Any, consumer: Any) -> dict[str, str]:
        """Return the exchange and routing key that lead to the queue a message was read from."""
        raise NotImplementedError

    def seal(self, message: Any) -> tuple[Any, dict[str, Any]]:
        """Return a message as the body of a dead letter, and what else must be kept of it."""
        raise NotImplementedError

    def unseal(self, channel: Any, body: Any, about: dict[str, Any]) -> None:
        """Put the message of a dead letter back on its queue, as it came.

        Raises `kombu.exceptions.OperationalError` if the queue is gone.
        """
        raise NotImplementedError

    def keep_revoked(self, entries: list[str]) -> None:
        """Keep what was revoked in the broker, for `revoked.REVOKED_FOR` seconds at least."""
        raise NotImplementedError

    def kept_revoked(self) -> Iterable[str]:
        """Return what is kept there."""
        raise NotImplementedError

    def queue_length(self, connection: Connection, name: str) -> int:
        """Return how many messages wait in a queue; 0 if it does not exist. It creates nothing."""
        raise NotImplementedError

    def delayed_length(self, connection: Connection, name: str) -> int | None:
        """Return how many messages of a queue wait for their time; None if that is not known."""
        del connection, name
        return None

    def has_beat(self, connection: Connection) -> bool:
        """Tell whether a beat has the lease. It creates nothing."""
        raise NotImplementedError

    def delay_of(self, options: dict[str, Any]) -> float:
        """Return the seconds until a task that is sent with these ``options`` may start."""
        countdown, eta = options.get("countdown"), options.get("eta")
        if isinstance(eta, str):
            eta = datetime.fromisoformat(eta)
        if eta and not countdown:
            countdown = (maybe_make_aware(eta, self.timezone) - self.now()).total_seconds()
        return max(countdown or 0, 0)


def path_of(cls: type) -> str:
    """Return the name under which Celery's settings find a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def is_away(backend: Any, error: Exception) -> bool:
    """Tell whether an error is that of a result backend whose server cannot be reached.

    Celery's backends for Redis keep their client library in `redis`, and raise a RuntimeError of
    their own when they give up. Other backends contact no server when a task is sent.
    """
    library = getattr(backend, "redis", None)
    gave_up = isinstance(error, RuntimeError) and error.args == (E_RETRY_LIMIT_EXCEEDED,)
    return library is not None and (gave_up or isinstance(error, library.RedisError))
