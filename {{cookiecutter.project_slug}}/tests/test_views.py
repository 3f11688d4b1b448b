"""The views of jobs, on a real broker."""

import uuid

import pytest
from django.test import Client

from jobs.models import Job

from .worker import Worker

pytestmark = pytest.mark.django_db(transaction=True)


def post(client: Client, body: object) -> tuple[int, dict[str, str]]:
    """Ask for a sum; return the status and the answer."""
    response = client.post("/jobs/add/", body, content_type="application/json")
    return response.status_code, response.json()


def test_a_job_is_queued_and_done_by_the_worker(client: Client, worker: Worker) -> None:
    """The answer names the job, and the URL of its state."""
    status, job = post(client, {"x": 2, "y": 3})
    assert status == 202
    assert job["url"] == f"/jobs/{job['id']}/"
    worker.wait_for(f"[{job['id']}] succeeded")
    assert client.get(job["url"]).json()["id"] == job["id"]


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"x": 1}', '{"x": 1, "y": "2"}', '{"x": true, "y": 1}', "{", "\xff"]
)
def test_bad_input_is_refused(client: Client, body: str) -> None:
    """The answer has a message, and no job is created."""
    status, answer = post(client, body)
    assert status == 400
    assert set(answer) == {"message"}
    assert not Job.objects.exists()


def test_a_form_is_refused(client: Client) -> None:
    """Another site could send one."""
    assert client.post("/jobs/add/", {"x": 1, "y": 2}).status_code == 400


def test_an_unknown_job_is_not_found(client: Client) -> None:
    """No job has this id."""
    response = client.get(f"/jobs/{uuid.uuid4()}/")
    assert response.status_code == 404
    assert "There is no job" in response.json()["message"]


@pytest.mark.usefixtures("no_broker")
def test_a_job_is_accepted_while_the_broker_is_down(client: Client) -> None:
    """The answer and the state say that the broker does not have it yet."""
    status, answer = post(client, {"x": 2, "y": 3})
    assert status == 202
    assert answer["message"] == "The job is kept; the broker gets it later."
    assert not Job.objects.get().sent
    assert client.get(answer["url"]).json()["state"] == "UNSENT"


@pytest.mark.usefixtures("no_database")
def test_a_database_that_is_away_is_named(client: Client) -> None:
    """In JSON, as every other answer."""
    status, answer = post(client, {"x": 2, "y": 3})
    assert status == 503
    assert "database" in answer["message"]
    assert client.get(f"/jobs/{uuid.uuid4()}/").json() == answer
