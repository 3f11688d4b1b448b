"""A task that is revoked while it waits does not run, whichever workers come and go until then."""

import pytest

from tests import servers
from tests.projects import Bake
from tests.service import Service, wait_until

# Sends tasks and revokes some; prints the ids of those that run, and of those that do not.
SEND = """
from celery_app import app
from celery_app.tasks import add

def send(number, **options):
    return add.apply_async((number, 0), **options)

kept = [send(1), send(2, countdown=1), send(3, stamped_headers=["tenant"], tenant="good")]
gone = [send(4), send(5), send(6, countdown=1), send(7, countdown=1)]
gone += [send(8, stamped_headers=["tenant"], tenant=name) for name in ("bad", "worse")]
gone[0].revoke()
gone[1].revoke(terminate=True)
app.control.revoke([task.id for task in gone[2:4]])
app.control.revoke_by_stamped_headers({"tenant": ["bad", "worse"]})
print(*[task.id for task in kept])
print(*[task.id for task in gone])
"""
STATES = """
import sys
from celery_app import app
print(*[app.AsyncResult(task).state for task in sys.argv[1:]])
"""


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
@pytest.mark.parametrize("heard", [False, True], ids=["no worker", "a worker that ends"])
def test_what_was_revoked_stays_so(synced: Bake, kind: str, heard: bool) -> None:  # noqa: FBT001
    project = synced(broker=kind, result_backend="redis")
    python = project.path / ".venv" / "bin" / "python"
    worker_of = (python, "-m", "celery", "-A", "celery_app", "worker", "--loglevel", "INFO")
    options = ("--concurrency", "1")
    with servers.addresses(kind, "redis") as urls:
        results = urls["CELERY_RESULT_BACKEND"]
        with Service(project, urls["CELERY_BROKER_URL"], results) as service:
            if heard:  # it is busy with another queue
                first = service.start(*worker_of, *options, "--queues", "other", ready=r" ready\.")
            printed = service.run(python, "-c", SEND).stdout
            kept, gone = (line.split() for line in printed.splitlines())
            if heard:
                first.wait_for("flagged as revoked", times=2)
                first.stop()

            def states(*ids: str) -> set[str]:
                return set(service.run(python, "-c", STATES, *ids).stdout.split())

            worker = service.start(*worker_of, *options, ready=r" ready\.")
            wait_until(lambda: states(*kept) == {"SUCCESS"}, "what was not revoked is done")
            worker.wait_for("Discarding revoked task", times=len(gone))
            assert states(*gone) == {"REVOKED"}
            assert not any(f"[{task}] succeeded" in worker.output for task in gone)
