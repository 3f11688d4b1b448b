"""Jobs on the web, as JSON: ask for one, and see how it goes."""

import json
import logging
import uuid
from typing import Any

from celery import Task
#% if cookiecutter.result_backend == "redis"
from celery.exceptions import BackendGetMetaError
#% endif
#% if cookiecutter.result_backend != "none"
from celery.result import AsyncResult
#% endif
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST
from kombu.exceptions import OperationalError

from . import tasks
from .models import Job

logger = logging.getLogger(__name__)


def send(job: Job, task: Task[Any, Any], *args: object) -> None:
    """Send ``task`` under the id of ``job``, and mark the row when the broker has taken it.

    To be called after commit, so that no worker looks for a row that is not there yet. Nothing is
    raised: the row stays, unmarked, and the log says why.
    """
    try:
        task.apply_async(args=args, task_id=str(job.id))
    except OperationalError:
        logger.exception("could not send %s%r", task.name, args)
    else:
        job.sent = True
        job.save(update_fields=["sent"])


# It takes JSON only, which no form of another site can send, and no cookie gives any right here.
@csrf_exempt
@require_POST
def add(request: HttpRequest) -> JsonResponse:
    """Queue the sum of two whole numbers: ``{"x": 2, "y": 3}``; answer 202 and where to look."""
    if request.content_type != "application/json":
        return error(400, "Send JSON: Content-Type: application/json.")
    try:
        body = json.loads(request.body)
    except ValueError:
        return error(400, "This is no JSON.")
    numbers = [body.get("x"), body.get("y")] if isinstance(body, dict) else []
    if not numbers or not all(type(number) is int for number in numbers):
        return error(400, 'Send two whole numbers: {"x": 2, "y": 3}.')
    with transaction.atomic():
        job = Job.objects.create(task=tasks.add.name)
        transaction.on_commit(lambda: send(job, tasks.add, *numbers), robust=True)
    if not job.sent:
        return error(503, "The broker cannot be reached; try again later.")
    url = reverse("jobs:state", args=[job.id])
    return JsonResponse({"id": str(job.id), "url": url}, status=202)


@require_GET
def state(request: HttpRequest, job_id: uuid.UUID) -> JsonResponse:  # noqa: ARG001
#% if cookiecutter.result_backend == "none"
    """Answer whether the broker has taken the job; results are not kept."""
#% else
    """Answer the state of a job, and its result or error once it has one."""
#% endif
    try:
        job = Job.objects.get(pk=job_id)
    except Job.DoesNotExist:
        return error(404, f"There is no job {job_id}.")
#% if cookiecutter.result_backend == "none"
    return JsonResponse({"id": str(job.id), "state": "SENT" if job.sent else "UNSENT"})
#% else
    result: AsyncResult[Any] = AsyncResult(str(job.id))
    # Read once: between two reads the state could change, or the server go away.
#% if cookiecutter.result_backend == "redis"
    try:
        meta = result.backend.get_task_meta(result.id)
    except BackendGetMetaError:
        return error(503, "The results cannot be read; try again later.")
#% else
    meta = result.backend.get_task_meta(result.id)
#% endif
    answer = {"id": str(job.id), "state": meta["status"], "result": None, "error": None}
    if meta["status"] == "PENDING" and not job.sent:
        answer["state"] = "UNSENT"
    elif isinstance(meta["result"], BaseException):
        # Why it failed, or why it will be tried again.
        answer["error"] = str(meta["result"])
    else:
        # The value of a task that is done, or the progress of one that is running.
        answer["result"] = meta["result"]
    return JsonResponse(answer)
#% endif


def error(status: int, message: str) -> JsonResponse:
    """Return a refusal that says why."""
    return JsonResponse({"message": message}, status=status)
