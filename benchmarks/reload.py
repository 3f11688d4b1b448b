"""How long after a file is saved a new worker takes tasks: `honcho start`, on Redis."""

import time
from pathlib import Path

import psutil

from benchmarks import lab
from tests import servers
from tests.service import Service


def measure(directory: Path, project_type: str, saves: int) -> list[float]:
    """Return the seconds from each save to the worker that is ready."""
    project = lab.project(directory, project_type=project_type)
    [tasks] = project.path.glob("*/tasks.py")
    text = tasks.read_text(encoding="utf-8")
    with servers.valkey() as url, Service(project, f"{url}/0", f"{url}/1") as service:
        if project_type == "django":
            service.run("uv", "run", "python", "manage.py", "migrate")
        command = ("uv", "run", "honcho", "start", "broker", "worker")
        honcho = service.start(*command, ready=r" ready\.")
        family = psutil.Process(honcho.process.pid)
        usual = len(family.children(recursive=True))
        seconds = []
        for number in range(saves):
            tasks.write_text(f"{text}# {number}\n", encoding="utf-8")
            start = time.monotonic()
            honcho.wait_for(r" ready\.", times=number + 2)
            seconds.append(time.monotonic() - start)
            while len(family.children(recursive=True)) > usual:  # the old one is leaving
                time.sleep(0.05)
    tasks.write_text(text, encoding="utf-8")
    return seconds


def run(directory: Path, *, quick: bool) -> None:
    """Measure, and write the result file."""
    saves = 3 if quick else 9
    about = lab.conditions(saves)
    kinds = ("celery", "django")
    lab.write("reload", about, {kind: measure(directory, kind, saves) for kind in kinds})
