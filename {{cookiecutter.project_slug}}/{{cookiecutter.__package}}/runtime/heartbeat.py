"""The worker's heartbeat file for `health.py`, touched from the loop that does the work."""

from typing import Any

from celery.bootsteps import StartStopStep

from .health import heartbeat_file

INTERVAL = 5.0  # seconds; several times shorter than health.READY


class Heartbeat(StartStopStep):
    """Touches the file from the worker's own loop while it consumes from the broker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        """Prepare the step for the worker's ``consumer``."""
        super().__init__(consumer, **options)
        self.file = heartbeat_file("worker")
        self.file.unlink(missing_ok=True)
        self.entry: Any = None

    def start(self, consumer: Any) -> None:
        """Start with the connection to the broker."""
        self.file.touch()
        self.entry = consumer.timer.call_repeatedly(INTERVAL, self.file.touch)

    def stop(self, consumer: Any) -> None:
        """Stop when it is lost, and when the worker leaves."""
        if self.entry:
            consumer.timer.cancel(self.entry)
            self.entry = None
        self.file.unlink(missing_ok=True)
