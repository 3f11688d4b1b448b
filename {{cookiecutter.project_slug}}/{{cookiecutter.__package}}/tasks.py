"""The tasks. Each may run twice, so each gives the same outcome when it does."""

import socket
import time
#% if cookiecutter.result_backend != "none"
from typing import Any
#% endif

#% if cookiecutter.result_backend == "none"
from celery import current_app, shared_task
#% else
from celery import Task, current_app, shared_task
#% endif
from celery.utils.log import get_task_logger

logger = get_task_logger(__name__)


@shared_task
def add(x: int, y: int) -> int:
    """Return the sum of ``x`` and ``y``."""
    return x + y


#% if cookiecutter.result_backend == "none"
@shared_task
def report(pages: int) -> dict[str, int]:
    """Write a report of so many pages, half a second each, and tell how far it is."""
    if pages < 1:
        raise ValueError("A report has at least one page.")
    for page in range(pages):
        logger.info("page %d of %d", page + 1, pages)
        time.sleep(0.5)
    return {"pages": pages}
#% else
@shared_task(bind=True)
def report(self: Task[Any, Any], pages: int) -> dict[str, int]:
    """Write a report of so many pages, half a second each, and tell how far it is."""
    if pages < 1:
        raise ValueError("A report has at least one page.")
    for page in range(pages):
        if not self.request.called_directly:
            self.update_state(state="PROGRESS", meta={"done": page, "total": pages})
        time.sleep(0.5)
    return {"pages": pages}
#% endif


@shared_task(
    # Only what may pass by itself is tried again: after 1 s, 2 s, 4 s …, each with some jitter.
    autoretry_for=(OSError,),
    retry_backoff=True,
    retry_backoff_max=60,
    max_retries=5,
)
def reach(host: str, port: int) -> str:
    """Connect to a server, and return its address; try again for half a minute if it is down."""
    with socket.create_connection((host, port), timeout=5) as connection:
        return str(connection.getpeername()[0])


@shared_task(ignore_result=True)
def tell_time(occasion: str) -> None:
    """Log the time in the time zone of the schedule; beat sends this one."""
    logger.info("It is %s, %s", current_app.now().isoformat(timespec="minutes"), occasion)
