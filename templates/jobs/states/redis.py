"""The states of jobs: what the result backend keeps of each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from celery import current_app
from celery.states import READY_STATES
from django.utils import timezone
from redis.exceptions import RedisError

from .models import Job

#% include "jobs/states/kept.py"


def read_states(jobs: Sequence[Job]) -> list[State]:
    """Return the state of each of ``jobs``, all read in one round trip.

    If Redis cannot be reached, the state of each job that was sent is UNKNOWN.
    """
    backend: Any = current_app.backend  # its type declares only what all backends have
    keys = [backend.get_key_for_task(str(job.id)) for job in jobs]
    try:
        kept = backend.mget(keys) if keys else []
    except RedisError:
        unknown = State("UNKNOWN", error="The result backend cannot be reached.")
        return [unknown if job.sent else State("UNSENT") for job in jobs]
    metas = [backend.decode_result(value) if value else None for value in kept]
    return [state_of(job, meta) for job, meta in zip(jobs, metas, strict=True)]
