"""Jobs on the web, for programs: start a job and ask for its state, in JSON."""

import json
import uuid

from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from . import tasks
from .models import Job
from .services import NOT_SENT, start
from .states import read_states


# Safe without a token: no form of another site can send JSON, and no cookie gives any rights here.
@csrf_exempt
@require_POST
def add(request: HttpRequest) -> JsonResponse:
    """Queue the sum of two integers, ``{"x": 2, "y": 3}``; return 202 and the URL of the job."""
    if request.content_type != "application/json":
        return error(400, "Send JSON: Content-Type: application/json.")
    try:
        body = json.loads(request.body)
    except ValueError:
        return error(400, "Not valid JSON.")
    numbers = [body.get("x"), body.get("y")] if isinstance(body, dict) else []
    if not numbers or not all(type(number) is int for number in numbers):
        return error(400, 'Send two integers: {"x": 2, "y": 3}.')
    job = start(tasks.add, *numbers)
    if not job.sent:
        return error(503, NOT_SENT)
    url = reverse("jobs:state", args=[job.id])
    return JsonResponse({"id": str(job.id), "url": url}, status=202)


@require_GET
def state(request: HttpRequest, job_id: uuid.UUID) -> JsonResponse:  # noqa: ARG001
    """Return the state of a job, and what else `states.py` tells of it."""
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
