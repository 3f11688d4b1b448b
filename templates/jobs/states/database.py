"""The states of jobs: what the result backend keeps of each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from celery import current_app
from celery.states import READY_STATES
from django.utils import timezone
from django_celery_results.models import TaskResult

from .models import Job

#% include "jobs/states/kept.py"


def read_states(jobs: Sequence[Job]) -> list[State]:
    """Return the state of each of ``jobs``, all read in one query."""
    backend: Any = current_app.backend  # its type declares only what all backends have
    rows = TaskResult.objects.in_bulk([str(job.id) for job in jobs], field_name="task_id")
    metas = {
        task_id: backend.meta_from_decoded(
            {"status": row.status, "result": backend.decode_content(row, row.result)}
        )
        for task_id, row in rows.items()
    }
    return [state_of(job, metas.get(str(job.id))) for job in jobs]
