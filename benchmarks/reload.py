"""How long after a file is saved a new worker takes tasks: `honcho start`, on Redis.

`uv run python -m benchmarks.reload [SAVES]` writes its results to `reload.md`.
"""

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from demo import generate, read
from tests import servers
from tests.service import Service


def measure(project_type: str, saves: int) -> list[float]:
    """Return the seconds from each save to the worker that is ready."""
    with tempfile.TemporaryDirectory() as name, servers.valkey() as url:
        project = generate(read([f"project_type={project_type}"]), Path(name))
        project.sync()
        [tasks] = project.path.glob("*/tasks.py")
        text = tasks.read_text(encoding="utf-8")
        with Service(project, f"{url}/0", f"{url}/1") as service:
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
    return seconds


def main() -> None:
    """Measure, and write what came of it."""
    saves = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    lines = [
        f"`uv run python -m benchmarks.reload {saves}`: seconds from a save to a worker that is",
        f"ready. Python {platform.python_version()}.",
        "",
        "| | median | least | most |",
        "|---|---|---|---|",
    ]
    for project_type in ("celery", "django"):
        seconds = measure(project_type, saves)
        figures = (statistics.median(seconds), min(seconds), max(seconds))
        lines.append(f"| {project_type} | {' | '.join(f'{each:.1f}' for each in figures)} |")
    (Path(__file__).parent / "reload.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
