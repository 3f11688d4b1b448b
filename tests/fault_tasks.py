"""The tasks of the fault tests, and their app: that of a generated project, or a naive one.

This module is put into the path of a project. Its tasks note what they do in a file, outside the
broker: ``start``, ``wait`` and ``end``, with the name of the task and the process it runs in.
"""

import os
import signal
import sys
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
    if master := os.environ.get("CELERY_SENTINEL_MASTER"):
        app.conf.broker_transport_options = {"master_name": master}
        app.conf.result_backend_transport_options = {"master_name": master}
else:
    app = import_module("celery_app").app
if entries := int(os.environ.get("FAULTS_ENTRIES", "0")):
    app.conf.beat_schedule = {
        f"t{n}": {
            "task": "fault_tasks.work",
            "schedule": timedelta(seconds=20),  # all are sent before one is due again
            "args": (f"t{n}", 0),
            "options": {"task_id": f"t{n}"},
        }
        for n in range(entries)
    }


def note(word: str, name: str, about: object = None) -> None:
    """Append a line in one write, so that no other process gets in between.

    Its last word is the process, if it is not ``about`` something else.
    """
    file = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{word} {name} {os.getpid() if about is None else about}\n".encode())
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
    time.sleep(0.3)  # so that what runs beside it has started
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


def send_odd() -> None:
    """Send messages that nobody can read, or that are no task."""
    task = {"task": "fault_tasks.work", "lang": "py", "argsrepr": "()", "kwargsrepr": "{}"}
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        for body, headers in [
            (b"[[], {}, {}]", task),  # no id
            (b"{", task | {"id": "odd"}),  # not valid JSON
            (b"[[], {}, {}]", {}),  # no task
        ]:
            properties = {"delivery_mode": 2}
            kind = {"content_type": "application/json", "content_encoding": "utf-8"}
            message = channel.prepare_message(body, headers=headers, properties=properties, **kind)
            channel.basic_publish(message, "", app.conf.task_default_queue)


def try_to_send() -> None:
    """Send a task to a broker that is full, and write how that ends."""
    start, end = time.monotonic(), "sent"
    try:
        work.delay("late", 0)
    except Exception as error:  # noqa: BLE001  # the naive configuration has others
        end = type(error).__name__
    sys.stdout.write(f"`delay()`: {end}, {time.monotonic() - start:.0f} s")


def send(count: int, seconds: float, poison: str, names: list[str], **options: Any) -> None:  # noqa: ANN401
    """Send tasks of so many seconds, and poisons with such names among the first of them."""
    for n in range(count):
        if n == 20:
            for name in names:
                app.send_task(f"fault_tasks.{poison}", (name,), task_id=name)
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
