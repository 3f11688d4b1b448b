#% set results = cookiecutter.result_backend
"""Jobs on the web, for people: a page that starts some, and shows how the recent ones go."""

from typing import Any

from celery import Task
#% if results != "none"
from celery.states import READY_STATES
#% endif
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods
#% if results == "redis"
from redis.exceptions import RedisError
#% endif

from . import tasks
from .models import Job
#% if results == "redis"
from .services import NOT_SENT, State, read_states, start
#% elif results == "database"
from .services import NOT_SENT, read_states, start
#% else
from .services import NOT_SENT, start
#% endif

# What can be started here: each kind with its task and the arguments.
KINDS: dict[str, tuple[Task[Any, Any], tuple[int, ...]]] = {
    "quick": (tasks.add, (2, 3)),
    "slow": (tasks.report, (10,)),
    "failing": (tasks.report, (0,)),
}
# How many jobs are shown.
RECENT = 10
#% if results != "none"
WORDS = {
    "UNSENT": "Not sent",
    "PENDING": "Waiting",
    "STARTED": "Running",
    "PROGRESS": "Running",
    "RETRY": "To be tried again",
    "SUCCESS": "Done",
    "FAILURE": "Failed",
    "REVOKED": "Cancelled",
    "EXPIRED": "Not known any more",
#% if results == "redis"
    "UNREADABLE": "Unknown",
#% endif
}
# Of a job in one of these states there is nothing new to come.
FINAL = READY_STATES | {"UNSENT", "EXPIRED"}
#% endif


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: HttpRequest) -> HttpResponse:
    """Show the recent jobs; after a POST of a ``kind``, start one and lead back here.

    If it could not be sent, the page says so, with status 503.
    """
    alert = ""
    if request.method == "POST":
        kind = request.POST.get("kind", "")
        if kind not in KINDS:
            message = f"Send the kind of a job: {', '.join(KINDS)}.\n"
            return HttpResponseBadRequest(message, content_type="text/plain")
        task, args = KINDS[kind]
        if start(task, *args).sent:
            # Whoever reloads the page then does not start another one.
            return HttpResponseRedirect(reverse("index"), status=303)
        alert = NOT_SENT
#% if results == "none"
    context = {"jobs": Job.objects.order_by("-created")[:RECENT], "alert": alert}
#% else
    jobs = list(Job.objects.order_by("-created")[:RECENT])
#% if results == "redis"
    unreadable = False
    try:
        states = read_states(jobs)
    except RedisError:
        unreadable = True
        states = [State("UNREADABLE" if job.sent else "UNSENT") for job in jobs]
#% else
    states = read_states(jobs)
#% endif
    rows = [
        (job, state, WORDS.get(state.name, state.name), state.name in FINAL)
        for job, state in zip(jobs, states, strict=True)
    ]
#% if results == "redis"
    context = {"rows": rows, "alert": alert, "unreadable": unreadable}
#% else
    context = {"rows": rows, "alert": alert}
#% endif
#% endif
    return render(request, "jobs/index.html", context, status=503 if alert else 200)
