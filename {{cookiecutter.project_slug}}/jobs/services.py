"""Start jobs: what the page and the JSON views share."""

import logging
from typing import Any

from celery import Task
from django.db import transaction
from kombu.exceptions import OperationalError

from .models import Job

logger = logging.getLogger(__name__)

# The answer to a request whose job could not be sent.
#= NOT_SENT = "The broker {{ "or the result backend " if cookiecutter.result_backend == "redis" }}cannot be reached; try again later."


def start(task: Task[Any, Any], *args: object) -> Job:
    """Send ``task`` with these arguments; return its row, which tells whether it was sent.

    The task is sent after commit, so that no worker looks for a row that does not exist yet.
    Raises RuntimeError inside a transaction, where the task would be sent only later.
    """
    with transaction.atomic(durable=True):
        job = Job.objects.create(task=task.name, args=args)
        transaction.on_commit(lambda: send(job, task), robust=True)
    return job


def send(job: Job, task: Task[Any, Any]) -> None:
    """Send ``task`` under the id of ``job``, and mark the row as sent.

    If the task cannot be sent, the row stays unmarked and the log says why; nothing is raised.
    """
    try:
        task.apply_async(args=job.args, task_id=str(job.id))
    except OperationalError as error:
        logger.error("could not send %s: %s", job.call, error)  # noqa: TRY400  # a line is enough
    else:
        job.sent = True
        job.save(update_fields=["sent"])
