"""Heartbeat files for `health.py`, touched from the loops that do the work."""

import time
from typing import Any

from celery.apps import beat
from celery.beat import PersistentScheduler, SchedulingError
from celery.bootsteps import StartStopStep
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError

from . import checks
from .health import READY, heartbeat_file
from .worker import Errands

INTERVAL = 5.0  # seconds; several times shorter than health.READY

logger = get_logger(__name__)


class Heartbeat(StartStopStep):
    """Touches the file from the worker's own loop while the broker can deliver.

    It can be connected and able to do nothing: a queue of RabbitMQ needs most of its nodes.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        """Prepare the step for the worker's ``consumer``."""
        super().__init__(consumer, **options)
        self.file = heartbeat_file("worker")
        self.file.unlink(missing_ok=True)
        self.entry: Any = None
        self.errands = Errands("heartbeat")

    def start(self, consumer: Any) -> None:
        """Start with the connection to the broker."""
        self.answer, self.touched = self.errands.do(consumer.ask), 0.0
        self.touch()
        self.entry = consumer.timer.call_repeatedly(INTERVAL, self.look, (consumer,))

    def touch(self) -> None:
        """Touch the file."""
        self.file.touch()
        self.touched = time.monotonic()

    def look(self, consumer: Any) -> None:
        """Touch the file if the broker has answered; remove it if that is too long ago."""
        if self.answer.done():
            if error := self.answer.exception():
                logger.warning("The broker does not deliver: %r", error)
            else:
                self.touch()
            self.answer = self.errands.do(consumer.ask)
        if time.monotonic() > self.touched + READY:
            self.file.unlink(missing_ok=True)

    def stop(self, consumer: Any) -> None:
        """Stop when it is lost, and when the worker leaves."""
        if self.entry:
            consumer.timer.cancel(self.entry)
            self.entry = None
        self.file.unlink(missing_ok=True)


class Beat(beat.Beat):
    """The command `celery beat`."""

    app: Any

    def init_loader(self) -> None:
        """Import the tasks, and check the configuration."""
        super().init_loader()
        checks.stop_if_wrong(self.app)


class BeatScheduler(PersistentScheduler):
    """Beat's scheduler: touches its file, and sends nothing while the broker is away."""

    app: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        """Create a scheduler with the arguments of Celery's own."""
        self.file = heartbeat_file("beat")
        self.file.unlink(missing_ok=True)
        super().__init__(*args, **options)

    def tick(self, *args: Any, **options: Any) -> float:
        """Return the seconds to the next tick; what is due stays due without a broker."""
        try:
            self.connection.ensure_connection(max_retries=1)
            channel: Any = self.connection.channel()  # asks the broker, which has to answer
            channel.close()
        except Exception as error:  # noqa: BLE001  # each transport has its own
            self.file.unlink(missing_ok=True)
            refusal = self.app.refusal(error)
            reason = refusal.text if refusal else error
            logger.warning("beat: the broker cannot be reached, nothing is sent: %s", reason)
            self.__dict__.pop("producer", None)
            self.__dict__.pop("connection").collect()
            return INTERVAL
        self.file.touch()
        return min(super().tick(*args, **options), INTERVAL)

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Send what is due; say in one line what the broker refuses, and go on."""
        try:
            return super().apply_async(*args, **options)
        except SchedulingError as error:
            if not isinstance(error.__context__, OperationalError):
                raise
            logger.error("beat: %s", error)  # noqa: TRY400  # the text says all
            return None

    def close(self) -> None:
        """Leave no file of a beat that is gone."""
        self.file.unlink(missing_ok=True)
        super().close()
