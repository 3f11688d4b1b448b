"""What must hold when something dies: `uv run pytest -m faults`, one fault of each kind."""

import sys

import pytest

from . import fault_tasks
from .lab import LIMIT, QUEUE, Lab
from .worker import wait_until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform == "win32", reason="a worker has no pool of processes there"),
    #= pytest.mark.usefixtures("broker"{{ ', "transactional_db"' if cookiecutter.project_type == "django" }}),
]


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
    """After the grace period they return to the queue, and the next worker does them."""
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
