"""The addresses of jobs, on a real broker."""

import uuid
#% if cookiecutter.result_backend != "none"
from datetime import timedelta
#% endif

import pytest
#% if cookiecutter.result_backend != "none"
from celery import current_app as app
#% endif
from django.test import Client
#% if cookiecutter.result_backend != "none"
from django.utils import timezone
#% endif

#% if cookiecutter.result_backend != "none"
from jobs import tasks
#% endif
from jobs.models import Job

#% if cookiecutter.result_backend == "none"
from .worker import Worker
#% else
from .worker import Worker, wait_until
#% endif

pytestmark = pytest.mark.django_db(transaction=True)


def post(client: Client, body: object) -> tuple[int, dict[str, str]]:
    """Ask for a sum; return the status and the answer."""
    response = client.post("/jobs/add/", body, content_type="application/json")
    return response.status_code, response.json()


def test_a_job_is_queued_and_its_state_can_be_asked_for(client: Client, worker: Worker) -> None:
    """The answer names the job and where to look."""
    status, job = post(client, {"x": 2, "y": 3})
    assert status == 202
    assert job["url"] == f"/jobs/{job['id']}/"
    worker.wait_for(f"[{job['id']}] succeeded")
    #% if cookiecutter.result_backend == "none"
    assert client.get(job["url"]).json() == {"id": job["id"], "state": "SENT"}
    #% else
    wait_until(lambda: client.get(job["url"]).json()["state"] == "SUCCESS", "its result")
    assert client.get(job["url"]).json() == {
        "id": job["id"],
        "state": "SUCCESS",
        "result": 5,
        "error": None,
    }
    #% endif


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"x": 1}', '{"x": 1, "y": "2"}', '{"x": true, "y": 1}', "{", "\xff"]
)
def test_bad_input_is_refused(client: Client, body: str) -> None:
    """With a message, and no job is left."""
    status, answer = post(client, body)
    assert status == 400
    assert set(answer) == {"message"}
    assert not Job.objects.exists()


def test_a_form_is_refused(client: Client) -> None:
    """Another site could send one."""
    assert client.post("/jobs/add/", {"x": 1, "y": 2}).status_code == 400


def test_an_unknown_job_is_not_found(client: Client) -> None:
    """Whatever the result backend can tell."""
    response = client.get(f"/jobs/{uuid.uuid4()}/")
    assert response.status_code == 404
    assert "There is no job" in response.json()["message"]


@pytest.mark.usefixtures("no_broker")
def test_a_broker_that_is_down_is_named(client: Client) -> None:
    """The row is there, and its state says that it was not sent."""
    status, answer = post(client, {"x": 2, "y": 3})
    assert status == 503
    assert "broker" in answer["message"]
    job = Job.objects.get()
    assert not job.sent
    assert client.get(f"/jobs/{job.id}/").json()["state"] == "UNSENT"
#% if cookiecutter.result_backend != "none"


@pytest.mark.usefixtures("broker")
def test_a_job_that_will_be_tried_again_says_why(client: Client) -> None:
    """An error that is no end is an error, too."""
    job = Job.objects.create(task=tasks.add.name, sent=True)
    app.backend.mark_as_retry(str(job.id), ValueError("busy"))
    answer = client.get(f"/jobs/{job.id}/").json()
    assert answer == {"id": str(job.id), "state": "RETRY", "result": None, "error": "busy"}


@pytest.mark.usefixtures("broker")
def test_nobody_knows_of_a_job_whose_result_was_dropped(client: Client) -> None:
    """Results are kept for a day."""
    job = Job.objects.create(task=tasks.add.name, sent=True)
    assert client.get(f"/jobs/{job.id}/").json()["state"] == "PENDING"
    Job.objects.update(created=timezone.now() - timedelta(days=2))
    assert client.get(f"/jobs/{job.id}/").json()["state"] == "EXPIRED"
#% endif
#% if cookiecutter.result_backend == "redis"


@pytest.mark.usefixtures("no_results")
def test_a_result_backend_that_is_down_is_named(client: Client) -> None:
    """Asking for a state does not hang, and does not fail without a word."""
    job = Job.objects.create(task=tasks.add.name, sent=True)
    response = client.get(f"/jobs/{job.id}/")
    assert response.status_code == 503
    assert "results" in response.json()["message"]
#% endif
