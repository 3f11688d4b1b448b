"""The worker's heartbeat file for `health.py`, touched from the loop that does the work."""

import time
from pathlib import Path
from typing import Any

from celery.bootsteps import StartStopStep
from celery.utils.log import get_logger

from .health import READY, heartbeat_file
from .worker import Errands

INTERVAL = 5.0  # seconds; several times shorter than health.READY

logger = get_logger(__name__)


def touch(file: Path) -> None:
    """Touch a heartbeat file; a disk that is full ends nothing but the signs of life."""
    try:
        file.touch()
    except OSError as error:
        logger.warning("No sign of life could be written: %s", error)


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
        self.touch()
        self.answer = self.errands.do(consumer.ask)
        self.entry = consumer.timer.call_repeatedly(INTERVAL, self.look, (consumer,))

    def touch(self) -> None:
        """Touch the file."""
        touch(self.file)
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
        """Stop when the connection is lost, and when the worker leaves."""
        if self.entry:
            consumer.timer.cancel(self.entry)
            self.entry = None
        self.file.unlink(missing_ok=True)
