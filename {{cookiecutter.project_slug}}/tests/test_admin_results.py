"""The admin of results: it finds them, and changes none."""

import pytest
from celery import current_app as app
from django.test import Client
from django_celery_results.models import TaskResult

pytestmark = pytest.mark.django_db


def test_a_result_is_found_by_its_task_and_cannot_be_changed(admin_client: Client) -> None:
    """It is shown with its value."""
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
