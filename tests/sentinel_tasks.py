"""The task of the Sentinel tests, and what sends it; see `fault_tasks` for the app."""

import itertools
import time

from celery import shared_task
from fault_tasks import DIRECTORY, app, note  # type: ignore[import-not-found]

STOP = DIRECTORY / "stop"  # the stream ends once it is there


@shared_task
def work(name: str) -> None:
    """Take a moment, and note when it ended."""
    time.sleep(0.02)
    note("end", name, time.time())


def stream() -> None:
    """Send tasks, and note of each whether it was accepted, and how long the call took."""
    for number in itertools.count():
        if STOP.exists():
            return
        name, start = f"t{number}", time.monotonic()
        try:
            work.apply_async((name,), task_id=name)
            word = "sent"
        except Exception:  # noqa: BLE001  # the naive configuration raises this and that
            word = "refused"
        note(word, name, time.monotonic() - start)
        time.sleep(0.02)


__all__ = ["app", "stream", "work"]
