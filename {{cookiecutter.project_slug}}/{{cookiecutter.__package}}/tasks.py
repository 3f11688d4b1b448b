"""The tasks. Each can run twice, and then has the same outcome."""

import socket
import time

#= from celery import current_app, {{ "current_task, " if cookiecutter.result_backend != "none" }}shared_task
#= from celery.utils.log import get_task_logger{{ "\n\nfrom . import services" if cookiecutter.project_type == "django" }}

logger = get_task_logger(__name__)


@shared_task
def add(x: int, y: int) -> int:
    """Return the sum of ``x`` and ``y``."""
    return x + y


@shared_task
def report(pages: int) -> dict[str, int]:
    """Write a report of so many pages, half a second each, and tell how far it is."""
    if pages < 1:
        raise ValueError("A report has at least one page.")
    for page in range(pages):
#% if cookiecutter.result_backend == "none"
        logger.info("page %d of %d", page + 1, pages)
#% else
        if not current_task.request.called_directly:
            current_task.update_state(state="PROGRESS", meta={"done": page, "total": pages})
#% endif
        time.sleep(0.5)
    return {"pages": pages}


@shared_task(
    # Try again what may pass by itself, after at most 1 s, 2 s, 4 s …: each delay is random.
    autoretry_for=(OSError,),
    retry_backoff=True,
    retry_backoff_max=60,
    max_retries=5,
)
def reach(host: str, port: int) -> str:
    """Connect to a server, and return its address; if it is down, try again up to five times."""
    with socket.create_connection((host, port), timeout=5) as connection:
        return str(connection.getpeername()[0])


@shared_task(ignore_result=True)
def tell_time(occasion: str) -> None:
    """Log the time in the time zone of the schedule; beat sends this one."""
    logger.info("It is %s, %s", current_app.now().isoformat(timespec="minutes"), occasion)
