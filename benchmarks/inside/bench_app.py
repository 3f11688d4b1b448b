"""The app and the tasks that are measured. It runs in a generated project, with its packages."""

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, shared_task
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import _transport_cache as cache  # type: ignore[attr-defined]

DIRECTORY = Path(os.environ["BENCH_DIRECTORY"])
GATE = DIRECTORY / "gate"  # while it is there, the processes of the pool are held
SETTINGS = os.environ["BENCH_SETTINGS"]
# What the generated project says of tasks of milliseconds; results are ignored by the sender.
TINY = {"worker_prefetch_multiplier": 64}
# What cookiecutter-django writes into the settings of a project, of what concerns speed.
COOKIECUTTER_DJANGO = {
    "result_extended": True,
    "result_backend_always_retry": True,
    "result_backend_max_retries": 10,
    "accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "task_time_limit": 300,
    "task_soft_time_limit": 60,
    "worker_send_task_events": True,
    "task_send_sent_event": True,
}


def make_app() -> Celery:
    """Return the app: that of the project, or one with the settings that others use."""
    if SETTINGS.startswith("generated"):
        from celery_app import app  # type: ignore[import-not-found]  # noqa: PLC0415

        if "kombu" in SETTINGS:
            TRANSPORT_ALIASES["redis"] = "kombu.transport.redis:Transport"
            cache.pop("redis", None)
        if "tiny" in SETTINGS:
            app.conf.update(TINY)
        if "prefetch 2" in SETTINGS:
            app.conf.worker_prefetch_multiplier = 2
        made: Celery = app
        return made
    broker, backend = os.environ["CELERY_BROKER_URL"], os.environ["CELERY_RESULT_BACKEND"]
    made = Celery("tutorial", broker=broker, backend=backend)
    if SETTINGS == "cookiecutter-django":
        made.conf.update(COOKIECUTTER_DJANGO)
    return made


app = make_app()


@shared_task
def work(seconds: float, mark: str = "") -> None:
    """Take so many seconds; leave the time in a file, if it is named."""
    if seconds:
        time.sleep(seconds)
    if mark:
        write(mark, str(time.time()))


@shared_task
def hold() -> None:
    """Hold a process of the pool until the gate is open."""
    write(f"held-{os.getpid()}", "")
    while GATE.exists():
        time.sleep(0.002)


@shared_task
def tell(sent: float, seconds: float) -> None:
    """Note how long the message was on its way, and take so many seconds."""
    append("told", f"{time.time() - sent:.6f}")
    time.sleep(seconds)


@shared_task
def do(name: str, seconds: float) -> None:
    """Take so many seconds and note the name."""
    time.sleep(seconds)
    append("done", f"{name} {time.time():.3f}")


def write(name: str, text: str) -> None:
    """Write a file, which is there only when it is complete."""
    part = DIRECTORY / f".{name}-{os.getpid()}"
    part.write_text(text)
    part.replace(DIRECTORY / name)


def append(name: str, line: str) -> None:
    """Append a line in one write, so that no other process gets in between."""
    file = os.open(DIRECTORY / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def more_tasks(count: int) -> dict[str, Any]:
    """Return so many tasks more, by name."""
    names = [f"bench_app.work_{number}" for number in range(count)]
    return {name: app.task(name=name)(work.run) for name in names}


more = more_tasks(int(os.environ.get("BENCH_TYPES", "0")))
