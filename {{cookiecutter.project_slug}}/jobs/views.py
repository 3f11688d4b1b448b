"""Jobs on the web, for programs: start a job and ask for its state, in JSON."""

import functools
import json
import logging
import uuid
from collections.abc import Callable

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from . import tasks
from .models import Job
from .services import start
from .states import read_states

logger = logging.getLogger(__name__)


def needs_database(view: Callable[..., JsonResponse]) -> Callable[..., JsonResponse]:
    """Have ``view`` answer 503 while the database cannot be reached."""

    @functools.wraps(view)
    def answer(*args: object, **kwargs: object) -> JsonResponse:
        try:
            return view(*args, **kwargs)
        except (InterfaceError, OperationalError) as away:
            logger.error("the database cannot be reached: %s", away)  # noqa: TRY400
            return error(503, "The database cannot be reached; try again later.")

    return answer


# Safe without a token: no form of another site can send JSON, and no cookie gives any rights here.
@csrf_exempt
@require_POST
@needs_database
def add(request: HttpRequest) -> JsonResponse:
    """Start the sum of two integers, ``{"x": 2, "y": 3}``; return 202 and the URL of the job.

    If the broker did not get the job yet, a message says so.
    """
    if request.content_type != "application/json":
        return error(400, "Send JSON: Content-Type: application/json.")
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return error(400, "Not valid JSON.")
    numbers = [body.get("x"), body.get("y")] if isinstance(body, dict) else []
    if not numbers or not all(type(number) is int for number in numbers):
        return error(400, 'Send two integers: {"x": 2, "y": 3}.')
    job = start(tasks.add, *numbers)
    answer = {"id": str(job.id), "url": reverse("jobs:state", args=[job.id])}
    if not job.sent:
        answer["message"] = "The job is kept; the broker gets it later."
    return JsonResponse(answer, status=202)


@require_GET
@needs_database
def state(request: HttpRequest, job_id: uuid.UUID) -> JsonResponse:  # noqa: ARG001
    """Return the state of a job, and what `states.py` reads besides."""
    try:
        job = Job.objects.get(pk=job_id)
    except Job.DoesNotExist:
        return error(404, f"There is no job {job_id}.")
    [state] = read_states([job])
    #% if cookiecutter.result_backend == "redis"
    if state.state == "UNKNOWN":
        return error(503, "The results cannot be read; try again later.")
    #% endif
    return JsonResponse({"id": str(job.id)} | state._asdict())


def error(status: int, message: str) -> JsonResponse:
    """Return an error response with a message."""
    return JsonResponse({"message": message}, status=status)
