"""Jobs on the web, for people: a page that starts jobs and shows how the recent ones go."""

from typing import Any

from celery import Task
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from . import tasks
from .models import Job
from .services import start
from .states import read_states

# The kinds of jobs that the page can start: for each, the task and its arguments.
KINDS: dict[str, tuple[Task[Any, Any], tuple[int, ...]]] = {
    "quick": (tasks.add, (2, 3)),
    "slow": (tasks.report, (10,)),
    "failing": (tasks.report, (0,)),
}
# How many jobs the page shows.
RECENT = 10


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: HttpRequest) -> HttpResponse:
    """Show the recent jobs; on a POST with a ``kind``, start a job and redirect back here."""
    if request.method == "POST":
        kind = request.POST.get("kind", "")
        if kind not in KINDS:
            message = f"Send the kind of a job: {', '.join(KINDS)}.\n"
            return HttpResponseBadRequest(message, content_type="text/plain")
        task, args = KINDS[kind]
        start(task, *args)
        # A reload of the page then does not start another job.
        return HttpResponseRedirect(reverse("index"), status=303)
    jobs = list(Job.objects.order_by("-created")[:RECENT])
    rows = list(zip(jobs, read_states(jobs), strict=True))
    return render(request, "jobs/index.html", {"rows": rows})
