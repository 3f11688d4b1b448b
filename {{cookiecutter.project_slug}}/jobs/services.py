"""Start jobs, and see to it that the broker gets each of them."""

import logging
from datetime import timedelta
from typing import Any

from celery import Task, signature
from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError

from .models import Job
from .states import read_states

logger = logging.getLogger(__name__)


def start(task: Task[Any, Any], *args: object) -> Job:
    """Have ``task`` run with these arguments; return its row, which tells whether it was sent.

    Inside a transaction, the row is committed with all else, or not at all. The task is sent after
    commit, so that no worker looks for a row that does not exist yet. If it cannot be sent then,
    `send_waiting` sends it later: it runs at least once.
    """
    with transaction.atomic():
        job = Job.objects.create(task=task.name, args=args)
        transaction.on_commit(lambda: send(job), robust=True)
    return job


def send(job: Job) -> None:
    """Send the task of ``job`` under its id, and mark the row as sent.

    If the task cannot be sent, the row stays unmarked and the log says why; nothing is raised.
    """
    try:
        signature(job.task, args=job.args).apply_async(task_id=str(job.id))
    except OperationalError as error:
        logger.error("could not send %s: %s", job.call, error)  # noqa: TRY400  # a line is enough
    else:
        mark(job)


def mark(job: Job) -> None:
    """Mark the row of ``job`` as sent."""
    job.sent = True
    job.save(update_fields=["sent"])


def send_waiting(seconds: float) -> None:
    """Send the jobs that have waited for the broker for more than so many seconds.

    Their senders had no broker, or were killed before they could send them or mark them as sent.
    A job that is known to run, or to be done, is only marked. Any number of processes can do this
    at once.
    """
    before = timezone.now() - timedelta(seconds=seconds)
    waiting = Job.objects.filter(sent=False, created__lt=before)
    # The first error ends it. In random order, one that always fails holds back no other for long.
    for pk in list(waiting.order_by("?").values_list("pk", flat=True)[:10_000]):
        with transaction.atomic():
            job = waiting.select_for_update(skip_locked=True).filter(pk=pk).first()
            if job is None:  # another process has it, or has sent it
                continue
            [state] = read_states([job])
            if state.state == "UNSENT":
                send(job)
            else:
                mark(job)
            if not job.sent:
                return
