"""The states of jobs: whether they were sent."""

import pytest
from django.test import Client

from .worker import Worker

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_state_of_a_job_that_is_done_is_sent(client: Client, worker: Worker) -> None:
    """Results are not kept: nothing tells that it is done."""
    body = {"x": 2, "y": 3}
    job = client.post("/jobs/add/", body, content_type="application/json").json()
    worker.wait_for(f"[{job['id']}] succeeded")
    assert client.get(job["url"]).json() == {"id": job["id"], "state": "SENT"}
