"""The page for people, without a browser: what the server answers."""

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from jobs import page, tasks
from jobs.models import Job

#= from .worker import Worker{{ ", wait_until" if cookiecutter.result_backend != "none" }}

pytestmark = pytest.mark.django_db(transaction=True)


def shown(client: Client) -> str:
    """Return the page."""
    response = client.get("/")
    assert response.status_code == 200
    return response.content.decode()


def test_a_page_without_jobs_says_so(client: Client) -> None:
    """It also offers each kind of job."""
    text = shown(client)
    assert "No jobs yet" in text
    assert all(f'value="{kind}"' in text for kind in page.KINDS)


@pytest.mark.usefixtures("broker")
def test_the_page_needs_the_same_queries_for_any_number_of_jobs(
    client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    #= """One for the jobs{{ ", one for their states" if cookiecutter.result_backend == "database" }}."""
    Job.objects.bulk_create(Job(task=tasks.add.name, sent=True) for _ in range(page.RECENT))
    #= with django_assert_num_queries({{ 2 if cookiecutter.result_backend == "database" else 1 }}):
        #= assert shown(client).count(">{{ "Sent" if cookiecutter.result_backend == "none" else "Waiting" }}<") == page.RECENT


@pytest.mark.parametrize("form", [{}, {"kind": "odd"}])
def test_an_unknown_kind_is_refused_in_one_line(client: Client, form: dict[str, str]) -> None:
    """No job is created."""
    response = client.post("/", form)
    assert response.status_code == 400
    assert response.content == b"Send the kind of a job: quick, slow, failing.\n"
    assert not Job.objects.exists()


@pytest.mark.usefixtures("broker")
def test_another_site_cannot_start_a_job() -> None:
    """It does not know the token of the page."""
    client = Client(enforce_csrf_checks=True)
    assert client.post("/", {"kind": "quick"}).status_code == 403
    assert not Job.objects.exists()
    token = shown(client).partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
    form = {"kind": "quick", "csrfmiddlewaretoken": token}
    assert client.post("/", form).status_code == 303


@pytest.mark.usefixtures("no_broker")
def test_a_job_is_shown_to_wait_while_the_broker_is_down(client: Client) -> None:
    """It is in the table, and was not sent."""
    assert client.post("/", {"kind": "quick"}).status_code == 303
    assert "Waiting for the broker" in shown(client)
    assert not Job.objects.get().sent


def test_each_kind_of_job_is_started_and_ends(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer leads back to the page, so that a reload starts nothing."""
    monkeypatch.setitem(page.KINDS, "slow", (tasks.report, (2,)))
    for kind in page.KINDS:
        response = client.post("/", {"kind": kind})
        assert (response.status_code, response["Location"]) == (303, "/")
    done, slow, failed = Job.objects.order_by("created")
    worker.wait_for(f"[{done.id}] succeeded", f"[{slow.id}] succeeded", f"[{failed.id}] raised")
    #% if cookiecutter.result_backend == "none"
    text = shown(client)
    assert text.count("<td>Sent</td>") == 3
    assert all(call in text for call in ("add(2, 3)", "report(2)", "report(0)"))
    #% else
    wait_until(lambda: 'class="state">Done<' in shown(client), "a result")
    wait_until(lambda: " open" not in shown(client), "the ends of all")
    text = shown(client)
    assert text.count(">Done<") == 2
    assert text.count(">Failed<") == 1
    for part in ("add(2, 3)", "<code>5</code>", "report(2)", "report(0)", "at least one page"):
        assert part in text


@pytest.mark.usefixtures("broker")
def test_the_progress_of_a_job_is_shown(client: Client) -> None:
    """As a bar with a name, and in words."""
    job = Job.objects.create(task=tasks.report.name, args=[10], sent=True)
    progress = {"done": 3, "total": 10}
    tasks.report.backend.store_result(str(job.id), progress, "PROGRESS")
    text = " ".join(shown(client).split())
    assert '<progress value="3" max="10" aria-label="Progress of report(10)"></progress>' in text
    assert "3 of 10" in text
#% if cookiecutter.result_backend == "redis"


@pytest.mark.usefixtures("no_results")
def test_the_page_says_that_the_result_backend_is_down(client: Client) -> None:
    """The jobs are shown all the same."""
    Job.objects.create(task=tasks.add.name, args=[2, 3], sent=True)
    text = shown(client)
    assert "The result backend cannot be reached" in text
    assert "add(2, 3)" in text
    assert "Unknown" in text
#% endif
#% endif
