"""Starting jobs: each is done, whatever happens between its row and the broker."""

import contextlib

import pytest
from django.db import transaction

from jobs import tasks
from jobs.models import Job
from jobs.services import send_waiting, start

from .worker import Worker

pytestmark = pytest.mark.django_db(transaction=True)


def runs(worker: Worker, job: Job) -> int:
    """Return how often a worker has got a job, when it has done all that was sent before."""
    last = start(tasks.add, 0, 0)
    worker.wait_for(f"[{last.id}] succeeded")
    return worker.output().count(f"[{job.id}] received")


def test_a_job_is_sent_after_commit(worker: Worker) -> None:
    """It is committed with the rows that it is about."""
    with transaction.atomic():
        job = start(tasks.add, 2, 3)
        before = job.sent
    assert (before, job.sent) == (False, True)
    assert runs(worker, job) == 1


def test_a_transaction_that_is_rolled_back_leaves_no_job() -> None:
    """Nothing is sent that was not committed."""
    with transaction.atomic():
        job = start(tasks.add, 2, 3)
        transaction.set_rollback(True)
    assert not job.sent
    assert not Job.objects.exists()


def test_a_job_that_was_not_sent_is_sent_later_and_once(worker: Worker) -> None:
    """A web server that is killed after COMMIT leaves such a row behind."""
    job = Job.objects.create(task=tasks.add.name, args=[2, 3])
    tasks.send_waiting(60)
    assert not Job.objects.get().sent  # its sender may be about to send it
    for _ in range(2):
        tasks.send_waiting(0)
        assert Job.objects.get(pk=job.pk).sent
    assert runs(worker, job) == 1


@pytest.mark.usefixtures("broker")
def test_a_job_that_cannot_be_sent_holds_back_no_other() -> None:
    """Its arguments fit no more, for example."""
    bad = Job.objects.create(task=tasks.add.name, args=[2])
    Job.objects.bulk_create(Job(task=tasks.add.name, args=[n, n]) for n in range(3))
    while Job.objects.filter(sent=False).exclude(pk=bad.pk).exists():
        with contextlib.suppress(TypeError):
            send_waiting(0)
    assert not Job.objects.get(pk=bad.pk).sent
#% if cookiecutter.result_backend != "none"


def test_a_job_that_is_done_is_not_sent_again(worker: Worker) -> None:
    """A web server that is killed before it marks the row as sent leaves such a one behind."""
    job = Job.objects.create(task=tasks.add.name, args=[2, 3])
    tasks.add.backend.store_result(str(job.id), 5, "SUCCESS")
    send_waiting(0)
    assert Job.objects.get().sent
    assert runs(worker, job) == 0
#% endif
