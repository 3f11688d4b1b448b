"""The admin: it finds jobs, and changes none."""

import pytest
from django.test import Client

from jobs.models import Job

pytestmark = pytest.mark.django_db


def test_a_job_is_found_by_its_id_and_cannot_be_changed(admin_client: Client) -> None:
    """A search by id or task does not list other jobs."""
    job = Job.objects.create(task="jobs.tasks.add", args=[2, 3])
    other = Job.objects.create(task="jobs.tasks.report")
    for query in (str(job.id), "tasks.add"):
        found = admin_client.get("/admin/jobs/job/", {"q": query}).content.decode()
        assert str(job.id) in found
        assert str(other.id) not in found
    shown = admin_client.get(f"/admin/jobs/job/{job.id}/change/").content.decode()
    assert "[2, 3]" in shown
    assert 'name="_save"' not in shown
    assert admin_client.get("/admin/jobs/job/add/").status_code == 403
