#% set rows = cookiecutter.result_backend == "database"
"""The admin: it finds things, and changes none."""

import pytest
#% if rows
from celery import current_app as app
#% endif
from django.test import Client
#% if rows
from django_celery_results.models import TaskResult
#% endif

from jobs.models import Job

pytestmark = pytest.mark.django_db


def test_a_job_is_found_by_its_id_and_cannot_be_changed(admin_client: Client) -> None:
    """Another one, and a task of another name, are not in the list."""
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
#% if rows


def test_a_result_is_found_by_its_task_and_cannot_be_changed(admin_client: Client) -> None:
    """It has its value."""
    app.backend.store_result("an-id", {"pages": 12345}, "SUCCESS")
    app.backend.store_result("another", 1, "SUCCESS")
    address = "/admin/django_celery_results/taskresult/"
    found = admin_client.get(address, {"q": "an-id"}).content.decode()
    assert "an-id" in found
    assert "another" not in found
    pk = TaskResult.objects.get(task_id="an-id").pk
    shown = admin_client.get(f"{address}{pk}/change/").content.decode()
    assert "12345" in shown
    assert 'name="_save"' not in shown
    for model in ("taskresult", "groupresult"):
        assert admin_client.get(f"/admin/django_celery_results/{model}/add/").status_code == 403
#% endif
