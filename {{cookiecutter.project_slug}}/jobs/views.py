"""Jobs on the web, as JSON: ask for one, and see how it goes."""

import json
import uuid

from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST
#% if cookiecutter.result_backend == "redis"
from redis.exceptions import RedisError
#% endif

from . import tasks
from .models import Job
#% if cookiecutter.result_backend == "none"
from .services import NOT_SENT, start
#% else
from .services import NOT_SENT, read_states, start
#% endif


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
    job = start(tasks.add, *numbers)
    if not job.sent:
        return error(503, NOT_SENT)
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
#% if cookiecutter.result_backend == "redis"
    try:
        [state] = read_states([job])
    except RedisError:
        return error(503, "The results cannot be read; try again later.")
#% else
    [state] = read_states([job])
#% endif
    answer = {"id": str(job.id), "state": state.name, "result": state.result, "error": state.error}
    return JsonResponse(answer)
#% endif


def error(status: int, message: str) -> JsonResponse:
    """Return a refusal that says why."""
    return JsonResponse({"message": message}, status=status)
