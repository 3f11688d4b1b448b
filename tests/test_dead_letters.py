"""Dead letters: messages that killed their worker, put aside whole, and put back on command."""

import json
import re
import time
from pathlib import Path

import pytest

from tests.projects import Bake
from tests.proxy import Way, broker
from tests.service import DEADLINE, Process, Service

# A task that kills its whole worker until there is a cure. It waits until the others have started
# too: a kill amid the fetching of messages is for the fault tests.
TASKS = """\
import json
import os
import signal
import time
from pathlib import Path

from celery_app import app

HERE = Path(os.environ["HEARTBEAT_DIR"])


@app.task(bind=True)
def poison(self, *args, **kwargs):
    if not (HERE / "cure").exists():
        group = HERE / f"group-{os.getpgrp()}"
        group.mkdir(exist_ok=True)
        (group / self.request.id).touch()
        end = time.monotonic() + 2
        while len(list(group.iterdir())) < 3 and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(os.getpgrp(), signal.SIGKILL)
    note = {
        "args": args,
        "kwargs": kwargs,
        "tenant": self.request.get("tenant"),
        "queue": self.request.delivery_info["routing_key"],
        "retries": self.request.retries,
    }
    (HERE / f"{self.request.id}.json").write_text(json.dumps(note))
"""
SEND = """\
from poisons import poison

for number, queue in enumerate(["my_service", "my_service", "urgent"]):
    options = {"queue": queue, "headers": {"tenant": f"tenant {number}"}}
    print(poison.apply_async((number, "é'\\""), {"deep": {"list": [1, None]}}, **options).id)
"""
STATES = """\
import sys
from celery_app import app

for task in sys.argv[1:]:
    result = app.AsyncResult(task)
    print(result.state, result.result)
"""


class Poisoned:
    """A service whose owner has sent three tasks that kill their worker."""

    def __init__(self, service: Service) -> None:
        """Send them, and run workers until none dies any more."""
        self.service = service
        self.ids = service.python(SEND).split()
        self.workers: list[Process] = []

    def bury(self) -> Process:
        """Start workers, one after the other, until all three are dead letters; return the last."""
        end = time.monotonic() + DEADLINE
        worker = self.start()
        while len(re.findall("critical.* is a dead letter: ", self.log())) < 3:
            assert time.monotonic() < end, self.log()
            if worker.process.poll() is not None:
                worker = self.start()
            time.sleep(0.05)
        assert worker.process.poll() is None
        return worker

    def start(self) -> Process:
        """Start a worker; it may die before it is ready."""
        options = ("--loglevel", "INFO", "--concurrency", "3", "--queues", "my_service,urgent")
        celery = self.service.project.path / ".venv" / "bin" / "celery"
        command = (celery, "-A", "celery_app", "worker", "--include", "poisons", *options)
        self.workers.append(self.service.start(*command))
        return self.workers[-1]

    def log(self) -> str:
        """Return what all workers have said."""
        return "".join(worker.output for worker in self.workers)

    def command(self, *arguments: str, status: int = 0) -> list[str]:
        """Run the command; return its lines, or those of its error."""
        module = ("uv", "run", "python", "-m", "celery_app.runtime.dead_letters")
        done = self.service.run(*module, *arguments, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        assert not (done.stdout if status else done.stderr)
        return (done.stderr if status else done.stdout).splitlines()

    def states(self) -> list[str]:
        """Return the states of the three, and what came of them."""
        done = self.service.run("uv", "run", "python", "-c", STATES, *self.ids)
        return done.stdout.splitlines()


@pytest.mark.parametrize("result_backend", ["redis", "none"])
@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_dead_letters_are_listed_and_put_back_whole(
    synced: Bake, tmp_path: Path, kind: str, result_backend: str
) -> None:
    project = synced(broker=kind, result_backend=result_backend)
    (tmp_path / "poisons.py").write_text(TASKS)
    env = {
        "HEARTBEAT_DIR": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
        "CELERY_REDELIVERY_LIMIT": "1",
        "CELERY_TASK_TIME_LIMIT": "30",
    }
    if kind == "redis":
        env |= {"CELERY_TASK_TIME_LIMIT": "5", "CELERY_VISIBILITY_TIMEOUT": "6"}
    with broker("redis") as results, broker(kind) as server:
        result_url = results.url if result_backend == "redis" else None
        with Service(project, server.url, result_url, env) as service:
            poisoned = Poisoned(service)
            one, two, three = poisoned.ids
            worker = poisoned.bury()

            # All three are listed, with what is needed to know them.
            *letters, total = poisoned.command()
            assert total == "3 dead letters"
            assert {line.split()[0] for line in letters} == {one, two, three}
            for number, task in enumerate(poisoned.ids):
                (letter,) = (line for line in letters if line.startswith(task))
                assert f"poisons.poison({number}, " in letter
                assert "'deep': {'list': [1, None]}" in letter
                assert re.search(r"the worker died \d+ times while it ran$", letter)
            if result_backend == "redis":
                for state in poisoned.states():
                    assert re.match(r"FAILURE the worker died \d+ times while it ran", state)

            # Mistakes and a missing broker are one line, and harm nothing.
            (line,) = poisoned.command("retry", "no-such-id", status=1)
            assert line == "No dead letter has the id no-such-id"
            server.proxy.set(Way.DOWN)
            for command in ((), ("retry", "--all")):
                (line,) = poisoned.command(*command, status=1)
                assert line.startswith("The broker cannot be reached: ")
            server.proxy.set(Way.UP)

            # One is put back, with all that it had; then the others.
            (tmp_path / "cure").touch()
            assert poisoned.command("retry", two) == [f"{two} is back on its queue"]
            worker.wait_for(rf"{two}\] succeeded")
            assert poisoned.command()[-1] == "2 dead letters"
            lines = poisoned.command("retry", "--all")
            assert set(lines) == {f"{task} is back on its queue" for task in (one, three)}
            for task in (one, three):
                worker.wait_for(rf"{task}\] succeeded")
            assert poisoned.command() == ["0 dead letters"]
            for number, task in enumerate(poisoned.ids):
                assert json.loads((tmp_path / f"{task}.json").read_text()) == {
                    "args": [number, "é'\""],
                    "kwargs": {"deep": {"list": [1, None]}},
                    "tenant": f"tenant {number}",
                    "queue": "urgent" if task == three else "my_service",
                    "retries": 0,
                }
            if result_backend == "redis":
                assert poisoned.states() == ["SUCCESS None"] * 3
            assert worker.process.poll() is None
