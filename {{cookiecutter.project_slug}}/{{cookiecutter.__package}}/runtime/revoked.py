"""Revoked tasks stay revoked: the broker keeps what workers forget when they end.

A sender that revokes a task tells the broker first, and then the workers that run. A worker reads
all of it whenever it connects, before its first task; for the rest it knows as Celery does, without
a call.
"""

import json
import time
from typing import Any

from celery.app import control
from celery.bootsteps import StartStopStep
from celery.utils.log import get_logger
from celery.worker import state
from kombu.exceptions import OperationalError
from kombu.utils.functional import maybe_list

from .worker import Errands

# Seconds; what waits in a queue for longer runs. Celery's workers know a revoked task for 3 h.
REVOKED_FOR = 7 * 24 * 3600
PATIENCE = 5.0  # seconds
MOST = 50_000  # as many as a worker knows at a time

logger = get_logger(__name__)


class Control(control.Control):
    """Sends commands to workers; `revoke` also reaches workers that start later."""

    app: Any

    def broadcast(  # type: ignore[override]
        self, command: str, arguments: Any = None, destination: Any = None, **options: Any
    ) -> Any:
        """Send a command as Celery does; keep it, if it revokes tasks for all workers."""
        given = (arguments or {}) | options
        if command in {"revoke", "terminate"} and not destination:
            self.app.keep_revoked([json.dumps(each) for each in maybe_list(given["task_id"])])
        elif command == "revoke_by_stamped_headers" and not destination:
            headers = given["headers"]
            if isinstance(headers, list):  # as the command line gives them
                parts = [each.partition("=") for each in headers]
                headers = {name: value for name, _, value in parts}
            self.app.keep_revoked([json.dumps(headers)])
        return super().broadcast(command, arguments, destination, **options)


class Revoked(StartStopStep):
    """Tells a worker what was revoked while it was away."""

    # After it hears commands, so that none falls in between, and before it takes tasks.
    requires = ("celery.worker.consumer.control:Control",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        """Prepare the step for the worker's ``consumer``."""
        super().__init__(consumer, **options)
        self.errands = Errands("revoked")

    def start(self, consumer: Any) -> None:
        """Start with the connection to the broker; do not wait for what takes long to read."""
        state.revoked.expires = REVOKED_FOR
        try:
            self.errands.do(self.read, consumer).result(PATIENCE)
        except TimeoutError:
            logger.warning("what was revoked is not known yet: the broker does not answer")

    def read(self, consumer: Any) -> None:
        """Read what was revoked; try again until the broker answers."""
        while True:
            try:
                kept = consumer.app.kept_revoked()
                break
            except consumer.channel_errors as error:  # an old RabbitMQ has no streams
                logger.warning("what was revoked is not known: %s", error)
                return
            except (*consumer.connection_errors, OperationalError):
                time.sleep(PATIENCE)
        for text in kept:
            try:
                self.revoke(json.loads(text))
            except (AttributeError, TypeError, ValueError):  # it must not stop every worker
                logger.warning("what was revoked cannot be read: %r", text)

    def revoke(self, entry: Any) -> None:
        """Take note of an id, or of headers with which tasks are stamped."""
        stamps: Any = state.revoked_stamps
        if isinstance(entry, str):
            state.revoked.add(entry)
        else:
            for header, values in entry.items():
                stamps[header] = list({*stamps.get(header, ()), *maybe_list(values)})
