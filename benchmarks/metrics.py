"""What metrics and task events cost: tasks that do nothing, on Redis, in alternating runs.

`uv run python -m benchmarks.metrics [PAIRS]` writes its results to `metrics.md`.
"""

import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cookiecutter.main import cookiecutter

from tests import servers
from tests.conftest import TEMPLATE, BakedProject
from tests.service import Service

TASKS = 8_000
WARM = 1_000  # tasks after which the clock starts
MODULE = """\
import os
import time
from pathlib import Path

from celery_app import app


@app.task
def nothing(mark):
    if mark:
        Path(os.environ["HEARTBEAT_DIR"], mark).write_text(repr(time.time()))
"""
SEND = f"""
from nothing import nothing
for n in range({TASKS}):
    nothing.delay({{{WARM}: "first", {TASKS - 1}: "last"}}.get(n))
"""
KINDS = ("nothing", "METRICS_PORT", "-E")


def measure(project: BakedProject, kind: str) -> float:
    """Return the tasks that a worker does in a second."""
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
            service.start(project.path / ".venv" / "bin" / command[0], *command[1:])
            while not (home / "last").exists() or not (home / "last").read_text():
                time.sleep(0.1)
            first, last = (float((home / name).read_text()) for name in ("first", "last"))
    return (TASKS - WARM) / (last - first)


def main() -> None:
    """Measure, and write what came of it."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    home = Path(tempfile.mkdtemp())
    answers = {"result_backend": "none"}
    path = cookiecutter(str(TEMPLATE), no_input=True, extra_context=answers, output_dir=str(home))
    project = BakedProject(Path(path), "celery_app")
    project.sync()
    runs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(pairs):
        for kind in KINDS:
            runs[kind].append(measure(project, kind))
            print(kind, round(runs[kind][-1]), flush=True)
    shutil.rmtree(home)
    base = statistics.median(runs["nothing"])
    lines = [
        f"`uv run python -m benchmarks.metrics {pairs}`: {TASKS:,} tasks that do nothing, on",
        "Redis, a worker of two processes, prefetch 1; medians of alternating runs, on",
        f"Python {platform.python_version()}, {platform.machine()}.",
        "",
        "| with | tasks a second | ratio | lowest to highest |",
        "|---|---|---|---|",
    ]
    for kind, rates in runs.items():
        median = statistics.median(rates)
        span = f"{min(rates):.0f} to {max(rates):.0f}"
        lines.append(f"| {kind} | {median:.0f} | {median / base:.2f} | {span} |")
    (Path(__file__).parent / "metrics.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
