#% set results = cookiecutter.result_backend
#% if results == "none"
"""Start jobs: what the page and the JSON addresses share."""
#% else
"""Start jobs, and see how they go: what the page and the JSON addresses share."""
#% endif

import logging
#% if results == "none"
from typing import Any
#% else
from collections.abc import Sequence
from typing import Any, NamedTuple
#% endif

#% if results == "none"
from celery import Task
#% else
from celery import Task, current_app
#% endif
from django.db import transaction
#% if results != "none"
from django.utils import timezone
#% endif
#% if results == "database"
from django_celery_results.models import TaskResult
#% endif
from kombu.exceptions import OperationalError

from .models import Job

logger = logging.getLogger(__name__)

# What people and programs are told of a job whose row says that it was not sent.
#% if results == "redis"
NOT_SENT = "The broker or the result backend cannot be reached; try again later."
#% else
NOT_SENT = "The broker cannot be reached; try again later."
#% endif


def start(task: Task[Any, Any], *args: object) -> Job:
    """Send ``task`` with these arguments; return its row, which tells whether it was sent.

    It is sent after commit, so that no worker looks for a row that is not there yet. Raises
    RuntimeError inside of a transaction, where nobody could tell yet whether it was sent.
    """
    with transaction.atomic(durable=True):
        job = Job.objects.create(task=task.name, args=args)
        transaction.on_commit(lambda: send(job, task), robust=True)
    return job


def send(job: Job, task: Task[Any, Any]) -> None:
    """Send ``task`` under the id of ``job``, and mark the row when the broker has taken it.

    Nothing is raised: the row stays, unmarked, and the log says why.
    """
    try:
        task.apply_async(args=job.args, task_id=str(job.id))
    except OperationalError as error:
        logger.error("could not send %s: %s", job.call, error)  # noqa: TRY400  # a line is enough
    else:
        job.sent = True
        job.save(update_fields=["sent"])
#% if results != "none"


class State(NamedTuple):
    """How a job goes."""

    # One of Celery's states, or UNSENT, or EXPIRED: nobody knows any more.
    name: str
    # The value of a task that is done, or the progress of one that is running.
    result: Any = None
    # Why it failed, or why it will be tried again.
    error: str | None = None


#% if results == "redis"
def read_states(jobs: Sequence[Job]) -> list[State]:
    """Return the state of each of ``jobs``, all read in one round trip.

    Raises `redis.exceptions.RedisError` if the result backend cannot be reached.
    """
    backend: Any = current_app.backend  # its type knows only what all of them have
    keys = [backend.get_key_for_task(str(job.id)) for job in jobs]
    kept = backend.mget(keys) if keys else []
    metas = [backend.decode_result(value) if value else None for value in kept]
    return [state_of(job, meta) for job, meta in zip(jobs, metas, strict=True)]
#% else
def read_states(jobs: Sequence[Job]) -> list[State]:
    """Return the state of each of ``jobs``, all read in one query."""
    backend: Any = current_app.backend  # its type knows only what all of them have
    rows = TaskResult.objects.in_bulk([str(job.id) for job in jobs], field_name="task_id")
    metas = {
        task_id: backend.meta_from_decoded(
            {"status": row.status, "result": backend.decode_content(row, row.result)}
        )
        for task_id, row in rows.items()
    }
    return [state_of(job, metas.get(str(job.id))) for job in jobs]
#% endif


def state_of(job: Job, meta: dict[str, Any] | None) -> State:
    """Return the state of ``job``, of which the result backend keeps ``meta``, if anything."""
    if meta is None:
        if not job.sent:
            return State("UNSENT")
        # A result is dropped after that time; so long, it waits for a worker.
        expired = timezone.now() - job.created > current_app.conf.result_expires
        return State("EXPIRED" if expired else "PENDING")
    if isinstance(meta["result"], BaseException):
        return State(meta["status"], error=str(meta["result"]) or repr(meta["result"]))
    return State(meta["status"], meta["result"])
#% endif
