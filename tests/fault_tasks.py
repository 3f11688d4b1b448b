"""The tasks of the fault tests, and their app: that of a generated project, or a naive one.

This module is put into the path of a project. Its tasks note what they do in a file, outside the
broker: ``start``, ``wait`` and ``end``, with the name of the task and the process it runs in.
"""

import os
import signal
import time
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from celery import Celery, shared_task

DIRECTORY = Path(os.environ["FAULTS_DIRECTORY"])
NOTES = DIRECTORY / "notes"
GATE = DIRECTORY / "gate"  # while it is there, no task ends
DOOM = DIRECTORY / "doom"  # what the poison waits for

if os.environ["FAULTS_CONFIGURATION"] == "naive":
    # As the usual tutorial has it.
    app = Celery(
        "naive",
        broker=os.environ["CELERY_BROKER_URL"],
        backend=os.environ["CELERY_RESULT_BACKEND"],
    )
else:
    app = import_module("celery_app").app
if entries := int(os.environ.get("FAULTS_ENTRIES", "0")):
    app.conf.beat_schedule = {
        f"t{n}": {
            "task": "fault_tasks.work",
            "schedule": timedelta(seconds=5),
            "args": (f"t{n}", 0),
            "options": {"task_id": f"t{n}"},
        }
        for n in range(entries)
    }


def note(word: str, name: str) -> None:
    """Append a line in one write, so that no other process gets in between."""
    file = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{word} {name} {os.getpid()}\n".encode())
    os.close(file)


@shared_task
def work(name: str, seconds: float) -> None:
    """Take so many seconds, and longer while the gate is closed."""
    note("start", name)
    time.sleep(seconds)
    if GATE.exists():
        note("wait", name)
        while GATE.exists():
            time.sleep(0.02)
    note("end", name)


@shared_task
def kill_child(name: str) -> None:
    """Kill the process that runs it."""
    note("start", name)
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task
def kill_worker(name: str) -> None:
    """Kill the whole worker, as a host that is out of memory does."""
    note("start", name)
    while not DOOM.exists():
        time.sleep(0.02)
    os.killpg(os.getpgrp(), signal.SIGKILL)


@shared_task
def devour(name: str) -> None:
    """Ask for more memory than there is."""
    note("start", name)
    raise MemoryError("too much")


if os.environ.get("FAULTS_NEWER"):

    @shared_task
    def newer(name: str) -> None:
        """Be a task that only the next version has."""
        note("start", name)
        note("end", name)


def send_newer(count: int) -> None:
    """Send tasks that only the next version has."""
    for n in range(count):
        app.send_task("fault_tasks.newer", (f"n{n}",), task_id=f"n{n}")


def send(count: int, seconds: float, poison: str, **options: Any) -> None:  # noqa: ANN401
    """Send tasks of so many seconds, and a poison among the first of them."""
    for n in range(count):
        if poison and n == 20:
            app.send_task(f"fault_tasks.{poison}", ("poison",), task_id="poison")
        work.apply_async((f"t{n}", seconds), task_id=f"t{n}", **options)


# --- On a cluster ---


@shared_task
def step(name: str) -> None:
    """Take a moment, and note when it ends."""
    time.sleep(0.02)
    note(str(time.time()), name)


def declare() -> None:
    """Make the queue at the first address."""
    with app.connection_for_write() as connection:
        app.amqp.queues[app.conf.task_default_queue](connection.default_channel).declare()


def send_steps() -> None:
    """Send tasks until a file says so; note each call, how long it took, and its error."""
    number = 0
    with (DIRECTORY / "calls").open("a", buffering=1) as calls:
        while not (DIRECTORY / "enough").exists():
            start = time.time()
            error = ""
            try:
                step.apply_async((f"t{number}",))
            except Exception as raised:  # noqa: BLE001  # each configuration has its own
                error = " ".join(repr(raised).split())
            calls.write(f"t{number} {time.time() - start:.3f} {error}\n")
            number += 1
            time.sleep(0.05)
