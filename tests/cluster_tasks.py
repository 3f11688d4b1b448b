"""The task of the faults of a cluster, and who sends it; it lies beside `fault_tasks.py`."""

import os
import time

from celery import shared_task
from fault_tasks import DIRECTORY, NOTES, app

CALLS = DIRECTORY / "calls"
PERIOD = 0.05  # seconds between two calls
__all__ = ["app"]


@shared_task
def step(name: str) -> None:
    """Take a moment, and note when it ends."""
    time.sleep(0.02)
    file = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{name} {time.time()}\n".encode())
    os.close(file)


def declare() -> None:
    """Make the queue at the first address."""
    with app.connection_for_write() as connection:
        app.amqp.queues[app.conf.task_default_queue](connection.default_channel).declare()


def send() -> None:
    """Send tasks until a file says so; note each call, how long it took, and its error."""
    number = 0
    with CALLS.open("a", buffering=1) as calls:
        while not (DIRECTORY / "enough").exists():
            start = time.time()
            error = ""
            try:
                step.apply_async((f"t{number}",))
            except Exception as raised:  # noqa: BLE001  # each configuration has its own
                error = " ".join(repr(raised).split())
            calls.write(f"t{number} {time.time() - start:.3f} {error}\n")
            number += 1
            time.sleep(PERIOD)
