"""What metrics and task events cost: tasks that do nothing, on Redis, in alternating runs.

`uv run python -m benchmarks.metrics [PAIRS]` writes its results to `metrics.md`.
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
from tests.conftest import BakedProject
from tests.service import Service

TASKS = 5_000
WARM = 1_000  # tasks after which the clock starts
MODULE = """\
import os
from pathlib import Path

from celery_app import app


@app.task
def nothing(mark):
    if mark:
        Path(os.environ["HEARTBEAT_DIR"], mark).touch()
"""
SEND = f"""
from nothing import nothing
for n in range({TASKS}):
    nothing.delay({{{WARM}: "first", {TASKS - 1}: "last"}}.get(n))
"""
KINDS = ("nothing", "METRICS_PORT", "-E")


def processor(pid: int) -> float:
    """Return the seconds of processor that a worker and its processes have used."""
    worker = psutil.Process(pid)
    times = [process.cpu_times() for process in (worker, *worker.children())]
    return sum(each.user + each.system for each in times)


def measure(project: BakedProject, kind: str) -> tuple[float, float]:
    """Return the tasks that a worker does in a second, and in a second of processor."""
    with tempfile.TemporaryDirectory() as name, servers.valkey() as url:
        home = Path(name)
        (home / "nothing.py").write_text(MODULE)
        env = {"HEARTBEAT_DIR": name, "PYTHONPATH": name}
        if kind == "METRICS_PORT":
            env["METRICS_PORT"] = str(servers.free_port())
        with Service(project, f"{url}/0", env=env) as service:
            service.python(SEND)
            options = ("--include", "nothing", "--loglevel", "WARNING", "--concurrency", "2")
            events = ("-E",) if kind == "-E" else ()
            command = ("celery", "-A", "celery_app", "worker", *options, *events)
            worker = service.start(project.path / ".venv" / "bin" / command[0], *command[1:])
            moments = []
            for mark in ("first", "last"):
                while not (home / mark).exists():
                    time.sleep(0.01)
                moments.append((time.monotonic(), processor(worker.process.pid)))
    (began, before), (ended, after) = moments
    return (TASKS - WARM) / (ended - began), (TASKS - WARM) / (after - before)


def report(runs: dict[str, list[tuple[float, float]]]) -> str:
    """Return what was measured as a table; a ratio is that to the run with nothing before it."""
    pairs = len(runs["nothing"])
    lines = [
        f"`uv run python -m benchmarks.metrics {pairs}`: {TASKS - WARM:,} tasks that do nothing,",
        "on Redis, by a worker of two processes; medians of alternating runs, and of their",
        f"ratios to the run with nothing beside them. Python {platform.python_version()}.",
        "",
        "| with | tasks a second | ratio | tasks a second of processor | ratio |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        cells = []
        for own, usual in zip(
            zip(*runs[kind], strict=True), zip(*runs["nothing"], strict=True), strict=True
        ):
            ratios = [one / other for one, other in zip(own, usual, strict=True)]
            cells += [f"{statistics.median(own):.0f}", f"{statistics.median(ratios):.2f}"]
        lines.append(f"| {' | '.join([kind, *cells])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write what came of it."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as name:
        project = generate(read(["result_backend=none"]), Path(name))
        project.sync()
        for _ in range(pairs):
            for kind in KINDS:
                runs[kind].append(measure(project, kind))
                print(kind, *map(round, runs[kind][-1]), flush=True)
    (Path(__file__).parent / "metrics.md").write_text(report(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
