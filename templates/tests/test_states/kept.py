"""The states of jobs, as the view tells them."""

import pytest
from celery import current_app as app
from django.test import Client

from jobs import tasks
from jobs.models import Job

from .worker import Worker, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_job_that_is_done_has_its_result(client: Client, worker: Worker) -> None:  # noqa: ARG001
    """The result backend keeps what the task returned."""
    body = {"x": 2, "y": 3}
    job = client.post("/jobs/add/", body, content_type="application/json").json()
    wait_until(lambda: client.get(job["url"]).json()["state"] == "SUCCESS", "its result")
    assert client.get(job["url"]).json() == {
        "id": job["id"],
        "state": "SUCCESS",
        "result": 5,
        "error": None,
    }


@pytest.mark.usefixtures("broker")
def test_a_job_that_will_be_tried_again_says_why(client: Client) -> None:
    """The error is shown although the job has not failed yet."""
    job = Job.objects.create(task=tasks.add.name, sent=True)
    app.backend.mark_as_retry(str(job.id), ValueError("busy"))
    answer = client.get(f"/jobs/{job.id}/").json()
    assert answer == {"id": str(job.id), "state": "RETRY", "result": None, "error": "busy"}


@pytest.mark.usefixtures("broker")
def test_a_job_whose_result_was_dropped_is_expired(client: Client) -> None:
    """Results are kept for a day."""
    job = Job.objects.create(task=tasks.add.name, sent=True)
    assert client.get(f"/jobs/{job.id}/").json()["state"] == "PENDING"
    Job.objects.update(created=job.created - 2 * app.conf.result_expires)
    assert client.get(f"/jobs/{job.id}/").json()["state"] == "EXPIRED"
#% if cookiecutter.result_backend == "redis"


@pytest.mark.usefixtures("no_results")
def test_the_view_says_that_the_result_backend_is_down(client: Client) -> None:
    """Asking for a state does not hang."""
    job = Job.objects.create(task=tasks.add.name, sent=True)
    response = client.get(f"/jobs/{job.id}/")
    assert response.status_code == 503
    assert "results" in response.json()["message"]
#% endif
