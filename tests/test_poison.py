"""Messages that kill their whole worker: each is counted exactly, and no neighbour is blamed."""

from collections import Counter
from pathlib import Path

import pytest

from tests import servers
from tests.projects import Bake
from tests.service import Process, Service, wait_until

LIMIT = 2
NEIGHBOURS = [f"neighbour-{n}" for n in range(12)]
POISONS = [f"poison-{n}" for n in range(3)]
SEND = """
import sys
from celery_app import app
from tests.fault_tasks import poison, work

notes, poisons, neighbours = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")
for name in poisons:
    poison.delay(notes, name, "/no/cure")
for name in neighbours:
    work.delay(notes, name, 0.3)
"""


@pytest.mark.parametrize("processes", ["2", "4"])
@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_each_poison_starts_as_often_as_it_may_and_no_neighbour_is_blamed(
    synced: Bake, tmp_path: Path, kind: str, processes: str
) -> None:
    project = synced(project_type="celery", broker=kind, result_backend="none")
    notes = tmp_path / "notes"
    notes.touch()
    env = {
        "CELERY_REDELIVERY_LIMIT": str(LIMIT),
        "CELERY_TASK_TIME_LIMIT": "4",
        "CELERY_VISIBILITY_TIMEOUT": "5",
        "HEARTBEAT_DIR": str(tmp_path),
    }
    with (
        servers.addresses(kind, "none") as addresses,
        Service(project, addresses["CELERY_BROKER_URL"], env=env) as service,
    ):
        python = project.path / ".venv" / "bin" / "python"
        service.run(python, "-c", SEND, notes, ",".join(POISONS), ",".join(NEIGHBOURS))

        def start() -> Process:
            options = ("--concurrency", processes, "--include", "tests.fault_tasks")
            return service.worker(*options)

        workers = [start()]

        def all_over() -> bool:
            if workers[-1].process.poll() is not None:
                workers.append(start())
            ends = notes.read_text().split()
            buried = sum(each.output.count("is a dead letter: ") for each in workers)
            return buried == len(POISONS) and ends.count("end") == len(NEIGHBOURS)

        wait_until(all_over, "the end of each task")
        lines = Counter(notes.read_text().splitlines())
        assert [lines[f"start {name}"] for name in POISONS] == [LIMIT + 1] * len(POISONS)
        output = "".join(each.output for each in workers)
        reason = f"is a dead letter: the worker died {LIMIT + 1} times while it ran"
        assert output.count(reason) == len(POISONS)
        command = ("-m", "celery_app.runtime.dead_letters")
        letters = service.run(python, *command).stdout.splitlines()
        assert letters[-1] == f"{len(POISONS)} dead letters"
        assert all("fault_tasks.poison" in line for line in letters[:-1])
